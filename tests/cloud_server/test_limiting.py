"""Too many requests: one named problem that says when to come back, and nothing that has changed."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from cloud_server.api import limiting
from cloud_server.api.limiting import Limits
from cloud_server.app import create_app
from cloud_server.proxies import Proxies
from shared.errors import TooManyRequests
from shared.limits import MIN_BUSY_RETRY_MS
from shared.wire.messages import CheckIn
from shared.wire.requests import CHECK_IN, ENROL, PROBLEM, ROOT
from tests.cloud_server.local import Local, small_plan
from tests.cloud_server.members import Member
from tests.shared.refusals import refused

BURST = 20  # of one request a second
BODY = CheckIn(-1, 0).to_bytes()


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the time that the limits are counted in, to be changed."""
    now_s = [100.0]

    class Time:
        @staticmethod
        def monotonic() -> float:
            return now_s[0]

    monkeypatch.setattr(limiting, "time", Time)
    return now_s


def member(local: Local) -> Member:
    """Return an enrolled device."""
    plan = small_plan("point")
    local.create(plan)
    local.settle()
    return local.enrol(plan, 1)[0]


def app_with(local: Local, per_address_s: float = 0.0, per_device_s: float = 0.0, trusted: str = "") -> Flask:
    return create_app(local.parts, "local", Limits(per_address_s, per_device_s, 0, Proxies.from_text(trusted)))


def check_in(app: Flask, headers: dict[str, str], address: str = "198.51.100.7", **more: str) -> TestResponse:
    environ = {"REMOTE_ADDR": address}
    return app.test_client().post(CHECK_IN, data=BODY, headers=headers | more, environ_overrides=environ)


