"""How a device stands, and why it is not training now. Read without NumPy, so that it is there at once."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from edge_client.conditions.day_count import DayCount
from edge_client.conditions.decide import LocalTime
from edge_client.conditions.pause import read_pause
from edge_client.conditions.spending import COUNTS
from edge_client.crash_loop import Crashes
from edge_client.identity import load_enrolment
from edge_client.journal import TERMINAL, Contribution, Journal, State
from edge_client.journal_sealed import Waiting
from edge_client.state_folder import StateFolder, current_version
from edge_client.status_text import why_text
from edge_client.texts import English, system_local_time
from shared.clock import Clock, SystemClock
from shared.decision import Decision

Report = dict[str, Any]
CONDITION = "condition"  # the names of notes in the journal
NOTE = "note"
_SYSTEM = SystemClock()


def status(folder: StateFolder, clock: Clock = _SYSTEM, local: LocalTime = system_local_time) -> Report:
    """Return who the device is, its model, its last contribution, and why it is not training now.

    Args:
        folder: its state.
        clock: the time.
        local: local time of seconds since the epoch.
    """
    enrolment, now_s = load_enrolment(folder), clock.now_s()
    journal = Journal(folder.journal_file, enrolment.journal_id)
    try:
        rows, int8, note = journal.contributions(), journal.get("int8"), json.loads(journal.get(NOTE) or "{}")
        personal, decision, waiting = journal.get("personal"), journal.decision, journal.sealed.waiting
        condition = json.loads(journal.get(CONDITION) or "null")
        counted, crashes = DayCount.from_text(journal.get(COUNTS)), Crashes.of(journal)
    finally:
        journal.close()
    running, version, last = folder.is_locked(), current_version(folder), rows[-1] if rows else None
    pause = read_pause(folder.pause_file)
    paused_until_s = pause.at(now_s).until_s if pause is not None else 0.0
    if paused_until_s > now_s:
        condition = {"code": "paused", "values": {}, "look_again_s": _finite(paused_until_s)}
    elif condition and condition["code"] == "paused":  # until a moment ago
        condition = None
    put_aside = last is not None and waiting is not None and waiting.entry == last.id and bool(waiting.reason)
    stuck = put_aside and ("error" in note or note.get("action") == "wait")
    why = _why(running=running, note=note, last=None if stuck else last, condition=condition)
    if crashes is not None and crashes.left_s(now_s) and (why is None or why["why"] not in {"no-agent", "condition"}):
        why = {"why": "crashed", **_crashes(crashes)}
    return {
        "device": enrolment.device,
        "name": enrolment.name,
        "task": enrolment.task,
        "server": enrolment.url,
        "version": version,
        "release": _release(decision, enrolment.device, version),
        "key": {"serial": enrolment.certificate.serial, "since_s": enrolment.key_since_s},
        "running": running,
        "last": contribution_report(last) if last else None,
        "waiting": waiting_report(waiting),
        "int8": json.loads(int8) if int8 else None,
        "personal": json.loads(personal) if personal else None,
        "renew_key_days": enrolment.renew_key_days,
        "demands": {**asdict(enrolment.floors), **asdict(enrolment.privacy_floors)},
        "used_today": asdict(counted.at(local(now_s).date(), now_s).used),
        "crashes": None if crashes is None else _crashes(crashes),
        "condition": condition if why and why["why"] == "condition" else None,
        "why": why,
        "why_not_training": why_text(English, why, now_s, local),
        "at_s": now_s,
    }


def _crashes(crashes: Crashes) -> Report:
    again_s = crashes.at_s + crashes.pause_s
    return {"count": crashes.count, "place": crashes.place, "number": crashes.number, "again_s": again_s}


def _finite(time_s: float) -> float | None:
    return time_s if time_s < float("inf") else None


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


def _why(  # noqa: PLR0911  # one way out per reason
    *, running: bool, note: Report, last: Contribution | None, condition: Report | None
) -> Report | None:
    """Return why the device is not training, as the name of a text and its values; None if it is."""
    if not running and note.get("action") == "done":
        return {"why": "done"}
    if not running and not (condition and condition["code"] == "paused"):
        return {"why": "no-agent"}
    if condition and last and last.state is State.TRAINED:
        return {"why": "condition", **condition}
    if last and last.state not in {*TERMINAL, State.TRAINING}:
        if last.baseline is None:
            return {"why": "in-cohort", "round": last.round_number, "state": str(last.state)}
        return {"why": "compares", "version": last.version, "state": str(last.state)}
    if condition:
        return {"why": "condition", **condition}
    if last and last.state is State.TRAINING:
        return None if last.baseline is None else {"why": "compares", "version": last.version, "state": str(last.state)}
    if error := note.get("error"):
        remedy = {"remedy": error["try"]} if error["try"] else {}
        return {"why": "error-try" if remedy else "error", "message": error["message"], "code": error["code"], **remedy}
    if note.get("action") == "wait":
        return {"why": "wait", "reason": note.get("reason", "")}
    return {"why": note.get("action") or "not-asked"}


def waiting_report(waiting: Waiting | None) -> Report | None:
    """Return what waits for a cohort, sealed; None where nothing does."""
    if waiting is None:
        return None
    return {
        "round": waiting.round_number,
        "version": waiting.version,
        "reason": waiting.reason,
        "made_at_s": waiting.made_at_s,
        "expires_at_s": waiting.expires_at_s,
        "bytes": waiting.octets,
    }


def remarks(row: Report) -> str:
    """Return what stopped a contribution, and why its numbers were zero."""
    stopped = f" [{row['reason']}]" if row["reason"] else ""
    code = row["training_failed"]
    return stopped + (f" [{English('status.zeros', code=code)}]" if code else "")


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
