"""Operators of an aggregator in this process: their browsers and programs.

signed_in = SignedIn(local)
browser = signed_in.browser("ada", "operator")
browser.post("/console/devices/device-1/revoke", reason="sold")
"""

from __future__ import annotations

import os
import re
from typing import Final

from werkzeug.test import TestResponse

from cloud_server.operators.accounts import AT_THE_MACHINE, By, add_operator
from cloud_server.operators.tokens import create_token
from tests.cloud_server.local import Local

BASE: Final = "https://aggregator.test"
PASSWORD: Final = "correct horse battery staple"  # noqa: S105  # of these tests alone
_FORM_TOKEN: Final = re.compile(r'name="form_token" value="([^"]*)"')


class Browser:
    """A browser with its cookies.

    Args:
        local: the aggregator.
    """

    def __init__(self, local: Local) -> None:
        self._client = local.app.test_client()

    def get(self, path: str, **headers: str) -> TestResponse:
        """Ask for a page."""
        return self._client.get(path, base_url=BASE, headers={"Accept": "text/html", **headers}, buffered=True)

    def post(self, path: str, token: str | None = None, **fields: str) -> TestResponse:
        """Send a form as the page has it, or with another token."""
        sent = {"form_token": self.form_token() if token is None else token, **fields}
        return self._client.post(path, base_url=BASE, data=sent, headers={"Accept": "text/html"})

    def form_token(self) -> str:
        """Return what the forms of the page have now."""
        return form_token(self.get("/console/tasks"))

    def sign_in(self, name: str, password: str = PASSWORD, **environ: str) -> TestResponse:
        """Fill in the form."""
        token = form_token(self.get("/console/sign-in"))
        sent = {"form_token": token, "name": name, "password": password, "next": "/console/overview"}
        return self._client.post(
            "/console/sign-in", base_url=BASE, data=sent, headers={"Accept": "text/html"}, environ_overrides=environ
        )

    def cookie(self, name: str) -> str | None:
        """Return a cookie's value."""
        found = self._client.get_cookie(name, domain="aggregator.test")
        return found.value if found else None

    def set_cookie(self, name: str, value: str) -> None:
        """Have a cookie."""
        self._client.set_cookie(name, value, domain="aggregator.test", secure=True)


def form_token(page: TestResponse) -> str:
    """Return what the forms of a page must bring."""
    found = _FORM_TOKEN.search(page.get_data(as_text=True))
    return found[1] if found else ""


class SignedIn:
    """An aggregator's operators.

    Args:
        local: the aggregator.
    """

    def __init__(self, local: Local) -> None:
        self.local = local

    def by(self) -> By:
        """Return who makes accounts."""
        return By(AT_THE_MACHINE, self.local.clock.now_s())

    def account(self, name: str, role: str, password: str | None = PASSWORD) -> None:
        """Make an account."""
        with self.local.parts.database.write() as connection:
            add_operator(connection, name, role, password, self.by())

    def browser(self, name: str, role: str) -> Browser:
        """Return the browser of a new operator who has signed in."""
        self.account(name, role)
        made = Browser(self.local)
        assert made.sign_in(name).status_code == 303
        return made

    def token(self, name: str, role: str, valid_s: float = 3600.0) -> str:
        """Return a new token of an operator."""
        with self.local.parts.database.write() as connection:
            return create_token(connection, name, role, "tests", valid_s, self.by(), random_bytes=os.urandom)
