"""Whole networks, not only their parts, train inside the stock runtimes as TensorFlow trains them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from edge_client.trainer.runtime import installed_runtimes
from shared.bundle import TRAIN_FILE, read_bundle
from shared.tflite_file import custom_operators

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("ds_cnn", "gru_2", "mobile_net_v2", "resnet_8", "transformer_2")


@pytest.mark.long
@pytest.mark.timeout(900)  # large networks, on a machine that may be busy
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in NAMES])
def test_a_network_trains_as_tensorflow_does(tmp_path: Path, name: str) -> None:
    words = ["--out", str(tmp_path / name), "--batch-size", "8", "--json"]
    words += ["--loss", "sparse_categorical_crossentropy"]
    command = [sys.executable, "-m", "tools.convert", f"tests.convert.architectures:{name}", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answer = json.loads(done.stdout)
    assert done.returncode == 0, answer
    proofs = answer["proof"]["runtimes"]
    assert [proof["name"] for proof in proofs] == installed_runtimes()
    for proof in proofs:
        assert proof["passed"]
        assert max(tensor["max_relative_error"] for tensor in proof["tensors"]) <= 1e-4
        assert {"random", "other", "masked", "all_masked"} <= set(proof["batches"])
    assert not custom_operators(read_bundle(tmp_path / name).files[TRAIN_FILE])
