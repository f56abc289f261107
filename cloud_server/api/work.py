"""What a device does next, and the files that it needs for it."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, request
from sqlalchemy import Connection, select, update
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import FileWrapper

from cloud_server.api.auth import body, caller, for_devices
from cloud_server.api.context import context
from cloud_server.api.waiting import hold
from cloud_server.rounds.machine import Phase
from cloud_server.rounds.records import current_cohort_id, load_cohort, step_bodies, step_body
from cloud_server.rounds.retention import kept_from
from cloud_server.rounds.rounds import last_round_number, open_round
from cloud_server.storage.blobs import Content
from cloud_server.storage.schema import device as device_table
from cloud_server.tasks import load_task, newest_version, release_of
from shared.errors import Conflict, FedloomError, Missing
from shared.limits import READ_PIECE_BYTES, RETRY_AFTER_MS
from shared.release import MAX_VERSION
from shared.wire.messages import Action, Assignment, CheckIn, Meeting, read_version, write_release
from shared.wire.requests import BLOBS, CHECK_IN, JSON, OCTETS, RELEASES, RENDEZVOUS

blueprint = Blueprint("work", __name__)


class VersionRemoved(FedloomError):
    """The version was there once; the device asks which is the newest."""

    exit_code = 4
    http_status = HTTPStatus.GONE


DONE_RETRY_MS = 60_000
FOREVER_S = 31_536_000


@blueprint.post(CHECK_IN)
@for_devices
def check_in() -> Response:
    """Say what the device should do, holding the request while that is to wait."""
    message = CheckIn.from_bytes(body())
    device, task_name = caller().device, caller().task
    query = device_table.c.device == device
    with context().database.read() as connection:
        changed = connection.execute(select(device_table.c.version).where(query)).scalar_one() != message.version
    if changed:
        with context().database.write() as connection:
            connection.execute(update(device_table).where(query).values(version=message.version))

    def answer() -> bytes | None:
        with context().database.read() as connection:
            assignment = _assignment(connection, task_name, device)
        return None if assignment.action == "wait" else assignment.to_bytes()

    response = hold(answer)
    if response.status_code != 202:
        return response
    with context().database.read() as connection:
        return Response(_assignment(connection, task_name, device).to_bytes(), content_type=JSON)


def _assignment(connection: Connection, task_name: str, device: str) -> Assignment:
    task = load_task(connection, task_name)
    version, number = newest_version(connection, task_name), last_round_number(connection, task_name)
    if task.state == "done":
        return Assignment("done", version, number, DONE_RETRY_MS)
    action: Action = "wait"
    opened = open_round(connection, task_name)
    cohort_id = current_cohort_id(connection, task_name)
    if opened is not None and cohort_id is not None:
        cohort = load_cohort(connection, cohort_id)
        joined = step_body(connection, cohort_id, device, "join") is not None
        if cohort.round_number == opened.number and cohort.state.phase is Phase.FORMING and not joined:
            action = "train"
    return Assignment(action, version, number, RETRY_AFTER_MS if action == "wait" else 0)


@blueprint.get(RELEASES + "/<int:number>")
@for_devices
def release(number: int) -> Response:
    """Return a version's release.json and its signature."""
    if number > MAX_VERSION:  # the database could not even compare it
        raise Missing("version-unknown", "There is no such version.")
    with context().database.read() as connection:
        if number < kept_from(connection, caller().task):
            raise VersionRemoved("version-removed", f"Version {number} is not kept any more.", "use the newest one")
        exact, signature = release_of(connection, caller().task, number)
    return Response(write_release(exact, signature), content_type=JSON)


@blueprint.get(BLOBS + "/<digest>")
@for_devices
def blob(digest: str) -> Response:
    """Return a file by its hash; Range and ETag as usual."""
    return _file(context().blobs.open(digest), digest)


@blueprint.get(BLOBS + "/<digest>/from/<held>")
@for_devices
def difference(digest: str, held: str) -> Response:
    """Return what leads from a file that the device holds to another one; Range and ETag as usual."""
    return _file(context().blobs.open_difference(held, digest), digest)


def _file(content: Content, etag: str) -> Response:
    """Answer with a file that never changes, or with the part that was asked for."""
    pieces = FileWrapper(content.file, READ_PIECE_BYTES)
    response = Response(pieces, mimetype=OCTETS, direct_passthrough=True)
    response.content_length = content.size_bytes
    response.set_etag(etag)
    response.cache_control.max_age = FOREVER_S
    response.cache_control.public = True
    try:
        response.make_conditional(request, accept_ranges=True, complete_length=content.size_bytes)
    except RequestedRangeNotSatisfiable:
        pieces.close()
        raise
    return response


@blueprint.post(RENDEZVOUS)
@for_devices
def rendezvous() -> Response:
    """Return the cohort that forms for the version that the device trained from, holding until there is one."""
    version = read_version(body())
    device, task_name = caller().device, caller().task

    def answer() -> bytes | None:
        with context().database.read() as connection:
            opened = open_round(connection, task_name)
            task = load_task(connection, task_name)
            if newest_version(connection, task_name) != version or task.state == "done":
                raise Conflict("version-closed", "The version is no longer trained from.", "train from the newest")
            cohort_id = current_cohort_id(connection, task_name)
            if opened is None or cohort_id is None:
                return None
            cohort = load_cohort(connection, cohort_id)
            forming = cohort.round_number == opened.number and cohort.state.phase is Phase.FORMING
            full = len(step_bodies(connection, cohort_id, "join")) >= task.plan.cohort.largest
            if not forming or full or step_body(connection, cohort_id, device, "join") is not None:
                return None
            return Meeting(cohort_id, cohort.binding.expires_at_s).to_bytes()

    return hold(answer)
