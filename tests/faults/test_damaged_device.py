"""A device's files with one turned bit, cut off or zeroed, at 200 random places each: noticed, or nothing has changed.

What came from the server is fetched again; what only this device knows is named as damaged, and never made anew: a lost
key asks for a new enrolment. What the owner may write by hand is named, or follows its rules.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pytest

from edge_client.conditions.pause import Pause, read_pause, write_pause
from edge_client.identity import Identity, load_identity
from edge_client.journal import Journal, State
from edge_client.journal_copies import TABLES
from edge_client.journal_file import make_journal, open_journal
from edge_client.model_store import ModelStore
from edge_client.settings import Settings
from edge_client.settings_file import SettingsFile
from edge_client.state_folder import StateFolder, current_version
from edge_client.transport import Signer, Transport, pinned_pool
from shared.errors import BrokenState, FedloomError, UsageError
from tests.edge_client.aggregator import DIMENSION, Aggregator, publish
from tests.edge_client.conftest import certificates
from tests.edge_client.devices import ManualClock, enrolled
from tests.edge_client.loopback import serve
from tools.fleet import ALWAYS

__all__ = ["certificates"]
T = TypeVar("T")
PLACES: Final = 200
KINDS: Final = ("bit", "cut", "zeroes")
ID: Final = "journal-0"
each_kind = pytest.mark.parametrize("kind", KINDS)


def damaged(data: bytes, kind: str, chance: random.Random) -> bytes:
    """Return other bytes."""
    while True:
        changed, place = bytearray(data), chance.randrange(len(data))
        if kind == "bit":
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del changed[place:]
        else:
            changed[place : place + 64] = bytes(len(changed[place : place + 64]))
        if changed != data:
            return bytes(changed)


def outcome(act: Callable[[], T]) -> T | FedloomError:
    """Return what comes of something, or the error with a name; others are not caught."""
    try:
        return act()
    except FedloomError as error:
        return error


def content(path: Path) -> dict[str, list[Any]]:
    """Return all rows of a journal."""
    opened = open_journal(path, ID)
    try:
        return {table: opened.run(f"SELECT * FROM {table} ORDER BY 1") for table in TABLES}  # noqa: S608  # constants
    finally:
        opened.close()


@pytest.fixture(scope="module")
def journal_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a journal of a device that has taken part for a while."""
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite3"
    journal = Journal(path, make_journal(path, ID))
    way = tuple(State)[1 : tuple(State).index(State.COUNTED) + 1]
    for number in range(12):
        entry = journal.begin(number, number, 1e9 + number)
        journal.charge(entry, (0.25, 0.5 + number), 1e-6, "skellam")
        for state in way:
            journal.record(entry, state, 1e9 + number, cohort=f"cohort-{number}", seconds_training=1.5)
        journal.use_version(number)
        journal.next_counter()
    journal.note_failed_training(entry, "training-diverged")
    journal.begin(3, 11, 1e9, baseline=10)
    journal.put("note", "{}")
    journal.close()
    return path.read_bytes()


@each_kind
def test_a_journal_is_whole_or_named(journal_bytes: bytes, tmp_path: Path, kind: str) -> None:
    path, chance, named = tmp_path / "journal.sqlite3", random.Random(f"journal {kind}"), 0
    path.write_bytes(journal_bytes)
    sound = content(path)
    for _ in range(PLACES):
        for file in tmp_path.iterdir():
            file.unlink()
        path.write_bytes(damaged(journal_bytes, kind, chance))
        found = outcome(lambda: content(path))
        if isinstance(found, BrokenState):
            assert found.code in {"journal-damaged", "journal-not-written"}
            assert found.remedy
            named += 1
        else:
            assert found == sound
    assert named > PLACES // 20  # most of so small a file is free


def test_any_number_in_a_journal_that_changed_is_named(journal_bytes: bytes, tmp_path: Path) -> None:
    """Also those whose page looks sound."""
    path = tmp_path / "journal.sqlite3"
    changed = journal_bytes.replace(b"[0.25, 3.5]", b"[0.25, 1.5]", 1)
    assert changed != journal_bytes
    path.write_bytes(changed)
    with pytest.raises(BrokenState, match="copies of privacy_charge differ"):
        content(path)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Path:
    """Return the folder of an enrolled device."""
    path = tmp_path_factory.mktemp("device")
    aggregator = Aggregator(certificates, 2)
    with serve(certificates, aggregator) as url:
        enrolled(path, aggregator, url)
    return path


