"""Tables for people: aligned whatever is in them, and nothing in them reaches the terminal as a command."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

from cloud_server import tables
from cloud_server.cli import command_line, main
from cloud_server.figures import ago
from cloud_server.progress import progress
from cloud_server.rounds.retention import remove_unneeded
from cloud_server.settings import DataFolder
from cloud_server.storage.backup import write_backup
from cloud_server.storage.check import find_damage
from cloud_server.storage.restoring import restore
from cloud_server.tables import plain, table
from shared.plan import Privacy, Stop, Update
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import STEPS
from tests.cloud_server.test_pages import hostile_device

Captured = pytest.CaptureFixture[str]
HOSTILE: Final = "\x1b]0;owned\x07\x1b[2J\r\u202eevil\u2066\u200b\x9b31m\ninjected line"
OBEYED: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
EPOCH: Final = re.compile(r"(?<![\w.])1[5-9]\d{8}(?:\.\d+)?(?![\w])")
LONG_FLOAT: Final = re.compile(r"\d\.\d{7,}")
SHOWN: Final[tuple[tuple[str, ...], ...]] = (
    ("task", "list"),
    ("task", "show", "point"),
    ("device", "list"),
    ("device", "show", "DEVICE"),
    ("code", "list"),
    ("model", "list", "point"),
    ("model", "show", "point"),
    ("model", "card", "point"),
    ("privacy", "show", "point"),
    ("audit", "list"),
    ("operator", "list"),
    ("operator", "token", "list"),
    ("db", "check"),
)


def leaves(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield every command of a parser, without its options."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield words
    for action in below:
        for name, one in action.choices.items():
            yield from leaves(one, (*words, name))


@pytest.fixture
def busy(local: Local, capsys: Captured) -> Local:
    """Return an aggregator that has something to show in every list."""
    plan = small_plan("point", stop=Stop(rounds=5))
    members = local.cohort(plan, 4)
    for step in STEPS:
        local.do(members, step)
    data = str(local.parts.folder.path)
    for words in (
        ["operator", "add", "ada", "--role", "admin", "--no-password"],
        ["operator", "token", "create", "ada", "--label", "grafana"],
        ["code", "create", "--task", "point", "--url", "https://a:1"],
        ["model", "promote", "point", "1"],
    ):
        assert main([*words, "--data", data]) == 0
    capsys.readouterr()
    return local


def shown(local: Local, captured: Captured, *words: str) -> str:
    """Return what a command prints for people."""
    named = [local.rows("SELECT device FROM device ORDER BY device")[0][0] if one == "DEVICE" else one for one in words]
    assert main([*named, "--data", str(local.parts.folder.path)]) == 0, captured.readouterr().err
    return captured.readouterr().out


def test_the_list_of_commands_that_show_something_is_complete() -> None:
    shows = {words for words in leaves(command_line()) if words[-1] in {"list", "show", "card", "check"}}
    assert shows == {tuple(word for word in words if word not in {"point", "DEVICE"}) for words in SHOWN}


def test_people_see_no_json_no_seconds_and_no_long_numbers(busy: Local, capsys: Captured) -> None:
    for words in SHOWN:
        said = shown(busy, capsys, *words)
        if words[:2] == ("model", "card"):
            said = said.partition("## Plan")[0]  # which is there as JSON
        assert said.strip(), words
        assert not EPOCH.search(said), words
        assert not LONG_FLOAT.search(said), words
        assert not re.search(r"[{}]|\bNone\b|\bTrue\b|\bFalse\b", said), words


def test_no_text_of_others_reaches_the_terminal_as_a_command(busy: Local, capsys: Captured) -> None:
    """Whatever devices, operators or a damaged database put into a table."""
    calm = {words: shown(busy, capsys, *words) for words in SHOWN}
    with busy.parts.database.write() as connection:
        for column in (
            "device.code_group",
            "device.state_reason",
            "round.reason",
            "cohort.failure",
            "task.reason",
            "promotion.reason",
            "promotion.promoted_by",
            "operator_token.label",
        ):
            name, _, field = column.partition(".")
            connection.execute(text(f"UPDATE {name} SET {field} = :hostile"), {"hostile": HOSTILE})  # noqa: S608
    with busy.authority.database.write() as connection:
        connection.execute(text("UPDATE code SET code_group = :hostile"), {"hostile": HOSTILE})
    data = str(busy.parts.folder.path)
    hostile_device(busy, HOSTILE)
    device = busy.rows("SELECT device FROM device ORDER BY enrolled_s")[0][0]
    assert main(["device", "quarantine", device, "--reason", HOSTILE, "--data", data]) == 0
    capsys.readouterr()
    for words in SHOWN:
        said = shown(busy, capsys, *words)
        assert not OBEYED.search(said), words
        added = 1 if words in {("audit", "list"), ("device", "list")} else 0  # the quarantine, the device
        assert len(said.splitlines()) == len(calm[words].splitlines()) + added, words


def test_no_mistyped_name_reaches_the_terminal_as_a_command(busy: Local, capsys: Captured) -> None:
    for words in (["device", "show", HOSTILE], ["model", "import", "point", "--weights", HOSTILE], ["task", HOSTILE]):
        assert main([*words, "--data", str(busy.parts.folder.path)]) in {2, 3}
        said = capsys.readouterr()
        assert not OBEYED.search(said.out + said.err), words
        assert "injected line" not in [line.strip() for line in said.err.splitlines()]


def test_empty_lists_say_what_to_do_next(local: Local, capsys: Captured) -> None:
    assert "next: fedloom-server task create" in shown(local, capsys, "task", "list")
    local.create(small_plan("point"))
    for words in (("device", "list"), ("code", "list"), ("operator", "list"), ("operator", "token", "list")):
        assert "next: fedloom-server" in shown(local, capsys, *words), words
    assert "next: fedloom-server model promote point 0" in shown(local, capsys, "model", "show", "point")
    assert "next: a round opens once" in shown(local, capsys, "task", "show", "point")
    assert "no entry after number 99" in shown(local, capsys, "audit", "list", "--after", "99")


def test_a_budget_is_told_in_three_digits(local: Local, capsys: Captured) -> None:
    noise = Privacy("skellam", noise_multiplier=8.0, max_participations=4, max_epsilon=8.0)
    plan = small_plan("point", dropout_share=0.0, stop=Stop(rounds=5))
    local.create(
        type(plan)(
            "point",
            update=Update(max_l2_norm=1.0, max_weight=1, lane_bits=32),
            cohort=plan.cohort,
            deadlines=plan.deadlines,
            privacy=noise,
        )
    )
    assert re.search(r"epsilon spent +0 of 8, at delta 1e-0\d", shown(local, capsys, "privacy", "show", "point"))


def test_what_programs_read_is_as_it_was(busy: Local, capsys: Captured) -> None:
    """The names of every list's fields; programs outside this repository rely on them."""
    fields: dict[tuple[str, ...], dict[str, str | None]] = {
        ("task", "list"): {"tasks": None},
        ("device", "list"): {
            "devices": "contributions device enrolled_s group key_age_days key_serial last_seen_s memory_mib reason"
            " state task vectors version"
        },
        ("audit", "list"): {"entries": "action actor at_ms detail number sha256 subject"},
        ("operator", "list"): {"operators": "created_s name password role tokens"},
        ("operator", "token", "list"): {"tokens": "created_s expires_s id label operator revoked_s role"},
        ("model", "list", "point"): {
            "task": None,
            "versions": "accuracy created_s evaluated expired kept loss use version",
        },
        ("task", "show", "point"): {
            "task": None,
            "state": None,
            "reason": None,
            "version": None,
            "plan": None,
            "rounds": "base_version closed_s invited opened_s phase reason round",
        },
    }
    for words, expected in fields.items():
        found = json.loads(shown(busy, capsys, *words, "--json"))
        assert found.keys() == expected.keys(), words
        for name, names in expected.items():
            if names is not None:
                assert set(names.split()) <= found[name][-1].keys(), words
    assert json.loads(shown(busy, capsys, "task", "list", "--json")) == {"tasks": ["point"]}


