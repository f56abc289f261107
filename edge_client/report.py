"""What the owner of a device may want to know: how it stands (status), and what left it (ledger)."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from math import inf
from typing import Any

from edge_client.identity import load_enrolment
from edge_client.journal import Contribution, Journal, State
from edge_client.model_store import current_version
from edge_client.state_folder import StateFolder
from edge_client.waits import WAITS_FOR
from shared.decision import Decision
from shared.privacy.charges import epsilon_of

Report = dict[str, Any]
_ENDS = {
    State.COUNTED: "counted in the published sum",
    State.NOT_COUNTED: "not counted: the sum was discarded or went on without it",
    State.ABANDONED: "abandoned",
    State.REFUSED: "refused by this device",
}
_ACTIONS = {
    "train": "it was asked to train and will",
    "evaluate": "it was asked to evaluate a version and will",
    "done": "the task is done",
}


def status(folder: StateFolder) -> Report:
    """Return who the device is, its model, its last contribution, and why it is not training now."""
    enrolment = load_enrolment(folder)
    journal = Journal(folder.journal_file, enrolment.journal_id)
    try:
        rows, int8, note = journal.contributions(), journal.get("int8"), json.loads(journal.get("note") or "{}")
        personal, decision = journal.get("personal"), journal.decision
    finally:
        journal.close()
    running, version = folder.is_locked(), current_version(folder)
    return {
        "device": enrolment.device,
        "name": enrolment.name,
        "task": enrolment.task,
        "server": enrolment.url,
        "version": version,
        "release": _release(decision, enrolment.device, version),
        "key": {"serial": enrolment.certificate.serial, "since_s": enrolment.key_since_s},
        "running": running,
        "last": contribution_report(rows[-1]) if rows else None,
        "int8": json.loads(int8) if int8 else None,
        "personal": json.loads(personal) if personal else None,
        "renew_key_days": enrolment.renew_key_days,
        "demands": {**asdict(enrolment.floors), **asdict(enrolment.privacy_floors)},
        "why_not_training": _why(running=running, note=note, last=rows[-1] if rows else None),
    }


def _release(decision: Decision | None, device: str, version: int | None) -> Report:
    """Return which version this device is to use, and why; the last good one is used until that is here."""
    if decision is None:
        return {"follows": "newest", "version": version, "why": "newest", "sequence": 0}
    use = decision.use(device)
    return {
        "follows": "promoted",
        "version": use.version,
        "why": use.why,
        "sequence": decision.sequence,
        "released": decision.released,
        "candidate": decision.candidate,
        "pinned": decision.pinned,
    }


_WHY = {
    "newest": "the newest that this device has fetched",
    "released": "released to all devices",
    "candidate": "on its way to all devices, and this one is among the first",
    "pinned": "pinned by the operator",
}


def _version_text(report: Report) -> str:
    release = report["release"]
    if report["version"] is None:
        return "none yet"
    if report["version"] == release["version"]:
        return f"{report['version']}, {_WHY[release['why']]}"
    return f"{report['version']}, until {release['version']} is fetched: {_WHY[release['why']]}"


def status_text(report: Report) -> str:
    """Return ``status`` for people, one screen."""
    last, int8 = report["last"], report["int8"]
    result = "none yet"
    if last:
        reason = _remarks(last)
        result = f"{_of(last)}: {_ENDS.get(State(last['state']), last['state'])}{reason}"
    accuracy = f"{int8['correct']} of {int8['count']} right in version {int8['version']}" if int8 else "not judged yet"
    lines = [
        f"device        {report['device']}" + (f" ({report['name']})" if report["name"] else ""),
        f"task          {report['task']} at {report['server']}",
        f"version       {_version_text(report)}",
        f"contribution  {result}",
        f"int8 model    {accuracy}",
        *_personal_lines(report["personal"]),
        f"key           {_key(report['key'], report['renew_key_days'])}",
        f"owner wants   {_demands(report['demands'])}",
        f"training now  {report['why_not_training'] or 'yes'}",
    ]
    return "\n".join(lines)


def _key(key: Report, days: int) -> str:
    since_s = key["since_s"]
    since = "" if since_s is None else f", since {datetime.fromtimestamp(since_s, UTC):%Y-%m-%d}"
    return f"number {key['serial'] + 1}{since}; renewed " + (f"every {days} days" if days else "by `renew` only")


def _of(row: Report) -> str:
    if row["purpose"] == "evaluation":
        return f"evaluation of version {row['version']} beside {row['baseline']}"
    return f"round {row['round']}"


def _demands(demands: Report) -> str:
    """Return what the owner asks of every plan, in words."""
    told = [f"sums of {demands['min_survivors']} devices or more", f"clip norm up to {demands['max_l2_norm']:g}"]
    if not demands["semi_honest"]:
        told.append("thresholds against a server that lies")
    share = demands["min_corrupt_share"]
    told.append(f"{share:.3g} of the members colluding withstood" if share else "no colluding members withstood")
    if demands["min_noise_multiplier"]:
        told.append(f"noise of {demands['min_noise_multiplier']:g} or more")
    if demands["max_participations"]:
        told.append(f"at most {demands['max_participations']} masked vectors ever")
    if demands["max_epsilon"]:
        told.append(f"epsilon {demands['max_epsilon']:g} at most, at delta {demands['delta']:g}")
    return "; ".join(told)


def _personal_lines(personal: Report | None) -> list[str]:
    if personal is None:
        return []
    if "reason" in personal:
        return [f"own model     none: training version {personal['version']} further failed [{personal['reason']}]"]
    use = "in use beside it" if personal["kept"] else "not better, so not kept"
    right = f"{personal['correct']} of {personal['count']} right, {personal['correct_before']} before"
    return [f"own model     version {personal['version']} trained further here: {right}; {use}"]


def _why(*, running: bool, note: Report, last: Contribution | None) -> str:
    """Return why the device is not training, empty if it is."""
    if not running and note.get("action") == "done":
        return f"no: {_ACTIONS['done']}"
    if not running:
        return "no: no agent is running; start `fedloom-agent run`"
    if last and last.state is State.TRAINING and last.baseline is None:
        return ""
    if last and last.state not in _ENDS:
        what = f"round {last.round_number} is trained" if last.baseline is None else f"it compares {last.version}"
        return f"no: {what}, its cohort is at {last.state}"
    if error := note.get("error"):
        return f"no: {error['message']} [{error['code']}]" + (f" Try: {error['try']}" if error["try"] else "")
    waits = WAITS_FOR.get(note.get("reason", "")) if note.get("action") == "wait" else None
    return f"no: {waits or _ACTIONS.get(note.get('action', ''), 'it has not asked the server yet')}"


def ledger(folder: StateFolder) -> Report:
    """Return every contribution with what it sent, the totals, and how the int8 model does."""
    enrolment = load_enrolment(folder)
    journal = Journal(folder.journal_file, enrolment.journal_id)
    try:
        rows, int8, totals = journal.contributions(), journal.get("int8"), journal.other_traffic
        privacy = _privacy(journal)
    finally:
        journal.close()
    for row in rows:
        totals.add(row.traffic)
    return {
        "device": enrolment.device,
        "task": enrolment.task,
        "contributions": [contribution_report(row) for row in rows],
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
        reason = _remarks(row)
        if row["purpose"] == "evaluation":
            reason = f" {_of(row)}{reason}"
        lines.append(f"{row['round']:>6} {row['state']:<12} {numbers}  {row['cohort'] or '-'}{reason}")
    totals = " ".join(f"{report['totals'][name]:>12}" for name in columns)
    lines.append(f"{'total':>6} {'bytes':<12} {totals}")
    lines.append("vector_up is masked: the server can read sums over a whole cohort only.")
    lines.append(_privacy_line(report["privacy"]))
    return "\n".join(lines)


def _remarks(row: Report) -> str:
    """Return what stopped a contribution, and why its numbers were zero."""
    stopped = f" [{row['reason']}]" if row["reason"] else ""
    code = row["training_failed"]
    return stopped + (f" [{code}: its part of the sum is zero]" if code else "")


def contribution_report(row: Contribution) -> Report:
    """Return one line of the ledger."""
    return {
        "round": row.round_number,
        "purpose": "training" if row.baseline is None else "evaluation",
        "version": row.version,
        "baseline": row.baseline,
        "cohort": row.cohort,
        "state": str(row.state),
        "reason": row.reason,
        "training_failed": row.training_failed,
        "seconds_training": row.seconds_training,
        "traffic": row.traffic.to_json(),
    }
