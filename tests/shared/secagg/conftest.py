"""Large cohorts in one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shared.secagg.roster import CohortBinding, Roster
from shared.wire.canonical import Json


@pytest.fixture
def one_verification(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let devices that are shown the very same roster share its verification: n^2 signatures take minutes."""
    verified: dict[int, tuple[Json, Roster]] = {}
    verify = Roster.verified

    def once(value: Json, binding: CohortBinding, authority_key: bytes, now_s: float) -> Roster:
        if id(value) not in verified:
            verified[id(value)] = value, verify(value, binding, authority_key, now_s)  # kept, so the id stays its
        return verified[id(value)][1]

    monkeypatch.setattr(Roster, "verified", once)
    yield
    verified.clear()
