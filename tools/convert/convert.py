"""The conversion from source model to bundle folder."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save as save_safetensors

from edge_client.trainer.runtime import installed_runtimes
from shared.bundle import (
    INFER_INT8_FILE,
    MANIFEST_FILE,
    PROOF_FILE,
    TRAIN_FILE,
    WEIGHTS_FILE,
    ArraySpec,
    BundleManifest,
    Patch,
    Role,
    TensorSpec,
)
from shared.errors import BundleError
from tools.convert.boundary import naming
from tools.convert.case import make_case
from tools.convert.choose import Choice, choose, largest_piece
from tools.convert.emit import builtin_names, emit_training
from tools.convert.full_integer import make_full_integer
from tools.convert.losses import LossOptions
from tools.convert.optimizers import OPTIMIZERS
from tools.convert.program import Learning, Program, build_program, convolutions, pick_loss
from tools.convert.representative import int8_case, read_representative
from tools.convert.source import SourceModel, Weight, load_source
from tools.convert.twins import make_twins
from tools.convert.verdict import require_memory, require_passed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

_PROOF_TIMEOUT_S = 600


@dataclass(frozen=True)
class Options:
    """What a conversion may choose; ``local`` are glob patterns of tensor paths that stay on the device.

    ``representative`` is a file of examples for whose ranges a full-integer twin is made. ``max_memory_mib`` is what a
    device has for a process that trains.
    """

    batch_size: int = 16
    loss: LossOptions = field(default_factory=LossOptions)
    optimizer: str = "sgd"
    max_gradient_norm: float | None = None
    local: Sequence[str] = ()
    target: str = "portable"
    representative: Path | None = None
    max_memory_mib: float | None = None


@dataclass(frozen=True)
class Converted:
    """What came out: the manifest, the proof, how the model's output was read, and its last dimension."""

    manifest: BundleManifest
    proof: Mapping[str, Any]
    output: str
    outputs: int


def convert(source_name: str, out: Path, options: Options) -> Converted:
    """Convert SRC and write the bundle folder; nothing is written unless every runtime proves it right.

    Raises:
        BundleError: with the code of what the model lacks, "convert-proof" if a runtime computes something else,
            "convert-memory" if a step takes more than there is, or "convert-failed" if TensorFlow fails.
    """
    with _writing(out):
        _require_writable(out)
    with naming(
        "convert-failed", f"{source_name} cannot be converted", "check a loss of your own, or report the model"
    ):
        converted, files = _converted(source_name, options)
    with _writing(out):
        _publish(out, files)
    return converted


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{out} cannot be written: {error.strerror}"
        raise BundleError("convert-out", what, "give a folder in a place where you may write") from error


def _require_writable(out: Path) -> None:
    """Refuse a folder that holds something else; raises OSError if no folder can be made where it is to be."""
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError("convert-out", f"{out} exists and is not a bundle", "give a new folder")
    present = next(parent for parent in out.absolute().parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=present):
        pass


def _converted(source_name: str, options: Options) -> tuple[Converted, dict[str, bytes]]:
    """Return what came out and the files of the bundle."""
    source = load_source(source_name)
    examples = read_representative(options.representative, source) if options.representative else None
    loss = pick_loss(source, options.loss)
    learning = Learning(loss, OPTIMIZERS[options.optimizer], options.max_gradient_norm)
    forms, choices = choose(convolutions(source, options.batch_size), options.target)
    piece = largest_piece(options.target)
    program = build_program(source, learning, options.batch_size, forms, piece)
    tensors = _tensors(source.weights, options.local)
    train = emit_training(program.module, program.functions, frugal=piece is not None)
    twins, patches = _twins(source, tensors, examples)
    weights = {spec.path: weight.value for spec, weight in zip(tensors, source.weights, strict=True)}
    files = {TRAIN_FILE: train, **twins, WEIGHTS_FILE: save_safetensors(weights)}
    manifest = replace(_describe(source, learning, program, options.batch_size, tensors), patches=tuple(patches))
    manifest = replace(manifest, target=options.target, forms={c.describe(): c.form for c in choices})
    manifest = replace(manifest, files=_digests(files))
    case = make_case(source, learning, program, options.batch_size)
    if examples is not None:
        case.arrays.update(int8_case(source, examples))
    with tempfile.TemporaryDirectory(prefix="fedloom-proof-") as folder:
        np.savez(Path(folder) / "case.npz", **case.arrays)
        _write_files(Path(folder), {**files, MANIFEST_FILE: manifest.to_bytes()})
        runtimes = [_prove(runtime, Path(folder)) for runtime in installed_runtimes()]
    require_passed(runtimes, source)
    if options.max_memory_mib is not None:
        require_memory(runtimes, options.batch_size, options.max_memory_mib)
    reference = {
        "name": "tensorflow",
        "version": importlib.metadata.version("tensorflow"),
        "step_ms": case.reference_ms,
    }
    proof = {
        "runtimes": runtimes,
        "reference": reference,
        "ops": builtin_names(train),
        "forms": [_times(choice) for choice in choices],
    }
    files[PROOF_FILE] = json.dumps(proof, indent=1).encode() + b"\n"
    manifest = replace(manifest, files=_digests(files))
    return Converted(manifest, proof, loss.output, program.classes), {**files, MANIFEST_FILE: manifest.to_bytes()}


