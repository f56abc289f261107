"""A version's weights come back in the Keras model that its bundle was made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from shared.bundle import WEIGHTS_FILE
from tools.cli import main


def test_weights_of_a_version_come_back_as_a_keras_model(
    activity_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras  # noqa: PLC0415  # takes seconds

    arrays = load((activity_folder / WEIGHTS_FILE).read_bytes())
    changed = {path: values + np.float32(0.5) for path, values in arrays.items()}
    file, out = tmp_path / "weights.safetensors", tmp_path / "model.keras"
    file.write_bytes(save(changed))
    assert main(["keras", "models.activity:build", "--weights", str(file), "--out", str(out)]) == 0
    model = keras.saving.load_model(out, compile=False)
    assert {v.path: v.shape for v in model.weights} == {path: values.shape for path, values in changed.items()}
    for variable in model.weights:
        np.testing.assert_array_equal(variable.numpy(), changed[variable.path])
    file.write_bytes(save({"nobody/knows": np.zeros(3, np.float32)}))
    assert main(["keras", "models.activity:build", "--weights", str(file), "--out", str(out)]) == 2
    assert "[wrong-weights]" in capsys.readouterr().err
