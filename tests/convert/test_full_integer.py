"""``fedloom convert --representative``: integer twins that take new weights exactly as TensorFlow quantizes them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.trainer.runtime import installed_runtimes
from shared.bundle import (
    INFER_FILE,
    INFER_INT8_FILE,
    Bundle,
    BundleManifest,
    initial_weights,
    patch_model,
    read_bundle,
)
from shared.errors import BundleError
from shared.tflite_file import FLOAT32, constants
from tests.convert.runs import convert_apart, patched, run_apart

Refusals: TypeAlias = dict[str, dict[str, str] | None]

NETWORKS = ("convolution", "window", "depthwise", "dense", "transposed", "residual", "without_bias")
PREDICT = """
import sys, numpy as np
from edge_client.trainer.runtime import InferenceModel
model, x, runtime, out = sys.argv[1:]
np.save(out, InferenceModel(open(model, "rb").read(), 1, runtime).predict(np.load(x)))
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("convert"),  # one worker runs all conversions
    pytest.mark.timeout(900),  # which take minutes on a machine that is busy
]


@pytest.fixture(scope="module")
def refusals(folder: Path) -> Refusals:
    return run_apart("run_full_integer", str(folder))


def made(refusals: Refusals, folder: Path, name: str) -> Bundle:
    assert refusals[name] is None
    return read_bundle(folder / name)


def predict(folder: Path, model: bytes, x: Path, runtime: str) -> Any:  # noqa: ANN401 - an array
    """Run in a process of its own, so that the runtimes do not meet."""
    (folder / "model.tflite").write_bytes(model)
    words = [str(folder / "model.tflite"), str(x), runtime, str(folder / "y.npy")]
    subprocess.run([sys.executable, "-c", PREDICT, *words], check=True, capture_output=True)
    return np.load(folder / "y.npy")