@each_kind
@pytest.mark.parametrize("name", ["identity.key", "enrolment.json"])
def test_an_identity_is_whole_or_named_and_never_made_anew(device: Path, tmp_path: Path, name: str, kind: str) -> None:
    state = StateFolder(tmp_path / "state")
    shutil.copytree(device / "state", state.path)
    data, chance, sound = (state.path / name).read_bytes(), random.Random(f"{name} {kind}"), load_identity(state)
    for _ in range(PLACES):
        changed = damaged(data, kind, chance)
        (state.path / name).write_bytes(changed)
        before = {path.name: path.read_bytes() for path in state.path.iterdir()}
        found = outcome(lambda: load_identity(state))
        if isinstance(found, Identity):
            assert (found.key.secret, found.enrolment) == (sound.key.secret, sound.enrolment)
        else:
            assert isinstance(found, BrokenState)
            assert found.code == "identity-damaged"
            assert "enrol with a new code" in found.remedy
        assert {path.name: path.read_bytes() for path in state.path.iterdir()} == before


@contextmanager
def model_store(path: Path, certificates: Path) -> Iterator[tuple[StateFolder, Any]]:
    """Return a device's state and what makes its model store as a new process would."""
    aggregator = Aggregator(certificates, 2)
    aggregator.versions.append(publish(1, np.ones(DIMENSION, np.float32), aggregator.plan, aggregator.now_s))
    with serve(certificates, aggregator) as url:
        enrolment, folder, clock = enrolled(path, aggregator, url), StateFolder(path / "state"), ManualClock()
        journal = Journal(folder.journal_file, enrolment.journal_id)
        signer = Signer(enrolment.fingerprint, enrolment.device, load_identity(folder).key, journal.next_counter)
        pool = pinned_pool(enrolment.root.tls_root_pem)
        transport = Transport(url, pool, signer=signer, clock=clock, jitter=lambda: 0.0)
        try:
            yield folder, lambda: ModelStore(folder, enrolment, transport, journal, clock, lambda _line: None)
        finally:
            transport.close()
            journal.close()


def files_of(folder: StateFolder) -> dict[str, bytes]:
    """Return what is kept of models."""
    places = folder.store, folder.releases
    return {str(path): path.read_bytes() for place in places for path in sorted(place.rglob("*")) if path.is_file()}


@each_kind
def test_a_model_is_fetched_again(tmp_path: Path, certificates: Path, kind: str) -> None:
    chance = random.Random(f"model {kind}")
    with model_store(tmp_path, certificates) as (folder, new_store):
        new_store().install(0)
        wanted = new_store().install(1)
        sound = files_of(folder)
        for _ in range(PLACES):
            path = Path(chance.choice(sorted(sound)))
            path.write_bytes(damaged(sound[str(path)], kind, chance))
            found = new_store().install(1)
            np.testing.assert_array_equal(found.weights, wanted.weights)
            assert found.plan == wanted.plan
            assert files_of(folder) == sound
            assert current_version(folder) == 1


@each_kind
def test_settings_follow_their_rules_or_are_named(tmp_path: Path, kind: str) -> None:
    file, chance = SettingsFile(tmp_path / "agent.toml"), random.Random(f"settings {kind}")
    data = (ALWAYS + '# when nobody is there\nhours = "22:00-07:00"\n[limits]\nenergy_wh_per_day = 20\n').encode()
    for _ in range(PLACES):
        file.path.write_bytes(damaged(data, kind, chance))
        found = outcome(file.read)
        if not isinstance(found, Settings):
            assert isinstance(found, UsageError)
            assert found.code in {"bad-settings", "settings-unreadable"}
            assert found.remedy


@each_kind
def test_a_damaged_pause_is_still_one(tmp_path: Path, kind: str) -> None:
    path, chance = tmp_path / "pause.json", random.Random(f"pause {kind}")
    write_pause(path, Pause(1_800_000_000.0, 3600.0))
    data = path.read_bytes()
    for _ in range(PLACES):
        path.write_bytes(damaged(data, kind, chance))
        assert read_pause(path) is not None
