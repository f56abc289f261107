"""The owner's settings: what is wrong is named with what is allowed, and nothing else in the file is touched."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as run_with
from hypothesis import strategies as st

from edge_client.settings import OFF, RULES, Settings, as_values, from_values
from edge_client.settings_file import SettingsFile
from shared.errors import UsageError
from tests.shared.refusals import refused

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]  # machines


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[train]\nbattery_at_least = 50", ("train.battery_at_least", "train.battery_at_least_percent")),
        ("[train]\nhour = '22:00-07:00'", ("train.hour", "train.hours")),
        ("[trian]\nhours = ''", ("trian", "train")),
        ("[limits]\ndownload_megabytes_per_day = 5", ("limits.download_and_upload_megabytes_per_day",)),
        ("[train]\ntraining_seconds_per_day = 5", ("limits.training_seconds_per_day",)),
        ("[train]\non_battery = 'yes'", ("train.on_battery", "'yes'", "true or false")),
        ("[train]\nmetered = 1", ("train.metered", "true or false")),
        ("[train]\nbattery_at_least_percent = '50 %'", ("from 0 to 100", "%")),
        ("[train]\nbattery_at_least_percent = 101", ("101", "from 0 to 100")),
        ("[train]\nbattery_at_least_percent = -1", ("-1", "from 0 to 100")),
        ("[train]\ntemperature_below_c = nan", ("nan", "from 0 to 150")),
        ("[train]\ntemperature_below_c = true", ("True", "from 0 to 150")),
        ("[train]\nhours = '22-7'", ("22-7", "22:00-07:00")),
        ("[train]\nhours = '25:00-07:00'", ("25:00", "22:00-07:00")),
        ("[train]\nhours = '22:00-22:00'", ("22:00-22:00",)),
        ("[train]\nhours = '22:00-07:00, x'", ("x",)),
        ("[train]\nhours = ['22:00-07:00']", ("a list",)),
        ("[limits]\ntraining_seconds_per_day = 1e400", ("inf", "86400")),
        ("[limits]\nenergy_wh_per_day = 5", ("limits.power_w",)),
        ("train = 5", ("train is no section",)),
        ("[train]\nhours = ", ("line 2",)),
        ("[train]\n\n\nhours = '1'\nhours = '2'", ("line 5",)),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: tuple[str, ...]) -> None:
    file = SettingsFile(tmp_path / "agent.toml")
    file.path.write_text(text)
    with refused("bad-settings", UsageError) as caught:
        file.read()
    said = str(caught.value)
    assert str(file.path) in said
    assert [word for word in told if word not in said] == []


def test_a_byte_that_is_no_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    file = SettingsFile(tmp_path / "agent.toml")
    file.path.write_bytes(b"[train]\n# caf\xc3\xa9\n# caf\xe9\n")
    with refused("bad-settings", UsageError) as caught:
        file.read()
    assert "line 3" in caught.value.message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    huge = tmp_path / "huge"
    huge.write_bytes(b"#" * 100_000)
    for path in (folder, huge, tmp_path / "nothing"):
        with refused("settings-unreadable", UsageError) as caught:
            SettingsFile(path, required=True).read()
        assert str(path) in caught.value.message
    assert SettingsFile(tmp_path / "nothing").read() == Settings()


def text_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@st.composite
def valid(draw: st.DrawFn) -> tuple[str, Any]:
    name = draw(st.sampled_from(sorted(RULES)))
    rule = RULES[name]
    if rule.kind == "flag":
        return name, draw(st.booleans())
    if rule.kind == "hours":
        return name, draw(st.sampled_from(["", "22:00-07:00", "9:00-10:30,12:00-13:00"]))
    number = st.floats(rule.low, rule.high) | st.integers(math.ceil(rule.low), math.floor(rule.high))
    return name, draw(number | st.just(OFF) if rule.may_be_off else number)


@run_with(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(st.lists(valid(), max_size=6))
def test_what_is_set_is_read_again(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, Any]]) -> None:
    file = SettingsFile(tmp_path_factory.mktemp("settings") / "agent.toml")
    file.change("limits.power_w", "5")
    wanted: dict[str, Any] = {}
    for name, value in changes:
        try:
            kept = file.change(name, text_of(value))
        except UsageError as error:
            assert "limits.power_w" in str(error)  # noqa: PT017  # the only pair that depends on each other
            continue
        assert kept
        wanted[name] = value
    found = as_values(file.read())
    for name, value in wanted.items():
        assert found[name] == (pytest.approx(value) if isinstance(value, float) else value)


FILE = """# my Pi in the attic
[limits]
power_w = 6.5  # measured on 3 May

