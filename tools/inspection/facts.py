"""What is in a bundle, as one JSON object with the same keys for every bundle."""

from __future__ import annotations

import importlib
import json
import math
from typing import TYPE_CHECKING, Any, get_args

from edge_client.trainer.runtime import installed_runtimes
from shared.bundle import (
    MANIFEST_FILE,
    PROOF_FILE,
    TRAIN_FILE,
    WEIGHTS_FILE,
    ArraySpec,
    Bundle,
    BundleManifest,
    Role,
    initial_weights,
    read_bundle,
)
from shared.errors import BundleError
from shared.tflite_file import operators
from tools.inspection.measure import PROGRAMS, measure_apart

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def inspect_bundle(folder: Path) -> dict[str, Any]:
    """Read a bundle, train a few steps on every installed runtime, and return all that is known.

    Raises:
        BundleError: as ``read_bundle`` and ``initial_weights``, or "bundle-proof" for an unreadable proof.
    """
    bundle = read_bundle(folder)
    if WEIGHTS_FILE in bundle.files:
        initial_weights(bundle)  # a wrong file is the bundle's fault: say so once, not per runtime
    proof = _proof(bundle)
    trains = TRAIN_FILE in bundle.files
    measured = [measure_apart(runtime, folder) for runtime in installed_runtimes()] if trains else []
    signatures = _known_signatures([entry.pop("signatures") for entry in measured])
    return {
        "bundle": str(folder),
        **_model(bundle.manifest),
        "bytes": (folder / MANIFEST_FILE).stat().st_size + sum(map(len, bundle.files.values())),
        "programs": _programs(bundle, signatures),
        "measured": measured,
        "proof": proof,
        "tools": dict(bundle.manifest.tools),
    }


def _model(manifest: BundleManifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "engine": manifest.engine,
        "parameters": manifest.parameters,
        "batch_size": manifest.batch_size,
        "inputs": [_array(spec) for spec in manifest.inputs],
        "labels": _array(manifest.labels),
        "loss": manifest.loss,
        "metric": manifest.metric,
        "tensors": {role: _of_role(manifest, role) for role in get_args(Role)},
    }


def _array(spec: ArraySpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _of_role(manifest: BundleManifest, role: Role) -> dict[str, int]:
    sizes = [spec.size for spec in manifest.tensors if spec.role == role]
    return {"count": len(sizes), "parameters": sum(sizes), "bytes": 4 * sum(sizes)}


def _known_signatures(answers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what the first runtime that could load the programs says; they read the same file."""
    return next((answer for answer in answers if answer), {})


def _programs(bundle: Bundle, signatures: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = operator_names()
    return [
        {
            "file": file,
            "bytes": len(bundle.files[file]),
            "signatures": signatures.get(file, {}),
            "operators": _operators(bundle.files[file], names),
        }
        for file in PROGRAMS
        if file in bundle.files
    ]


def _operators(model: bytes, names: Mapping[int, str]) -> list[dict[str, Any]]:
    kinds = {(names.get(kind.builtin, f"operator {kind.builtin}"), kind.version) for kind in operators(model)}
    return [{"name": name, "version": version} for name, version in sorted(kinds)]


def operator_names() -> dict[int, str]:
    """Return the builtin operators' names by number; empty where only tflite-runtime is installed.

    The schema is Python without the runtime, so this process stays free of it.
    """
    try:
        schema = importlib.import_module("ai_edge_litert.schema_py_generated")
    except ImportError:
        return {}
    return {number: name for name, number in vars(schema.BuiltinOperator).items() if name.isupper()}


def _proof(bundle: Bundle) -> dict[str, Any] | None:
    """Return the summary of ``proof.json``, None for a bundle that has none."""
    if PROOF_FILE not in bundle.files:
        return None
    try:
        stored = json.loads(bundle.files[PROOF_FILE])
        return {"runtimes": [_proven(runtime) for runtime in stored["runtimes"]]}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise BundleError(
            "bundle-proof", f"{PROOF_FILE} is not what the converter writes: {error!r}", "convert the model again"
        ) from error


def _proven(runtime: Mapping[str, Any]) -> dict[str, Any]:
    largest = max(float(tensor["max_relative_error"]) for tensor in runtime["tensors"])
    if not math.isfinite(largest):
        raise ValueError(largest)
    return {
        "name": str(runtime["name"]),
        "version": str(runtime["version"]),
        "passed": bool(runtime["passed"]),
        "largest_gradient_error": largest,
    }