def _twins(
    source: SourceModel, tensors: Sequence[TensorSpec], examples: Mapping[str, NDArray[Any]] | None
) -> tuple[dict[str, bytes], list[Patch]]:
    """Return both inference files and their patches; int8 is full-integer where there are examples."""
    twins, patches = make_twins(source, tensors)
    if examples is None:
        return twins, patches
    full_integer, own = make_full_integer(source, tensors, examples)
    return {**twins, INFER_INT8_FILE: full_integer}, [p for p in patches if p.file != INFER_INT8_FILE] + own


def _tensors(weights: Sequence[Weight], local: Sequence[str]) -> list[TensorSpec]:
    specs: list[TensorSpec] = []
    offset = 0
    for weight in weights:
        size = int(weight.value.size)
        role = _role(weight, local)
        specs.append(TensorSpec(weight.path, weight.value.shape, offset, size, role, _minimum(weight, role)))
        offset += size
    unmatched = [glob for glob in local if not fnmatch.filter([weight.path for weight in weights], glob)]
    if unmatched or not specs:
        known = ", ".join(weight.path for weight in weights)
        raise BundleError("convert-tensors", f"no tensor matches {unmatched}; the model has: {known or 'none'}")
    return specs


def _role(weight: Weight, local: Sequence[str]) -> Role:
    # A frozen weight is the same everywhere and for ever: nothing of it need travel.
    if not weight.moves or any(fnmatch.fnmatch(weight.path, glob) for glob in local):
        return "local"
    return "shared" if weight.trainable else "statistic"


def _minimum(weight: Weight, role: Role) -> float | None:
    """Return 0 for a variance that is aggregated: Keras' own name for it is the only sign that a variable bears."""
    return 0.0 if role == "statistic" and weight.path.split("/")[-1] == "moving_variance" else None


def _describe(
    source: SourceModel, learning: Learning, program: Program, batch_size: int, tensors: Sequence[TensorSpec]
) -> BundleManifest:
    named = zip(program.x_names, source.inputs, strict=True)
    tools = ("fedloom", "tensorflow", "keras")
    return BundleManifest(
        name=source.name,
        engine="tflite",
        batch_size=batch_size,
        inputs=tuple(ArraySpec(name, (batch_size, *spec.shape), spec.dtype) for name, spec in named),
        labels=ArraySpec("y", program.label_shape, program.label_dtype),
        loss=learning.loss.name,
        metric=learning.loss.metric,
        optimizer=learning.optimizer.name,
        train_inputs=program.train_inputs,
        tensors=tuple(tensors),
        patches=(),
        files={},
        tools={name: importlib.metadata.version(name) for name in tools},
    )


def _times(choice: Choice) -> dict[str, object]:
    return {"operation": choice.describe(), "form": choice.form, "times_ms": choice.times_ms}


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


def _prove(runtime: str, folder: Path) -> dict[str, Any]:
    """Run the proof in a process of its own; a crash of the runtime is a failed proof."""
    command = [sys.executable, "-m", "tools.convert.prove", runtime, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROOF_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        what = f"{runtime} did not finish the proof within {_PROOF_TIMEOUT_S} s"
        raise BundleError("convert-proof", what, "give a smaller --batch-size or a smaller model") from error
    if done.returncode == -signal.SIGKILL:
        what = f"{runtime} was killed while it ran the training program, most likely for want of memory"
        raise BundleError("convert-memory", what, "give a smaller --batch-size, or --target low-memory")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BundleError("convert-proof", f"{runtime} cannot run the training program: {reason}", "report this model")
    proof: dict[str, Any] = json.loads(done.stdout)
    return proof


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _publish(out: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder beside ``out`` and rename it, so that readers see either bundle whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        _write_files(folder, files)
        folder.chmod(0o755)
        if out.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
            out.replace(retired)
            folder.rename(out)
            shutil.rmtree(retired)
        else:
            folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
