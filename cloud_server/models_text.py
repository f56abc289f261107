"""What ``fedloom-server model`` prints for people: versions, what devices use, and how promotions went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cloud_server.tables import facts, nothing, rounded, table, when, word
from shared.wire.canonical import Json

_PERCENT = 100.0


def versions_text(versions: Sequence[dict[str, Json]]) -> str:
    """Return a table of versions, newest first."""
    rows = [
        (
            str(one["version"]),
            when(one["created_s"]),
            word(one["use"]),
            rounded(one["accuracy"]),
            rounded(one["loss"]),
            str(one["evaluated"]),
            "expired" if one["expired"] else "" if one["kept"] else "files not kept",
        )
        for one in versions
    ]
    return table(("version", "made", "use", "accuracy", "loss", "examples", ""), rows)


def release_text(report: dict[str, Json], newest: int, data: Path) -> str:
    """Return what devices use and how that came about.

    Args:
        report: see ``release_report``.
        newest: the newest version's number.
        data: the aggregator's folder, as it was named.
    """
    pairs = [("task", word(report["task"])), ("revision", word(report["revision"])), ("devices", _used(report, newest))]
    if not report["told"]:
        pairs.append(("", "a driver has not signed the last change yet, so devices do not know it"))
    lines, promotions = [facts(pairs)], _rows(report["promotions"])
    if not promotions:
        command = f"fedloom-server model promote {report['task']} {newest} --data {data}"
        return "\n".join([*lines, "", nothing("Nothing was promoted yet.", command)])
    head = ("promotion", "version", "before", "stage", "state", "by", "begun", "gate", "why")
    rows = [
        (
            *(word(one[name]) for name in ("promotion", "version", "before")),
            f"{one['stage']}/{len(_list_of(one['stages']))}",
            *(word(one[name]) for name in ("phase", "by")),
            when(one["created_s"]),
            f"{_percent(one['tolerance'])}, at most {_percent(one['largest_drop'])}",
            word(one["reason"]),
        )
        for one in promotions
    ]
    lines += ["", table(head, rows)]
    if evaluations := _rows(report["evaluations"]):
        measured = [
            (
                *(word(one[name]) for name in ("promotion", "stage", "survivors")),
                "passed" if one["passed"] else "failed",
                when(one["judged_s"]),
                word(one["reason"]),
            )
            for one in evaluations
        ]
        lines += ["", table(("promotion", "stage", "devices", "gate", "judged", "found"), measured)]
    return "\n".join(lines)


def _used(report: dict[str, Json], newest: int) -> str:
    if report["follows"] == "newest":
        return f"use the newest version, {newest}"
    if report["pinned"] is not None:
        return f"use version {report['pinned']}, pinned; {report['released']} is released"
    return f"use version {report['released']}, released"


def _percent(share: Json) -> str:
    return f"{_PERCENT * float(str(share)):.4g} %"


def _rows(value: Json) -> list[dict[str, Json]]:
    return [one for one in _list_of(value) if isinstance(one, dict)]


def _list_of(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else []
