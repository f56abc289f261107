"""Models: versions, their cards and files, what devices use of them, and what operators do about it.

Each change calls what ``fedloom-server model`` calls, with the revision that the form was made of: who was slower than
somebody else changes nothing, and is shown how it stands now.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from flask import Response, request, url_for
from sqlalchemy import Connection
from werkzeug.wrappers import Response as AnyResponse

from cloud_server.api.context import context
from cloud_server.dashboard.facts import models, releases, rounds
from cloud_server.dashboard.guard import by, for_role
from cloud_server.dashboard.parts import chosen_task, dashboard
from cloud_server.dashboard.showing import (
    LARGEST_NUMBER,
    action,
    blueprint,
    done,
    page,
    refused,
    show,
    wants_json,
    whole_number,
)
from cloud_server.releases import actions
from cloud_server.releases.card import model_card
from cloud_server.releases.catalogue import FORMS, SUFFIXES, file_in_form
from cloud_server.releases.gate import Rule, parse_stages
from cloud_server.releases.importing import import_weights
from cloud_server.releases.keys import signing_key
from cloud_server.releases.state import ReleaseState
from cloud_server.rounds.retention import is_kept
from cloud_server.tasks import release_of
from shared.errors import FedloomError, Missing, UsageError
from shared.limits import MAX_BUNDLE_BYTES, MAX_REASON_CHARACTERS
from shared.wire.canonical import Json

_DIGITS: Final = 10


@page("/models")
def show_models() -> AnyResponse:
    """List a task's versions, and show what devices use."""
    return _models()


def _models(task: str = "", verb: str = "", error: FedloomError | None = None) -> AnyResponse:
    """Return the page; with an error, why something was not done, its status, and what was typed into its form."""
    with context().database.read() as connection:
        stored, menu = chosen_task(connection, task)
        if stored is None:
            values: dict[str, Json] = {"task": None, "versions": []}
        else:
            values = models.list_versions(connection, stored, whole_number("before"))
            values |= {"history": [*rounds.history(connection, stored)]}
            values |= {"release": releases.show_releases(connection, stored)}
    if error is None:
        return show("models", values, menu=menu, typed={})
    typed = {**request.form.to_dict(), "verb": verb}
    return refused(error, "models", values, menu=menu, typed=typed, here_url=url_for("console.show_models", task=task))


@page("/models/<task>/<int:number>")
def show_card(task: str, number: int) -> AnyResponse:
    """Show a version's model card."""
    parts, number = context(), min(number, LARGEST_NUMBER)
    # The first card of a process loads what computes privacy losses.
    card = dashboard().summaries.beside(lambda connection: model_card(connection, parts.blobs, task, number))
    with parts.database.read() as connection:
        release, _ = release_of(connection, task, number)
        kept = is_kept(connection, task, number)
    return show("card", card, forms=models.forms_of(release) if kept else [])


@blueprint.get("/models/<task>/<int:number>/<form>")
@for_role("viewer")
def download_version(task: str, number: int, form: str) -> AnyResponse:
    """Return a version as one file."""
    chosen = next((one for one in FORMS if one == form), None)
    if chosen is None:
        raise Missing("form-unknown", "There is no such form of a model.", f"choose one of {', '.join(FORMS)}")
    parts = context()
    with parts.database.read() as connection:
        data = file_in_form(connection, parts.blobs, task, min(number, LARGEST_NUMBER), chosen)
    headers = {"Content-Disposition": f'attachment; filename="{task}-{number}{SUFFIXES[chosen]}"'}
    return Response(data, content_type="application/octet-stream", headers=headers)


@action("/models/<task>/<verb>", "operator")
def change_release(task: str, verb: str) -> AnyResponse:
    """Promote, let go on, pin, unpin, roll back, or hold."""
    change = _CHANGES.get(verb)
    if change is None:
        raise Missing("verb-unknown", "Releases cannot be changed like that.", f"choose one of {', '.join(_CHANGES)}")

    def run() -> ReleaseState:
        revision = _whole("revision")
        with context().recorded() as connection:
            return change(connection, revision, task)

    return _answer(task, verb, run)


