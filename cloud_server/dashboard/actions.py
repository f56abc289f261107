"""What operators do on the pages; each calls what the command line calls, and is in the audit log with their name."""

from __future__ import annotations

import io
from typing import Final

import segno
from flask import request, url_for
from markupsafe import Markup
from werkzeug.wrappers import Response as AnyResponse

from cloud_server.api.context import context
from cloud_server.authority.codes import CODE_STATES, id_of_code
from cloud_server.cautions import enrolment_options
from cloud_server.codes import count_codes, list_codes, make_codes, revoke_code
from cloud_server.dashboard.facts import system, tasks
from cloud_server.dashboard.guard import by
from cloud_server.dashboard.parts import chosen_task, dashboard
from cloud_server.dashboard.showing import action, done, page, refused, show, wants_json
from cloud_server.devices import State, set_state
from cloud_server.durations import seconds_of
from cloud_server.operators import accounts, tokens
from cloud_server.plan_text import toml_of
from cloud_server.releases.keys import newest_key
from cloud_server.rounds.stopping import stop_task
from cloud_server.tasks import create_task, load_bundle, load_task, prepare_task, task_names
from shared.bundle import MANIFEST_FILE, Bundle, BundleManifest, verify_bundle
from shared.errors import FedloomError, Missing, UsageError
from shared.limits import MAX_BUNDLE_BYTES, MAX_NAME_CHARACTERS, MAX_REASON_CHARACTERS, MAX_SHOWN_CODES
from shared.plan import Plan
from shared.root import EnrolmentCode
from shared.wire.canonical import Json

_VERBS: Final[dict[str, State]] = {"revoke": "revoked", "quarantine": "quarantined", "reinstate": "active"}
_CODE_ROWS: Final = 50
_COUNT_DIGITS: Final = 9
_EXAMPLE: Final = """task = "my-task"

[training]
learning_rate = 0.05

[cohort]
min_survivors = 10
largest = 50

[stop]
rounds = 100
"""


@action("/devices/<device>/<verb>", "operator")
def change_device(device: str, verb: str) -> AnyResponse:
    """Revoke, quarantine or reinstate a device."""
    if verb not in _VERBS:
        raise Missing("verb-unknown", "Devices cannot be changed like that.", f"choose one of {', '.join(_VERBS)}")
    who = by()
    reason = request.form.get("reason", "").strip()[:MAX_REASON_CHARACTERS]
    with context().recorded() as connection:
        set_state(connection, device, _VERBS[verb], reason, who.now_s, actor=who.actor)
    dashboard().summaries.forget_devices()
    return done(f"device-{verb}", url_for("console.show_device", device=device), device=device)


@page("/codes")
def show_codes() -> AnyResponse:
    """Show the form for new codes, and the keys that codes and devices pin."""
    return _codes([])


@action("/codes", "operator")
def create_codes() -> AnyResponse:
    """Make codes; they are shown in this answer only."""
    try:
        codes = make_codes(
            context(),
            request.form.get("task", ""),
            by(),
            count=_count(),
            valid_s=seconds_of(request.form.get("expires", "24h"), "The time"),
            group=request.form.get("group", "").strip(),
        )
    except FedloomError as error:
        if wants_json() or error.code == "task-unknown":
            raise
        return _codes([], error)
    return _codes(codes)


def _count() -> int:
    text = request.form.get("count", "1").strip()
    short = text.isascii() and text.isdigit() and len(text) <= _COUNT_DIGITS
    if short and 1 <= int(text) <= MAX_SHOWN_CODES:
        return int(text)
    raise UsageError(
        "bad-count", f"A page shows 1 to {MAX_SHOWN_CODES} codes.", "make more with fedloom-server code create --count"
    )


def _codes(codes: list[str], error: FedloomError | None = None) -> AnyResponse:
    parts = context()
    with parts.database.read() as connection:
        stored, menu = chosen_task(connection, request.form.get("task", ""))
        keys = system.show_keys(connection, parts)
    ids = [id_of_code(EnrolmentCode.from_text(code)) for code in codes]
    pictures = [] if wants_json() else [(code, name, qr_code(code)) for code, name in zip(codes, ids, strict=True)]
    values: dict[str, Json] = {"task": stored.name if stored else None, "codes": [*codes], "ids": [*ids], "keys": keys}
    values["enrolment_options"] = enrolment_options(stored.plan) if stored else ""
    if stored is not None and keys["authority_here"]:
        values |= _made(stored.name)
    more = {"menu": menu, "pictures": pictures, "states": CODE_STATES, "typed": request.form if error else {}}
    return show("codes", values, **more) if error is None else refused(error, "codes", values, **more)


def _made(task: str) -> dict[str, Json]:
    """Return a page of the codes that were made for a task, and how each stands; none of them can be read again."""
    state, after = request.args.get("state", ""), request.args.get("after", "")
    found = list_codes(context(), task=task, state=state, after=after, limit=_CODE_ROWS + 1)
    return {
        "made": [*found[:_CODE_ROWS]],
        "counts": count_codes(context(), task),
        "state": state,
        "after": after or None,
        "next": found[_CODE_ROWS - 1]["id"] if len(found) > _CODE_ROWS else None,
    }


