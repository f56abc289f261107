"""Who answers instead of the server: a network's sign-in page, another server, or nobody who says so.

A network that wants its guests to sign in first answers in the server's place: with a page, or by sending elsewhere.
Over TLS its certificate is refused before that is seen, so whoever is there is asked once more without looking at the
certificate, for the root document, which is public; nothing in that question says which device asks. Where nobody
answers at all, the server's port for web pages is asked, as sign-in pages begin there.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InsecureRequestWarning, SSLError

from edge_client.problems import SignInPage, not_the_server
from edge_client.texts import English
from shared.errors import TryLater
from shared.wire.canonical import sha256
from shared.wire.requests import ROOT

LOOK_TIMEOUT_S: Final = 5.0  # for each step of a look
LOOK_BYTES: Final = 64 * 1024  # of what answers
WEB_PORT: Final = 80
_PAGE: Final = "text/html"


@dataclass(frozen=True)
class _Seen:
    """What answered a look."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def captive_portal() -> SignInPage:
    """Return the error for a network's sign-in page in the server's place."""
    return SignInPage("captive-portal", English("error.captive-portal"), English("error.captive-portal-try"))


def is_sign_in(status: int, headers: Mapping[str, str], body: bytes, url: str) -> bool:
    """Say whether an answer in the place of the one of ``url`` can be a network's sign-in page.

    The server never sends pages to devices, and never sends them elsewhere. A page that reports an error is one of a
    proxy that finds no server behind it.

    Args:
        status: of HTTP.
        headers: of the answer.
        body: how it begins.
        url: that was asked.
    """
    if status == HTTPStatus.NETWORK_AUTHENTICATION_REQUIRED:
        return True
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        try:
            there = urlsplit(headers.get("Location", "")).hostname
        except ValueError:  # no address that the server would name
            return True
        return there is not None and there != urlsplit(url).hostname
    page = headers.get("Content-Type", "").lower().startswith(_PAGE) or body.lstrip()[:1] == b"<"
    return status < HTTPStatus.MULTIPLE_CHOICES and page


def who_answers(url: str, error: Exception, fingerprint: bytes | None) -> TryLater | None:
    """Ask whoever is where the server should be, and return what it is; None where it does not show.

    Args:
        url: of the server.
        error: with which a request to it failed.
        fingerprint: of the pinned root document, None where that is not known yet.
    """
    if not isinstance(error, SSLError):
        seen = _look(f"http://{urlsplit(url).hostname}:{WEB_PORT}/")
        # A page there may be the server's own.
        return captive_portal() if seen and seen.status >= _ELSEWHERE and _signs_in(seen, url) else None
    seen = _look(url + ROOT) or _look(f"http{url.removeprefix('https')}{ROOT}")
    if seen is None:
        return None
    if _signs_in(seen, url):
        return captive_portal()
    if fingerprint is not None and seen.body.startswith(b"{") and sha256(seen.body) != fingerprint:
        return not_the_server(
            f"another server is at {url}, with a root document of its own",
            remedy="ask the operator whether it was set up anew; then `fedloom-agent leave` and a new code",
        )
    return None


_ELSEWHERE: Final = HTTPStatus.MULTIPLE_CHOICES


def _signs_in(seen: _Seen, url: str) -> bool:
    return is_sign_in(seen.status, seen.headers, seen.body, url)


def _look(url: str) -> _Seen | None:
    """Return what answers a question without any secret, whoever it is."""
    pool = urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False, maxsize=1, retries=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureRequestWarning)
            response = pool.urlopen("GET", url, redirect=False, preload_content=False, timeout=LOOK_TIMEOUT_S)
        with response:
            return _Seen(response.status, response.headers, response.read1(LOOK_BYTES))
    except (HTTPError, OSError):
        return None
    finally:
        pool.clear()
