"""The conversion from source model to bundle folder."""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
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
    TrainInput,
)
from shared.errors import BundleError
from tools.convert.choose import Choice, choose
from tools.convert.emit import builtin_names, emit_training
from tools.convert.full_integer import make_full_integer
from tools.convert.program import Program, build_program, convolutions, pick_loss
from tools.convert.prove import TOLERANCE
from tools.convert.reference import make_case
from tools.convert.representative import int8_case, read_representative
from tools.convert.source import SourceModel, Weight, load_source
from tools.convert.twins import make_twins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tools.convert.losses import Loss

_PROOF_TIMEOUT_S = 600


@dataclass(frozen=True)
class Options:
    """What a conversion may choose; ``local`` are glob patterns of tensor paths that stay on the device.

    ``representative`` is a file of examples for whose ranges a full-integer twin is made.
    """

    batch_size: int = 16
    loss: str | None = None
    local: Sequence[str] = ()
    target: str = "portable"
    representative: Path | None = None


@dataclass(frozen=True)
class Converted:
    """What came out: the manifest, the proof and how the model's output was read."""

    manifest: BundleManifest
    proof: Mapping[str, Any]
    output: str


def convert(source_name: str, out: Path, options: Options) -> Converted:
    """Convert SRC and write the bundle folder; nothing is written unless every runtime proves it right.

    Raises:
        BundleError: with the code of what the model lacks, or "convert-proof" if a runtime computes something
        else.
    """
    if out.exists() and not (out / MANIFEST_FILE).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError("convert-out", f"{out} exists and is not a bundle", "give a new folder")
    source = load_source(source_name)
    examples = read_representative(options.representative, source) if options.representative else None
    loss = pick_loss(source, options.loss)
    forms, choices = choose(convolutions(source, options.batch_size), options.target)
    program = build_program(source, loss, options.batch_size, forms)
    tensors = _tensors(source.weights, options.local)
    train = emit_training(program.module, program.functions)
    twins, patches = _twins(source, tensors, examples)
    weights = {spec.path: weight.value for spec, weight in zip(tensors, source.weights, strict=True)}
    files = {TRAIN_FILE: train, **twins, WEIGHTS_FILE: save_safetensors(weights)}
    manifest = replace(_describe(source, loss, program, options.batch_size, tensors), patches=tuple(patches))
    manifest = replace(manifest, target=options.target, forms={c.describe(): c.form for c in choices})
    manifest = replace(manifest, files=_digests(files))
    case, reference_ms = make_case(source, loss, program, options.batch_size)
    if examples is not None:
        case |= int8_case(source, examples)
    with tempfile.TemporaryDirectory(prefix="fedloom-proof-") as folder:
        np.savez(Path(folder) / "case.npz", **case)
        _write_files(Path(folder), {**files, MANIFEST_FILE: manifest.to_bytes()})
        runtimes = [_prove(runtime, Path(folder)) for runtime in installed_runtimes()]
    _require_passed(runtimes)
    reference = {
        "name": "tensorflow",
        "version": importlib.metadata.version("tensorflow"),
        "step_ms": reference_ms,
    }
    proof = {
        "runtimes": runtimes,
        "reference": reference,
        "ops": builtin_names(train),
        "forms": [_times(choice) for choice in choices],
    }
    files[PROOF_FILE] = json.dumps(proof, indent=1).encode() + b"\n"
    manifest = replace(manifest, files=_digests(files))
    _publish(out, {**files, MANIFEST_FILE: manifest.to_bytes()})
    return Converted(manifest, proof, loss.output)


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
        specs.append(TensorSpec(weight.path, weight.value.shape, offset, size, _role(weight, local)))
        offset += size
    unmatched = [glob for glob in local if not fnmatch.filter([weight.path for weight in weights], glob)]
    if unmatched or not specs:
        known = ", ".join(weight.path for weight in weights)
        raise BundleError("convert-tensors", f"no tensor matches {unmatched}; the model has: {known or 'none'}")
    return specs


def _role(weight: Weight, local: Sequence[str]) -> Role:
    if any(fnmatch.fnmatch(weight.path, glob) for glob in local):
        return "local"
    return "shared" if weight.trainable else "statistic"


def _describe(
    source: SourceModel, loss: Loss, program: Program, batch_size: int, tensors: Sequence[TensorSpec]
) -> BundleManifest:
    named = zip(program.x_names, source.inputs, strict=True)
    tools = ("fedloom", "tensorflow", "keras")
    return BundleManifest(
        name=source.name,
        engine="tflite",
        batch_size=batch_size,
        inputs=tuple(ArraySpec(name, (batch_size, *spec.shape), spec.dtype) for name, spec in named),
        labels=ArraySpec("y", program.label_shape, program.label_dtype),
        loss=loss.name,
        metric=loss.metric,
        train_inputs=_train_inputs(source),
        tensors=tuple(tensors),
        patches=(),
        files={},
        tools={name: importlib.metadata.version(name) for name in tools},
    )


def _times(choice: Choice) -> dict[str, object]:
    return {"operation": choice.describe(), "form": choice.form, "times_ms": choice.times_ms}


def _train_inputs(source: SourceModel) -> tuple[TrainInput, ...]:
    rates = (TrainInput("lr", (1,), "float32", 0.05), TrainInput("mu", (1,), "float32", 0.0))
    return (*rates, TrainInput("seed", (1,), "int32", 0)) if source.draws else rates


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


def _prove(runtime: str, folder: Path) -> dict[str, Any]:
    """Run the proof in a process of its own; a crash of the runtime is a failed proof."""
    command = [sys.executable, "-m", "tools.convert.prove", runtime, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PROOF_TIMEOUT_S, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BundleError("convert-proof", f"{runtime} cannot run the training program: {reason}", "report this model")
    proof: dict[str, Any] = json.loads(done.stdout)
    return proof


def _require_passed(runtimes: Sequence[Mapping[str, Any]]) -> None:
    if not runtimes:
        raise BundleError(
            "convert-proof",
            "no TFLite runtime is installed to prove the bundle",
            "pip install ai-edge-litert",
        )
    for runtime in (runtime for runtime in runtimes if not runtime["passed"]):
        errors = {tensor["path"]: tensor["max_relative_error"] for tensor in runtime["tensors"]} | runtime["checks"]
        worst = max(errors, key=lambda name: errors[name])
        raise BundleError(
            "convert-proof",
            f"{runtime['name']} differs from TensorFlow: {worst} by {errors[worst]:.2g}, "
            f"at most {TOLERANCE:g} expected (int8: {runtime['int8_max_relative_error']:.2g})",
            "report this model; the bundle was not written",
        )


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
