"""``fedloom-server parameters``: what a cohort of some size costs, before anybody makes a plan for it."""

from __future__ import annotations

import argparse
from typing import Final

from shared.errors import UsageError
from shared.limits import MAX_MEMBERS
from shared.numeric.packing import LANES_PER_WORD
from shared.numeric.quantization import Grid
from shared.secagg.masking import WORD_BYTES
from shared.secagg.parameters import CohortRules, thresholds
from shared.wire.canonical import Json

LARGEST_SHARE: Final = 0.5


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--members", type=int, nargs="+", required=True, metavar="N", help="sizes of cohorts")
    parser.add_argument("--corrupt", "--corrupt-share", type=float, default=0.05, metavar="SHARE")
    parser.add_argument("--dropout", "--dropout-share", type=float, default=0.1, metavar="SHARE")
    parser.add_argument("--adversary", choices=("semi-malicious", "semi-honest"), default="semi-malicious")


def show_parameters(arguments: argparse.Namespace) -> Json:
    """Return one object for one size, a list of them for several; for people a line for each.

    Raises:
        UsageError: ``bad-share``, ``cohort-size`` or ``unsafe-cohort``.
    """
    for name in ("corrupt", "dropout"):
        if not 0 <= getattr(arguments, name) <= LARGEST_SHARE:
            raise UsageError("bad-share", f"--{name} must lie between 0 and {LARGEST_SHARE}.")
    rules = CohortRules(2, MAX_MEMBERS, arguments.corrupt, arguments.dropout, arguments.adversary)
    shown = [_of_cohort(members, rules) for members in arguments.members]
    if not arguments.json:
        return "\n".join(map(_line, shown))
    return shown[0] if len(shown) == 1 else {"cohorts": [*shown]}


def _of_cohort(members: int, rules: CohortRules) -> dict[str, Json]:
    found = thresholds(members, rules)
    return {
        "members": members,
        "neighbours": found.neighbours,
        "threshold": found.threshold,
        "survivors": found.survivors,
        "quorum": found.quorum,
        "lanes": [*_lanes(members)],
    }


def _line(cohort: dict[str, Json]) -> str:
    """Return what ``_of_cohort`` found as one line."""
    lanes = cohort["lanes"] if isinstance(cohort["lanes"], list) else []
    widths = [
        f"{lane['bits']} bits ({lane['levels']} levels, {lane['bytes_per_parameter']} B per parameter)"
        for lane in lanes
        if isinstance(lane, dict)
    ]
    counts = ", ".join(f"{key} {value}" for key, value in cohort.items() if key != "lanes")
    return f"{counts}; lanes of {' or '.join(widths)}"


def _lanes(members: int) -> list[Json]:
    """Return the lane widths that leave enough levels for the sum of ``members``."""
    usable: list[Json] = []
    for bits, per_word in LANES_PER_WORD.items():
        try:
            grid = Grid.for_cohort(members, lane_bits=bits, max_l2_norm=1.0)
        except UsageError:
            continue
        usable.append({"bits": bits, "levels": grid.levels, "bytes_per_parameter": round(WORD_BYTES / per_word, 3)})
    return usable
