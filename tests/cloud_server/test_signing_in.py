"""Operators sign in, are kept out after too many tries, and leave; proxies that are trusted may say who it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cloud_server.app import create_app
from cloud_server.dashboard.guard import SESSION_COOKIE, SignInHeader
from cloud_server.operators.accounts import add_operator, remove_operator, set_password, set_role
from cloud_server.operators.tokens import create_token
from cloud_server.proxies import Proxies
from shared.errors import Conflict, FedloomError, Refused, UsageError
from shared.limits import MAX_ACCOUNT_ATTEMPTS, MAX_ADDRESS_ATTEMPTS, SESSION_IDLE_S, SIGN_IN_WINDOW_S
from tests.cloud_server.local import Local
from tests.cloud_server.signed_in import BASE, PASSWORD, Browser, SignedIn, form_token
from tests.shared.refusals import refused


def test_who_signs_in_gets_a_session_that_scripts_and_other_hosts_cannot_read(local: Local) -> None:
    SignedIn(local).account("ada", "viewer")
    browser = Browser(local)
    assert browser.get("/console/overview").headers["Location"].startswith("/console/sign-in?next=/console/overview")
    answer = browser.sign_in("ada")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/console/overview")
    (cookie,) = [value for value in answer.headers.getlist("Set-Cookie") if value.startswith(SESSION_COOKIE)]
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Domain" not in cookie
    assert browser.get("/console/overview").status_code == 200
    secret = browser.cookie(SESSION_COOKIE)
    assert secret
    stored = local.rows("SELECT secret_sha256, form_token FROM operator_session")
    assert len(stored) == 1
    assert secret not in str(stored)


def test_signing_in_anew_and_signing_out_end_the_session_of_before(local: Local) -> None:
    browser = SignedIn(local).browser("ada", "viewer")
    first = browser.cookie(SESSION_COOKIE)
    browser.sign_in("ada")
    second = browser.cookie(SESSION_COOKIE)
    assert first != second
    browser.post("/console/sign-out")
    for secret in (first, second):
        assert secret
        browser.set_cookie(SESSION_COOKIE, secret)
        assert browser.get("/console/overview").status_code == 303
    actions = [row[0] for row in local.rows("SELECT action FROM audit WHERE actor = 'operator:ada' ORDER BY number")]
    assert actions == ["signed-in", "signed-in", "signed-out"]


@pytest.mark.parametrize(
    ("name", "password"), [("ada", "wrong"), ("bob", PASSWORD), ("nopass", ""), ("<b>", "x" * 999)]
)
def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(local: Local, name: str, password: str) -> None:
    SignedIn(local).account("ada", "viewer")
    SignedIn(local).account("nopass", "admin", None)
    answer = Browser(local).sign_in(name, password)
    assert answer.status_code == 401
    text = answer.get_data(as_text=True)
    assert "The name or the password is wrong." in text
    assert "<b>" not in text.replace("<b>The name", "")
    assert len(password) < 100 or password not in text


def test_tries_are_counted_by_account_from_wherever_they_come(local: Local) -> None:
    SignedIn(local).account("ada", "viewer")
    for number in range(MAX_ACCOUNT_ATTEMPTS):
        assert Browser(local).sign_in("ada", "wrong", REMOTE_ADDR=f"10.0.0.{number}").status_code == 401
    answer = Browser(local).sign_in("ada", REMOTE_ADDR="10.0.1.1")
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    local.clock.time_s += SIGN_IN_WINDOW_S + 1
    assert Browser(local).sign_in("ada", REMOTE_ADDR="10.0.1.1").status_code == 303
    assert not local.rows("SELECT * FROM sign_in_attempt")  # who signs in begins anew


def test_tries_are_counted_by_address_for_whichever_account(local: Local) -> None:
    SignedIn(local).account("ada", "viewer")
    for number in range(MAX_ADDRESS_ATTEMPTS):
        assert Browser(local).sign_in(f"user{number}", "wrong", REMOTE_ADDR=f"2001:db8::{number:x}").status_code == 401
    assert Browser(local).sign_in("ada", REMOTE_ADDR="2001:db8::ffff").status_code == 429  # one network
    assert Browser(local).sign_in("ada", REMOTE_ADDR="2001:db9::1").status_code == 303


def test_a_form_of_another_site_signs_nobody_in(local: Local) -> None:
    SignedIn(local).account("ada", "viewer")
    client = local.app.test_client()
    of_another_browser = form_token(Browser(local).get("/console/sign-in"))
    for token in ("", "-", of_another_browser):
        sent = {"name": "ada", "password": PASSWORD, "form_token": token}
        assert client.post("/console/sign-in", base_url=BASE, data=sent).status_code == 403
    assert not local.rows("SELECT * FROM operator_session")


@pytest.mark.parametrize(
    "where", ["https://evil.test/", "//evil.test", "/\\evil.test", "/console//evil", "javascript:alert(1)", "/v1/root"]
)
def test_signing_in_leads_to_pages_of_this_server_alone(local: Local, where: str) -> None:
    SignedIn(local).account("ada", "viewer")
    browser = Browser(local)
    page = browser.get(f"/console/language/en?next={where}")
    assert page.headers["Location"] == "/console/overview"


def test_a_new_password_ends_every_session(local: Local) -> None:
    signed_in = SignedIn(local)
    browser = signed_in.browser("ada", "viewer")
    with local.parts.database.write() as connection:
        set_password(connection, "ada", "another long password", signed_in.by())
    assert browser.get("/console/overview").status_code == 303
    assert browser.sign_in("ada").status_code == 401
    assert browser.sign_in("ada", "another long password").status_code == 303


def test_a_changed_role_holds_from_the_next_request_on(local: Local) -> None:
    signed_in = SignedIn(local)
    signed_in.account("root", "admin")
    browser = signed_in.browser("ada", "admin")
    assert browser.get("/console/operators").status_code == 200
    with local.parts.database.write() as connection:
        set_role(connection, "ada", "viewer", signed_in.by())
    assert browser.get("/console/operators").status_code == 403
    assert "needs the role admin" in browser.get("/console/operators").get_data(as_text=True)


def test_accounts_keep_to_their_rules(local: Local) -> None:
    signed_in = SignedIn(local)
    signed_in.account("ada", "admin")
    signed_in.account("bob", "viewer")
    with local.parts.database.write() as connection:
        by = signed_in.by()
        changes: tuple[tuple[str, type[FedloomError], Callable[[], None]], ...] = (
            ("bad-name", UsageError, lambda: add_operator(connection, "Ada <b>", "viewer", PASSWORD, by)),
            ("bad-role", UsageError, lambda: add_operator(connection, "eve", "root", PASSWORD, by)),
            ("bad-password", UsageError, lambda: add_operator(connection, "eve", "viewer", "short", by)),
            ("operator-exists", Conflict, lambda: add_operator(connection, "bob", "viewer", PASSWORD, by)),
            ("last-admin", Conflict, lambda: remove_operator(connection, "ada", by)),
            ("last-admin", Conflict, lambda: set_role(connection, "ada", "operator", by)),
        )
        for code, kind, change in changes:
            with refused(code, kind):
                change()
        with refused("role-too-low", Refused):
            create_token(connection, "bob", "operator", "", 60, by, random_bytes=bytes)
    assert all(hashed.startswith("$argon2id$") for (hashed,) in local.rows("SELECT password_hash FROM operator"))


def test_a_trusted_proxys_word_signs_in_and_nobody_elses_does(local: Local) -> None:
    signed_in = SignedIn(local)
    signed_in.account("ada", "viewer", None)
    header = SignInHeader("X-Forwarded-User", Proxies.from_text("10.9.0.0/16"))
    local.app = create_app(local.parts, sign_in=header)

    def ask(browser: Browser, address: str, name: str, path: str = "/console/sign-in") -> int:
        return browser._client.get(
            path, base_url=BASE, headers={"X-Forwarded-User": name}, environ_overrides={"REMOTE_ADDR": address}
        ).status_code

    assert ask(Browser(local), "10.8.0.1", "ada") == 200  # the form
    assert ask(Browser(local), "10.9.0.1", "eve") == 403
    browser = Browser(local)
    assert ask(browser, "10.9.0.1", "ada") == 303
    assert ask(browser, "10.9.0.1", "ada", "/console/overview") == 200
    assert ask(browser, "10.9.0.1", "eve", "/console/overview.json") == 401  # somebody else at the same browser
    assert not local.rows("SELECT * FROM operator_session WHERE operator <> 'ada'")


def test_who_a_proxy_names_is_signed_in_once(local: Local) -> None:
    """Asking for the door again makes neither a session nor an audit entry, unless there is none to go on."""
    signed_in = SignedIn(local)
    for name in ("ada", "bob"):
        signed_in.account(name, "viewer", None)
    local.app = create_app(local.parts, sign_in=SignInHeader("X-Forwarded-User", Proxies.from_text("10.9.0.0/16")))
    browser = Browser(local)

    def names(name: str) -> list[str]:
        """Come as somebody and return whose sessions there are, one entry each."""
        answer = browser._client.get(
            "/console/sign-in?next=/console/tasks",
            base_url=BASE,
            headers={"X-Forwarded-User": name},
            environ_overrides={"REMOTE_ADDR": "10.9.0.1"},
        )
        assert (answer.status_code, answer.headers["Location"]) == (303, "/console/tasks")
        entries = local.rows("SELECT COUNT(*) FROM audit WHERE action = 'signed-in'")
        sessions = [str(one) for (one,) in local.rows("SELECT operator FROM operator_session ORDER BY began_s")]
        assert len(sessions) <= entries[0][0]
        return [*sessions, str(entries[0][0])]

    assert [names("ada") for _ in range(3)] == [["ada", "1"]] * 3
    assert names("bob") == ["bob", "2"]  # another person at the same browser; the session before is gone
    local.clock.time_s += SESSION_IDLE_S + 1
    assert names("bob") == ["bob", "3"]
    assert names("bob") == ["bob", "3"]


@pytest.mark.parametrize(("name", "proxies"), [("X-User", ""), ("", "10.0.0.1"), ("X User\n", "10.0.0.1")])
def test_a_header_without_its_proxies_is_refused(name: str, proxies: str) -> None:
    with refused("bad-sign-in", UsageError):
        SignInHeader(name, Proxies.from_text(proxies))
