"""The journal: what may follow what, what survives, and what a damaged file says."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from edge_client.journal import COUNTER_BLOCK, TERMINAL, Journal, State, may_follow
from edge_client.journal_file import make_journal
from edge_client.traffic import Traffic
from shared.errors import BrokenState, ProtocolAbort
from shared.wire.signed import Certificate, SigningKey
from tests.edge_client.devices import new_journal
from tests.shared.refusals import refused

ID: Final = "journal-0"
WAY = tuple(State)[: tuple(State).index(State.COUNTED) + 1]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = new_journal(tmp_path / "journal.sqlite3")
    yield opened
    opened.close()


def go(journal: Journal, entry: int, last: State) -> None:
    for state in WAY[1 : WAY.index(last) + 1]:
        journal.record(entry, state, 1.0, cohort="cohort-a")


def test_each_state_is_durable(journal: Journal, tmp_path: Path) -> None:
    entry = journal.begin(3, 2, 1.0)
    for state in WAY[1:]:
        journal.record(entry, state, 1.0, cohort="cohort-a", traffic=Traffic(vector_up=1))
        other = Journal(tmp_path / "journal.sqlite3", ID)
        assert other.contribution(entry).state is state
        other.close()
    assert journal.contribution(entry).traffic.vector_up == len(WAY) - 1


@pytest.mark.parametrize("last", WAY[:-1])
def test_recovery_closes_every_unfinished_state(journal: Journal, last: State) -> None:
    entry = journal.begin(3, 2, 1.0)
    go(journal, entry, last)
    assert [row.state for row in journal.recover(2.0)] == [last]
    row = journal.contribution(entry)
    assert (row.state, row.reason) == (State.ABANDONED, "process-ended")
    assert row.vector_sent == (WAY.index(last) >= WAY.index(State.UPLOADING))
    assert journal.recover(3.0) == []


def test_an_update_returns_only_before_its_vector_left() -> None:
    assert may_follow(State.SHARES_SENT, State.TRAINED)
    for state in (State.UPLOADING, State.VECTOR_SENT, State.AGREED, State.ANSWERED, State.COUNTED):
        assert not may_follow(state, State.TRAINED)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_nothing_follows_an_end(state: State) -> None:
    assert not any(may_follow(state, after) for after in State)


def test_steps_are_not_skipped(journal: Journal) -> None:
    entry = journal.begin(0, 0, 1.0)
    with refused("bad-transition"):
        journal.record(entry, State.UPLOADING, 1.0)


@pytest.mark.parametrize("last", WAY)
def test_a_charge_is_spent_once_its_vector_may_have_left_and_stays(
    journal: Journal, tmp_path: Path, last: State
) -> None:
    entry = journal.begin(1, 0, 1.0)
    journal.charge(entry, (0.5, 0.7), 1e-6, "skellam")
    journal.charge(entry, (0.25, 0.5), 1e-7, "skellam")  # another cohort, after the first one failed before the vector
    go(journal, entry, last)
    again = Journal(tmp_path / "journal.sqlite3", ID)
    again.recover(2.0)
    left = WAY.index(last) >= WAY.index(State.UPLOADING)
    assert (again.spent(), again.delta) == ([(0.25, 0.5)] if left else [], 1e-7)
    again.close()


def test_a_vector_that_left_without_a_charge_has_no_bound(journal: Journal) -> None:
    go(journal, journal.begin(1, 0, 1.0), State.UPLOADING)
    assert journal.spent() == [()]


def test_counters_grow_over_restarts(journal: Journal, tmp_path: Path) -> None:
    first = [journal.next_counter() for _ in range(COUNTER_BLOCK + 5)]
    again = Journal(tmp_path / "journal.sqlite3", ID)
    second = [again.next_counter() for _ in range(5)]
    again.close()
    assert first == sorted(set(first))
    assert second[0] > first[-1]


def test_evaluations_are_told_from_trainings(journal: Journal) -> None:
    entry = journal.begin(1, 5, 0.0, baseline=3)
    assert not journal.evaluation_left(5)
    go(journal, entry, State.SHARES_SENT)
    assert not journal.evaluation_left(5)
    journal.record(entry, State.UPLOADING, 1.0)
    assert journal.evaluation_left(5)
    assert not journal.evaluation_left(3)
    assert not journal.vector_left(5)  # a gradient may still leave
    assert len(journal.spent()) == 1  # and yet it is a participation


def test_versions_never_go_back(journal: Journal) -> None:
    journal.use_version(5)
    journal.use_version(3)
    assert journal.highest_version == 5


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.sqlite3"
    path.write_bytes(content)
    with refused("journal-damaged", BrokenState):
        Journal(path, ID)


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    journal = new_journal(path)
    for number in range(200):
        journal.put(f"name-{number}", "x" * 200)
    journal.close()
    data = bytearray(path.read_bytes())
    data[8192:12288] = b"\x5a" * 4096
    path.write_bytes(data)
    with refused("journal-damaged", BrokenState):
        Journal(path, ID)


def test_a_lost_journal_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    with refused("journal-damaged", BrokenState):
        Journal(path, ID)
    assert not path.exists()
    for name in (ID, None):
        path.write_bytes(b"")
        with refused("journal-damaged", BrokenState):
            Journal(path, name)
        assert path.read_bytes() == b""


def test_an_interrupted_enrolment_goes_on_with_its_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    assert make_journal(path, "journal-1") == make_journal(path, "journal-2") == "journal-1"


@pytest.mark.parametrize("rows", ["none", "of another device"])
def test_another_journal_is_refused(tmp_path: Path, rows: str) -> None:
    path = tmp_path / "journal.sqlite3"
    if rows == "none":
        sqlite3.connect(path).execute("CREATE TABLE something (n)").connection.close()
    else:
        make_journal(path, "journal-1")
    with refused("journal-damaged", BrokenState):
        Journal(path, ID)


def test_a_journal_without_mechanisms_gets_them_and_promises_less(journal: Journal, tmp_path: Path) -> None:
    entry = journal.begin(1, 0, 1.0)
    journal.charge(entry, (0.5,), 1e-6, "skellam")
    go(journal, entry, State.UPLOADING)
    assert journal.sums_are_noised
    journal.close()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite3", isolation_level=None)) as database:
        for event in ("insert", "update", "delete"):
            database.execute(f"DROP TRIGGER copy_privacy_charge_{event}")
        database.execute("DROP TABLE copy_privacy_charge")
        database.execute("ALTER TABLE privacy_charge DROP COLUMN mechanism")
    again = Journal(tmp_path / "journal.sqlite3", ID)
    assert again.spent() == [(0.5,)]
    assert not again.sums_are_noised
    again.close()


def test_another_members_certificate_never_goes_back(journal: Journal, tmp_path: Path) -> None:
    """Its older key counts no more, and may be in the hands of whoever shows it."""
    authority = SigningKey(bytes(32))

    def number(serial: int, device: str) -> Certificate:
        return Certificate.issue(
            authority, task="point", device=device, identity_key=bytes(32), expires_at_s=2**32, serial=serial
        )

    journal.see_certificates([number(0, "a"), number(3, "b")])
    journal.see_certificates([number(1, "a"), number(3, "b")])
    again = Journal(tmp_path / "journal.sqlite3", ID)
    for old in ([number(0, "a")], [number(1, "a"), number(2, "b")], [number(9, "c"), number(0, "a")]):
        with refused("old-certificate", ProtocolAbort):
            again.see_certificates(old)
    again.see_certificates([number(8, "c"), number(2, "a")])  # what was refused is not remembered
    again.close()
