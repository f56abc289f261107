"""Who may call which of the pages' routes, generated from the URL map: a route that is added is asked here, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from cloud_server.api.policy import Route, routes
from cloud_server.dashboard.guard import SESSION_COOKIE
from cloud_server.operators.accounts import set_role
from cloud_server.operators.roles import ROLES
from cloud_server.operators.tokens import revoke_token
from shared.limits import SESSION_IDLE_S, SESSION_LASTS_S
from shared.wire.requests import PROBLEM
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.signed_in import BASE, Browser, SignedIn
from tests.cloud_server.test_policies import UNKNOWN, VALUES

Headers = dict[str, str]
JSON: Final = {"Accept": "application/json"}


def of_operators(local: Local) -> list[Route]:
    found = [route for route in routes(local.app) if route.policy in ROLES]
    assert len(found) >= 35
    assert {route.policy for route in found} == set(ROLES)
    return found


def status_and_code(local: Local, route: Route, headers: Headers) -> tuple[int, str]:
    """Ask, as a program does, and return the answer's status and its problem's code."""
    client = local.app.test_client(use_cookies=False)
    path = route.path.format(**VALUES)
    with client.open(path, method=route.method, base_url=BASE, headers=JSON | headers) as response:
        is_problem = response.content_type == PROBLEM
        return response.status_code, response.get_json(force=True)["code"] if is_problem else ""


@pytest.fixture
def signed_in(local: Local) -> SignedIn:
    """Return an aggregator with a task, a device and an operator of each role."""
    local.create(small_plan("point"))
    local.enrol(small_plan("point"), 1)
    made = SignedIn(local)
    for role in ROLES:
        made.account(role, role)
    return made


def nothing(_signed_in: SignedIn) -> Headers:
    return {}


def signed_by_a_device(signed_in: SignedIn) -> Headers:
    member = signed_in.local.enrol(small_plan("point"), 1)[0]
    return member.transport.signed("GET", "/console/overview", b"")


def strangers_signature(_signed_in: SignedIn) -> Headers:
    return UNKNOWN


def made_up_session(_signed_in: SignedIn) -> Headers:
    return {"Cookie": f"{SESSION_COOKIE}=" + "A" * 43}


def garbled_session(_signed_in: SignedIn) -> Headers:
    return {"Cookie": f"{SESSION_COOKIE}=<script>"}


def session_of(signed_in: SignedIn) -> Headers:
    browser = Browser(signed_in.local)
    browser.sign_in("admin")
    return {"Cookie": f"{SESSION_COOKIE}={browser.cookie(SESSION_COOKIE)}"}


def idle_session(signed_in: SignedIn) -> Headers:
    headers = session_of(signed_in)
    signed_in.local.clock.time_s += SESSION_IDLE_S
    return headers


def old_session(signed_in: SignedIn) -> Headers:
    """A session that was used all the time, and is over all the same."""
    headers = session_of(signed_in)
    client = signed_in.local.app.test_client(use_cookies=False)
    begun_s = signed_in.local.clock.time_s
    while signed_in.local.clock.time_s < begun_s + SESSION_LASTS_S - 1000:
        signed_in.local.clock.time_s += 1000
        assert client.get("/console/tasks", base_url=BASE, headers=headers).status_code == 200
    signed_in.local.clock.time_s = begun_s + SESSION_LASTS_S
    return headers


def revoked_token(signed_in: SignedIn) -> Headers:
    text = signed_in.token("admin", "admin")
    with signed_in.local.parts.database.write() as connection:
        revoke_token(connection, text.split(".")[1], signed_in.by())
    return {"Authorization": f"Bearer {text}"}


def expired_token(signed_in: SignedIn) -> Headers:
    text = signed_in.token("admin", "admin", valid_s=60)
    signed_in.local.clock.time_s += 60
    return {"Authorization": f"Bearer {text}"}


def altered_token(signed_in: SignedIn) -> Headers:
    text = signed_in.token("admin", "admin")
    return {"Authorization": f"Bearer {text[:-2]}{'AA' if text[-2:] != 'AA' else 'BB'}"}


OUTSIDERS: Final[dict[Callable[[SignedIn], Headers], str]] = {
    nothing: "not-signed-in",
    signed_by_a_device: "not-signed-in",
    strangers_signature: "not-signed-in",
    made_up_session: "not-signed-in",
    garbled_session: "not-signed-in",
    idle_session: "session-expired",
    old_session: "session-expired",
    revoked_token: "bad-token",
    expired_token: "bad-token",
    altered_token: "bad-token",
}


@pytest.mark.parametrize("who", OUTSIDERS, ids=lambda who: who.__name__)
def test_no_outsider_is_answered(signed_in: SignedIn, who: Callable[[SignedIn], Headers]) -> None:
    headers = who(signed_in)
    before = signed_in.local.rows("SELECT state FROM device"), signed_in.local.rows("SELECT name, role FROM operator")
    for route in of_operators(signed_in.local):
        assert status_and_code(signed_in.local, route, headers) == (401, OUTSIDERS[who]), route
    after = signed_in.local.rows("SELECT state FROM device"), signed_in.local.rows("SELECT name, role FROM operator")
    assert after == before


@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_its_own_routes_and_those_of_lower_roles(signed_in: SignedIn, role: str) -> None:
    headers = {"Authorization": f"Bearer {signed_in.token(role, role)}"}
    for route in of_operators(signed_in.local):
        status, code = status_and_code(signed_in.local, route, headers)
        allowed = ROLES.index(role) >= ROLES.index(route.policy)
        assert (code == "role-too-low") == (not allowed), (route, status, code)
        assert status < 500, (route, code)
        assert status not in {401, 403} or not allowed, (route, code)


def test_a_token_does_what_its_owner_may_at_most(signed_in: SignedIn) -> None:
    """A token made when its owner was an admin is a viewer's once the owner is one."""
    headers = {"Authorization": f"Bearer {signed_in.token('operator', 'operator')}"}
    codes = next(
        route for route in of_operators(signed_in.local) if (route.path, route.method) == ("/console/codes", "POST")
    )
    assert status_and_code(signed_in.local, codes, headers)[1] != "role-too-low"
    with signed_in.local.parts.database.write() as connection:
        set_role(connection, "operator", "viewer", signed_in.by())
    assert status_and_code(signed_in.local, codes, headers) == (403, "role-too-low")


def test_no_route_of_devices_takes_an_operators_word(signed_in: SignedIn) -> None:
    headers = {"Authorization": f"Bearer {signed_in.token('admin', 'admin')}"} | session_of(signed_in)
    checked = [route for route in routes(signed_in.local.app) if route.policy == "device"]
    assert len(checked) >= 13
    for route in checked:
        assert status_and_code(signed_in.local, route, headers) == (401, "unsigned-request"), route


def test_every_form_needs_its_sessions_token(signed_in: SignedIn) -> None:
    """Another site can make a browser send a form, with its cookie; it cannot know the token."""
    headers = session_of(signed_in)
    forms = [route for route in of_operators(signed_in.local) if route.method == "POST"]
    assert len(forms) >= 8
    for route in forms:
        assert status_and_code(signed_in.local, route, headers) == (403, "stale-form"), route
        other = headers | {"X-Form-Token": "A" * 43}
        assert status_and_code(signed_in.local, route, other) == (403, "stale-form"), route
