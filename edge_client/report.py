"""What left this device (``ledger``), and with ``status`` everything that its owner may want to know."""

from __future__ import annotations

import json
from math import inf
from typing import Any

from edge_client.identity import load_enrolment
from edge_client.journal import Journal
from edge_client.state_folder import StateFolder
from edge_client.status import contribution_report, remarks, status, waiting_report
from edge_client.status_text import row_title, status_text
from edge_client.texts import English
from shared.privacy.floors import epsilon_of

__all__ = ["contribution_report", "ledger", "ledger_text", "status", "status_text"]
Report = dict[str, Any]


def ledger(folder: StateFolder) -> Report:
    """Return every contribution with what it sent, the totals, and how the int8 model does."""
    enrolment = load_enrolment(folder)
    journal = Journal(folder.journal_file, enrolment.journal_id)
    try:
        rows, int8, totals = journal.contributions(), journal.get("int8"), journal.other_traffic
        privacy, waiting = _privacy(journal), journal.sealed.waiting
    finally:
        journal.close()
    for row in rows:
        totals.add(row.traffic)
    return {
        "device": enrolment.device,
        "task": enrolment.task,
        "contributions": [contribution_report(row) for row in rows],
        "waiting": waiting_report(waiting),
        "totals": totals.to_json(),
        "privacy": privacy,
        "int8": json.loads(int8) if int8 else None,
    }


def _privacy(journal: Journal) -> Report:
    """Return how often a masked vector left, and what that reveals; None where there is no bound.

    ``epsilon`` is of the sums, ``epsilon_of_models`` of what was published if the aggregator added the noise
    that a plan promised.
    """
    spent, delta = journal.spent(), journal.delta
    bound = epsilon_of(spent, delta) if delta is not None else inf if spent else 0.0
    of_models = bound if bound < inf else None
    of_sums = of_models if journal.sums_are_noised else None
    return {"participations": len(spent), "epsilon": of_sums, "epsilon_of_models": of_models, "delta": delta}


def _privacy_line(privacy: Report) -> str:
    count = privacy["participations"]
    times = f"{count} masked vector{'' if count == 1 else 's'} {'has' if count == 1 else 'have'} left this device"
    if not count:
        return f"{times}."
    if privacy["epsilon_of_models"] is None:
        return f"{times}; without noise in each there is no limit to what their sums reveal."
    at = f" at delta {privacy['delta']:g}" if privacy["delta"] else ""
    if privacy["epsilon"] is None:
        return (
            f"{times}; the published models together reveal at most epsilon {privacy['epsilon_of_models']:.3g}{at}, if"
            " the aggregator adds its noise; the sums themselves: no limit."
        )
    return f"{times}; all of their sums together reveal at most epsilon {privacy['epsilon']:.3g}{at}."


def ledger_text(report: Report) -> str:
    """Return ``ledger`` for people: a line per contribution, then the totals."""
    columns = ("vector_up", "other_up", "weights_down", "bundle_down", "other_down")
    head = f"{'round':>6} {'state':<12} " + " ".join(f"{name:>12}" for name in columns) + "  cohort"
    lines = [head]
    for row in report["contributions"]:
        numbers = " ".join(f"{row['traffic'][name]:>12}" for name in columns)
        reason = remarks(row)
        if row["purpose"] == "evaluation":
            reason = f" {row_title(English, row)}{reason}"
        lines.append(f"{row['round']:>6} {row['state']:<12} {numbers}  {row['cohort'] or '-'}{reason}")
    totals = " ".join(f"{report['totals'][name]:>12}" for name in columns)
    lines.append(f"{'total':>6} {'bytes':<12} {totals}")
    if waiting := report["waiting"]:
        lines.append(f"An update trained from version {waiting['version']} waits for a cohort; nothing of it has left.")
    lines.append("vector_up is masked: the server can read sums over a whole cohort only.")
    lines.append(_privacy_line(report["privacy"]))
    return "\n".join(lines)
