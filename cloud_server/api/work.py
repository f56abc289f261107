"""What a device does next, and the files that it needs for it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request
from sqlalchemy import Connection, Row, update
from werkzeug.exceptions import RequestedRangeNotSatisfiable
from werkzeug.wsgi import FileWrapper

from cloud_server.api.auth import body, caller, for_devices
from cloud_server.api.context import context
from cloud_server.api.waiting import hold
from cloud_server.devices import look_up
from cloud_server.releases.keys import succession
from cloud_server.releases.state import load_release
from cloud_server.rounds.assigning import Outlook, has_joined, look
from cloud_server.rounds.records import StoredCohort, step_bodies
from cloud_server.rounds.releasing import running_evaluation
from cloud_server.rounds.retention import is_kept
from cloud_server.storage.blobs import Content
from cloud_server.storage.schema import device as device_table
from cloud_server.tasks import release_of
from shared.errors import Conflict, FedloomError, Missing
from shared.limits import READ_PIECE_BYTES
from shared.wire.messages import CheckIn, Meeting, Rendezvous, write_release, write_signed
from shared.wire.requests import BLOBS, CHECK_IN, DECISION, JSON, OCTETS, RELEASE_KEY, RELEASES, RENDEZVOUS

blueprint = Blueprint("work", __name__)


class VersionRemoved(FedloomError):
    """The version was there once; the device asks which is the newest."""

    exit_code = 4
    http_status = HTTPStatus.GONE


FOREVER_S = 31_536_000


@blueprint.post(CHECK_IN)
@for_devices
def check_in() -> Response:
    """Say what the device should do; where there are few devices, one with nothing to do is held for a while."""
    message, device = CheckIn.from_bytes(body()), caller()
    assigner, last = context().assigner, b""
    said = (message.version, message.memory_mib, message.declined)
    known = (device.row.version, device.row.memory_mib, device.row.declined) == said
    row = device.row if known else _remember(message)

    def answer() -> bytes | None:
        nonlocal row, last
        if last:  # asked again, since something moved
            with context().database.read() as connection:
                row = look_up(connection, device.device)
        assignment = assigner.assignment(row, device.task, message.declined, message.declined_evaluation)
        last = assignment.to_bytes()
        return None if assigner.holds(assignment) else last

    response = hold(answer)
    return response if response.status_code != 202 else Response(last, content_type=JSON)


def _remember(message: CheckIn) -> Row[*tuple[Any, ...]]:
    """Note what a device says of itself, and return its row."""
    name = caller().device
    with context().database.write() as connection:
        values = {"version": message.version, "memory_mib": message.memory_mib, "declined": message.declined}
        connection.execute(update(device_table).where(device_table.c.device == name).values(values))
        return look_up(connection, name)


@blueprint.get(RELEASES + "/<int:number>")
@for_devices
def release(number: int) -> Response:
    """Return a version's release.json and its signature."""
    with context().database.read() as connection:
        if not is_kept(connection, caller().task, number):
            raise VersionRemoved("version-removed", f"Version {number} is not kept any more.", "use the newest one")
        exact, signature = release_of(connection, caller().task, number)
    return Response(write_release(exact, signature), content_type=JSON)


@blueprint.get(DECISION)
@for_devices
def decision() -> Response:
    """Return what the devices of the caller's task use, signed; one document for all of them."""
    with context().database.read() as connection:
        state = load_release(connection, caller().task)
    if state is None or state.signed is None:
        raise Missing("no-decision", "Devices of this task use the newest version.")
    return Response(write_signed("decision", state.signed), content_type=JSON)


@blueprint.get(RELEASE_KEY)
@for_devices
def release_key() -> Response:
    """Return the authority's word on the key that signs releases now, if it is not the root document's."""
    with context().database.read() as connection:
        word = succession(connection)
    if word is None:
        raise Missing("no-later-key", "Releases are signed by the key in the root document.")
    return Response(write_signed("release_key", word), content_type=JSON)


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
    """Return the cohort that forms for the version that was trained from, or evaluated, holding until there is one."""
    asked = Rendezvous.from_bytes(body())
    device, task_name = caller().device, caller().task

    def answer() -> bytes | None:
        with context().database.read() as connection:
            outlook = look(connection, task_name)
            largest = outlook.task.plan.cohort.largest
            record = _meeting_place(connection, outlook, asked)
            if record is None or has_joined(connection, record.id, device):
                return None
            if len(step_bodies(connection, record.id, "join")) >= largest:
                return None
            return Meeting(record.id, record.binding.expires_at_s).to_bytes()

    return hold(answer)


def _meeting_place(connection: Connection, outlook: Outlook, asked: Rendezvous) -> StoredCohort | None:
    """Return the cohort that forms for what a device did, None if it does not yet.

    Raises:
        Conflict: ``version-closed`` where none will.
    """
    if asked.purpose == "training":
        if outlook.version != asked.version or outlook.task.state == "done":
            raise Conflict("version-closed", "The version is no longer trained from.", "train from the newest")
        return outlook.forming
    found = running_evaluation(connection, outlook.task.name)
    if found is None or found[0].candidate != asked.version:
        raise Conflict("version-closed", "The version is no longer evaluated.", "check in again")
    return None if outlook.evaluating is None else outlook.evaluating[0]
