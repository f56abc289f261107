"""The n-th change on the disk fails under each command: it says so, breaks nothing, and works when it is run again."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from cloud_server.audit import ANCHOR_FILE
from cloud_server.cli import main
from cloud_server.storage.check import find_damage
from tests.cloud_server.local import Local, small_plan
from tests.faults.failing_disk import Disk, failing_disk
from tools.bench.quadratic import write_quadratic_bundle

PLAN: Final = """
[cohort]
min_survivors = 2
largest = 4
"""
UNAVAILABLE: Final = {"storage-unavailable", "no-database", "bad-data-folder"}


@dataclass
class Operator:
    """Runs commands on a server's folder, on a disk that can fail."""

    local: Local
    folder: Path
    disk: Disk
    captured: pytest.CaptureFixture[str]

    def run(self, *words: str | Path) -> tuple[int, dict[str, Any]]:
        """Run a command, and return its exit code and what it said."""
        code = main([*map(str, words), "--json"])
        return code, json.loads(self.captured.readouterr().out)

    def until_clean(self, words: Callable[[int], list[str | Path]], *also: str) -> int:
        """Let the n-th change of a command fail, for growing n, each time followed by a good run.

        Args:
            words: of the command; the number is different for each n.
            also: codes that the good run may have, where the failed one had already done its work.

        Returns:
            How many changes failed.
        """
        for number in count(1):
            command = words(number)
            self.disk.fail(number, errno.ENOSPC, times=1)
            code, answer = self.run(*command)
            failed = self.disk.failed
            self.disk.mend()
            if not failed:
                assert code == 0, answer
                return number - 1
            if code:
                assert answer["error"]["code"] in UNAVAILABLE, failed
                assert answer["error"]["try"]
                code, answer = self.run(*command)
                assert code == 0 or answer["error"]["code"] in also, answer
        raise AssertionError("unreachable")


@pytest.fixture
def operator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Operator]:
    """Return an operator whose server has had a task."""
    local = Local(tmp_path / "data")
    local.create(small_plan("point"))
    with failing_disk(tmp_path) as disk:
        yield Operator(local, tmp_path, disk, capsys)
    local.close()


def damage(local: Local) -> object:
    parts = local.parts
    return find_damage(parts.database, parts.blobs, parts.uploads, parts.anchor)["problems"]


def test_tasks(operator: Operator) -> None:
    data = operator.local.parts.folder.path
    bundle = operator.folder / "bundle"
    bundle.mkdir()
    write_quadratic_bundle(bundle, 8)

    def words(number: int) -> list[str | Path]:
        plan = operator.folder / f"{number}.toml"
        plan.write_text(f'task = "task-{number}"\n{PLAN}')
        return ["task", "create", "--bundle", bundle, "--plan", plan, "--data", data]

    tried = operator.until_clean(words, "task-exists")
    assert tried > 10
    assert operator.local.rows("SELECT count(*) FROM task") == [(tried + 2,)]
    assert damage(operator.local) == []


def test_codes(operator: Operator) -> None:
    data = operator.local.parts.folder.path
    words: list[str | Path] = ["code", "create", "--task", "point", "--url", "https://here", "--data", data]
    assert operator.until_clean(lambda _: words) > 5
    assert damage(operator.local) == []


def test_backups_are_whole_or_not_there(operator: Operator) -> None:
    data = operator.local.parts.folder.path

    def words(number: int) -> list[str | Path]:
        return ["db", "backup", "--out", operator.folder / f"{number}.tar", "--data", data]

    tried = operator.until_clean(words, "backup-exists")
    assert tried > 5
    assert len(list(operator.folder.glob("*.tar"))) == tried + 1
    assert not list(operator.folder.glob("*.part"))
    anchor = data / ANCHOR_FILE
    for number, backup in enumerate(operator.folder.glob("*.tar")):
        code, answer = operator.run(
            "db", "restore", backup, "--data", operator.folder / f"new-{number}", "--anchor", anchor
        )
        assert code == 0, answer


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_restores_can_be_repeated_in_the_same_folder(operator: Operator) -> None:
    data = operator.local.parts.folder.path
    backup = operator.folder / "backup.tar"
    assert operator.run("db", "backup", "--out", backup, "--data", data)[0] == 0

    def words(number: int) -> list[str | Path]:
        return ["db", "restore", backup, "--data", operator.folder / f"new-{number}", "--anchor", data / ANCHOR_FILE]

    tried = operator.until_clean(words, "not-empty")
    assert tried > 20
    for number in range(1, tried + 2):
        restored = Local(operator.folder / f"new-{number}")
        assert restored.parts.root.release_key == operator.local.parts.root.release_key
        assert restored.rows("SELECT number FROM version") == [(0,)]
        assert damage(restored) == []
        restored.close()


def test_a_restore_that_breaks_off_leaves_a_folder_that_nothing_uses_or_a_whole_one(operator: Operator) -> None:
    """Keys with an empty database would be a deployment whose versions begin anew."""
    data, backup = operator.local.parts.folder.path, operator.folder / "backup.tar"
    assert operator.run("db", "backup", "--out", backup, "--data", data)[0] == 0

    def restored(new: Path) -> tuple[int, dict[str, Any]]:
        return operator.run("db", "restore", backup, "--data", new, "--anchor", data / ANCHOR_FILE)

    operator.disk.fail(10**9, errno.ENOSPC)
    assert restored(operator.folder / "good")[0] == 0
    changes = operator.disk.count
    operator.disk.mend()
    seen = set()
    for number in {*range(1, changes, max(1, changes // 12)), *range(changes - 6, changes)}:
        new = operator.folder / f"broken-{number}"
        operator.disk.fail(number, errno.ENOSPC)  # and ever after, as for a process that was killed
        restored(new)
        assert operator.disk.failed
        operator.disk.mend()
        code, found = operator.run("task", "list", "--data", new)
        seen.add(found["error"]["code"] if code else "whole")
        if code:
            assert not (new / "server.db").exists()
            assert found["error"]["code"] == "restore-unfinished" or not any(new.glob("*/*.key"))
            code, found = restored(new)
            assert code == 0, found
            code, found = operator.run("task", "list", "--data", new)
        assert found["tasks"] == ["point"]
        code, found = operator.run("db", "backup", "--out", operator.folder / f"{number}.tar", "--data", new)
        assert code == 0, found  # and writes the anchor, if the restore was broken off just before it
        assert (new / ANCHOR_FILE).read_bytes().startswith((data / ANCHOR_FILE).read_bytes())
    assert seen == {"no-data", "restore-unfinished", "whole"}