def assert_too_many(response: TestResponse, retry_after_ms: int) -> None:
    assert (response.status_code, response.content_type) == (429, PROBLEM)
    problem: dict[str, Any] = response.get_json(force=True)
    assert problem["code"] == "too-many-requests"
    assert problem["retry_after_ms"] == retry_after_ms
    assert int(response.headers["Retry-After"]) == -(-retry_after_ms // 1000)


def devices(local: Local) -> list[tuple[Any, ...]]:
    return local.rows("SELECT * FROM device ORDER BY 1")


def test_a_device_that_asks_too_much_is_told_when_to_come_back(local: Local, seconds: list[float]) -> None:
    device = member(local)
    app = app_with(local, per_device_s=1.0)
    for _ in range(BURST):
        assert check_in(app, device.transport.signed("POST", CHECK_IN, BODY)).status_code == 200
    before, late = devices(local), device.transport.signed("POST", CHECK_IN, BODY)
    for _ in range(3):
        assert_too_many(check_in(app, late), 1000)
    assert devices(local) == before  # its counter above all
    seconds[0] += 0.9
    assert_too_many(check_in(app, late), MIN_BUSY_RETRY_MS)
    seconds[0] += 0.2
    assert check_in(app, late).status_code == 200  # the very same request
    assert check_in(app, device.transport.signed("POST", CHECK_IN, BODY)).status_code == 429


def test_nobody_can_use_up_a_devices_requests(local: Local, seconds: list[float]) -> None:
    device = member(local)
    app = app_with(local, per_device_s=1.0)
    forged = device.transport.signed("POST", CHECK_IN, BODY) | {"Fedloom-Counter": "999"}
    for _ in range(3 * BURST):
        assert check_in(app, forged).status_code == 401
    assert check_in(app, device.transport.signed("POST", CHECK_IN, BODY)).status_code == 200
    assert seconds == [100.0]


def test_a_fleet_behind_one_address_is_not_held_up(local: Local, seconds: list[float]) -> None:
    device = member(local)
    app = app_with(local, per_address_s=1.0)
    for _ in range(5 * BURST):
        assert check_in(app, device.transport.signed("POST", CHECK_IN, BODY)).status_code == 200
    assert seconds == [100.0]


@pytest.mark.usefixtures("seconds")
def test_a_device_beyond_its_limit_counts_as_a_stranger(local: Local) -> None:
    device = member(local)
    app = app_with(local, per_address_s=1.0, per_device_s=1.0)
    statuses = [check_in(app, device.transport.signed("POST", CHECK_IN, BODY)).status_code for _ in range(4 * BURST)]
    assert statuses == [200] * BURST + [429] * 3 * BURST
    assert app.test_client().get(ROOT, environ_overrides={"REMOTE_ADDR": "198.51.100.7"}).status_code == 429


@pytest.mark.parametrize("target", [CHECK_IN, ENROL, "/v1/nothing"])
def test_a_flood_of_strangers_costs_no_look_into_the_database(
    local: Local, seconds: list[float], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = member(local)
    app = app_with(local, per_address_s=1.0)

    def flood(address: str) -> TestResponse:
        return app.test_client().post(target, data=b"{}", environ_overrides={"REMOTE_ADDR": address})

    for _ in range(BURST):
        assert flood("203.0.113.1").status_code in {400, 401, 404}
    with monkeypatch.context() as broken:
        broken.setattr(local.parts.database, "read", None)
        broken.setattr(local.parts.database, "write", None)
        for _ in range(BURST):
            assert_too_many(flood("203.0.113.1"), 1000)
    # Others are served; who shares the address shares the fate, until a second has passed.
    assert check_in(app, device.transport.signed("POST", CHECK_IN, BODY)).status_code == 200
    signed = device.transport.signed("POST", CHECK_IN, BODY)
    assert_too_many(check_in(app, signed, address="203.0.113.1"), 1000)
    seconds[0] += 1.0
    assert check_in(app, signed, address="203.0.113.1").status_code == 200


@pytest.mark.usefixtures("seconds")
def test_addresses_are_what_a_named_proxy_says(local: Local) -> None:
    app = app_with(local, per_address_s=1.0, trusted="127.0.0.1")
    unnamed = app_with(local, per_address_s=1.0)

    def ask(asked: Flask, forwarded_for: str) -> int:
        return asked.test_client().get(ROOT, headers={"X-Forwarded-For": forwarded_for}).status_code

    for _ in range(BURST):
        assert ask(app, "203.0.113.1") == ask(unnamed, "203.0.113.1") == 200
    assert ask(app, "203.0.113.1") == 429
    assert ask(app, "203.0.113.2, 203.0.113.1") == 429  # no escape by writing more
    assert ask(app, "203.0.113.2") == 200
    assert ask(unnamed, "203.0.113.2") == 429


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
def test_metrics_stay_this_machines_whatever_a_header_says(local: Local, trusted: str) -> None:
    app = app_with(local, trusted=trusted)

    def ask(peer: str = "127.0.0.1", **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        environ = {"REMOTE_ADDR": peer}
        return app.test_client().get("/metrics", headers=named, environ_overrides=environ).status_code

    assert ask() == 200
    assert ask(X_Forwarded_For="198.51.100.7") == 403
    assert ask(X_Forwarded_For="127.0.0.1") == 403
    assert ask(Forwarded="for=127.0.0.1") == 403
    assert ask(peer="198.51.100.7", X_Forwarded_For="127.0.0.1") == 403


def test_uploads_at_once_are_limited_by_device_and_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "MAX_UPLOADS_PER_ADDRESS", 3)
    monkeypatch.setattr(limiting, "MAX_UPLOADS_PER_DEVICE", 2)
    counted = limiting.Limiter(Limits())

    def more(device: str, address: str) -> bool:
        with counted.upload(device, address):
            return True

    with counted.upload("device-a", "198.51.100.7"), counted.upload("device-a", "198.51.100.7"):
        with refused("too-many-requests", TooManyRequests):
            more("device-a", "203.0.113.1")
        with counted.upload("device-b", "198.51.100.7"):
            with refused("too-many-requests", TooManyRequests):
                more("device-c", "198.51.100.7")
            assert more("device-c", "203.0.113.1")
    assert more("device-a", "198.51.100.7")


@pytest.mark.parametrize("rate", [-1.0, 0.01, float("nan"), float("inf")])
def test_limits_that_are_none_are_refused(rate: float) -> None:
    with refused("bad-limit"):
        Limits(requests_per_address_s=rate)
    with refused("bad-limit"):
        Limits(requests_per_device_s=rate)


def test_limits_pass_through_a_command_line() -> None:
    limits = Limits(3.5, 0.0, 7, Proxies.from_text("127.0.0.1,10.0.0.0/8,2001:db8::/32"))
    assert Limits.of(limits.options()) == limits
