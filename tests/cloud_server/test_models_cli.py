"""``fedloom-server model``: what people and programs see of versions and releases, and how mistakes are answered."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from cloud_server.cli import main
from tests.cloud_server.local import Local, small_plan

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder with a task of two versions."""
    monkeypatch.chdir(tmp_path)
    local = Local(tmp_path / "data")
    local.create(small_plan("point"))
    local.close()
    (tmp_path / "ones.safetensors").write_bytes(save({"theta": np.ones(8, np.float32)}))
    return tmp_path / "data"


def model(captured: Captured, *words: str) -> tuple[int, str]:
    """Run a verb and return its exit code and what it printed for people."""
    code = main(["model", *words, "--data", "data"])
    output = captured.readouterr()
    return code, output.out + output.err


@pytest.mark.usefixtures("data")
def test_an_operator_sees_what_devices_use_and_why(capsys: Captured) -> None:
    assert "use the newest version, 0" in model(capsys, "show", "point")[1]
    code, text = model(capsys, "import", "point", "--weights", "ones.safetensors")
    assert code == 0, text
    code, text = model(capsys, "show", "point")
    assert "use version 0, released" in text
    assert "a driver has not signed the last change yet" in text
    code, text = model(capsys, "promote", "point", "1", "--stages", "5%,100%", "--wait")
    assert code == 0, text
    rows = model(capsys, "list", "point")[1].splitlines()
    assert [row.split()[0] for row in rows] == ["version", "1", "0"]
    assert "stage 1 of 2" in rows[1]
    assert "released" in rows[2]
    code, text = model(capsys, "roll-back", "point", "--reason", "Friday")
    assert code == 0
    assert re.search(r"rolled-back +operator .* Friday$", text, re.MULTILINE)


@pytest.mark.usefixtures("data")
def test_a_second_operator_is_told_what_happened_and_what_to_do(capsys: Captured) -> None:
    model(capsys, "import", "point", "--weights", "ones.safetensors")
    assert model(capsys, "promote", "point", "1", "--revision", "1")[0] == 0
    code, text = model(capsys, "roll-back", "point", "--revision", "1")
    assert code == 3
    assert "release-changed" in text
    assert "model show" in text
    assert "promotion-under-way" in model(capsys, "promote", "point", "1")[1]


@pytest.mark.usefixtures("data")
def test_files_and_cards(capsys: Captured, tmp_path: Path) -> None:
    model(capsys, "import", "point", "--weights", "ones.safetensors")
    assert model(capsys, "download", "point", "--as", "safetensors", "--out", "again")[0] == 0
    assert load((tmp_path / "again").read_bytes())["theta"].tolist() == [1.0] * 8
    code, text = model(capsys, "download", "point", "--as", "keras")
    assert code == 3
    assert "fedloom keras SOURCE --weights FILE" in text
    code, text = model(capsys, "card", "point", "--version", "0")
    assert "# quadratic, version 0 of point" in text
    assert "No devices have evaluated this version yet." in text
    main(["model", "card", "point", "--data", "data", "--json"])
    card = json.loads(capsys.readouterr().out)
    assert (card["version"], card["model"]["parameters"], card["plan"]["task"]) == (1, 8, "point")
    assert [one["reason"] for one in card["history"]] == []


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["promote", "point", "7"], "version-unknown"),
        (["promote", "point", "0", "--stages", "10%,5%"], "bad-stages"),
        (["promote", "point", "0", "--stages", "many"], "usage"),
        (["promote", "point", "0", "--tolerance", "0.5"], "bad-gate"),
        (["promote", "nothing", "0"], "task-unknown"),
        (["promote", "point", "0"], "nothing-to-compare"),
        (["proceed", "point"], "no-promotion"),
        (["pin", "point", "0"], "not-evaluated"),
        (["unpin", "point"], "nothing-pinned"),
        (["roll-back", "point"], "nothing-released"),
        (["import", "point", "--weights", "nowhere"], "no-weights"),
        (["download", "point", "--as", "int8"], "file-unknown"),
        (["download", "point", "--version", "7"], "version-unknown"),
        (["card", "nothing"], "task-unknown"),
        (["show", "nothing"], "task-unknown"),
    ],
)
def test_mistakes_have_names(capsys: Captured, words: list[str], code: str) -> None:
    status, text = model(capsys, *words)
    assert status in {2, 3}
    assert f"code: {code}" in text