def error(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the mean error relative to the largest output."""
    return float(np.abs(got - expected).mean() / np.abs(expected).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_patched_twin_is_tensorflows_own_byte_for_byte(refusals: Refusals, folder: Path, name: str) -> None:
    bundle = made(refusals, folder, name)
    other = np.load(folder / name / "other.npy")
    assert patched(bundle, INFER_INT8_FILE, other) == (folder / name / "fresh.tflite").read_bytes()
    assert patched(bundle, INFER_INT8_FILE, initial_weights(bundle)) == bundle.files[INFER_INT8_FILE]


@pytest.mark.parametrize("runtime", installed_runtimes())
@pytest.mark.parametrize("name", NETWORKS)
def test_patched_twin_follows_the_float_model(
    refusals: Refusals, folder: Path, tmp_path: Path, name: str, runtime: str
) -> None:
    bundle = made(refusals, folder, name)
    other = np.load(folder / name / "other.npy")
    x = folder / name / "x.npy"
    own = predict(tmp_path, bundle.files[INFER_INT8_FILE], x, runtime)
    assert own.dtype == np.float32
    assert error(own, predict(tmp_path, bundle.files[INFER_FILE], x, runtime)) < 0.03
    expected = predict(tmp_path, patched(bundle, INFER_FILE, other), x, runtime)
    got = predict(tmp_path, patched(bundle, INFER_INT8_FILE, other), x, runtime)
    assert error(got, expected) < 0.05
    assert error(got, expected) < 0.5 * error(own, expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_float_weight_is_left(refusals: Refusals, folder: Path, name: str) -> None:
    bundle = made(refusals, folder, name)
    assert not [place.name for place in constants(bundle.files[INFER_INT8_FILE]) if place.type == FLOAT32]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("words", "embedding layer network/vocabulary (network/vocabulary/embeddings)"),
        ("merged", "weight network/answer/bias"),
        ("memory", "weight network/memory/lstm_cell/"),
    ],
)
def test_what_cannot_be_patched_exactly_is_refused_by_name(
    refusals: Refusals, folder: Path, name: str, what: str
) -> None:
    refusal = refusals[name]
    assert refusal is not None
    assert refusal["code"] == "convert-representative"
    assert refusal["message"].startswith(what)
    assert "without --representative" in refusal["try"]
    assert "dynamic range" in refusal["try"]
    assert not (folder / name).exists()


def test_a_variance_that_cannot_be_folded_is_refused(refusals: Refusals, folder: Path) -> None:
    bundle = made(refusals, folder, "convolution")
    spec = next(spec for spec in bundle.manifest.tensors if spec.path.endswith("variance"))
    weights = initial_weights(bundle).copy()
    weights[spec.offset] = -1.0
    with pytest.raises(BundleError, match="variance") as caught:
        patched(bundle, INFER_INT8_FILE, weights)
    assert caught.value.code == "bundle-weights"


def test_a_channel_without_weights_keeps_its_bias(refusals: Refusals, folder: Path, tmp_path: Path) -> None:
    """Batch norm with gamma 0, as residual blocks start, leaves a bias beside a kernel of zeros."""
    bundle = made(refusals, folder, "convolution")
    weights = initial_weights(bundle).copy()
    for spec in bundle.manifest.tensors:
        if spec.path.endswith("gamma"):
            weights[spec.offset : spec.offset + spec.size] = 0.0
    x = folder / "convolution" / "x.npy"
    runtime = installed_runtimes()[0]
    expected, got = (predict(tmp_path, patched(bundle, f, weights), x, runtime) for f in (INFER_FILE, INFER_INT8_FILE))
    assert float(np.abs(got - expected).max()) < 0.1 * float(np.abs(expected).max())


@pytest.mark.parametrize(
    "damage",
    [
        lambda patch: patch["fold"].update(term="nonsense"),
        lambda patch: patch["fold"].update(variance="nothing"),
        lambda patch: patch["fold"].update(epsilon=-1.0),
        lambda patch: patch["fold"].update(axes=[9]),
        lambda patch: patch["bias"].update(path="nothing"),
        lambda patch: patch["bias"].update(input_scale=0.0),
        lambda patch: patch["bias"].update(offset=-4),
        lambda patch: patch.update(zero_point_offset=8),
        lambda patch: patch.update(dtype="float32", scale_offset=None),
    ],
)
def test_damaged_patches_are_refused(refusals: Refusals, folder: Path, damage: Any) -> None:  # noqa: ANN401 - a lambda
    document = json.loads(made(refusals, folder, "convolution").manifest.to_bytes())
    damage(next(patch for patch in document["patches"] if patch["fold"] and patch["bias"]))
    with pytest.raises(BundleError) as caught:
        BundleManifest.from_bytes(json.dumps(document).encode())
    assert caught.value.code == "bundle-manifest"


def test_a_bias_outside_the_file_is_refused(refusals: Refusals, folder: Path) -> None:
    bundle = made(refusals, folder, "convolution")
    patch = next(patch for patch in bundle.manifest.patches if patch.bias)
    assert patch.bias is not None
    away = replace(patch, bias=replace(patch.bias, offset=len(bundle.files[INFER_INT8_FILE])))
    with pytest.raises(BundleError, match="bundle-patch"):
        patch_model(bundle.files[INFER_INT8_FILE], (away,), initial_weights(bundle), bundle.manifest.tensors)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"pixels": np.zeros((3, 12), np.float32)}, ["pixels", "lacks x"]),
        ({"x": np.zeros((3, 11), np.float32)}, ["float32[3, 11]", "float32[n, 12]"]),
        ({"x": np.zeros((0, 12), np.float32)}, ["float32[0, 12]", "n of 1 or more"]),
        ({"x": np.zeros((3, 12), np.uint8)}, ["uint8[3, 12]", "float32[n, 12]"]),
        ({"x": np.full((3, 12), np.nan, np.float32)}, ["not finite"]),
        (None, ["cannot be read"]),
    ],
)
def test_a_wrong_file_is_refused_by_name(
    tmp_path: Path, arrays: dict[str, NDArray[Any]] | None, words: list[str]
) -> None:
    file = tmp_path / "examples.npz"
    if arrays is None:
        file.write_bytes(b"no archive")
    else:
        np.savez(file, **arrays)
    factory = "tests.convert.full_integer_networks:dense"
    options = ["--out", str(tmp_path / "out"), "--loss", "mean_squared_error", "--representative", str(file), "--json"]
    done = convert_apart(factory, *options)
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "convert-representative"
    assert all(word in error["message"] for word in words)
    assert "without --representative" in error["try"]
