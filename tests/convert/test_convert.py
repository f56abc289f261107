"""``fedloom convert``: what it makes of models, and what it says when it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from edge_client.trainer.runtime import InferenceModel, installed_runtimes
from shared.bundle import INFER_FILE, INFER_INT8_FILE, Bundle, initial_weights, read_bundle
from shared.errors import BundleError
from shared.tflite_file import custom_operators
from tests.convert.runs import convert_apart, patched, run_apart
from tools.convert import convert as converting

Results: TypeAlias = dict[str, tuple[int, dict[str, Any]]]

pytestmark = pytest.mark.xdist_group("convert")  # one worker runs all conversions

CONVERTED = (
    "window", "window_of_other_weights", "image", "pools", "upsampling", "two_inputs", "normalized", "saved_model",
    "erf", "random", "grouped", "tokens", "tokens_of_other_weights", "unread", "dictionaries",
)  # fmt: skip


@pytest.fixture(scope="module")
def results(folder: Path) -> Results:
    return {name: (code, json.loads(text)) for name, (code, text) in run_apart("run_all", str(folder)).items()}


def bundle(results: Results, folder: Path, name: str) -> Bundle:
    assert results[name][0] == 0, results[name]
    return read_bundle(folder / name)


@pytest.mark.parametrize("name", CONVERTED)
def test_every_runtime_computes_what_tensorflow_does(results: Results, name: str) -> None:
    code, answer = results[name]
    assert code == 0, answer
    proofs = answer["proof"]["runtimes"]
    assert [proof["name"] for proof in proofs] == installed_runtimes()
    for proof in proofs:
        assert proof["passed"]
        assert max(tensor["max_relative_error"] for tensor in proof["tensors"]) <= 1e-4
        assert proof["ram_bytes"] > 0
        assert proof["step_ms"] > 0


@pytest.mark.parametrize("name", CONVERTED)
def test_programs_are_builtin_only_and_hold_no_weights(results: Results, folder: Path, name: str) -> None:
    made = bundle(results, folder, name)
    programs = {file: data for file, data in made.files.items() if file.endswith(".tflite")}
    assert not any(custom_operators(data) for data in programs.values())
    kernel = max(made.manifest.tensors, key=lambda spec: spec.size)
    values = initial_weights(made)[kernel.offset : kernel.offset + kernel.size]
    assert values.tobytes() not in programs["train.tflite"]


@pytest.mark.parametrize(
    ("name", "code", "names"),
    [
        ("untraceable", "convert-trace", ["network", "Lambda.call()", "numpy"]),
        ("open_length", "convert-dynamic-shape", ["None"]),
        ("not_a_model", "convert-source", ["keras.Model"]),
        ("channels_first", "convert-layout", ["early", "channels first"]),
        ("unknown_loss", "convert-loss", ["nonsense"]),
        ("occupied", "convert-out", ["not a bundle"]),
        ("missing", "convert-source", ["no-such-model"]),
        ("no_such_tensor", "convert-tensors", ["nothing/*"]),
        ("wrong_class_weights", "convert-loss", ["2 class weights", "4 classes"]),
        ("too_large", "convert-memory", ["batches of 4", "at most 5"]),
        ("no_smoothing", "convert-loss", ["mean_squared_error", "label smoothing"]),
        ("subclassed", "convert-inputs", ["own", "input shape"]),
        ("failing", "convert-source", ["odd_networks:failing", "the file of names is missing"]),
        ("leaving", "convert-source", ["SystemExit", "no models today"]),
        ("needing", "convert-source", ["odd_networks:needing", "width"]),
        ("double", "convert-dtype", ["layer wide", "float64", "float32"]),
        ("mixed", "convert-dtype", ["layer half", "float16", "float32"]),
        ("long_tokens", "convert-inputs", ["int64", "int32"]),
        ("words", "convert-unsupported-op", ["layer vocabulary", "table"]),
        ("spaced", "convert-inputs", ["'user id'", "letters, digits and _"]),
        ("frozen", "convert-tensors", ["nothing of network is trained"]),
        ("weightless", "convert-tensors", ["network has no weights"]),
        ("spectral", "convert-control-flow", ["layer bounded", "depends on the data"]),
        ("cropped", "convert-control-flow", ["layer crop", "shape", "depends on the data"]),
        ("truncated", "convert-random-layer", ["layer noise", "TruncatedNormal"]),
        ("scaled", "convert-random-layer", ["layer scale", "RandomUniformInt"]),
        ("upsampled", "convert-unsupported-op", ["Conv2DBackpropInput in layer dilated"]),
        ("spectrum", "convert-unsupported-op", ["layer waves", "FFT"]),
        ("failing_loss", "convert-failed", ["this loss is not written yet"]),
        ("no_place", "convert-out", ["Not a directory"]),
        ("broken_module", "convert-source", ["No module named 'tests.convert.no_such_module'"]),
        ("text_file", "convert-source", ["text.keras", "no Keras file"]),
        ("old_file", "convert-source", ["old.h5", "HDF5"]),
        ("no_number", "usage", ["abc is not a whole number"]),
        ("examples_beyond_float32", "convert-representative", ["not finite in float32"]),
        ("examples_overflowing", "convert-representative", ["example 0", "layer sum", "not finite"]),
        ("examples_empty", "convert-representative", ["every value of x is the same"]),
    ],
)
def test_refusal_names_the_cause_and_writes_nothing(
    results: Results, folder: Path, name: str, code: str, names: list[str]
) -> None:
    exit_code, answer = results[name]
    assert exit_code == 2
    error = answer["error"]
    assert error["code"] == code
    assert all(word in error["message"] for word in names)
    assert not (folder / name / "manifest.json").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_loss_follows_from_the_last_layer(results: Results) -> None:
    read = {name: (results[name][1]["loss"], results[name][1]["output"]) for name in CONVERTED}
    assert read["window"] == ("sparse_categorical_crossentropy", "logits")
    assert read["image"] == ("sparse_categorical_crossentropy", "probabilities")
    assert read["pools"] == ("binary_crossentropy", "probabilities")
    assert read["two_inputs"] == ("mean_squared_error", "values")


def test_roles_say_what_is_aggregated_and_trained(results: Results, folder: Path) -> None:
    window = {spec.path: spec.role for spec in bundle(results, folder, "window").manifest.tensors}
    assert window.pop("network/dense_1/kernel") == window.pop("network/dense_1/bias") == "local"
    assert set(window.values()) == {"shared"}
    normalized = bundle(results, folder, "normalized").manifest.tensors
    assert {spec.path.split("/")[-1] for spec in normalized if spec.role == "statistic"} == {
        "moving_mean",
        "moving_variance",
    }


def test_variances_that_are_averaged_have_a_minimum_and_no_other_tensor_has(personal_bundle: Bundle) -> None:
    tensors = personal_bundle.manifest.tensors
    assert {spec.path: spec.minimum for spec in tensors if spec.minimum is not None} == {
        "network/moments/moving_variance": 0.0
    }
    assert {spec.role for spec in tensors if spec.path.startswith("network/head")} == {"local"}


def test_several_inputs_go_by_their_names(results: Results, folder: Path) -> None:
    inputs = bundle(results, folder, "two_inputs").manifest.inputs
    assert {spec.name: spec.shape for spec in inputs} == {"x_left": (4, 4), "x_right": (4, 5)}
    inputs = bundle(results, folder, "dictionaries").manifest.inputs
    assert {spec.name: spec.shape for spec in inputs} == {"x_left": (4, 3), "x_right": (4, 4)}


def test_weights_that_no_output_depends_on_are_left_out(results: Results, folder: Path) -> None:
    tensors = bundle(results, folder, "unread").manifest.tensors
    assert [spec.path.split("/")[-1] for spec in tensors] == ["kernel", "bias"]


INPUTS = {
    "window": np.random.default_rng(5).normal(size=(20, 21, 3)).astype(np.float32),
    "tokens": np.random.default_rng(5).integers(0, 73, (20, 20), np.int32),
}


@pytest.mark.parametrize("name", list(INPUTS))
@pytest.mark.parametrize("file", [INFER_FILE, INFER_INT8_FILE])
@pytest.mark.parametrize("runtime", installed_runtimes()[:1])
def test_patched_twin_equals_fresh_conversion(
    results: Results, folder: Path, name: str, file: str, runtime: str
) -> None:
    one, other = (bundle(results, folder, f"{name}{which}") for which in ("", "_of_other_weights"))
    got, expected, before = (
        InferenceModel(model, 1, runtime).predict(INPUTS[name])
        for model in (patched(one, file, initial_weights(other)), other.files[file], one.files[file])
    )
    largest = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6 * max(1.0, largest))
    assert np.abs(before - expected).max() > 0.1 * largest


def test_int8_patch_is_what_the_converter_quantizes(results: Results, folder: Path) -> None:
    """A twin holds the weights' int8 levels as TensorFlow's own quantizer would have written them."""
    made = bundle(results, folder, "window")
    int8 = [patch for patch in made.manifest.patches if patch.dtype == "int8"]
    assert {patch.path.split("/")[1] for patch in int8} >= {"conv1d_1"}
    for patch in int8:
        spec = next(spec for spec in made.manifest.tensors if spec.path == patch.path)
        model = made.files[INFER_INT8_FILE]
        scales = np.frombuffer(model, "<f4", patch.channels, patch.scale_offset or 0)
        levels = np.frombuffer(model, np.int8, spec.size, patch.offset)
        stored = (levels.reshape(-1, patch.channels, patch.inner) * scales[:, None]).reshape(-1)
        weights = initial_weights(made)[spec.offset : spec.offset + spec.size].reshape(spec.shape)
        assert np.abs(stored - weights.transpose(patch.order).reshape(-1)).max() <= scales.max() * 0.501


def test_a_proof_that_does_not_end_is_an_error_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "_PROOF_TIMEOUT_S", 0)
    with pytest.raises(BundleError, match="did not finish the proof") as caught:
        converting._prove(installed_runtimes()[0], tmp_path)
    assert caught.value.code == "convert-proof"


def test_usage_errors_are_one_text_with_a_way_out() -> None:
    done = convert_apart("model.keras", "--out", "b", "--batch-size", "0")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--batch-size" in done.stderr
    assert "Try:" in done.stderr
