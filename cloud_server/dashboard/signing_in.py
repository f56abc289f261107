"""Signing in and out, the switch of languages, and files that need no account."""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Final

from flask import Response, make_response, redirect, request, send_from_directory, url_for
from werkzeug.wrappers import Response as AnyResponse

from cloud_server.api.context import context
from cloud_server.dashboard.addresses import local_path
from cloud_server.dashboard.guard import SESSION_COOKIE, by, operator, sign_in_header
from cloud_server.dashboard.language import LANGUAGE_COOKIE, LANGUAGES
from cloud_server.dashboard.showing import action, everybody, render, wants_json
from cloud_server.operators import sessions
from cloud_server.operators.accounts import any_operator
from cloud_server.operators.passwords import password_fits
from shared.errors import Missing, Unauthenticated, UsageError
from shared.limits import SESSION_LASTS_S
from shared.wire.canonical import Json, sha256

FORM_COOKIE: Final = "__Host-fedloom-form"  # of who is not signed in: another site can neither read nor set it
STATIC: Final = Path(__file__).parent / "static"
_YEAR_S: Final = 31_536_000


@everybody("/sign-in")
def sign_in() -> AnyResponse:
    """Show the form; who a trusted proxy names is signed in at once."""
    where = local_path(request.args.get("next", ""))
    if name := sign_in_header().told():
        # Who is signed in already stays so: asking for a page writes nothing.
        return redirect(where, HTTPStatus.SEE_OTHER) if _has_session(name) else _signed_in(name, where)
    secret = request.cookies.get(FORM_COOKIE, "") or secrets.token_urlsafe(32)
    with context().database.read() as connection:
        first = not any_operator(connection)
    values: dict[str, Json] = {"next": where, "form_token": _form_token(secret), "first": first}
    response = make_response(render("sign_in", values))
    response.set_cookie(FORM_COOKIE, secret, secure=True, httponly=True, samesite="Lax")
    return response


@everybody("/sign-in", methods=["POST"], endpoint="sign_in_post")
def sign_in_post() -> AnyResponse:
    """Take a name and a password."""
    secret = request.cookies.get(FORM_COOKIE, "")
    # Without the cookie nothing fits: what a request lacks cannot be compared with what it says.
    sessions.require_form_token(_form_token(secret or secrets.token_hex()), request.form.get("form_token", ""))
    name, password = request.form.get("name", ""), request.form.get("password", "")
    parts = context()
    with parts.database.write() as connection:
        sessions.count_attempt(connection, request.remote_addr or "", name, parts.clock.now_s())
    with parts.database.read() as connection:
        stored = sessions.password_hash_of(connection, name)
    if not password_fits(stored, password):
        error = sessions.wrong_password()
        if wants_json():
            raise error
        values: dict[str, Json] = {
            "next": local_path(request.form.get("next", "")),
            "form_token": _form_token(secret),
            "name": name,
            "problem": dict(error.to_json()),
        }
        return make_response(render("sign_in", values), HTTPStatus.UNAUTHORIZED)
    return _signed_in(name, local_path(request.form.get("next", "")))


@action("/sign-out", "viewer")
def sign_out() -> AnyResponse:
    """End the session."""
    session = operator().session
    if session is None:
        raise UsageError("no-session", "A token has no session to end.", "revoke the token instead")
    parts = context()
    with parts.recorded() as connection:
        sessions.end_session(connection, session, by())
    response = redirect(url_for("console.sign_in"), HTTPStatus.SEE_OTHER)
    response.delete_cookie(SESSION_COOKIE, secure=True, httponly=True, samesite="Lax")
    return response


@everybody("/language/<code>")
def set_language(code: str) -> AnyResponse:
    """Keep a language and go back."""
    if code not in LANGUAGES:
        raise Missing("language-unknown", "There is no such language.", f"choose one of {', '.join(LANGUAGES)}")
    response = redirect(local_path(request.args.get("next", "")), HTTPStatus.SEE_OTHER)
    response.set_cookie(LANGUAGE_COOKIE, code, max_age=_YEAR_S, secure=True, httponly=True, samesite="Lax")
    return response


@everybody("/static/<path:name>")
def static_file(name: str) -> AnyResponse:
    """Return a script, a style or a picture."""
    response = send_from_directory(STATIC, name)
    # The address has the file's hash, so it never changes.
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if "v" in request.args else "no-cache"
    return response


@lru_cache(maxsize=64)
def static_version(name: str) -> str:
    """Return what stands for a static file's content in its address."""
    return sha256((STATIC / name).read_bytes()).hex()[:12]


def _form_token(secret: str) -> str:
    return sha256(f"fedloom sign-in form {secret}".encode()).hex()


def _has_session(name: str) -> bool:
    parts = context()
    try:
        with parts.database.read() as connection:
            secret = request.cookies.get(SESSION_COOKIE, "")
            session, _ = sessions.find_session(connection, secret, parts.clock.now_s())
    except Unauthenticated:
        return False
    return session.operator == name


def _signed_in(name: str, where: str) -> Response:
    parts = context()
    with parts.recorded() as connection:
        sessions.forget_session(connection, request.cookies.get(SESSION_COOKIE, ""))
        secret = sessions.begin_session(connection, name, request.remote_addr or "", parts.clock.now_s(), os.urandom)
    response = make_response(redirect(where, HTTPStatus.SEE_OTHER))
    response.set_cookie(
        SESSION_COOKIE, secret, max_age=int(SESSION_LASTS_S), secure=True, httponly=True, samesite="Lax"
    )
    return response
