"""The owner's commands, as a person or a program calls them."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_client import doctor
from edge_client.cli import main
from edge_client.conditions import decide as deciding
from edge_client.enrolment import enrol
from edge_client.identity import load_enrolment
from edge_client.journal import SIGNED_TIME, Journal
from edge_client.settings_file import SettingsFile
from edge_client.state_folder import StateFolder, current_version
from edge_client.texts import Chinese, English, language_of
from edge_client.waits import WAITS_FOR
from shared.clock import SystemClock
from tests.edge_client.aggregator import Aggregator
from tests.edge_client.devices import ManualClock, enrolled
from tests.edge_client.loopback import serve

ROOT = Path(__file__).parents[2]
Captured = pytest.CaptureFixture[str]


class Device:
    """An enrolled device that has fetched its first version, and its server."""

    def __init__(self, path: Path, certificates: Path, url: str, aggregator: Aggregator) -> None:
        self.path, self.url, self.certificates, self.aggregator = path, url, certificates, aggregator
        self.folder = StateFolder(path / "state")
        self.words = ["--state", str(self.folder.path)]

    def json(self, capsys: Captured, *words: str, exit_code: int = 0) -> Any:  # noqa: ANN401  # what a command prints
        capsys.readouterr()
        assert main([*words, *self.words, "--json"]) == exit_code
        return json.loads(capsys.readouterr().out)

    def text(self, capsys: Captured, *words: str, exit_code: int = 0) -> str:
        capsys.readouterr()
        assert main([*words, *self.words]) == exit_code
        return capsys.readouterr().out


@pytest.fixture
def device(tmp_path: Path, certificates: Path) -> Iterator[Device]:
    aggregator = Aggregator(certificates, 2, rounds=0, now_s=time.time() - 60)
    with serve(certificates, aggregator) as url:
        enrolled(tmp_path, aggregator, url)
        made = Device(tmp_path, certificates, url, aggregator)
        SettingsFile(made.folder.settings_file).change("train.on_battery", "true")  # of whoever tests on a laptop
        SettingsFile(made.folder.settings_file).change("train.battery_at_least_percent", "0")
        assert main(["once", *made.words]) == 0
        yield made


def found(report: dict[str, Any], name: str) -> dict[str, str]:
    row: dict[str, str]
    (row,) = [row for row in report["checks"] if row["check"] == name]
    return row


def test_config_shows_every_setting_and_where_it_comes_from(device: Device, capsys: Captured) -> None:
    rows = {row["key"]: row for row in device.json(capsys, "config")["settings"]}
    assert rows["train.hours"]["from"] == "default"
    changed = {
        row["key"]: row for row in device.json(capsys, "config", "set", "train.hours", "22:00-07:00")["settings"]
    }
    assert changed["train.hours"]["value"] == "22:00-07:00"
    assert changed["train.hours"]["from"] == str(device.folder.settings_file)
    assert {"key", "value", "default", "unit", "allowed", "about", "from"} == set(changed["train.hours"])
    text = device.text(capsys, "config")
    assert all(key in text for key in rows)
    assert "10**6 bytes per local day" in rows["limits.written_megabytes_per_day"]["unit"]


def test_config_of_a_named_file(device: Device, capsys: Captured, tmp_path: Path) -> None:
    other = tmp_path / "etc.toml"
    assert device.json(capsys, "status", "--config", str(other))["settings"]["error"]["code"] == "settings-unreadable"
    error = device.json(capsys, "config", "--config", str(other), exit_code=2)["error"]
    assert error["code"] == "settings-unreadable"
    assert str(other) in error["message"]
    device.json(capsys, "config", "set", "train.metered", "true", "--config", str(other))
    assert SettingsFile(other).read().train.metered
    for command in ("once", "run"):
        other.write_text("[train]\nhour = ''\n")
        assert device.json(capsys, command, "--config", str(other), exit_code=2)["error"]["code"] == "bad-settings"


@pytest.mark.parametrize("words", [["get", "a", "b"], ["set", "train.hours"], ["set"]])
def test_config_knows_one_verb(device: Device, capsys: Captured, words: list[str]) -> None:
    assert device.json(capsys, "config", *words, exit_code=2)["error"]["code"] == "usage"


def test_pause_and_off(device: Device, capsys: Captured) -> None:
    assert device.json(capsys, "pause", "--for", "2h")["until_s"] == pytest.approx(time.time() + 7200, abs=600)
    error = device.json(capsys, "once", exit_code=4)["error"]
    assert error["code"] == "paused"
    status = device.json(capsys, "status")
    assert status["condition"]["code"] == "paused"
    assert "pause --off" in status["why_not_training"]
    assert device.json(capsys, "pause")["until_s"] is None
    assert device.json(capsys, "status")["condition"]["look_again_s"] is None
    assert device.json(capsys, "pause", "--off") == {"paused": False, "until_s": None}
    assert device.json(capsys, "status")["condition"] is None
    assert device.json(capsys, "once") == {"contribution": None}
    for wrong in ("2", "0h", "2 hours", "-1h"):
        assert device.json(capsys, "pause", f"--for={wrong}", exit_code=2)["error"]["code"] == "usage"


def test_what_a_device_demands_is_changed_without_another_code(device: Device, capsys: Captured) -> None:
    before = device.json(capsys, "status")["demands"]
    changed = device.json(capsys, "allow", "--allow-cohorts-of", "4", "--max-epsilon", "8")["demands"]
    assert changed == before | {"min_survivors": 4, "max_epsilon": 8.0}
    assert device.json(capsys, "status")["demands"] == changed
    back = device.json(capsys, "allow", "--allow-cohorts-of", "12", "--allow-semi-honest", "--max-epsilon", "0")
    assert back["demands"] == before | {"min_survivors": 12, "semi_honest": True}
    with device.folder.lock():  # an agent runs, and has read what was demanded
        refused = device.json(capsys, "allow", "--allow-cohorts-of", "3", exit_code=4)
    assert refused["error"]["code"] == "agent-running"
    assert device.json(capsys, "status")["demands"]["min_survivors"] == 12


def test_leaving_ends_a_pause_and_keeps_the_owners_settings(device: Device, capsys: Captured) -> None:
    device.json(capsys, "pause")
    assert main(["leave", *device.words, "--yes"]) == 0
    assert [path.name for path in device.folder.path.iterdir()] == ["agent.toml"]
    enrolment = enrol(
        device.aggregator.code(device.url),
        device.folder,
        device.path / "examples",
        floors=load_floors(),
        name="",
        clock=SystemClock(),
        random_bytes=os.urandom,
        jitter=lambda: 0.5,
    )
    assert load_enrolment(device.folder) == enrolment


def load_floors() -> Any:  # noqa: ANN401  # of the session
    from shared.secagg.floors import DeviceFloors  # noqa: PLC0415

    return DeviceFloors(min_survivors=2, min_corrupt_share=0.0)


def test_all_is_well(device: Device, capsys: Captured) -> None:
    report = device.json(capsys, "doctor")
    names = ["state", "disk", "enrolment", "server", "clock", "model", "runtime", "examples", "settings", "conditions"]
    assert [row["check"] for row in report["checks"]] == names
    assert report["to_do"] == 0
    assert "All is well." in device.text(capsys, "doctor")
    assert "一切正常" in device.text(capsys, "doctor", "--lang", "zh")


def test_what_has_to_be_done_is_said(device: Device, capsys: Captured) -> None:
    device.folder.key_file.chmod(0o644)
    (device.path / "examples" / "examples.npz").write_bytes(b"PK")
    twin = next(device.folder.store.iterdir())
    twin.write_bytes(b"x" + twin.read_bytes()[1:])
    device.folder.settings_file.write_text("[train]\nhour = 1\n")
    report = device.json(capsys, "doctor", exit_code=3)
    for name in ("state", "model", "examples", "settings"):
        row = found(report, name)
        assert row["state"] == "todo", row
        assert row["do"]
        assert row["why"]
    assert report["to_do"] == 4
    assert str(device.folder.key_file) in found(report, "state")["found"]
    assert "examples-unreadable" in found(report, "examples")["found"]
    assert "train.hours" in found(report, "settings")["do"]
    text = device.text(capsys, "doctor", exit_code=3)
    assert "chmod 600" in text
    assert "To do: 4." in text
    device.folder.settings_file.unlink()
    assert main(["reset", *device.words, "--yes"]) == 0
    assert found(device.json(capsys, "doctor", exit_code=3), "model")["state"] == "ok"


def test_a_pause_is_nothing_to_do(device: Device, capsys: Captured) -> None:
    device.json(capsys, "pause", "--for", "2h")
    row = found(device.json(capsys, "doctor"), "conditions")
    assert row["state"] == "wait"
    assert "it looks again at" in row["found"]


def test_a_server_that_is_another_one(device: Device, certificates: Path) -> None:
    def checks() -> dict[str, str]:
        looked = doctor.examine(device.folder, SettingsFile(device.folder.settings_file), SystemClock())
        return {row["check"]: row["found"] for row in doctor.to_json(looked)["checks"] if row["state"] == "todo"}

    root = device.aggregator.root
    device.aggregator.root = Aggregator(certificates, 3).root.__class__(
        root.release_key, root.release_key, root.tls_root_pem
    )
    assert "wrong-root" in checks()["server"]
    device.aggregator.root = root
    assert checks() == {}


def test_a_clock_of_1970_is_named_with_its_time(device: Device, capsys: Captured) -> None:
    clock = ManualClock(3600.0)
    looked = doctor.examine(device.folder, SettingsFile(device.folder.settings_file), clock)
    row = found(doctor.to_json(looked), "clock")
    assert row["state"] == "todo"
    assert "1970-01-01 01:00:00 UTC" in row["found"]
    assert "fake-hwclock" in row["do"]
    journal = Journal(device.folder.journal_file, load_enrolment(device.folder).journal_id)
    assert float(journal.get(SIGNED_TIME) or 0) == pytest.approx(device.aggregator.now_s, abs=1)
    journal.close()
    capsys.readouterr()


def test_doctor_of_a_folder_where_nobody_enrolled(tmp_path: Path, capsys: Captured) -> None:
    assert main(["doctor", "--state", str(tmp_path), "--json"]) == 3
    row = found(json.loads(capsys.readouterr().out), "enrolment")
    assert "identity-missing" in row["found"]
    assert "enroll" in row["do"]


def test_data_is_described_and_what_is_wrong_with_it(device: Device, capsys: Captured) -> None:
    report = device.json(capsys, "data")
    assert (report["examples"], report["held_out"], report["classes"]) == (5, 2, {"0": 5})
    assert report["inputs"] == {"x": {"shape": [6], "dtype": "float32"}}
    assert report["bytes"] == (device.path / "examples" / "examples.npz").stat().st_size
    assert [one["code"] for one in report["remarks"]] == ["one-class"]
    assert "5 to train on, 2 held out" in device.text(capsys, "data")
    x = np.zeros((4, 6), np.float32)
    x[1, 2] = np.nan
    held_out = np.array([False, False, True, True])
    np.savez(device.path / "examples" / "examples.npz", x=x, y=np.array([0, 1, 2, 1]), held_out=held_out)
    report = device.json(capsys, "data", exit_code=3)
    assert [one["code"] for one in report["wrong"]] == ["examples-values"]
    assert [one["code"] for one in report["remarks"]] == ["class-only-held-out"]
    (device.path / "examples" / "examples.npz").unlink()
    report = device.json(capsys, "data", exit_code=3)
    assert [one["code"] for one in report["wrong"]] == ["examples-missing"]
    assert "WRONG" in device.text(capsys, "data", exit_code=3)


def test_reset_forgets_models_and_nothing_else(device: Device, capsys: Captured) -> None:
    kept = {path: path.read_bytes() for path in (device.folder.key_file, device.folder.enrolment_file)}
    assert device.json(capsys, "reset", exit_code=2)["error"]["code"] == "not-confirmed"
    assert current_version(device.folder) == 0
    assert device.json(capsys, "reset", "--yes")["freed_bytes"] > 0
    assert current_version(device.folder) is None
    assert {path: path.read_bytes() for path in kept} == kept
    with device.folder.lock():
        assert device.json(capsys, "reset", "--yes", exit_code=4)["error"]["code"] == "agent-running"
    assert device.json(capsys, "once") == {"contribution": None}
    assert current_version(device.folder) == 0


def test_status_in_two_languages(device: Device, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    english = device.text(capsys, "status")
    assert "training now" in english
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    chinese = device.text(capsys, "status")
    assert "正在训练" in chinese
    assert len(chinese.splitlines()) == len(english.splitlines())
    assert device.text(capsys, "status", "--lang", "en") == english
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert device.text(capsys, "status") == english
    assert language_of({"LANG": "zh_TW"}) is Chinese
    assert language_of({}) is English


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_no_text_is_missing_in_any_language() -> None:
    assert English.texts.keys() == Chinese.texts.keys()
    assert [name for name in English.texts if fields(English.texts[name]) != fields(Chinese.texts[name])] == []
    same = {name for name in English.texts if English.texts[name] == Chinese.texts[name]}
    assert same == {name for name in same if not any(sign.isalpha() for sign in literal(English.texts[name]))}


def literal(text: str) -> str:
    return "".join(part for part, *_ in string.Formatter().parse(text)).replace("pip install", "")


def test_every_reason_and_check_has_its_words() -> None:
    source = Path(deciding.__file__).read_text("utf-8")
    reasons = {name.removeprefix("reason.") for name in English.texts if name.startswith("reason.")}
    assert {code for code in reasons if f'"{code}"' not in source} == {"settings-broken"}  # of the keeper
    assert {f"wait.{reason}" for reason in WAITS_FOR} == {name for name in English.texts if name.startswith("wait.")}
    checks = {name.split(".")[1] for name in English.texts if name.startswith("doctor.") and name.count(".") > 1} - {
        "line"
    }
    assert all(f"doctor.{check}.{part}" in English.texts for check in checks for part in ("name", "why", "good"))


def test_status_waits_for_nothing_that_it_does_not_need(device: Device) -> None:
    program = (
        "import sys; from edge_client.cli import main\n"
        f"main(['status', *{device.words!r}]); main(['pause', '--off', *{device.words!r}])\n"
        "heavy = {'numpy', 'urllib3', 'ssl', 'tflite_runtime', 'ai_edge_litert', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120, capture_output=True)
