"""A version's weights come back in the Keras model that its bundle was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tools.cli import main
from tools.convert.source import load_keras
from tools.convert.tf import keras

SOURCE = "models.activity:build"


def test_weights_of_a_version_come_back_as_a_keras_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = load_keras(SOURCE)
    changed = {v.path: np.asarray(v.numpy(), np.float32) + np.float32(0.5) for v in built.variables}
    file, out = tmp_path / "weights.safetensors", tmp_path / "model.keras"
    file.write_bytes(save(changed))
    assert main(["keras", SOURCE, "--weights", str(file), "--out", str(out)]) == 0
    model = keras.saving.load_model(out, compile=False)
    found = {
        f"{built.name}/{v.path}": v.numpy() for v in model.variables
    }  # a loaded model's paths begin below its name
    assert found.keys() == changed.keys()
    for path, values in changed.items():
        np.testing.assert_array_equal(found[path], values)
    file.write_bytes(save({"nobody/knows": np.zeros(3, np.float32)}))
    assert main(["keras", SOURCE, "--weights", str(file), "--out", str(out)]) == 2
    assert "[wrong-weights]" in capsys.readouterr().err
