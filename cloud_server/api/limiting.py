"""How much each address and each device may ask of this process; what is above is refused, and changes nothing.

An address pays for a request before anything is looked up, and gets it back once the request proved to be an enrolled
device's: so any number of devices may share an address, and strangers behind it may ask little. A device's own limit is
looked at after its signature, for else strangers could use it up, and before its counter is taken.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, cast

from flask import Flask, current_app, request

from cloud_server.proxies import BehindProxies, Proxies, limit_key
from cloud_server.token_buckets import Slots, TokenBuckets
from shared.errors import TooManyRequests, UsageError
from shared.limits import (
    BURST_S,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_LIMITED_ADDRESSES,
    MAX_LIMITED_DEVICES,
    MAX_UPLOADS_PER_ADDRESS,
    MAX_UPLOADS_PER_DEVICE,
    MIN_BUSY_RETRY_MS,
    REQUESTS_PER_ADDRESS_S,
    REQUESTS_PER_DEVICE_S,
)

EXTENSION: Final = "fedloom-limiter"
_REMEDY: Final = "it is tried again later"
_UPLOAD_RETRY_S: Final = 1.0  # an upload of others may be over then
_FASTEST_S: Final = 1e6
NO_PROXIES: Final = Proxies()


@dataclass(frozen=True)
class Limits:
    """What an operator sets.

    Attributes:
        requests_per_address_s: that prove nothing; 0 for no limit.
        requests_per_device_s: of one device; 0 for no limit.
        connections_per_address: at once; 0 for no limit.
        proxies: whose word on others' addresses is taken.
    """

    requests_per_address_s: float = REQUESTS_PER_ADDRESS_S
    requests_per_device_s: float = REQUESTS_PER_DEVICE_S
    connections_per_address: int = MAX_CONNECTIONS_PER_ADDRESS
    proxies: Proxies = NO_PROXIES

    def __post_init__(self) -> None:
        for rate_s in (self.requests_per_address_s, self.requests_per_device_s):
            if not (rate_s == 0 or 1 / BURST_S <= rate_s <= _FASTEST_S):
                raise UsageError(
                    "bad-limit",
                    f"A limit of {rate_s:g} requests a second is none.",
                    f"give {1 / BURST_S:g} or more, or 0 for no limit",
                )
        if not 0 <= self.connections_per_address <= MAX_CONNECTIONS:
            raise UsageError("bad-limit", f"--connections-per-address must lie between 0 and {MAX_CONNECTIONS}.")

    @classmethod
    def of(cls, options: dict[str, float | str]) -> Limits:
        """Undo ``options``."""
        return cls(
            float(options["requests_per_address_s"]),
            float(options["requests_per_device_s"]),
            int(options["connections_per_address"]),
            Proxies.from_text(str(options["trusted_proxies"])),
        )

    def options(self) -> dict[str, float | str]:
        """Return the settings as literals, for the command line of web processes."""
        return {
            "requests_per_address_s": self.requests_per_address_s,
            "requests_per_device_s": self.requests_per_device_s,
            "connections_per_address": self.connections_per_address,
            "trusted_proxies": ",".join(str(network) for network in self.proxies.networks),
        }


class Limiter:
    """Keeps count of who asked; one per process.

    Args:
        limits: what is allowed.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._addresses = _buckets(limits.requests_per_address_s, MAX_LIMITED_ADDRESSES)
        self._devices = _buckets(limits.requests_per_device_s, MAX_LIMITED_DEVICES)
        self._uploads = Slots()

    def charge_address(self, address: str) -> None:
        """Count a request that has proved nothing yet; raises TooManyRequests."""
        wait_s = self._addresses.take(limit_key(address), time.monotonic())
        if wait_s:
            raise _too_many("Too many requests came from this address that were no enrolled device's.", wait_s)

    def proven(self, address: str) -> None:
        """Take back what a request was charged, since an enrolled device is behind it."""
        self._addresses.give_back(limit_key(address), time.monotonic())

    def charge_device(self, device: str) -> None:
        """Count a request that a device signed; raises TooManyRequests."""
        wait_s = self._devices.take(device, time.monotonic())
        if wait_s:
            raise _too_many("This device sent too many requests.", wait_s)

    @contextmanager
    def upload(self, device: str, address: str) -> Iterator[None]:
        """Count an upload while the block runs; raises TooManyRequests before it runs."""
        limits = {device: MAX_UPLOADS_PER_DEVICE, limit_key(address): MAX_UPLOADS_PER_ADDRESS}
        with self._uploads.hold(limits) as full:
            if full is not None:
                who = "this device" if full == device else "this address"
                # Its counter is taken, but a device's last request may be repeated.
                raise _too_many(f"Too many uploads of {who} are under way.", _UPLOAD_RETRY_S)
            yield


def _buckets(rate_s: float, keys: int) -> TokenBuckets:
    return TokenBuckets(rate_s, max(1.0, rate_s * BURST_S), keys)


def _too_many(message: str, wait_s: float) -> TooManyRequests:
    return TooManyRequests(message, max(MIN_BUSY_RETRY_MS, math.ceil(1000 * wait_s)), _REMEDY)


def limit(app: Flask, limits: Limits) -> None:
    """Refuse requests of ``app`` that are too many, before anything else is done for them."""
    found = app.extensions[EXTENSION] = Limiter(limits)
    app.wsgi_app = BehindProxies(app.wsgi_app, limits.proxies)  # type: ignore[method-assign]  # as Flask says

    @app.before_request
    def charge() -> None:
        found.charge_address(request.remote_addr or "")


def limiter() -> Limiter:
    """Return the running application's."""
    return cast("Limiter", current_app.extensions[EXTENSION])
