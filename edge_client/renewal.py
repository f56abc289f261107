"""Renew this device's key, so that a power cut at any point leaves it with one identity that works.

    next key on the disk -> certified by the authority -> certificate on the disk -> taken by the aggregator -> in use

Until the aggregator has taken the next key only the old one counts there, afterwards only the next one. A device that
has the next certificate cannot know which of the two it is, so it shows that certificate before it asks anything
else: whoever shows it again is answered alike. An authority certifies one next key in the place of each, and gives the
same certificate for it again. Nothing of this happens while a contribution is in hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum

from edge_client.authority import ask_authority
from edge_client.identity import Enrolment, Identity, make_next_key, save_enrolment, use_next_key
from edge_client.state_folder import StateFolder
from edge_client.transport import Signer, Transport
from shared.clock import Clock
from shared.errors import BrokenState, Missing, Refused
from shared.wire.messages import RenewalRequest, read_signed, write_signed
from shared.wire.requests import CERTIFICATE, RENEW, renewal_message
from shared.wire.signed import Certificate, SigningKey

DAY_S = 86400.0


class Step(StrEnum):
    """What has just happened; all but ``CERTIFIED`` and ``TAKEN``, which are answers, is on the disk."""

    KEY_KEPT = "next-key-kept"
    CERTIFIED = "next-key-certified"
    CERTIFICATE_KEPT = "next-certificate-kept"
    TAKEN = "next-key-taken"
    IN_USE = "next-key-in-use"
    RENEWED = "key-renewed"


def is_due(enrolment: Enrolment, now_s: float) -> bool:
    """Say whether a device's key is as old as its owner lets it become."""
    since_s, days = enrolment.key_since_s, enrolment.renew_key_days
    return bool(days) and since_s is not None and now_s - since_s >= days * DAY_S


@dataclass(frozen=True)
class Renewal:
    """How one device gets its next key.

    Attributes:
        folder: its state.
        transport: the way to the aggregator, signed with the key in use.
        next_counter: of signed requests.
        clock: the time.
        random_bytes: cryptographic randomness.
        jitter: numbers in [0, 1).
        on_step: called after each step.
    """

    folder: StateFolder
    transport: Transport
    next_counter: Callable[[], int]
    clock: Clock
    random_bytes: Callable[[int], bytes]
    jitter: Callable[[], float]
    on_step: Callable[[Step], None]

    def certify(self, identity: Identity) -> Identity:
        """Return the identity with a next key and the authority's certificate of it, both on the disk.

        Raises:
            Refused: ``wrong-certificate``, or the authority's reason; ``key-superseded`` where another key was
                certified in the place of this one.
            Missing: ``old-server``.
            TryLater: if the authority cannot be reached, or ``disk-write-failed``.
        """
        identity = make_next_key(self.folder, identity, self.random_bytes)
        self.on_step(Step.KEY_KEPT)
        certificate = self._ask(identity, _next_key_of(identity))
        self.on_step(Step.CERTIFIED)
        enrolment = replace(identity.enrolment, next_certificate=certificate)
        save_enrolment(self.folder, enrolment)
        self.on_step(Step.CERTIFICATE_KEPT)
        return replace(identity, enrolment=enrolment)

    def _ask(self, identity: Identity, key: SigningKey) -> Certificate:
        enrolment = identity.enrolment
        signed, serial = enrolment.certificate.signed, enrolment.certificate.serial + 1
        message = renewal_message(enrolment.fingerprint, signed.body, serial, key.public)
        body = RenewalRequest(signed, key.public, identity.key.sign(message), key.sign(message)).to_bytes()
        traffic = self.transport.traffic
        try:
            answer = ask_authority(enrolment.root, enrolment.url, RENEW, body, self.clock, self.jitter, traffic)
        except Missing as error:
            raise _old_server() from error
        certificate = Certificate.verified(read_signed(answer, "certificate"), enrolment.root.authority_key)
        wanted = replace(enrolment.certificate, identity_key=key.public, serial=serial)
        if certificate != replace(wanted, expires_at_s=certificate.expires_at_s, signed=certificate.signed):
            raise Refused("wrong-certificate", "The authority's certificate is for another key.", "tell the operator")
        return certificate

    def finish(self, identity: Identity) -> Identity:
        """Let the aggregator take the next key, and return the identity that has it in use.

        Raises:
            Missing: ``old-server``, which cannot take keys, and has not.
            Refused: the server's reason.
            TryLater: if it cannot be reached; it may have taken the key.
        """
        key, certificate = _next_key_of(identity), identity.enrolment.next_certificate
        if certificate is None:
            raise BrokenState("identity-damaged", "The next key has no certificate yet.", "start the agent again")
        self.show(Identity(key, replace(identity.enrolment, certificate=certificate)), identity)
        self.on_step(Step.TAKEN)
        enrolment = replace(
            identity.enrolment,
            certificate=certificate,
            next_certificate=None,
            key_since_s=self.clock.now_s(),
        )
        save_enrolment(self.folder, enrolment)
        self.on_step(Step.IN_USE)
        use_next_key(self.folder, enrolment)
        self.on_step(Step.RENEWED)
        return Identity(key, enrolment)

    def show(self, identity: Identity, otherwise: Identity) -> None:
        """Show a certificate to the aggregator; requests are signed with its key afterwards.

        Args:
            identity: with the certificate and its key.
            otherwise: whose key signs requests if this fails.

        Raises:
            FedloomError: as ``finish``.
        """
        self.transport.sign_with(self._signer(identity))
        try:
            self.transport.send("POST", CERTIFICATE, write_signed("certificate", identity.enrolment.certificate.signed))
        except BaseException as error:
            self.transport.sign_with(self._signer(otherwise))
            if isinstance(error, Missing):
                raise _old_server() from error
            raise

    def _signer(self, identity: Identity) -> Signer:
        return signer_of(identity, self.next_counter)


def signer_of(identity: Identity, next_counter: Callable[[], int]) -> Signer:
    """Return what signs requests with a device's key."""
    return Signer(identity.enrolment.fingerprint, identity.enrolment.device, identity.key, next_counter)


def _old_server() -> Missing:
    return Missing(
        "old-server",
        "The server is older than this agent, and cannot renew keys.",
        "ask the operator to update fedloom there; the key in use goes on",
    )


def _next_key_of(identity: Identity) -> SigningKey:
    if identity.next_key is None:
        raise BrokenState("identity-damaged", "There is no next key.", "start the agent again")
    return identity.next_key
