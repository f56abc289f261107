"""What a device does next, and the files that it needs for it."""

from __future__ import annotations

from flask import Blueprint, Response, send_file
from sqlalchemy import Connection, select, update

from cloud_server.api.auth import body, caller, for_devices
from cloud_server.api.context import context
from cloud_server.api.waiting import hold
from cloud_server.rounds.eligibility import Candidate, left_out
from cloud_server.rounds.machine import Phase
from cloud_server.rounds.records import StoredCohort, current_cohort_id, load_cohort, step_bodies, step_body
from cloud_server.rounds.rounds import last_round_number, open_round
from cloud_server.rounds.selection import invite, is_invited, places_left
from cloud_server.storage.schema import device as device_table
from cloud_server.tasks import load_task, newest_version, release_of
from shared.errors import Conflict, Missing
from shared.limits import RETRY_AFTER_MS
from shared.release import MAX_VERSION
from shared.wire.messages import Assignment, CheckIn, Meeting, read_version, write_release
from shared.wire.requests import BLOBS, CHECK_IN, JSON, OCTETS, RELEASES, RENDEZVOUS

blueprint = Blueprint("work", __name__)
DONE_RETRY_S = 60.0
_PASSING = frozenset({"no-round", "round-full"})  # reasons to wait that end when the driver moves something


@blueprint.post(CHECK_IN)
@for_devices
def check_in() -> Response:
    """Say what the device should do; where there are few devices, one with nothing to do is held for a while."""
    message = CheckIn.from_bytes(body())
    _remember(message)

    def answer() -> bytes | None:
        assignment = _assignment()
        waits = assignment.reason in _PASSING and context().pacer.pace().holds
        return None if waits else assignment.to_bytes()

    response = hold(answer)
    return response if response.status_code != 202 else Response(_assignment().to_bytes(), content_type=JSON)


def _remember(message: CheckIn) -> None:
    """Note what a device says of itself, where it is new."""
    query = device_table.c.device == caller().device
    with context().database.read() as connection:
        row = connection.execute(select(device_table.c.version, device_table.c.memory_mib).where(query)).one()
    if tuple(row) != (message.version, message.memory_mib):
        with context().database.write() as connection:
            values = {"version": message.version, "memory_mib": message.memory_mib}
            connection.execute(update(device_table).where(query).values(values))


def _assignment() -> Assignment:
    parts, name, task_name = context(), caller().device, caller().task
    now_s = parts.clock.now_s()
    with parts.database.read() as connection:
        task = load_task(connection, task_name)
        version, number = newest_version(connection, task_name), last_round_number(connection, task_name)
        if task.state == "done":
            return Assignment("done", version, number, parts.pacer.retry_after_ms(DONE_RETRY_S))
        row = connection.execute(select(device_table).where(device_table.c.device == name)).one()
        out = left_out(Candidate.of(row), task.plan, now_s)
        if out is not None:
            return Assignment("wait", version, number, parts.pacer.retry_after_ms(out.wait_s), out.reason)
        record = _forming(connection, task_name, name)
        invited = record is not None and is_invited(connection, task_name, name)
        possible = record is not None and (invited or places_left(connection, task.plan, record, now_s) > 0)
    if record is not None and possible and not invited:
        with parts.database.write() as connection:
            invited = invite(connection, task.plan, record, name, now_s)
    if invited:
        return Assignment("train", version, number, 0)
    soon = RETRY_AFTER_MS if parts.pacer.pace().holds else parts.pacer.retry_after_ms()
    return Assignment("wait", version, number, soon, "round-full" if record is not None else "no-round")


def _forming(connection: Connection, task_name: str, name: str) -> StoredCohort | None:
    """Return the cohort that forms in the open round, if the device has not joined it."""
    opened, cohort_id = open_round(connection, task_name), current_cohort_id(connection, task_name)
    if opened is None or cohort_id is None:
        return None
    record = load_cohort(connection, cohort_id)
    forms = record.round_number == opened.number and record.state.phase is Phase.FORMING
    return record if forms and step_body(connection, cohort_id, name, "join") is None else None


@blueprint.get(RELEASES + "/<int:number>")
@for_devices
def release(number: int) -> Response:
    """Return a version's release.json and its signature."""
    if number > MAX_VERSION:  # the database could not even compare it
        raise Missing("version-unknown", "There is no such version.")
    with context().database.read() as connection:
        exact, signature = release_of(connection, caller().task, number)
    return Response(write_release(exact, signature), content_type=JSON)


@blueprint.get(BLOBS + "/<digest>")
@for_devices
def blob(digest: str) -> Response:
    """Return a file by its hash; Range and ETag as usual."""
    path = context().blobs.path(digest)
    return send_file(path, mimetype=OCTETS, etag=digest, conditional=True, max_age=31_536_000)


@blueprint.get(BLOBS + "/<digest>/from/<held>")
@for_devices
def difference(digest: str, held: str) -> Response:
    """Return what leads from a file that the device holds to another one; Range and ETag as usual."""
    path = context().blobs.difference_path(held, digest)
    return send_file(path, mimetype=OCTETS, etag=digest, conditional=True, max_age=31_536_000)


@blueprint.post(RENDEZVOUS)
@for_devices
def rendezvous() -> Response:
    """Return the cohort that forms for the version that the device trained from, holding until there is one."""
    version = read_version(body())
    device, task_name = caller().device, caller().task

    def answer() -> bytes | None:
        with context().database.read() as connection:
            task = load_task(connection, task_name)
            if newest_version(connection, task_name) != version or task.state == "done":
                raise Conflict("version-closed", "The version is no longer trained from.", "train from the newest")
            record = _forming(connection, task_name, device)
            if record is None or len(step_bodies(connection, record.id, "join")) >= task.plan.cohort.largest:
                return None
            return Meeting(record.id, record.binding.expires_at_s).to_bytes()

    return hold(answer)
