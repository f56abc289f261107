"""Whose address a request has: the connection's, unless a proxy that the operator named says whose it is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from cloud_server.proxies import BehindProxies, Proxies, limit_key
from tests.shared.refusals import refused

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

INNER, OUTER = "127.0.0.1", "10.1.2.3"
NAMED = Proxies.from_text(f"{INNER}, 10.0.0.0/8,::1")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        (INNER, "198.51.100.7", "198.51.100.7"),
        (INNER, "", INNER),
        (INNER, f"198.51.100.7, {OUTER}", "198.51.100.7"),  # two proxies
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:127.0.0.1", "198.51.100.7", "198.51.100.7"),
        # What a client wrote itself stands left of what the proxy wrote.
        (INNER, "203.0.113.1, 198.51.100.7", "198.51.100.7"),
        (INNER, f"{INNER}, 198.51.100.7", "198.51.100.7"),
        (INNER, "203.0.113.1,, 198.51.100.7", "198.51.100.7"),
        # A proxy that writes no address has none believed.
        (INNER, "198.51.100.7, unknown", INNER),
        (INNER, f"nonsense, {OUTER}", OUTER),
        # Nobody else is believed.
        ("198.51.100.7", "203.0.113.1", "198.51.100.7"),
        ("198.51.100.7", INNER, "198.51.100.7"),
    ],
)
def test_the_rightmost_address_that_is_no_proxys(peer: str, forwarded_for: str, client: str) -> None:
    assert NAMED.client(peer, forwarded_for) == client
    assert Proxies().client(peer, forwarded_for) == peer


@pytest.mark.parametrize("text", ["localhost", "10.0.0.1/8", "1.2.3", "10.0.0.0/33", "127.0.0.1;::1"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with refused("bad-proxy"):
        Proxies.from_text(text)


def test_a_network_of_addresses_counts_as_one() -> None:
    assert limit_key("2001:db8:1:2::3") == limit_key("2001:db8:1:2:ffff::4") != limit_key("2001:db8:1:3::3")
    assert limit_key("::ffff:198.51.100.7") == limit_key("198.51.100.7") != limit_key("198.51.100.8")
    assert limit_key("nonsense") == limit_key("")


def seen(proxies: Proxies, **environ: str) -> dict[str, Any]:
    """Return what an application behind ``proxies`` is shown."""
    shown: dict[str, Any] = {}

    def application(found: WSGIEnvironment, _start: StartResponse) -> list[bytes]:
        shown.update(found)
        return []

    BehindProxies(application, proxies)(
        {"REMOTE_ADDR": INNER, "wsgi.url_scheme": "https", **environ}, lambda *_: lambda _data: None
    )
    return shown


def test_address_and_scheme_are_taken_from_a_named_proxy_alone() -> None:
    told = {"HTTP_X_FORWARDED_FOR": "198.51.100.7", "HTTP_X_FORWARDED_PROTO": "http"}
    found = seen(NAMED, **told)
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == ("198.51.100.7", "http")
    found = seen(Proxies(), **told)
    assert (found["REMOTE_ADDR"], found["wsgi.url_scheme"]) == (INNER, "https")
    assert seen(NAMED, HTTP_X_FORWARDED_PROTO="javascript")["wsgi.url_scheme"] == "https"


def test_a_proxy_that_nobody_named_is_pointed_out_once(caplog: pytest.LogCaptureFixture) -> None:
    wrapped = BehindProxies(lambda _environ, _start: [], Proxies())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            wrapped({"REMOTE_ADDR": INNER, "HTTP_X_FORWARDED_FOR": "198.51.100.7"}, lambda *_: lambda _data: None)
    assert len(caplog.records) == 1
    assert "--trusted-proxy" in caplog.text
    assert "198.51.100.7" not in caplog.text
