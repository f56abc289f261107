"""Everything that training needs, looked at one by one: what was found, why it matters, and what to do.

No check stops another one: a device whose server is away still learns that its disk is full.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from edge_client.conditions.day_count import DayCount
from edge_client.conditions.decide import CLOCK_TOLERANCE_S, No, Now, decide
from edge_client.conditions.pause import read_pause
from edge_client.conditions.probes import Probes, run_program
from edge_client.conditions.spending import COUNTS
from edge_client.doctor_model import verified_version
from edge_client.doctor_server import ask_server
from edge_client.examples import read_examples
from edge_client.identity import Enrolment, load_enrolment, load_identity
from edge_client.journal import SIGNED_TIME, Journal
from edge_client.problems import utc_text
from edge_client.settings import Settings, as_values
from edge_client.settings_file import SettingsFile
from edge_client.state_folder import StateFolder, current_version
from edge_client.texts import English, Language, again_in, system_local_time, words_of
from edge_client.trainer.runtime import installed_runtimes
from shared.clock import Clock
from shared.errors import FedloomError, Refused
from shared.limits import MIB

SPARE_MIB: Final = 64  # besides twice what the models take
State = Literal["ok", "wait", "todo"]


@dataclass(frozen=True)
class Check:
    """What one look found.

    Attributes:
        name: of the check.
        state: ``wait`` for what passes by itself.
        found: the last part of the text's name: ``good``, ``bad``, ...
        values: of that text, and of the one that says what to do.
        fix: the last part of that one's name.
    """

    name: str
    state: State
    found: str = "good"
    values: dict[str, Any] = field(default_factory=dict)
    fix: str = "fix"


@dataclass(frozen=True)
class Patient:
    """What the checks share; None where it cannot be read."""

    folder: StateFolder
    file: SettingsFile
    clock: Clock
    enrolment: Enrolment | None
    journal: Journal | None


def examine(folder: StateFolder, file: SettingsFile, clock: Clock) -> list[Check]:
    """Return every check, in the order in which a person would go on."""
    enrolment, journal, broken = None, None, []
    try:
        enrolment = load_enrolment(folder)
        journal = Journal(folder.journal_file, enrolment.journal_id)
    except FedloomError as error:
        broken = [_failed("enrolment", error)]
    patient = Patient(folder, file, clock, enrolment, journal)
    try:
        return [*broken, *(check for look in _LOOKS for check in _guarded(look, patient))]
    finally:
        if journal is not None:
            journal.close()


def _guarded(look: Callable[[Patient], Iterator[Check]], patient: Patient) -> list[Check]:
    try:
        return list(look(patient))
    except FedloomError as error:
        return [_failed(look.__name__.strip("_"), error)]


def _failed(name: str, error: FedloomError) -> Check:
    values = {"error": f"{error.message} [{error.code}]", "remedy": error.remedy or "-"}
    return Check(name, "todo", "bad", values)


def _state(patient: Patient) -> Iterator[Check]:
    folder = patient.folder
    if not folder.path.is_dir():
        return
    keys = [folder.key_file, folder.next_key_file, folder.sealing_key_file]
    secret = [folder.path, *keys, folder.journal_file, folder.local_tensors, folder.sealed_update_file]
    open_ones = [str(path) for path in secret if path.exists() and path.stat().st_mode & 0o077]
    # What is in a folder that others cannot enter is safe from them.
    if open_ones and (str(folder.path) in open_ones or str(folder.key_file) in open_ones):
        yield Check("state", "todo", "bad", {"paths": ", ".join(open_ones)})
    elif not os.access(folder.path, os.W_OK | os.X_OK):
        yield Check("state", "todo", "unwritable", {"path": str(folder.path)}, "unwritable-fix")
    else:
        yield Check("state", "ok", values={"path": str(folder.path)})


def _disk(patient: Patient) -> Iterator[Check]:
    folder = patient.folder
    if not folder.path.is_dir():
        return
    models = [path for name in (folder.store, folder.releases) for path in name.rglob("*") if path.is_file()]
    wanted = 2 * sum(path.stat().st_size for path in models) // MIB + SPARE_MIB
    free = shutil.disk_usage(folder.path).free // MIB
    values = {"free": free, "wanted": wanted}
    yield Check("disk", "ok", values=values) if free >= wanted else Check("disk", "todo", "bad", values)


def _enrolment(patient: Patient) -> Iterator[Check]:
    enrolment = patient.enrolment
    if enrolment is None or patient.journal is None:
        return
    load_identity(patient.folder)
    until_s = enrolment.certificate.expires_at_s
    if until_s < patient.clock.now_s():
        raise Refused(
            "certificate-expired",
            f"This device's certificate was valid until {utc_text(until_s)}.",
            "check the clock; else run `fedloom-agent leave` and enrol with a new code",
        )
    yield Check(
        "enrolment", "ok", values={"device": enrolment.device, "task": enrolment.task, "until": utc_text(until_s)}
    )


def _server(patient: Patient) -> Iterator[Check]:
    """Ask the server, and compare the clock with its time."""
    if patient.enrolment is None:
        return
    now_s, server_s, failure = patient.clock.now_s(), None, None
    try:
        server_s = ask_server(patient.enrolment, patient.clock)
    except FedloomError as error:
        failure = error
    if failure is None:
        yield Check("server", "ok", values={"url": patient.enrolment.url})
    else:
        yield _failed("server", failure)
    signed_s = float((patient.journal and patient.journal.get(SIGNED_TIME)) or 0.0)
    other_s = server_s if server_s is not None else max(signed_s, now_s)
    shown = {"now": utc_text(now_s), "other": utc_text(other_s), "difference": round(now_s - other_s)}
    too_early = failure is not None and failure.code == "clock-wrong"
    if abs(now_s - other_s) > CLOCK_TOLERANCE_S:
        yield Check("clock", "todo", "bad", shown)
    elif too_early:
        yield Check("clock", "todo", "early", shown)
    else:
        yield Check("clock", "ok", "good" if server_s is not None else "alone", shown)


def _model(patient: Patient) -> Iterator[Check]:
    if patient.enrolment is None or patient.journal is None:
        return
    version = current_version(patient.folder)
    if version is None:
        yield Check("model", "ok", "none")
        return
    try:
        verified_version(patient.folder, patient.enrolment, patient.journal, version)
    except FedloomError as error:
        yield Check("model", "todo", "bad", {"version": version, "error": f"{error.message} [{error.code}]"})
    else:
        yield Check("model", "ok", values={"version": version})


def _runtime(_patient: Patient) -> Iterator[Check]:
    names = installed_runtimes()
    yield Check("runtime", "ok", values={"names": ", ".join(names)}) if names else Check("runtime", "todo", "bad")


def _examples(patient: Patient) -> Iterator[Check]:
    if patient.enrolment is None:
        return
    examples, held_out = read_examples(patient.enrolment.examples, patient.clock.now_s())
    yield Check("examples", "ok", values={"count": len(examples), "held_out": len(held_out)})


def _settings(patient: Patient) -> Iterator[Check]:
    given, defaults = as_values(patient.file.read()), as_values(Settings())
    changed = sum(given[name] != defaults[name] for name in given)
    yield Check("settings", "ok", values={"path": str(patient.file.path), "changed": changed})


def _conditions(patient: Patient) -> Iterator[Check]:
    try:
        settings = patient.file.read()
    except FedloomError:
        yield Check("conditions", "wait", "unknown")
        return
    journal, now_s = patient.journal, patient.clock.now_s()
    counted = DayCount.from_text(journal.get(COUNTS)) if journal else DayCount()
    used = counted.at(system_local_time(now_s).date(), now_s).used
    readings = Probes(Path("/"), run_program, time.monotonic, os.cpu_count() or 1).read()
    pause = read_pause(patient.folder.pause_file)
    signed_s = float((journal and journal.get(SIGNED_TIME)) or 0.0)
    now = Now(now_s, system_local_time, pause.at(now_s).until_s if pause else 0.0, signed_s)
    found = decide(settings, readings, used, now)
    if isinstance(found, No):
        values = {"code": found.code, "values": dict(found.values), "look_again_s": found.look_again_s, "now_s": now_s}
        yield Check("conditions", "wait", "wait", values)
    else:
        yield Check("conditions", "ok")


_LOOKS: Final = (
    _state,
    _disk,
    _enrolment,
    _server,
    _model,
    _runtime,
    _examples,
    _settings,
    _conditions,
)


def to_json(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks for programs."""
    rows = []
    for check in checks:
        found, why, fix = _words(check, English)
        rows.append({"check": check.name, "state": check.state, "found": found, "why": why, "do": fix})
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": at, "checks": rows, "to_do": sum(check.state == "todo" for check in checks)}


def to_text(checks: Sequence[Check], say: Language) -> str:
    """Return the checks for people."""
    lines = []
    for check in checks:
        found, why, fix = _words(check, say)
        lines.append(f"[{say(f'doctor.line.{check.state}')}] {say(f'doctor.{check.name}.name')}: {found}")
        if check.state == "todo":
            lines += [f"    {say('doctor.line.matters', why=why)}", f"    {say('doctor.line.do', fix=fix)}"]
    count = sum(check.state == "todo" for check in checks)
    return "\n".join([*lines, say("doctor.to-do", count=count) if count else say("doctor.all-well")])


def _words(check: Check, say: Language) -> tuple[str, str, str]:
    """Return what was found, why it matters, and what to do, if anything."""
    values = check.values
    if "look_again_s" in values:
        reason = words_of(say, values["code"], values["values"], system_local_time)
        values = {"reason": reason, "again": again_in(say, values["look_again_s"], values["now_s"], system_local_time)}
    found = say(f"doctor.{check.name}.{check.found}", **values)
    fix = say(f"doctor.{check.name}.{check.fix}", **values) if check.state == "todo" else ""
    return found, say(f"doctor.{check.name}.why"), fix
