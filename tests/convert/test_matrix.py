"""Every layer, activation and loss of the matrix trains with builtin operators and is proven on every runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_client.trainer.runtime import installed_runtimes
from shared.bundle import TRAIN_FILE, read_bundle
from shared.tflite_file import custom_operators
from tests.convert.run_matrix import PARTS
from tests.convert.runs import run_apart

if TYPE_CHECKING:
    from pathlib import Path

SMALLEST = 60  # cases over all parts


@pytest.mark.long
@pytest.mark.timeout(900)  # forty conversions in one process, on a machine that may be busy
@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=pytest.mark.xdist_group(f"matrix-{part}")) for part in range(PARTS)]
)
def test_every_case_trains_as_tensorflow_does(tmp_path: Path, part: int) -> None:
    answers = run_apart("run_matrix", str(tmp_path), str(part))
    refused = {name: answer["error"] for name, answer in answers.items() if "error" in answer}
    assert not refused
    assert len(answers) >= SMALLEST // PARTS
    for name, answer in answers.items():
        proofs = answer["proof"]["runtimes"]
        assert [proof["name"] for proof in proofs] == installed_runtimes(), name
        assert all(proof["passed"] for proof in proofs), name
        errors = [tensor["max_relative_error"] for proof in proofs for tensor in proof["tensors"]]
        assert max(errors) <= 1e-4, name
        bundle = read_bundle(tmp_path / name)
        assert not custom_operators(bundle.files[TRAIN_FILE]), name
        if name == "layer_frozen":
            assert [spec.role for spec in bundle.manifest.tensors] == ["local"] * 2 + ["shared"] * 4
