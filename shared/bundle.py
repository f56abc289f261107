"""The model bundle: what the converter makes, the aggregator hands out and a device trains.

A bundle is a folder: ``manifest.json`` says what is in it, ``weights.safetensors`` where training starts, and
the ``.tflite`` files are programs. It comes to devices over the network, so everything is checked before use:
the manifest's types and ranges, the sha256 of every file, and that no program needs an operator the runtime
lacks. Not checked: that the programs do what the manifest says. That is what ``proof.json`` records at
conversion.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from shared.errors import BundleError
from shared.full_integer import (
    TERMS,
    BiasPatch,
    Fold,
    Tensors,
    Term,
    constant_values,
    quantize_asymmetric,
    quantize_operation,
)
from shared.tflite_file import custom_operators

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

F32: TypeAlias = NDArray[np.float32]
Role: TypeAlias = Literal["shared", "statistic", "local"]
Dtype: TypeAlias = Literal["float32", "int32", "int8", "uint8"]

FORMAT = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
TRAIN_FILE = "train.tflite"
INFER_FILE = "infer.tflite"
INFER_INT8_FILE = "infer_int8.tflite"
PROOF_FILE = "proof.json"
MAX_MANIFEST_BYTES = 16 << 20
MAX_FILE_BYTES = 2 << 30  # a FlatBuffer's own limit
MAX_PARAMETERS = 1 << 29  # f32[d] then fits into one file
_ROLES = ("shared", "statistic", "local")
_ENGINES = ("tflite", "quadratic")
_PROGRAMS = (TRAIN_FILE, INFER_FILE, INFER_INT8_FILE)


@dataclass(frozen=True)
class ArraySpec:
    """A named input: shape with the batch first, dtype by NumPy's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class TrainInput:
    """A further input of the ``train`` signature and the value to give it unless the plan says otherwise."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    default: float


@dataclass(frozen=True)
class TensorSpec:
    """One weight tensor: elements [offset, offset + size) of the flat vector, in row-major order.

    ``shared``: trained and aggregated. ``statistic``: aggregated, not trained; its elements are never below
    ``minimum``, 0 for a variance. ``local``: trained, stays on the device.
    """

    path: str
    shape: tuple[int, ...]
    offset: int
    size: int
    role: Role
    minimum: float | None = None


@dataclass(frozen=True)
class Patch:
    """Where one weight tensor lies in one inference file.

    ``offset`` is in bytes. The stored elements are the tensor's, transposed by ``order``. For int8, stored
    element i belongs to quantization channel ``(i // inner) % channels``, whose f32 scale is at byte
    ``scale_offset + 4 * channel``. ``scale_copies`` are places of the same scales in tensors computed from this one,
    such as the rows taken from an embedding.

    In a full-integer twin the elements may be a formula (``fold``) of several tensors, ``path`` among them; int8
    then comes with the ``bias`` of the same operation, or with a zero point, i64 at byte ``zero_point_offset``.
    """

    file: str
    path: str
    offset: int
    dtype: Literal["float32", "int8"]
    order: tuple[int, ...]
    channels: int = 1
    inner: int = 1
    scale_offset: int | None = None
    scale_copies: tuple[int, ...] = ()
    zero_point_offset: int | None = None
    fold: Fold | None = None
    bias: BiasPatch | None = None

    def paths(self) -> set[str]:
        """Return the tensors that this place depends on."""
        folds = [fold for fold in (self.fold, self.bias and self.bias.fold) if fold]
        biases = {self.bias.path} if self.bias and self.bias.path else set[str]()
        return {self.path}.union(biases, *(fold.paths() for fold in folds))


@dataclass(frozen=True)
class BundleManifest:
    """``manifest.json``, checked."""

    name: str
    engine: str
    batch_size: int
    inputs: tuple[ArraySpec, ...]
    labels: ArraySpec
    loss: str
    metric: str
    train_inputs: tuple[TrainInput, ...]
    tensors: tuple[TensorSpec, ...]
    patches: tuple[Patch, ...]
    files: Mapping[str, str]
    tools: Mapping[str, str]
    optimizer: str = "sgd"  # of the training program
    target: str = ""  # what the program was made fast for, and the form of each of its convolutions
    forms: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """d: the length of the flat weight vector, all roles counted."""
        return sum(tensor.size for tensor in self.tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> BundleManifest:
        """Parse and check ``manifest.json``; raises BundleError ("bundle-manifest") naming the field."""
        if len(data) > MAX_MANIFEST_BYTES:
            raise _bad("manifest.json", f"{len(data)} bytes, at most {MAX_MANIFEST_BYTES} expected")
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _bad("manifest.json", f"not JSON ({error})") from error
        return _manifest(_Fields("manifest", document))

    def to_bytes(self) -> bytes:
        """Return canonical JSON: sorted keys, no spaces, one newline at the end."""
        document = {
            "format": FORMAT,
            "name": self.name,
            "engine": self.engine,
            "batch_size": self.batch_size,
            "inputs": [vars(spec) for spec in self.inputs],
            "labels": {"shape": self.labels.shape, "dtype": self.labels.dtype},
            "loss": self.loss,
            "metric": self.metric,
            "train_inputs": [vars(spec) for spec in self.train_inputs],
            "tensors": [vars(spec) for spec in self.tensors],
            "patches": [asdict(spec) for spec in self.patches],
            "files": dict(self.files),
            "tools": dict(self.tools),
            "optimizer": self.optimizer,
            "target": self.target,
            "forms": dict(self.forms),
        }
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: the manifest and the bytes of every file that it lists."""

    manifest: BundleManifest
    files: Mapping[str, bytes]


def read_bundle(folder: Path) -> Bundle:
    """Read and verify a bundle folder.

    Raises:
        BundleError: "bundle-missing-file", "bundle-manifest", "bundle-file-hash", "bundle-flex-op" or
            "bundle-damaged-tflite".
    """
    manifest = BundleManifest.from_bytes(_read(folder / MANIFEST_FILE))
    return verify_bundle(manifest, {name: _read(folder / name) for name in manifest.files})


def verify_bundle(manifest: BundleManifest, files: Mapping[str, bytes]) -> Bundle:
    """Check files that arrived by any way against their manifest; raises BundleError as ``read_bundle``."""
    for name, expected in manifest.files.items():
        if name not in files:
            raise BundleError("bundle-missing-file", f"the bundle has no {name}", "fetch or convert it again")
        got = hashlib.sha256(files[name]).hexdigest()
        if got != expected:
            raise BundleError(
                "bundle-file-hash", f"{name}: sha256 {got}, expected {expected}", "fetch or convert it again"
            )
    for name in set(_PROGRAMS) & set(files):
        if custom := custom_operators(files[name]):
            raise BundleError(
                "bundle-flex-op",
                f"{name} needs operators that the runtime does not have: {', '.join(custom)}",
                "convert the model with `fedloom convert`, which uses builtin operators only",
            )
    return Bundle(manifest, {name: files[name] for name in manifest.files})


def initial_weights(bundle: Bundle) -> F32:
    """Return the weights that training starts from, f32[d], in the manifest's order.

    Raises:
        BundleError: "bundle-weights" if a tensor is missing, has another shape or dtype, or is not finite.
    """
    try:
        arrays = load_safetensors(bundle.files[WEIGHTS_FILE])
    except SafetensorError as error:
        raise BundleError("bundle-weights", f"{WEIGHTS_FILE}: {error}", "fetch or convert the bundle again") from error
    parts = [_weight(arrays, spec) for spec in bundle.manifest.tensors]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _weight(arrays: Mapping[str, NDArray[Any]], spec: TensorSpec) -> F32:
    array = arrays.get(spec.path)
    if array is None or array.shape != spec.shape or array.dtype != np.float32 or not np.isfinite(array).all():
        got = "nothing" if array is None else f"{array.dtype}{list(array.shape)}"
        raise BundleError(
            "bundle-weights",
            f"{WEIGHTS_FILE}: {spec.path} is {got}, expected finite float32{list(spec.shape)}",
            "fetch or convert the bundle again",
        )
    return cast("F32", array.reshape(-1))


def patch_model(model: bytes, patches: tuple[Patch, ...], weights: F32, tensors: tuple[TensorSpec, ...]) -> bytes:
    """Return the inference file with new weights, the same bytes on every machine.

    Int8 tensors of a dynamic-range twin are quantized symmetrically: scale = max|w| / 127 per channel, rounded to
    the nearest, halves to even (https://ai.google.dev/edge/litert/models/quantization_spec); for a full-integer
    twin see ``shared/full_integer.py``. Only comparisons, elementwise IEEE operations and roundings are used, so no
    order of summation can differ.

    Args:
        model: the bytes of one ``.tflite`` file of the bundle.
        patches: the manifest's patches for that file.
        weights: f32[d], finite.
        tensors: the manifest's tensors.

    Raises:
        BundleError: "bundle-weights" for a wrong or non-finite vector or one that cannot be folded,
        "bundle-patch" for a place outside the file.
    """
    expected = sum(spec.size for spec in tensors)
    if weights.dtype != np.float32 or weights.shape != (expected,) or not np.isfinite(weights).all():
        raise BundleError(
            "bundle-weights",
            f"weights are {weights.dtype}{list(weights.shape)}, expected finite float32[{expected}]",
        )
    by_path = {spec.path: spec for spec in tensors}

    def tensor(path: str) -> F32:
        spec = by_path[path]
        return weights[spec.offset : spec.offset + spec.size].reshape(spec.shape)

    patched = bytearray(model)
    for patch in patches:
        _write(patched, patch, tensor)
    return bytes(patched)


def _write(patched: bytearray, patch: Patch, tensor: Tensors) -> None:
    values = constant_values(patch.path, patch.fold, tensor)
    stored = np.ascontiguousarray(values.transpose(patch.order)).reshape(-1)
    if patch.dtype == "float32":
        _put(patched, patch, patch.offset, stored.astype("<f4").tobytes())
        return
    if patch.bias is not None:
        _write_operation(patched, patch, patch.bias, stored, tensor)
        return
    if patch.zero_point_offset is not None:
        levels, scale, zero_point = quantize_asymmetric(patch.path, stored)
        scales = np.array([scale], np.float32)
        _put(patched, patch, patch.zero_point_offset, zero_point.to_bytes(8, "little", signed=True))
    else:
        scales, levels = quantize_symmetric(stored, patch.channels, patch.inner)
    for place in (cast("int", patch.scale_offset), *patch.scale_copies):
        _put(patched, patch, place, scales.astype("<f4").tobytes())
    _put(patched, patch, patch.offset, levels.tobytes())


def _write_operation(patched: bytearray, patch: Patch, bias: BiasPatch, stored: F32, tensor: Tensors) -> None:
    zeros = np.zeros(patch.channels, np.float32)
    values = constant_values(bias.path, bias.fold, tensor).reshape(-1) if bias.path else zeros
    found = quantize_operation(patch.path, stored, patch.channels, patch.inner, values, bias.input_scale)
    _put(patched, patch, cast("int", patch.scale_offset), found.scales.astype("<f4").tobytes())
    _put(patched, patch, patch.offset, found.levels.tobytes())
    if bias.scale_offset is not None:
        _put(patched, patch, bias.scale_offset, found.bias_scales.astype("<f4").tobytes())
    if bias.path:
        _put(patched, patch, bias.offset, found.bias_levels.astype("<i4").tobytes())


def quantize_symmetric(stored: F32, channels: int, inner: int) -> tuple[F32, NDArray[np.int8]]:
    """Quantize f32[n] as TFLite's dynamic range does: scales f32[channels], levels int8[n] within 127."""
    grid = stored.reshape(-1, channels, inner)
    scales = np.abs(grid).max(axis=(0, 2)) / np.float32(127)
    # A channel of zeros (or one so small that its scale underflows) has no scale of its own; any will do.
    scales = np.where(scales >= np.finfo(np.float32).tiny, scales, np.float32(1))
    levels = np.clip(np.rint(grid / scales[:, None]), -127, 127).astype(np.int8)
    return scales, levels.reshape(-1)


def _put(patched: bytearray, patch: Patch, offset: int, data: bytes) -> None:
    if offset < 0 or offset + len(data) > len(patched):
        raise BundleError(
            "bundle-patch",
            f"{patch.path}: bytes {offset} to {offset + len(data)} lie outside {patch.file}",
            "fetch or convert the bundle again",
        )
    patched[offset : offset + len(data)] = data


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise BundleError("bundle-file-size", f"{path.name} has {size} bytes, at most {MAX_FILE_BYTES} expected")
        return path.read_bytes()
    except OSError as error:
        raise BundleError(
            "bundle-missing-file",
            f"cannot read {path}: {error.strerror}",
            "give the folder that `fedloom convert` wrote",
        ) from error


def _bad(where: str, what: str) -> BundleError:
    return BundleError("bundle-manifest", f"{where}: {what}", "fetch or convert the bundle again")


class _Fields:
    """Typed access to one JSON object; every error names the field."""

    def __init__(self, where: str, value: object) -> None:
        if not isinstance(value, dict):
            raise _bad(where, f"{type(value).__name__}, expected an object")
        self._where = where
        self._values = cast("dict[str, object]", value)

    def _get(self, name: str, kind: type, *, expected: str) -> object:
        value = self._values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _bad(f"{self._where}.{name}", f"{value!r:.80}, expected {expected}")
        return value

    def text(self, name: str) -> str:
        return cast("str", self._get(name, str, expected="text"))

    def choice(self, name: str, options: tuple[str, ...]) -> str:
        value = self.text(name)
        if value not in options:
            raise _bad(f"{self._where}.{name}", f"{value!r:.80}, expected one of {', '.join(options)}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = cast("int", self._get(name, int, expected="a whole number"))
        if not low <= value <= high:
            raise _bad(f"{self._where}.{name}", f"{value}, expected {low} to {high}")
        return value

    def number(self, name: str) -> float:
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _bad(f"{self._where}.{name}", f"{value!r:.80}, expected a finite number")
        return float(value)

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        values = cast("list[object]", self._get(name, list, expected="a list of whole numbers"))
        result = tuple(v for v in values if isinstance(v, int) and not isinstance(v, bool) and low <= v <= high)
        if len(result) != len(values):
            raise _bad(f"{self._where}.{name}", f"{values!r:.80}, expected whole numbers from {low} to {high}")
        return result

    def each(self, name: str) -> list[_Fields]:
        values = cast("list[object]", self._get(name, list, expected="a list of objects"))
        return [_Fields(f"{self._where}.{name}[{i}]", value) for i, value in enumerate(values)]

    def one(self, name: str) -> _Fields:
        return _Fields(f"{self._where}.{name}", self._values.get(name))

    def texts(self, name: str) -> dict[str, str]:
        fields = self.one(name)
        return {key: fields.text(key) for key in fields.names()}

    def names(self) -> list[str]:
        return list(self._values)

    def present(self, name: str) -> bool:
        return self._values.get(name) is not None

    def shape(self, name: str = "shape") -> tuple[int, ...]:
        return self.integers(name, 1, MAX_PARAMETERS)


def _manifest(fields: _Fields) -> BundleManifest:
    fields.integer("format", FORMAT, FORMAT)
    tensors = _tensors(fields)
    labels = fields.one("labels")
    return BundleManifest(
        name=fields.text("name"),
        engine=fields.choice("engine", _ENGINES),
        batch_size=fields.integer("batch_size", 1, 1 << 20),
        inputs=tuple(_array(item, item.text("name")) for item in fields.each("inputs")),
        labels=_array(labels, "y"),
        loss=fields.text("loss"),
        metric=fields.text("metric"),
        train_inputs=tuple(_train_input(item) for item in fields.each("train_inputs")),
        tensors=tensors,
        patches=tuple(_patch(item, {spec.path: spec for spec in tensors}) for item in fields.each("patches")),
        files=_files(fields),
        tools=fields.texts("tools"),
        optimizer=fields.text("optimizer"),
        target=fields.text("target"),
        forms=fields.texts("forms"),
    )


def _array(fields: _Fields, name: str) -> ArraySpec:
    return ArraySpec(name, fields.shape(), fields.choice("dtype", ("float32", "int32", "int8", "uint8")))


def _train_input(fields: _Fields) -> TrainInput:
    dtype = fields.choice("dtype", ("float32", "int32"))
    return TrainInput(fields.text("name"), fields.shape(), dtype, fields.number("default"))


def _tensors(fields: _Fields) -> tuple[TensorSpec, ...]:
    specs: list[TensorSpec] = []
    offset = 0
    for item in fields.each("tensors"):
        shape = item.shape()
        size = item.integer("size", 1, MAX_PARAMETERS)
        role = cast("Role", item.choice("role", _ROLES))
        minimum = item.number("minimum") if item.present("minimum") else None
        spec = TensorSpec(item.text("path"), shape, item.integer("offset", 0, MAX_PARAMETERS), size, role, minimum)
        if minimum is not None and role != "statistic":
            raise _bad(spec.path, f"a minimum for a tensor of role {role}, expected for statistics only")
        if spec.offset != offset or size != math.prod(shape):
            raise _bad(spec.path, f"offset {spec.offset} and size {size}, expected {offset} and {math.prod(shape)}")
        offset += size
        specs.append(spec)
    if offset > MAX_PARAMETERS or len({spec.path for spec in specs}) != len(specs):
        raise _bad("manifest.tensors", f"{offset} parameters in {len(specs)} tensors, two of one name or too many")
    return tuple(specs)


def _patch(fields: _Fields, tensors: Mapping[str, TensorSpec]) -> Patch:
    path, dtype = (
        fields.text("path"),
        cast("Literal['float32', 'int8']", fields.choice("dtype", ("float32", "int8"))),
    )
    spec = tensors.get(path)
    order = fields.integers("order", 0, 32)
    channels = fields.integer("channels", 1, MAX_PARAMETERS)
    inner = fields.integer("inner", 1, MAX_PARAMETERS)
    scale_offset = fields.integer("scale_offset", 0, MAX_FILE_BYTES) if fields.present("scale_offset") else None
    if spec is None or sorted(order) != list(range(len(spec.shape))) or spec.size % (channels * inner):
        raise _bad(f"patch of {path}", "does not fit a tensor of the manifest")
    if (dtype == "int8") != (scale_offset is not None):
        raise _bad(f"patch of {path}", f"{dtype} with scale offset {scale_offset}")
    zero_point = fields.integer("zero_point_offset", 0, MAX_FILE_BYTES) if fields.present("zero_point_offset") else None
    fold = _fold(fields.one("fold"), spec, tensors, TERMS) if fields.present("fold") else None
    bias = _bias(fields.one("bias"), channels, tensors) if fields.present("bias") else None
    if (zero_point is not None or bias is not None) and (dtype != "int8" or (zero_point is not None and bias)):
        raise _bad(f"patch of {path}", f"{dtype} with a zero point or a bias")
    if zero_point is not None and channels != 1:
        raise _bad(f"patch of {path}", f"{channels} channels with one zero point")
    offset = fields.integer("offset", 0, MAX_FILE_BYTES)
    copies = fields.integers("scale_copies", 0, MAX_FILE_BYTES)
    file = fields.choice("file", _PROGRAMS[1:])
    return Patch(file, path, offset, dtype, order, channels, inner, scale_offset, copies, zero_point, fold, bias)


def _fold(fields: _Fields, spec: TensorSpec, tensors: Mapping[str, TensorSpec], terms: tuple[Term, ...]) -> Fold:
    axes = fields.integers("axes", 0, max(len(spec.shape) - 1, 0))
    names = ("gamma", "beta", "bias")
    gamma, beta, bias = (fields.text(name) if fields.present(name) else None for name in names)
    fold = Fold(
        term=cast("Term", fields.choice("term", terms)),
        mean=fields.text("mean"),
        variance=fields.text("variance"),
        epsilon=fields.number("epsilon"),
        gamma=gamma,
        beta=beta,
        bias=bias,
        axes=axes,
    )
    size = math.prod(spec.shape[axis] for axis in axes) if fold.term == "product" else spec.size
    shapes = {tensors[path].shape if path in tensors else None for path in fold.paths()}
    if shapes != {(size,)} or sorted(set(axes)) != list(axes) or not 0 <= fold.epsilon <= 1:
        raise _bad(f"patch of {spec.path}", "its batch norm does not fit the tensor")
    if fold.term != "product" and spec.shape != (size,):
        raise _bad(f"patch of {spec.path}", "a vector is expected")
    return fold


def _bias(fields: _Fields, channels: int, tensors: Mapping[str, TensorSpec]) -> BiasPatch:
    path = fields.text("path") if fields.present("path") else None
    spec = tensors.get(path) if path is not None else None
    if path is not None and (spec is None or len(spec.shape) != 1 or spec.size % channels):
        raise _bad(f"bias {path}", "does not fit the tensors of the manifest")
    folded = fields.present("fold")
    if folded and spec is None:
        raise _bad("bias", "a formula without a tensor")
    fold = _fold(fields.one("fold"), spec, tensors, ("shift",)) if folded and spec is not None else None
    offset = fields.integer("offset", 0, MAX_FILE_BYTES)
    has_scales = path is not None or fields.present("scale_offset")
    scale_offset = fields.integer("scale_offset", 0, MAX_FILE_BYTES) if has_scales else None
    input_scale = fields.number("input_scale")
    if not float(np.finfo(np.float32).tiny) <= input_scale <= float(np.finfo(np.float32).max):
        raise _bad("bias.input_scale", f"{input_scale!r:.80}, expected a positive float32")
    return BiasPatch(offset, scale_offset, input_scale, path, fold)


def _files(fields: _Fields) -> dict[str, str]:
    files = fields.texts("files")
    for name, digest in files.items():
        if name in {"", ".", ".."} or any(sign in name for sign in "/\\\0:"):
            raise _bad("manifest.files", f"{name!r:.80}, expected a plain file name")
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise _bad(f"manifest.files.{name}", f"{digest!r:.80}, expected a sha256 in lower-case hex")
    if WEIGHTS_FILE not in files or (fields.text("engine") == "tflite" and not set(_PROGRAMS) <= set(files)):
        raise _bad("manifest.files", f"{sorted(files)} lacks a file that every {fields.text('engine')} bundle has")
    return files