[train]     # when nobody is at home
hours = "22:00-07:00" # night
  temperature_below_c=70
# the end
"""


def test_setting_a_key_keeps_every_other_line(tmp_path: Path) -> None:
    file = SettingsFile(tmp_path / "agent.toml")
    file.path.write_text(FILE)
    file.path.chmod(0o640)
    assert file.change("train.hours", "23:00-05:00")
    assert file.change("train.temperature_below_c", "65.5")
    assert file.change("limits.energy_wh_per_day", "20")
    assert file.change("train.metered", "true")
    assert file.path.read_text().splitlines() == [
        "# my Pi in the attic",
        "[limits]",
        "power_w = 6.5  # measured on 3 May",
        "energy_wh_per_day = 20",
        "",
        "[train]     # when nobody is at home",
        'hours = "23:00-05:00" # night',
        "temperature_below_c = 65.5",
        "# the end",
        "metered = true",
    ]
    assert file.path.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["agent.toml"]


@pytest.mark.parametrize(
    "text", ["train = { hours = '' } # all\n", "train.hours = '' # all\n", '[train]\nhours = """\n"""\n']
)
def test_forms_that_cannot_be_edited_are_written_anew_and_it_says_so(tmp_path: Path, text: str) -> None:
    file = SettingsFile(tmp_path / "agent.toml")
    file.path.write_text(text)
    assert not file.change("train.hours", "22:00-07:00")
    assert file.read().train.hours == "22:00-07:00"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.hours", "always"),
        ("train.hour", "22:00-07:00"),
        ("hours", ""),
        ("train.metered", "yes"),
        ("train.metered", "1"),
    ],
)
def test_what_is_not_allowed_is_not_written(tmp_path: Path, name: str, value: str) -> None:
    file = SettingsFile(tmp_path / "agent.toml")
    file.path.write_text(FILE)
    with refused("bad-settings", UsageError):
        file.change(name, value)
    assert file.path.read_text() == FILE


def test_a_broken_file_is_not_overwritten(tmp_path: Path) -> None:
    file = SettingsFile(tmp_path / "agent.toml")
    file.path.write_text("[train]\nhours = \n")
    with refused("bad-settings", UsageError):
        file.change("train.hours", "22:00-07:00")
    assert file.path.read_text() == "[train]\nhours = \n"


def test_defaults_are_what_the_rules_allow() -> None:
    values: dict[str, dict[str, Any]] = {}
    for name, value in as_values(Settings()).items():
        section, _, key = name.partition(".")
        values.setdefault(section, {})[key] = value
    assert from_values(values, "defaults") == Settings()
    assert list(as_values(Settings())) == list(RULES)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("there", [True, False])
def test_what_root_sets_the_agents_user_can_read(tmp_path: Path, there: bool) -> None:  # noqa: FBT001  # a case
    file = SettingsFile(tmp_path / "agent.toml")
    if there:
        file.path.write_text(FILE)
        os.chown(file.path, 1234, 2345)
    else:
        os.chown(tmp_path, 1234, 2345)
    file.change("train.metered", "true")
    found = file.path.stat()
    assert (found.st_uid, found.st_gid) == (1234, 2345)
