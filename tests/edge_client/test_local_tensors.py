"""Tensors that stay on the device: kept, private, rebuilt where damaged, and never given away by a later release."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_client.journal import Journal
from edge_client.local_tensors import LocalTensors
from shared.bundle import Role, TensorSpec
from shared.errors import Refused
from tests.edge_client.devices import new_journal

IDENTITY, OTHER = b"i" * 32, b"o" * 32
INITIAL = np.zeros(3, np.float32)
OWN = np.array([1.5, -2.0, 0.25], np.float32)


def head(role: Role, path: str = "head/kernel") -> TensorSpec:
    return TensorSpec(path, (3,), 0, 3, role)


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = new_journal(tmp_path / "journal.sqlite3")
    yield journal
    journal.close()


@pytest.fixture
def kept(tmp_path: Path, journal: Journal, lines: list[str]) -> LocalTensors:
    return LocalTensors(tmp_path / "local_tensors.bin", journal, lines.append)


def test_values_come_back_and_nobody_else_may_read_them(kept: LocalTensors, tmp_path: Path, lines: list[str]) -> None:
    assert kept.load(IDENTITY, INITIAL).tolist() == INITIAL.tolist()
    kept.save(IDENTITY, OWN)
    assert kept.load(IDENTITY, INITIAL).tolist() == OWN.tolist()
    assert stat.S_IMODE((tmp_path / "local_tensors.bin").stat().st_mode) == 0o600
    assert lines == []


def test_another_bundle_starts_from_its_own_initial_values(kept: LocalTensors, lines: list[str]) -> None:
    kept.save(IDENTITY, OWN)
    assert kept.load(OTHER, INITIAL[:2]).tolist() == [0.0, 0.0]
    assert len(lines) == 1


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "foreign"])
def test_a_damaged_file_is_named_and_rebuilt(kept: LocalTensors, tmp_path: Path, lines: list[str], damage: str) -> None:
    kept.save(IDENTITY, OWN)
    path = tmp_path / "local_tensors.bin"
    data = path.read_bytes()
    changed = {"flipped": data[:-1] + bytes([data[-1] ^ 1]), "short": data[:-5], "empty": b"", "foreign": b"other"}
    path.write_bytes(changed[damage])
    assert kept.load(IDENTITY, INITIAL).tolist() == INITIAL.tolist()
    assert "[local-tensors-damaged]" in lines[0]
    assert kept.load(IDENTITY, OWN).tolist() == INITIAL.tolist()
    assert len(lines) == 1


@pytest.mark.parametrize("role", ["shared", "statistic"])
def test_what_was_local_is_never_given_away(kept: LocalTensors, journal: Journal, tmp_path: Path, role: Role) -> None:
    kept.admit([head("local"), head("shared", "body")])
    again = LocalTensors(tmp_path / "local_tensors.bin", journal, print)
    again.admit([head("shared", "body")])  # it may be gone for a while
    with pytest.raises(Refused, match="head/kernel") as caught:
        again.admit([head(role)])
    assert caught.value.code == "local-tensor-exposed"
    again.admit([head("local"), head("local", "body")])
