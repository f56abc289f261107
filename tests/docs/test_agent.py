"""docs/agent.md has every setting with its default and unit, every reason and every command."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_client.cli import main
from edge_client.settings import RULES, Settings, as_values, from_values
from edge_client.settings_file import SettingsFile
from edge_client.texts import English

PAGE = (Path(__file__).parents[2] / "docs" / "agent.md").read_text("utf-8")


def shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def test_every_setting_is_there_with_its_default_unit_and_effect() -> None:
    rows = re.findall(r"^\| `(\w+\.\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    defaults = as_values(Settings())
    assert rows == [(name, shown(defaults[name]), rule.unit or "-", rule.about) for name, rule in RULES.items()]


def test_every_reason_is_explained() -> None:
    reasons = {name.removeprefix("reason.") for name in English.texts if name.startswith("reason.")}
    table = PAGE.partition("## Why it does not train now")[2].partition("\n## ")[0]
    assert reasons <= set(re.findall(r"`([a-z-]+)`", table))


def test_every_command_is_listed_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"^    ([a-z]+) ", capsys.readouterr().out, re.MULTILINE)
    table = PAGE.partition("## Commands")[2].partition("\n## ")[0]
    first_cells = " ".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))
    assert sorted(re.findall(r"`(\w+)`", first_cells)) == sorted(listed)


def test_the_example_is_valid(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = SettingsFile(tmp_path / "agent.toml")
    file.path.write_text(text)
    assert file.read() == from_values(file.values(), "the page")
    assert file.read().limits.training_s == pytest.approx(20 * 3600 / 6.5)
