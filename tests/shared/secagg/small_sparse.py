"""A sparse graph of five: small enough that every attack fits, with the real session, roster and authority's seed."""

from __future__ import annotations

import pytest

from shared.secagg import parameters

LARGEST_COMPLETE = 3
NEIGHBOURS, THRESHOLD = 2, 2


def make_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let cohorts of four and more have two neighbours each, both of whom are needed."""
    monkeypatch.setattr(parameters, "MAX_COMPLETE_GRAPH_MEMBERS", LARGEST_COMPLETE)
    monkeypatch.setattr(parameters, "_smallest_degree", lambda *_: (NEIGHBOURS, THRESHOLD))