@action("/models/<task>/import", "operator", body_bytes=MAX_BUNDLE_BYTES)
def import_version(task: str) -> AnyResponse:
    """Publish uploaded weights as the next version."""
    return _answer(task, "import", lambda: _import(task))


def _answer(task: str, verb: str, run: Callable[[], ReleaseState]) -> AnyResponse:
    """Do something about what devices use; where it is refused, say why and show how it stands now."""
    try:
        state = run()
    except FedloomError as error:
        if wants_json() or error.code == "task-unknown":
            raise
        return _models(task, verb, error)
    where = url_for("console.show_models", task=task)
    return done(f"release-{verb}", where, task=task, revision=state.revision)


def _import(task: str) -> ReleaseState:
    parts, who, revision = context(), by(), _whole("revision")
    file = request.files.get("weights")
    if file is None or not file.filename:
        raise UsageError("no-weights", "No file of weights was chosen.", "choose a safetensors file")
    with parts.database.read() as connection:
        key = signing_key(parts.folder, connection, parts.authority.public_key)
    weights, now_s = file.stream.read(), who.now_s
    made = import_weights(parts.database, parts.blobs, who.actor, revision, task, weights, key=key, now_s=now_s)
    parts.anchor_audit()
    return made.state


def _promote(connection: Connection, revision: int, task: str) -> ReleaseState:
    who, version = by(), _whole("version")
    usual = Rule()
    rule = Rule(
        parse_stages(request.form.get("stages", "")),
        automatic="wait" not in request.form,
        tolerance=_share("tolerance", usual.tolerance),
        largest_drop=_share("largest_drop", usual.largest_drop),
    )
    key = _release_key(connection)
    return actions.promote(connection, who.actor, revision, task, version, rule, release_key=key, now_s=who.now_s)


def _pin(connection: Connection, revision: int, task: str) -> ReleaseState:
    who, version, key = by(), _whole("version"), _release_key(connection)
    return actions.pin(
        connection, who.actor, revision, task, version, release_key=key, reason=_reason(), now_s=who.now_s
    )


def _plainly(action: Callable[..., ReleaseState]) -> Callable[[Connection, int, str], ReleaseState]:
    """Return an action that needs no more than a task, as a form asks for it."""
    return lambda connection, revision, task: action(connection, by().actor, revision, task, now_s=by().now_s)


def _roll_back(connection: Connection, revision: int, task: str) -> ReleaseState:
    return actions.roll_back(connection, by().actor, revision, task, reason=_reason(), now_s=by().now_s)


def _hold(connection: Connection, revision: int, task: str) -> ReleaseState:
    who, version = by(), _whole("version")
    return actions.hold(connection, who.actor, revision, task, expected_version=version, now_s=who.now_s)


_CHANGES: Final[dict[str, Callable[[Connection, int, str], ReleaseState]]] = {
    "promote": _promote,
    "proceed": _plainly(actions.proceed),
    "roll-back": _roll_back,
    "pin": _pin,
    "unpin": _plainly(actions.unpin),
    "hold": _hold,
}


def _release_key(connection: Connection) -> bytes:
    parts = context()
    return signing_key(parts.folder, connection, parts.authority.public_key).public


def _whole(name: str) -> int:
    """Return a field's number.

    Raises:
        UsageError: ``bad-number``.
    """
    text = request.form.get(name, "").strip()
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS and int(text) <= LARGEST_NUMBER:
        return int(text)
    raise UsageError("bad-number", f"The form's {name} is no whole number.", "load the page again and fill in the form")


def _share(name: str, usual: float) -> float:
    """Return a field's share, what is usual where the form has no such field.

    Raises:
        UsageError: ``bad-number``.
    """
    text = request.form.get(name, "").strip()
    if not text:
        return usual
    if len(text) <= _DIGITS and text.isascii() and text.count(".") <= 1 and text.replace(".", "").isdigit():
        return float(text)
    raise UsageError("bad-number", f"The form's {name} is no share between 0 and 1.", "write it like 0.01 for 1 %")


def _reason() -> str:
    return request.form.get("reason", "").strip()[:MAX_REASON_CHARACTERS]
