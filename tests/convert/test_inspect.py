"""``fedloom inspect``: what it shows of a bundle, and what it says about one that is damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_client.trainer.runtime import installed_runtimes
from shared.bundle import MANIFEST_FILE, PROOF_FILE, TRAIN_FILE, WEIGHTS_FILE, Bundle, BundleManifest
from tools.bench.quadratic import write_quadratic_bundle
from tools.cli import main
from tools.inspection.facts import operator_names
from tools.inspection.measure import measure_apart
from tools.inspection.text import size

FOREIGN = {"tensorflow", "keras", "tflite_runtime", "ai_edge_litert.interpreter"}


@pytest.fixture(scope="module")
def facts(activity_folder: Path) -> dict[str, Any]:
    program = (
        "import sys; from tools.cli import main; code = main(sys.argv[1:]); "
        f"print(sorted({FOREIGN} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "inspect", str(activity_folder), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]", "the command itself loads no TensorFlow and no runtime"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def copy(activity_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(activity_folder, tmp_path / "copy"))


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file of the bundle and its hash."""
    manifest = BundleManifest.from_bytes((folder / MANIFEST_FILE).read_bytes())
    files = dict(manifest.files) | {name: hashlib.sha256(data).hexdigest()}
    (folder / name).write_bytes(data)
    (folder / MANIFEST_FILE).write_bytes(replace(manifest, files=files).to_bytes())


def test_model_is_described(facts: dict[str, Any], activity_bundle: Bundle) -> None:
    manifest = activity_bundle.manifest
    assert facts["name"] == "activity"
    assert facts["parameters"] == manifest.parameters
    assert facts["inputs"] == [{"name": "x", "shape": [manifest.batch_size, 100, 6], "dtype": "float32"}]
    assert facts["labels"] == {"name": "y", "shape": [manifest.batch_size], "dtype": "int32"}
    assert (facts["loss"], facts["metric"]) == ("sparse_categorical_crossentropy", "accuracy")
    assert list(facts["tensors"]) == ["shared", "statistic", "local"]
    shared = {"count": len(manifest.tensors), "parameters": manifest.parameters, "bytes": 4 * manifest.parameters}
    assert facts["tensors"]["shared"] == shared
    assert facts["tools"] == manifest.tools


def test_bytes_are_those_of_the_folder(facts: dict[str, Any], activity_folder: Path) -> None:
    assert facts["bytes"] == sum(path.stat().st_size for path in activity_folder.iterdir())
    for program in facts["programs"]:
        assert program["bytes"] == (activity_folder / program["file"]).stat().st_size


def test_programs_have_signatures_and_operators(facts: dict[str, Any], activity_bundle: Bundle) -> None:
    train, infer, int8 = facts["programs"]
    assert set(train["signatures"]) == {"set_weights", "get_weights", "train", "evaluate", "infer"}
    assert train["signatures"]["train"] == {
        "inputs": ["lr", "mask", "mu", "weight_decay", "x", "y"],
        "outputs": ["loss"],
    }
    assert infer["signatures"] == int8["signatures"] == {"infer": {"inputs": ["x"], "outputs": ["y"]}}
    assert [kind["name"] for kind in train["operators"]] == json.loads(activity_bundle.files[PROOF_FILE])["ops"]
    assert all(kind["version"] >= 1 for program in facts["programs"] for kind in program["operators"])


def test_every_runtime_is_measured(facts: dict[str, Any]) -> None:
    assert [runtime["name"] for runtime in facts["measured"]] == installed_runtimes()
    for runtime in facts["measured"]:
        assert runtime["error"] is None
        assert 0 < runtime["step_ms"] < 10_000
        assert 10 << 20 < runtime["ram_bytes"] < 10 << 30


def test_proof_is_summed_up(facts: dict[str, Any]) -> None:
    assert [runtime["name"] for runtime in facts["proof"]["runtimes"]] == installed_runtimes()
    assert all(runtime["passed"] for runtime in facts["proof"]["runtimes"])
    assert all(0 < runtime["largest_gradient_error"] <= 1e-4 for runtime in facts["proof"]["runtimes"])


def test_a_person_reads_the_same(activity_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(activity_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 or str(activity_folder) in line for line in lines)
    text = "\n".join(lines)
    expected = (
        "activity (tflite)",
        "21,655",
        "lr, mask, mu, weight_decay, x, y -> loss",
        "CONV_2D@",
        "passed",
        *installed_runtimes(),
    )
    assert [part for part in expected if part not in text] == []


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        (PROOF_FILE, b"[]", "bundle-proof"),
        (PROOF_FILE, b'{"runtimes": [{"name": "x"}]}', "bundle-proof"),
        (WEIGHTS_FILE, b"nothing", "bundle-weights"),
        (TRAIN_FILE, b"nothing", "bundle-not-tflite"),
    ],
)
def test_wrong_files_are_named(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str, data: bytes, code: str
) -> None:
    put(copy, name, data)
    assert main(["inspect", str(copy), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_damage_is_one_line_and_no_traceback(copy: Path) -> None:
    (copy / TRAIN_FILE).write_bytes((copy / TRAIN_FILE).read_bytes()[:-1])
    command = [sys.executable, "-m", "tools.cli", "inspect", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "[bundle-file-hash]" in done.stderr


def test_no_folder_is_a_missing_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "nowhere"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bundle-missing-file"


def test_a_program_that_cannot_train_is_a_finding(copy: Path) -> None:
    put(copy, TRAIN_FILE, (copy / "infer.tflite").read_bytes())
    for runtime in installed_runtimes():
        entry = measure_apart(runtime, copy)
        assert entry["step_ms"] is None
        assert "signature" in entry["error"].lower()


def test_a_bundle_without_programs_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_quadratic_bundle(tmp_path / "q", 5)
    assert main(["inspect", str(tmp_path / "q"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["engine"], facts["programs"], facts["measured"], facts["proof"]) == ("quadratic", [], [], None)
    assert main(["inspect", str(tmp_path / "q")]) == 0
    assert "none in this bundle" in capsys.readouterr().out


def test_a_name_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_quadratic_bundle(tmp_path / "q", 5)
    place = tmp_path / "q" / MANIFEST_FILE
    manifest = BundleManifest.from_bytes(place.read_bytes())
    place.write_bytes(replace(manifest, name="red\x1b[31m\ud800").to_bytes())
    assert main(["inspect", str(tmp_path / "q")]) == 0
    assert "red?[31m?" in capsys.readouterr().out


def test_operators_have_numbers_where_no_schema_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert.schema_py_generated", None)
    assert operator_names() == {}


def test_sizes_are_short() -> None:
    assert [size(count) for count in (5, 2048, 3 << 20, 5 << 30)] == ["5 bytes", "2.0 KiB", "3.0 MiB", "5.0 GiB"]
