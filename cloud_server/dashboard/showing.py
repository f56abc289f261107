"""How an answer is made: a template or JSON of the same values, headers that let a browser do nothing else, 304."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, ParamSpec, cast
from urllib.parse import unquote

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from cloud_server.api import problems
from cloud_server.api.policy import public
from cloud_server.dashboard import language
from cloud_server.dashboard.addresses import HTMX, PREFIX, SUFFIX, as_json, here, local_path
from cloud_server.dashboard.guard import FORM_TOKEN_FIELD, for_role, with_small_forms
from cloud_server.dashboard.notices import FIELD, notice, shown_notice
from cloud_server.operators.roles import Role
from shared.errors import FedloomError
from shared.limits import MAX_FORM_BYTES
from shared.wire.canonical import Json, sha256
from shared.wire.requests import JSON

P = ParamSpec("P")
HTML: Final = "text/html; charset=utf-8"
blueprint = Blueprint("console", __name__, url_prefix=PREFIX, template_folder="templates", static_folder=None)
LARGEST_NUMBER: Final = 2**31 - 1  # that every database's columns hold
_SIGN_IN_CODES: Final = frozenset({"not-signed-in", "session-expired"})
SECURITY_HEADERS: Final = {
    # Scripts and styles come from this server's files alone: what somebody smuggles into a page does not run.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_HSTS: Final = "max-age=31536000"


@blueprint.after_request
def secured(response: Response) -> Response:
    """Add the headers that every answer has."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    if request.is_secure:
        response.headers.setdefault("Strict-Transport-Security", _HSTS)
    return response


@blueprint.errorhandler(Exception)
def failed(error: Exception) -> AnyResponse:
    """Answer people with a page, programs with the problem document."""
    answer = problems.answer(error)
    if wants_json():
        return answer
    problem = json.loads(answer.get_data())
    if problem["code"] in _SIGN_IN_CODES and request.method in {"GET", "HEAD"}:
        where = url_for("console.sign_in", next=local_path(here()))
        if HTMX in request.headers:
            return Response(status=HTTPStatus.NO_CONTENT, headers={"HX-Redirect": where})
        return redirect(where, HTTPStatus.SEE_OTHER)
    page = "problem_part" if HTMX in request.headers else "problem"
    response = make_response(render(page, {"problem": problem}), answer.status_code)
    if "Retry-After" in answer.headers:
        response.headers["Retry-After"] = answer.headers["Retry-After"]
    return response


def failed_outside(error: HTTPException) -> AnyResponse:
    """Answer what no route of the pages takes as a page, and what is below another path as programs expect it."""
    if not request.path.startswith(f"{PREFIX}/"):
        return problems.answer(error)
    return secured(make_response(failed(error)))


def wants_json() -> bool:
    """Say whether a program asks."""
    best = request.accept_mimetypes.best_match(["text/html", JSON], default="text/html")
    return request.path.endswith(SUFFIX) or best == JSON


def render(name: str, values: Mapping[str, Json], **more: object) -> str:
    """Return a template with a page's values, and what all of them need."""
    chosen = language.chosen()
    who, address = g.get("operator"), str(more.pop("here_url", "")) or here()
    return render_template(
        f"{name}.html",
        page=values,
        t=chosen.text,
        say=chosen.sentences.say,
        explain=chosen.sentences.explain,
        lang=chosen.code,
        languages=language.LANGUAGES,
        me=who,
        form_token_field=FORM_TOKEN_FIELD,
        here_url=address,
        json_url=as_json(address),
        done=shown_notice(),
        **more,
    )


def show(name: str, values: Mapping[str, Json], **more: object) -> Response:
    """Answer a page; ``more`` is for its template alone."""
    if wants_json():
        return Response(json.dumps(values, allow_nan=False), content_type=JSON)
    return Response(render(name, values, **more), content_type=HTML)


def show_part(name: str, values: Mapping[str, Json], **more: object) -> Response:
    """Answer the part of a page that it asks for again and again: 304 while nothing changed."""
    response = Response(render(name, values, **more), content_type=HTML)
    response.set_etag(sha256(response.get_data()).hex()[:32])
    return cast("Response", response.make_conditional(request))


def done(key: str, where: str, **values: Json) -> AnyResponse:
    """Answer that something was done: go ``where`` and say so there, or JSON."""
    if wants_json():
        return Response(json.dumps({"done": key, **values}), content_type=JSON)
    said = notice(key, unquote(where.partition("?")[0]))
    return redirect(f"{where}{'&' if '?' in where else '?'}{FIELD}={said}", HTTPStatus.SEE_OTHER)


def refused(error: FedloomError, name: str, values: Mapping[str, Json], **more: object) -> Response:
    """Answer a form that was refused: why, and the page again with ``values`` that were typed."""
    answer = problems.answer(error)
    response = show(name, {**values, "problem": json.loads(answer.get_data())}, **more)
    response.status_code = answer.status_code
    return response


def page(rule: str, role: Role = "viewer") -> Callable[[Callable[P, AnyResponse]], Callable[P, AnyResponse]]:
    """Add a page, and the same as ``.json``."""

    def decorate(view: Callable[P, AnyResponse]) -> Callable[P, AnyResponse]:
        guarded = for_role(role)(view)
        blueprint.get(rule)(guarded)
        blueprint.get(rule + SUFFIX, endpoint=f"{view.__name__}_json")(guarded)
        return guarded

    return decorate


def action(
    rule: str, role: Role, *, body_bytes: int = MAX_FORM_BYTES
) -> Callable[[Callable[P, AnyResponse]], Callable[P, AnyResponse]]:
    """Add what a form of at most ``body_bytes`` does."""

    def decorate(view: Callable[P, AnyResponse]) -> Callable[P, AnyResponse]:
        guarded = for_role(role, body_bytes=body_bytes)(view)
        blueprint.post(rule)(guarded)
        return guarded

    return decorate


def everybody(rule: str, **options: Any) -> Callable[[Callable[P, AnyResponse]], Callable[P, AnyResponse]]:  # noqa: ANN401  # Flask's
    """Add a route for who is not signed in."""

    def decorate(view: Callable[P, AnyResponse]) -> Callable[P, AnyResponse]:
        marked = public(with_small_forms(view))
        blueprint.route(rule, **options)(marked)
        return marked

    return decorate


def whole_number(name: str, most: int = LARGEST_NUMBER) -> int | None:
    """Return a number of the query, at most ``most``, None where it has none; what is no number counts as none."""
    text = request.args.get(name, "")
    return min(int(text), most) if text.isascii() and text.isdigit() and len(text) < 16 else None
