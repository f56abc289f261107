"""Who asks for a page: a browser's session, or a program's token; and whether that is enough for the route."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from flask import current_app, g, request

from cloud_server.api.context import context
from cloud_server.api.limiting import limiter
from cloud_server.api.policy import stating
from cloud_server.operators import roles, sessions, tokens
from cloud_server.operators.accounts import By, actor_of
from cloud_server.operators.roles import Role
from cloud_server.proxies import PEER, Proxies
from shared.errors import Unauthenticated, UsageError
from shared.limits import MAX_FORM_BYTES, MAX_FORM_FIELDS

P = ParamSpec("P")
R = TypeVar("R")
SESSION_COOKIE: Final = "__Host-fedloom-session"  # the prefix: for this host alone, and over TLS alone
FORM_TOKEN_HEADER: Final = "X-Form-Token"  # noqa: S105  # the header's name
FORM_TOKEN_FIELD: Final = "form_token"  # noqa: S105  # the field's name
LIVE_HEADER: Final = "X-Live"  # of requests that a page sends by itself: these are no use of a session
EXTENSION: Final = "fedloom-dashboard"
_SAFE: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True)
class SignInHeader:
    """A proxy's word for who somebody is, such as one that speaks OpenID Connect.

    Attributes:
        name: of the header, empty where there is no such proxy.
        proxies: whose word is taken; of anybody else the header means nothing.
    """

    name: str = ""
    proxies: Proxies = Proxies()  # noqa: RUF009  # immutable

    def __post_init__(self) -> None:
        if bool(self.name) != bool(self.proxies.networks):
            raise UsageError(
                "bad-sign-in",
                "--sign-in-header and --sign-in-proxy go together.",
                "give the header's name and the address of the proxy that sets it, or neither",
            )
        if not all(part.isascii() and part.isalnum() for part in self.name.split("-") if self.name):
            raise UsageError("bad-sign-in", "--sign-in-header is no header's name.", "write it like X-Forwarded-User")

    def options(self) -> dict[str, float | str]:
        """Return the settings as literals, for the command line of web processes."""
        networks = ",".join(str(network) for network in self.proxies.networks)
        return {"sign_in_header": self.name, "sign_in_proxies": networks}

    def told(self) -> str:
        """Return whom the proxy names in the current request, empty if no such proxy sent it."""
        if not self.name or not self.proxies.trusts(request.environ.get(PEER, "")):
            return ""
        return request.headers.get(self.name, "")


@dataclass(frozen=True)
class Operator:
    """Who sent the current request.

    Attributes:
        name: of the account.
        role: of the account, or of its token if that is less.
        session: of a browser, None for a token.
        token: its id, empty for a session.
    """

    name: str
    role: Role
    session: sessions.Session | None
    token: str = ""

    @property
    def form_token(self) -> str:
        """What forms must bring."""
        return self.session.form_token if self.session else ""

    def may(self, role: Role) -> bool:
        """Say whether the operator may do what needs ``role``."""
        return roles.allows(self.role, role)


def for_role(role: Role, *, body_bytes: int = MAX_FORM_BYTES) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let only operators call a route who may do what needs ``role``; what changes something brings a form's token.

    A form of more than ``body_bytes`` is refused, of whomever.
    """

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @stating(role)
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            _limit_forms(body_bytes)
            found = g.operator = _authenticate()
            roles.require(found.role, role)
            if request.method not in _SAFE and found.session:
                given = request.headers.get(FORM_TOKEN_HEADER) or request.form.get(FORM_TOKEN_FIELD, "")
                sessions.require_form_token(found.session.form_token, given)
            return view(*args, **kwargs)

        return guarded

    return decorate


def with_small_forms(view: Callable[P, R]) -> Callable[P, R]:
    """Let forms be small that come from anybody."""

    @wraps(view)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        _limit_forms(MAX_FORM_BYTES)
        return view(*args, **kwargs)

    return limited


def _limit_forms(body_bytes: int) -> None:
    request.max_content_length = body_bytes
    request.max_form_parts = MAX_FORM_FIELDS


def operator() -> Operator:
    """Return who sent the current request."""
    found = g.operator
    if not isinstance(found, Operator):
        raise TypeError("the route has no role")
    return found


def by() -> By:
    """Return who does what the current request does, for the audit log."""
    who = operator()
    return By(actor_of(who.name, who.token), context().clock.now_s())


def sign_in_header() -> SignInHeader:
    """Return the running application's."""
    found = current_app.extensions[EXTENSION]
    if not isinstance(found, SignInHeader):
        raise TypeError("the application has no pages")
    return found


def _authenticate() -> Operator:
    parts = context()
    now_s = parts.clock.now_s()
    kind, _, text = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        with parts.database.read() as connection:
            name, role, token = tokens.owner_of(connection, text.strip(), now_s)
        found = Operator(name, role, None, token)
    else:
        with parts.database.read() as connection:
            session, to_note = sessions.find_session(connection, request.cookies.get(SESSION_COOKIE, ""), now_s)
        told = sign_in_header().told()
        if told and told != session.operator:
            raise Unauthenticated("not-signed-in", "The proxy names somebody else.", "sign in again")
        if to_note and LIVE_HEADER not in request.headers:
            with parts.database.write() as connection:
                sessions.note_use(connection, session, now_s)
        found = Operator(session.operator, session.role, session)
    limiter().proven(request.remote_addr or "")
    return found
