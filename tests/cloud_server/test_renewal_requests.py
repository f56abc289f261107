"""Requests for next keys, forged, repeated and out of order; and what becomes of cohorts when a key changes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pytest
from safetensors.numpy import load

from cloud_server.api.limiting import Limits
from cloud_server.app import create_app
from cloud_server.authority.registry import CERTIFICATE_VALID_S
from edge_client.transport import Signer, Transport
from shared.errors import Conflict, FedloomError, Refused, TooManyRequests, Unauthenticated, UsageError
from shared.limits import BURST_S, MIN_RENEWAL_INTERVAL_S
from shared.wire.canonical import Json, decode, encode, octets_to_text
from shared.wire.messages import RenewalRequest, write_signed
from shared.wire.requests import CERTIFICATE, RENEW, renewal_message
from shared.wire.signed import CERTIFICATE_DOMAIN, MAX_SERIAL, Certificate, Signed, SigningKey
from tests.cloud_server.local import Local, LocalPool, small_plan
from tests.cloud_server.members import STEPS, Member
from tests.shared.refusals import refused

URL: Final = "https://aggregator.test"


@dataclass
class Parts:
    """What a request is made of; each field can be another one's."""

    fingerprint: bytes
    certificate: Signed
    serial: int
    key: SigningKey
    next_key: SigningKey
    shown_key: bytes | None = None

    def request(self) -> RenewalRequest:
        """Sign."""
        message = renewal_message(self.fingerprint, self.certificate.body, self.serial, self.next_key.public)
        shown = self.shown_key or self.next_key.public
        return RenewalRequest(self.certificate, shown, self.key.sign(message), self.next_key.sign(message))


def parts_of(local: Local, member: Member, next_key: SigningKey | None = None) -> Parts:
    certificate = member.certificate
    following = next_key or SigningKey.generate(os.urandom)
    return Parts(local.parts.root.fingerprint, certificate.signed, certificate.serial + 1, member.key, following)


def certified(local: Local, parts: Parts) -> Certificate:
    return local.authority.renew(parts.request(), local.parts.root.fingerprint)


def signed_as(local: Local, key: SigningKey, device: str, counter: int) -> Transport:
    signer = Signer(local.parts.root.fingerprint, device, key, itertools.count(counter).__next__)
    return Transport(URL, LocalPool(local.app), signer=signer, clock=local.clock, jitter=lambda: 0.0)


def show(local: Local, certificate: Certificate, key: SigningKey, counter: int, device: str = "") -> None:
    transport = signed_as(local, key, device or certificate.device, counter)
    transport.send("POST", CERTIFICATE, write_signed("certificate", certificate.signed))


def renewed(local: Local, member: Member, counter: int = 1000) -> Member:
    """Return the member with its next key, which the aggregator has taken."""
    key = SigningKey.generate(os.urandom)
    certificate = certified(local, parts_of(local, member, key))
    show(local, certificate, key, counter)
    return replace(
        member,
        key=key,
        certificate=certificate,
        transport=signed_as(local, key, member.device, counter + 1),
    )


@pytest.fixture
def member(local: Local) -> Member:
    local.create(small_plan("point"))
    made = local.enrol(small_plan("point"), 1)[0]
    made.release(0)
    return made


def stored(local: Local) -> list[tuple[object, ...]]:
    return local.rows("SELECT certificate, identity_key, serial FROM device ORDER BY device")


def test_the_same_request_gets_the_same_certificate_and_another_one_none(local: Local, member: Member) -> None:
    parts = parts_of(local, member)
    first = certified(local, parts)
    assert certified(local, parts) == first
    assert (first.serial, first.device, first.task) == (1, member.device, "point")
    with refused("key-superseded", Unauthenticated):
        certified(local, parts_of(local, member))
    with local.authority.database.read() as connection:
        assert connection.exec_driver_sql("SELECT serial FROM certificate_log").scalars().all() == [0, 1]