def test_columns_are_aligned_by_what_a_terminal_shows() -> None:
    rows = [("7", "设备", "a"), ("12", "e\u0301", "b"), ("300", "x", "")]
    lines = table(("number", "name", "last"), rows).splitlines()
    assert lines == ["number  name  last", "     7  设备  a", "    12  e\u0301     b", "   300  x"]
    assert plain("a\x1b[31mb\u202ec\nd") == "a\\x1b[31mb\\u202ec\\nd"
    assert plain("naïve 设备 ✓") == "naïve 设备 ✓"
    assert plain("a\x00b") == "a\\x00b"
    assert plain("\ud800") == "\\ud800"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(100.0, "just now"), (58.0, "42 s ago"), (-80.0, "3 min ago"), (-7100.0, "2 h ago"), (100 + 90000.0, "in 1 d")],
)
def test_times_are_told_in_one_unit(seconds: float, said: str) -> None:
    assert ago(seconds, 100.0) == said


def test_every_command_for_people_uses_the_one_table() -> None:
    """A second way of aligning would be a second way of forgetting the escapes."""
    folder = Path(tables.__file__).parent
    aligned = {path.name for path in folder.glob("*.py") if re.search(r"\.l?r?just\(", path.read_text("utf-8"))}
    assert aligned <= {"tables.py"}


class Terminal(io.StringIO):
    """A terminal that keeps what it was sent."""

    def isatty(self) -> bool:
        return True


def test_progress_is_told_at_a_terminal_alone_and_cleared_at_the_end() -> None:
    times_s = itertools.count(0.0, 0.06)
    for stream in (Terminal(), io.StringIO()):
        with progress(stream, lambda: next(times_s)) as report:
            for done in range(100):
                report("files copied", done, 100)
        said = stream.getvalue()
        if isinstance(stream, Terminal):
            assert "files copied: 50 of 100 (50 %)" in said or "files copied: 51 of 100 (51 %)" in said
            assert said.count("files copied") < 60
            assert said.endswith("\r\x1b[K")
        else:
            assert said == ""


def test_what_takes_long_says_how_far_it_is(busy: Local, tmp_path: Path) -> None:
    """A backup, a check, letting go, and a restore into another folder: every one reports, and reaches its end."""
    told: dict[str, list[tuple[int, int | None]]] = {}

    def report(what: str, done: int, total: int | None = None) -> None:
        told.setdefault(what, []).append((done, total))

    parts, out = busy.parts, tmp_path / "backup.tar"
    parts.anchor_audit()
    write_backup(parts.folder, parts.database, parts.blobs, out, report)
    find_damage(parts.database, parts.blobs, parts.uploads, parts.anchor, report)
    remove_unneeded(parts.database, parts.blobs, busy.clock.now_s(), report)
    empty = DataFolder.open(tmp_path / "restored")
    restore(out, empty, busy.clock.now_s(), report, anchor=parts.anchor.path)
    names = {"tables", "files of releases", "files looked at", "parts checked", "tables filled", "parts put in place"}
    assert told.keys() == names
    for what, steps in told.items():
        done = [step[0] for step in steps]
        total = steps[-1][1]
        assert total is None or done[-1] == total - 1, what
