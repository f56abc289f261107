"""``fedloom-server parameters``: what a cohort of some size costs, before anybody makes a plan for it."""

from __future__ import annotations

import argparse
from typing import Final

from shared.errors import UsageError
from shared.limits import MAX_COHORT_MEMBERS, MAX_MEMBERS
from shared.numeric.packing import LANES_PER_WORD
from shared.numeric.quantization import Grid
from shared.secagg.masking import WORD_BYTES
from shared.secagg.parameters import CohortRules, share_of, thresholds
from shared.wire.canonical import Json

LARGEST_SHARE: Final = 0.5
_LEGEND: Final = """\
neighbours (k): others with whom a member shares masks. threshold (t): shares that recover one secret.
survivors: the fewest whose sum is revealed, unless a plan's min_survivors is more. quorum: signatures over them that a
member wants to see. corrupt: members that may collude with the aggregator; gone: that may vanish; rounded down.
lanes: bits per number; levels: steps from zero to the clip norm, more are finer; B: bytes sent per parameter."""


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--members", type=int, nargs="+", required=True, metavar="N", help="sizes of cohorts")
    parser.add_argument(
        "--corrupt",
        "--corrupt-share",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of members that may collude with the aggregator (default %(default)s)",
    )
    parser.add_argument(
        "--dropout",
        "--dropout-share",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of members that may vanish (default %(default)s)",
    )
    parser.add_argument(
        "--adversary",
        choices=("semi-malicious", "semi-honest"),
        default="semi-malicious",
        help="an aggregator that may lie to members, or one that only reads along (default %(default)s)",
    )


def show_parameters(arguments: argparse.Namespace) -> Json:
    """Return one object for one size, a list of them for several; for people a table.

    Of several sizes, those that are unsafe are named in their places.

    Raises:
        UsageError: ``bad-share``; ``cohort-size`` or ``unsafe-cohort`` where no size is possible.
    """
    for name in ("corrupt", "dropout"):
        if not 0 <= getattr(arguments, name) <= LARGEST_SHARE:
            raise UsageError("bad-share", f"--{name} must lie between 0 and {LARGEST_SHARE}.")
    rules = CohortRules(2, MAX_MEMBERS, arguments.corrupt, arguments.dropout, arguments.adversary)
    shown: list[Json] = []
    refused: list[UsageError] = []
    for members in arguments.members:
        try:
            shown.append(_of_cohort(members, rules))
        except UsageError as error:
            refused.append(error)
            shown.append({"members": members, "error": dict(error.to_json())})
    if len(refused) == len(shown):
        raise refused[0]
    if arguments.json:
        return shown[0] if len(shown) == 1 else {"cohorts": shown}
    shares = f"{arguments.corrupt:g} corrupt, {arguments.dropout:g} gone, {arguments.adversary} aggregator"
    return "\n".join([shares, *_table(shown), "", _LEGEND])


def _of_cohort(members: int, rules: CohortRules) -> dict[str, Json]:
    found = thresholds(members, rules)
    return {
        "members": members,
        "neighbours": found.neighbours,
        "threshold": found.threshold,
        "survivors": found.survivors,
        "quorum": found.quorum,
        "corrupt": share_of(rules.corrupt_share, members),
        "gone": members - found.survivors,
        "lanes": [*_lanes(members)],
    }


def _table(cohorts: list[Json]) -> list[str]:
    columns = ("members", "neighbours", "threshold", "survivors", "quorum", "corrupt", "gone")
    lines = ["  ".join(columns) + "  lanes"]
    for cohort in cohorts:
        if not isinstance(cohort, dict):
            continue
        if isinstance(error := cohort.get("error"), dict):
            lines.append(f"{cohort['members']:>7}  {error['message']}")
            continue
        numbers = "  ".join(f"{cohort[name]:>{len(name)}}" for name in columns)
        beyond = (
            "" if _number(cohort["members"]) <= MAX_COHORT_MEMBERS else f"  (a plan may ask for {MAX_COHORT_MEMBERS})"
        )
        lines.append(f"{numbers}  {_widths(cohort['lanes'])}{beyond}")
    return lines


def _number(value: Json) -> int:
    return value if isinstance(value, int) else 0


def _widths(lanes: Json) -> str:
    found = [lane for lane in lanes if isinstance(lane, dict)] if isinstance(lanes, list) else []
    return " or ".join(f"{lane['bits']} ({lane['levels']} levels, {lane['bytes_per_parameter']} B)" for lane in found)


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
