"""Whose request it is, where proxies stand in front of the server: what they say is believed of named ones alone."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from shared.errors import UsageError
from shared.limits import IPV6_PREFIX_BITS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
FORWARDED_FOR: Final = "HTTP_X_FORWARDED_FOR"
FORWARDED_PROTO: Final = "HTTP_X_FORWARDED_PROTO"
PEER: Final = "fedloom.peer"  # in a request's environment: the connection's other end, whoever asks through it
MAX_REMEMBERED_ADDRESSES: Final = 10_000
log = logging.getLogger("fedloom.web")


@dataclass(frozen=True)
class Proxies:
    """The proxies whose word on others' addresses is taken.

    Attributes:
        networks: that they are in.
    """

    networks: tuple[Network, ...] = ()

    @classmethod
    def from_text(cls, text: str) -> Proxies:
        """Read addresses and networks separated by commas.

        Raises:
            UsageError: ``bad-proxy``.
        """
        try:
            return cls(tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()))
        except ValueError as error:
            raise UsageError(
                "bad-proxy",
                f"--trusted-proxy: {error}.",
                "give an address, like 127.0.0.1, or a network, like 10.0.0.0/8",
            ) from error

    def trusts(self, text: str) -> bool:
        """Say whether an address is a proxy's."""
        if not self.networks:
            return False
        address = _address(text)
        return address is not None and any(address in network for network in self.networks)

    def client(self, peer: str, forwarded_for: str) -> str:
        """Return the address of whoever asked.

        From the right on, each address was written by the one after it: the first that is no proxy's is the asker's,
        and whatever stands left of it is hearsay.

        Args:
            peer: the connection's other end.
            forwarded_for: the header's value, empty without one.
        """
        found = peer
        for text in reversed(forwarded_for.split(",")):
            address = _address(text)
            if address is None or not self.trusts(found):
                break
            found = str(address)
        return found


@lru_cache(MAX_REMEMBERED_ADDRESSES)
def limit_key(address: str) -> str:
    """Return what stands for an address where askers are counted: a whole network, where one asker has that."""
    found = _address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, IPV6_PREFIX_BITS), strict=False))
    return str(found or "")


def _address(text: str) -> Address | None:
    try:
        found = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, ipaddress.IPv6Address) else found


class BehindProxies:
    """Shows an application the asker's address and scheme in place of a trusted proxy's.

    Args:
        inner: the application.
        proxies: whom to believe.
    """

    def __init__(self, inner: WSGIApplication, proxies: Proxies) -> None:
        self._inner = inner
        self._proxies = proxies
        self._warned = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        peer, forwarded_for = environ.get("REMOTE_ADDR", ""), environ.get(FORWARDED_FOR, "")
        environ[PEER] = peer
        if self._proxies.trusts(peer):
            environ["REMOTE_ADDR"] = self._proxies.client(peer, forwarded_for)
            if environ.get(FORWARDED_PROTO) in {"http", "https"}:
                environ["wsgi.url_scheme"] = environ[FORWARDED_PROTO]
        elif forwarded_for and not self._warned:
            self._warned = True
            log.warning(
                "a request has X-Forwarded-For, but came from an address that --trusted-proxy does not name: if a proxy"
                " of yours sent it, name its address, for all who come through it count as one"
            )
        return self._inner(environ, start_response)
