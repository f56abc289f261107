"""The specification names exactly the domains, codes and numbers that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import shared
from shared.limits import (
    MAX_COHORT_MEMBERS,
    MAX_COMPLETE_GRAPH_MEMBERS,
    MAX_JSON_DEPTH,
    MAX_NEIGHBOURS,
    MAX_SHARE_SUBSETS,
)
from shared.secagg.parameters import CohortRules, thresholds
from shared.secagg.sealing import SEALED_BYTES

FOLDER = Path(shared.__file__).parent
PROTOCOL = " ".join((FOLDER / "spec" / "PROTOCOL.md").read_text(encoding="utf-8").split())
CODE = {path: path.read_text(encoding="utf-8") for path in FOLDER.rglob("*.py")}


def test_every_domain_of_the_code_is_specified_and_no_other() -> None:
    domain = re.compile(r'"(fedloom/1/[a-z-]+)"')
    assert set(domain.findall(PROTOCOL)) == {name for text in CODE.values() for name in domain.findall(text)}


def test_every_reason_for_which_a_device_stops_is_specified() -> None:
    aborts = re.compile(r'ProtocolAbort\(\s*"([a-z-]+)"')
    raised = {code for path, text in CODE.items() if path.parent.name == "secagg" for code in aborts.findall(text)}
    assert len(raised) > 15
    assert not {code for code in raised if f"`{code}`" not in PROTOCOL}


@pytest.mark.parametrize(("members", "text"), [(10, "t = 6, 9 survivors, quorum 6"), (64, "34, 58, 34")])
def test_the_worked_thresholds_are_right(members: int, text: str) -> None:
    limits = thresholds(members, CohortRules(2, 64, 0.05, 0.1))
    assert [int(number) for number in re.findall(r"\d+", text)] == [limits.threshold, limits.survivors, limits.quorum]
    assert text in PROTOCOL


@pytest.mark.parametrize(("members", "text"), [(100, "k = 26, t = 16"), (1000, "k = 78, t = 52")])
def test_the_worked_sparse_thresholds_are_right(members: int, text: str) -> None:
    limits = thresholds(members, CohortRules(2, 1000, 0.05, 0.1))
    assert text == f"k = {limits.neighbours}, t = {limits.threshold}"
    assert f"n = {members:,}: {text}" in PROTOCOL


def test_the_numbers_in_the_text_are_the_codes() -> None:
    assert f"`largest`, at most {MAX_COHORT_MEMBERS:,}" in PROTOCOL
    assert f"n <= {MAX_COMPLETE_GRAPH_MEMBERS}" in PROTOCOL
    assert f"k = 2, 4, ... {MAX_NEIGHBOURS:,}" in PROTOCOL
    assert f"{MAX_SHARE_SUBSETS:,} random ones" in PROTOCOL
    assert f"nesting beyond {MAX_JSON_DEPTH}," in PROTOCOL
    assert f"{SEALED_BYTES} octets; the key seals" in PROTOCOL