@action("/codes/<code>/revoke", "operator")
def revoke_code_by_id(code: str) -> AnyResponse:
    """Let a code be good for nothing any more."""
    task = revoke_code(context(), code[:MAX_NAME_CHARACTERS], by())
    return done("code-revoked", url_for("console.show_codes", task=task), code=code)


def qr_code(text: str) -> Markup:
    """Return a picture of ``text`` as SVG, with neither style nor script in it."""
    out = io.BytesIO()
    made = segno.make(text, error="m", micro=False)
    made.save(out, kind="svg", xmldecl=False, svgns=False, svgclass="qr", lineclass=None, border=2, omitsize=True)
    return Markup(out.getvalue().decode("utf-8"))  # noqa: S704  # drawn here: of the text there are only squares


@page("/new-task", "operator")
def new_task() -> AnyResponse:
    """Show the editor, with the plan of the task that is to be repeated, if one is named."""
    like = request.args.get("like", "")
    with context().database.read() as connection:
        text = toml_of(load_task(connection, like).plan) if like else _EXAMPLE
    return show("new_task", _editor(text, like))


def _editor(text: str, model: str) -> dict[str, Json]:
    with context().database.read() as connection:
        names = task_names(connection)
    bundle = _stored_bundle(model) if model in names else None
    values: dict[str, Json] = {"plan": text, "model": model, "tasks": [*names], "keys": tasks.plan_keys()}
    return values | tasks.check_plan(text, bundle)


@action("/new-task/check", "operator")
def check_task() -> AnyResponse:
    """Say what the plan that is being written means."""
    model = request.form.get("model", "")
    values = tasks.check_plan(request.form.get("plan", ""), _stored_bundle(model) if model else None)
    return show("task_meaning", values)


@action("/new-task", "operator", body_bytes=MAX_BUNDLE_BYTES)
def create_new_task() -> AnyResponse:
    """Make a task from a plan, and the model of another task or an uploaded bundle."""
    text, model = request.form.get("plan", ""), request.form.get("model", "")
    try:
        task = _create(text, model)
    except FedloomError as error:
        if wants_json():
            raise
        return refused(error, "new_task", _editor(text, model))
    return done("task-created", url_for("console.show_task", task=task), task=task)


def _create(text: str, model: str) -> str:
    plan = Plan.from_toml(text)
    bundle = _stored_bundle(model) if model else _uploaded_bundle()
    parts, who = context(), by()
    with parts.database.read() as connection:
        key = newest_key(parts.folder, connection)
    new = prepare_task(parts.blobs, bundle, plan, key, who.now_s)
    with parts.recorded() as connection:
        create_task(connection, new, who.now_s, actor=who.actor)
    return plan.task


@action("/tasks/<task>/stop", "operator")
def stop(task: str) -> AnyResponse:
    """End a task for good."""
    with context().recorded() as connection:
        stop_task(connection, task[:MAX_NAME_CHARACTERS], request.form.get("reason", "").strip(), by())
    return done("task-stopped", url_for("console.show_task", task=task), task=task)


def _stored_bundle(name: str) -> Bundle:
    parts = context()
    with parts.database.read() as connection:
        stored = load_task(connection, name)
    manifest, files = load_bundle(parts.blobs, stored)
    return Bundle(manifest, {name: files[name] for name in manifest.files})


def _uploaded_bundle() -> Bundle:
    """Return the bundle whose files came with the form.

    Raises:
        UsageError: ``no-bundle``; BundleError as ``read_bundle``.
    """
    files = {
        (part.filename or "").replace("\\", "/").rpartition("/")[2]: part.stream.read()
        for part in request.files.getlist("bundle")
        if part.filename
    }
    if MANIFEST_FILE not in files:
        raise UsageError("no-bundle", f"The files have no {MANIFEST_FILE}.", "choose every file of a bundle's folder")
    return verify_bundle(BundleManifest.from_bytes(files.pop(MANIFEST_FILE)), files)


@page("/operators", "admin")
def show_operators() -> AnyResponse:
    """List accounts and tokens."""
    with context().database.read() as connection:
        listed = accounts.list_operators(connection), tokens.list_tokens(connection)
    return show("operators", {"operators": [*listed[0]], "tokens": [*listed[1]]})


@action("/operators/<name>/role", "admin")
def change_role(name: str) -> AnyResponse:
    """Change what an operator may do."""
    with context().recorded() as connection:
        accounts.set_role(connection, name, request.form.get("role", ""), by())
    return done("operator-role-set", url_for("console.show_operators"), operator=name)


@action("/operators/<name>/remove", "admin")
def remove_operator(name: str) -> AnyResponse:
    """Remove an account with its sessions and tokens."""
    with context().recorded() as connection:
        accounts.remove_operator(connection, name, by())
    return done("operator-removed", url_for("console.show_operators"), operator=name)


@action("/tokens/<token>/revoke", "admin")
def revoke_token(token: str) -> AnyResponse:
    """Let a token be good for nothing any more."""
    with context().recorded() as connection:
        tokens.revoke_token(connection, token[:MAX_NAME_CHARACTERS], by())
    return done("token-revoked", url_for("console.show_operators"), token=token)
