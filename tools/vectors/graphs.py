"""Thresholds by cohort size, and who is whose neighbour."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from shared.errors import FedloomError
from shared.secagg.graph import make_graph
from shared.secagg.keys import derive
from shared.secagg.parameters import Adversary, CohortRules, thresholds
from tools.vectors.document import Case, Document, octets_for, whole

_SIZES: Final = (2, 3, 5, 10, 33, 64, 65, 66, 100, 128, 250, 500, 1000, 2000, 4096)
_SHARES: Final = ((0.0, 0.0), (0.05, 0.1), (0.05, 0.3), (0.2, 0.2))
_ADVERSARIES: Final[tuple[Adversary, ...]] = ("semi-malicious", "semi-honest")


def threshold_table() -> Document:
    """Return the file's content."""
    rules = [CohortRules(2, 4096, *shares, adversary) for shares in _SHARES for adversary in _ADVERSARIES]
    some = [CohortRules(10, 64, 0.05, 0.1), CohortRules(3, 8, 0.2, 0.2)]
    pairs = [(n, rule) for rule in rules for n in _SIZES]
    pairs += [(n, rule) for rule in some for n in (2, 5, 9, 10, 64, 65)]
    return {"thresholds": [_thresholds(n, rule) for n, rule in pairs]}


def _thresholds(members: int, rules: CohortRules) -> Case:
    case: Case = {"members": members, **asdict(rules)}
    try:
        limits = thresholds(members, rules)
    except FedloomError as error:
        return {**case, "refused": error.code}
    return {**case, **asdict(limits)}


def graphs() -> Document:
    """Return the file's content."""
    return {"graphs": [_graph(5, 4), _graph(65, 20), _graph(66, 64), _graph(300, 58)]}


def _graph(members: int, neighbours: int) -> Case:
    seed, sid = octets_for(f"graph of {members}"), octets_for("sid")
    if neighbours == members - 1:
        seed = b""
    key = derive(seed, sid, "fedloom/1/graph")
    graph = make_graph(members, neighbours, key)
    shown = (0, 1, members // 2, members - 1)
    return {
        "members": members,
        "neighbours": neighbours,
        "seed": seed.hex(),
        "sid": sid.hex(),
        "key": key.hex(),
        "ring": whole(graph.ring),
        "neighbours_of": {str(member): whole(graph.neighbours_of(member)) for member in shown},
        "holders_of": {str(member): whole(graph.holders_of(member)) for member in shown},
    }