ANOTHER: Final = SigningKey(bytes(range(32)))
FORGED: Final[dict[str, Callable[[Parts], Parts]]] = {
    "for another deployment": lambda parts: replace(parts, fingerprint=bytes(32)),
    "not signed by the key so far": lambda parts: replace(parts, key=ANOTHER),
    "with another next key than was signed": lambda parts: replace(parts, shown_key=ANOTHER.public),
    "of a serial further on": lambda parts: replace(parts, serial=parts.serial + 1),
    "of the same serial": lambda parts: replace(parts, serial=parts.serial - 1),
    "over an altered certificate": lambda parts: replace(
        parts, certificate=Signed(parts.certificate.body.replace(b"point", b"paint"), parts.certificate.signature)
    ),
    "over a certificate of the device's own": lambda parts: replace(
        parts, certificate=Signed.make(parts.key, CERTIFICATE_DOMAIN, parts.certificate.body)
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_request_gets_no_certificate(local: Local, member: Member, what: str) -> None:
    body = FORGED[what](parts_of(local, member)).request().to_bytes()
    transport = Transport(URL, LocalPool(local.app), signer=None, clock=local.clock, jitter=lambda: 0.0)
    with refused("bad-signature", Unauthenticated):
        transport.send("POST", RENEW, body)
    with local.authority.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM certificate_log").scalar_one() == 1


@pytest.mark.parametrize(("state", "code"), [("revoked", "device-revoked"), ("quarantined", "identity-quarantined")])
def test_an_authority_in_the_aggregator_certifies_nobody_who_is_stopped(
    local: Local, member: Member, state: str, code: str
) -> None:
    local.change(f"UPDATE device SET state = '{state}'")  # noqa: S608  # a constant
    transport = Transport(URL, LocalPool(local.app), signer=None, clock=local.clock, jitter=lambda: 0.0)
    with refused(code, Refused):
        transport.send("POST", RENEW, parts_of(local, member).request().to_bytes())
    with local.authority.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM certificate_log").scalar_one() == 1


def test_nobody_gets_a_certificate_of_a_key_without_holding_it(local: Local, member: Member) -> None:
    """Else a device could claim another one's key as its own."""
    honest = parts_of(local, member).request()
    message = renewal_message(local.parts.root.fingerprint, member.certificate.signed.body, 1, ANOTHER.public)
    signature = member.key.sign(message)
    forged = RenewalRequest(honest.certificate, ANOTHER.public, signature, signature)
    with refused("bad-signature", Unauthenticated):
        local.authority.renew(forged, local.parts.root.fingerprint)


def test_a_key_is_not_certified_twice_for_a_device(local: Local, member: Member) -> None:
    with refused("used-key", Conflict):
        certified(local, parts_of(local, member, member.key))
    later = renewed(local, member)
    local.clock.time_s += MIN_RENEWAL_INTERVAL_S
    with refused("used-key", Conflict):
        certified(local, parts_of(local, later, member.key))


def test_the_log_does_not_grow_as_fast_as_a_device_can_ask(local: Local, member: Member) -> None:
    later = renewed(local, member)
    with refused("renewed-lately", Refused) as caught:
        certified(local, parts_of(local, later))
    assert caught.value.remedy == "try again in 60 minutes"
    local.clock.time_s += MIN_RENEWAL_INTERVAL_S
    assert certified(local, parts_of(local, later)).serial == 2


def test_an_expired_certificate_is_neither_renewed_nor_shown(local: Local, member: Member) -> None:
    key = SigningKey.generate(os.urandom)
    following = certified(local, parts_of(local, member, key))
    local.clock.time_s += CERTIFICATE_VALID_S + 1
    with refused("expired-certificate", Refused):
        show(local, following, key, 1000)
    local.clock.time_s -= CERTIFICATE_VALID_S + 1
    show(local, following, key, 2000)
    local.clock.time_s += CERTIFICATE_VALID_S + 1
    later = replace(member, key=key, certificate=following)
    with refused("expired-certificate", Refused):
        certified(local, parts_of(local, later))


def test_an_authority_that_was_put_back_renews_nothing_that_it_forgot(local: Local, member: Member) -> None:
    later = renewed(local, member)
    with local.authority.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM certificate_log WHERE serial = 1")
    with refused("certificate-unknown", Refused):
        certified(local, parts_of(local, later))


def test_the_last_serial_is_the_last_one(local: Local, member: Member) -> None:
    old = member.certificate
    last = Certificate.issue(
        local.authority._key,
        task=old.task,
        device=old.device,
        identity_key=old.identity_key,
        expires_at_s=old.expires_at_s,
        serial=MAX_SERIAL,
    )
    with refused("too-many-keys", Refused):
        certified(local, parts_of(local, replace(member, certificate=last)))


def test_from_then_on_only_the_newest_key_and_certificate_count(local: Local, member: Member) -> None:
    first = renewed(local, member)
    local.clock.time_s += MIN_RENEWAL_INTERVAL_S
    second = renewed(local, first, 2000)
    before = stored(local)
    for old in (member, first):
        with refused("key-superseded", Unauthenticated):
            signed_as(local, old.key, old.device, 10**6).send("GET", "/v1/releases/0")
        with refused("key-superseded", Unauthenticated):
            show(local, old.certificate, old.key, 10**7)
        with refused("bad-signature", Unauthenticated):
            show(local, second.certificate, old.key, 10**8)  # which is no secret
    assert stored(local) == before
    second.release(0)
    assert local.rows("SELECT state, behind FROM device") == [("active", 0)]


def test_a_former_key_does_not_use_up_what_its_device_may_ask_for(local: Local, member: Member) -> None:
    later = renewed(local, member)
    local.app = create_app(local.parts, limits=Limits(requests_per_device_s=1 / BURST_S))  # one request, and no more
    for counter in range(3):
        with refused("key-superseded", Unauthenticated):
            signed_as(local, member.key, member.device, 5000 + counter).send("GET", "/v1/releases/0")
        with refused("key-superseded", Unauthenticated):
            show(local, member.certificate, member.key, 6000 + counter)
    transport = signed_as(local, later.key, later.device, 2000)
    transport.send("GET", "/v1/releases/0")
    with refused("too-many-requests", TooManyRequests):
        transport.send("GET", "/v1/releases/0")


def test_nobody_shows_a_certificate_for_somebody_else(local: Local, member: Member) -> None:
    other = local.enrol(small_plan("point"), 1)[0]
    before = stored(local)
    with refused("wrong-device", Unauthenticated):
        show(local, other.certificate, other.key, 1000, device=member.device)
    with refused("bad-signature", Unauthenticated):
        show(local, member.certificate, other.key, 1000)
    own = SigningKey.generate(os.urandom)
    invented = Certificate.issue(
        own, task="point", device=member.device, identity_key=own.public, expires_at_s=2**32, serial=9
    )
    with refused("bad-signature", Unauthenticated):
        show(local, invented, own, 1000)
    assert stored(local) == before


def test_a_body_that_is_no_renewal_is_named(local: Local, member: Member) -> None:
    good = decode(parts_of(local, member).request().to_bytes())
    transport = Transport(URL, LocalPool(local.app), signer=None, clock=local.clock, jitter=lambda: 0.0)
    changes: tuple[dict[str, Json], ...] = (
        {"proof": "AA"},
        {"identity_key": octets_to_text(bytes(31))},
        {"certificate": {}},
        {"more": 1},
    )
    for change in changes:
        with pytest.raises(UsageError) as caught:
            transport.send("POST", RENEW, encode({**good, **change}))
        assert caught.value.code in {"bad-field", "bad-octets"}


class TestCohorts:
    """Devices whose keys change around cohorts."""

    def test_a_cohort_of_renewed_and_other_devices_is_summed(self, local: Local) -> None:
        plan = small_plan("point")
        local.create(plan)
        members = local.enrol(plan, 4)
        members[0], members[2] = renewed(local, members[0]), renewed(local, members[2])
        local.meet(members)
        for step in STEPS:
            local.do(members, step)
        assert all(member.counted() for member in members)
        np.testing.assert_allclose(load(members[0].weights(1))["theta"][:4], np.ones(4), atol=0.02)

    def test_nobody_joins_with_a_certificate_of_before(self, local: Local) -> None:
        plan = small_plan("point")
        local.create(plan)
        (member,) = local.enrol(plan, 1)
        later = renewed(local, member)
        local.meet([later])
        cohort = later.cohort
        mixed = replace(later, key=member.key, certificate=member.certificate)
        local.meet([mixed])
        assert mixed.cohort == cohort
        with refused("key-superseded", Unauthenticated):
            mixed.do("join")
        later.do("join")

    def test_a_join_of_before_leaves_the_cohort_that_forms(self, local: Local) -> None:
        """The agent was killed after it had joined, and renewed its key when it started again."""
        plan = small_plan("point")
        members = local.cohort(plan, 4)
        for member in members[:3]:
            member.do("join")
        later = renewed(local, members[0])
        later.number = 0
        local.meet([later])
        local.do([later, members[3]], "join")
        members[0] = later
        for step in STEPS[1:]:
            local.do(members, step)
        assert all(member.counted() for member in members)

    def test_a_key_that_changes_in_a_running_cohort_costs_that_device_its_part_alone(self, local: Local) -> None:
        plan = small_plan("point")
        members = local.cohort(plan, 4)
        for step in STEPS[:2]:
            local.do(members, step)
        renewed(local, members[0])
        with refused("key-superseded", Unauthenticated):
            members[0].do("upload")
        local.do(members[1:], "upload")
        local.clock.time_s += plan.deadlines.collecting_s + 1
        local.settle()
        for step in STEPS[3:]:
            local.do(members[1:], step)
        assert all(member.counted() for member in members[1:])

    def test_a_member_sees_that_another_ones_certificate_went_back(self, local: Local) -> None:
        plan = small_plan("point")
        members = local.cohort(plan, 4)
        seen: list[Certificate] = []

        def look(certificates: object) -> None:
            seen.extend(certificates)  # type: ignore[arg-type]
            raise FedloomError("old-certificate", "One of them went back.")

        for member in members:
            member.do("join")
        local.settle()
        members[0].session._see_certificates = look
        with refused("old-certificate", FedloomError):
            members[0].do("share")
        assert {certificate.device for certificate in seen} == {member.device for member in members}
        with refused("out-of-order", FedloomError):
            members[0].session.share({}, 0.0)  # nothing more comes out of this session
