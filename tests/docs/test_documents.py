"""README, locks, decisions and changelog agree with the code."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from cloud_server import cli as server_cli
from edge_client import cli as agent_cli
from shared.plan import Plan
from tools import cli as tools_cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = {"fedloom": tools_cli.main, "fedloom-agent": agent_cli.main, "fedloom-server": server_cli.main}
COMMAND = re.compile(r"^(fedloom(?:-agent|-server)?) ((?:[a-z]+ ?)+)", re.MULTILINE)
NAMED_PATH = re.compile(r"`((?:shared|edge_client|cloud_server|models|tools|tests|requirements)/[^`*{}]*)`")


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


@pytest.mark.parametrize("words", sorted(set(COMMAND.findall(README))))
def test_every_command_in_the_readme_exists(words: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    program, verbs = words
    nouns = {"task", "code", "model", "device"}
    first, *rest = verbs.split()
    call = [first, *rest[:1]] if first in nouns else [first]
    with pytest.raises(SystemExit) as ended:
        PROGRAMS[program]([*call, "--help"])
    assert ended.value.code == 0
    assert "usage" in capsys.readouterr().out


def test_every_path_in_the_documents_exists() -> None:
    texts = [README, *(path.read_text("utf-8") for path in (ROOT / "shared" / "decisions").glob("*.md"))]
    missing = {path for text in texts for path in NAMED_PATH.findall(text) if not (ROOT / path).exists()}
    assert not missing


def test_every_picture_of_the_documents_exists() -> None:
    shown = {
        path.parent / picture
        for path in (ROOT / "docs").glob("*.md")
        for picture in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", path.read_text("utf-8"))
    }
    assert shown
    assert {picture.name for picture in shown if not picture.is_file()} == set()


def test_readme_names_the_test_command_that_ci_calls() -> None:
    assert "make test" in README
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_every_decision_is_listed() -> None:
    folder = ROOT / "shared" / "decisions"
    index = (folder / "README.md").read_text("utf-8")
    assert all(path.name in index for path in folder.glob("0*.md"))


def test_shipped_plans_are_valid() -> None:
    plans = list((ROOT / "models").glob("*.toml"))
    assert plans
    for path in plans:
        assert Plan.from_toml(path.read_text("utf-8")).task == path.stem


def test_locks_pin_every_declared_dependency_with_hashes() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for extra, requirements in extras.items():
        lock = (ROOT / "requirements" / f"{extra}.txt").read_text("utf-8")
        pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
        declared = {re.split(r"[\[>=<;]", requirement)[0].strip() for requirement in requirements}
        assert declared <= pinned, extra
        assert "--hash=sha256:" in lock
        assert "://" not in lock


def test_no_file_speaks_of_the_machine_it_was_written_on() -> None:
    forbidden = re.compile(rb"(?<![A-Za-z0-9_.])/(?:work|root|home)/[a-z]")
    found = [name for name in tracked_files() if forbidden.search((ROOT / name).read_bytes())]
    assert not found


def test_every_key_of_a_plan_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "plan.md").read_text("utf-8")
    for section, default in vars(Plan("x")).items():
        if section == "task":
            continue
        _, found, rest = text.partition(f"## `[{section}]`")
        assert found, section
        rows = {line.split("|")[1].strip(): line.split("|")[2].split("(")[0].strip() for line in _table(rest)}
        written = {name: rows.pop(f"`{name}`") for name in vars(default)}
        assert not rows, f"[{section}] has no {sorted(rows)}"
        assert written == {name: _default(value) for name, value in vars(default).items()}


def _table(text: str) -> list[str]:
    """Return the rows of the first table in ``text``, without its head."""
    lines = text.partition("\n## ")[0].splitlines()
    return [line for line in lines if line.startswith("| `")]


def _default(value: object) -> str:
    if isinstance(value, str):
        return f"`{value}`"
    return f"{value:g}" if isinstance(value, int | float) else "none"
