"""``docs/your-own-task.md`` is run as it stands, with a model and recordings made here."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "your-own-task.md").read_text("utf-8")
OWNERS = ("ada", "ben", "cleo", "dora")
CLASSES = {"once": 3.0, "twice": 7.0, "scratch": 13.0}
ROUNDS = 2
MODEL = """
import keras
keras.utils.set_random_seed(1)
parts = [keras.layers.Reshape((64, 1)), keras.layers.Conv1D(8, 5, strides=2, activation="relu")]
parts += [keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(3)]
keras.Sequential([keras.Input((64,)), *parts]).save("knock.keras")
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(600),
]  # a conversion and a whole task, on a machine that may be busy


def _record(folder: Path) -> None:
    random = np.random.default_rng(1)
    for number, owner in enumerate(OWNERS):
        for name, frequency in CLASSES.items():
            place = folder / "recordings" / owner / name
            place.mkdir(parents=True)
            for index in range(20):
                wave = np.sin(np.arange(64) * frequency / 10 + random.normal()) * (1 + 0.2 * number)
                np.save(place / f"{index:03}.npy", (wave + random.normal(0, 0.3, 64)).astype(np.float32))


def _script() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    blocks = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    script = "\n".join(blocks).replace("8443", str(port))
    fewer = f"sed -i 's/^rounds = .*/rounds = {ROUNDS}/' knock/plan.toml\n"
    return "set -eu\nagents=\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n" + script.replace(
        "fedloom-server task create", f"{fewer}fedloom-server task create"
    )


def test_the_page_can_be_followed_as_it_stands(tmp_path: Path) -> None:
    _record(tmp_path)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-c", MODEL], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        ["bash", "-c", _script()], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "federated" in done.stdout
    assert f"version       {ROUNDS}" in done.stdout
    assert "own model" in done.stdout
    for owner in OWNERS[:-1]:
        command = ["fedloom-agent", "ledger", "--state", f"state/{owner}", "--json"]
        told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        states = [entry["state"] for entry in json.loads(told.stdout)["contributions"]]
        assert states.count("counted") == ROUNDS
    assert not (tmp_path / "state" / OWNERS[-1]).exists()  # takes no part
    assert (tmp_path / "model").exists()
