"""Redeem a code: make a key, prove it, and keep the certificate that the authority returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge_client.authority import ask_authority, post
from edge_client.examples import read_examples, records
from edge_client.identity import RENEW_KEY_DAYS, Enrolment, key_for_enrolment, save_enrolment
from edge_client.journal_file import make_journal
from edge_client.state_folder import StateFolder
from edge_client.transport import Transport, unverified_pool
from shared.clock import Clock
from shared.errors import Refused, UsageError
from shared.ids import random_id
from shared.privacy.floors import PrivacyFloors
from shared.root import EnrolmentCode, Root
from shared.secagg.floors import DeviceFloors
from shared.wire.messages import EnrolRequest, read_signed, write_signed
from shared.wire.requests import ADMIT, ENROL, ROOT, enrolment_message
from shared.wire.signed import Certificate, SigningKey


def enrol(
    code_text: str,
    folder: StateFolder,
    examples: Path,
    *,
    floors: DeviceFloors,
    privacy_floors: PrivacyFloors | None = None,
    name: str,
    renew_key_days: int = RENEW_KEY_DAYS,
    models: Path | None = None,
    clock: Clock,
    random_bytes: Callable[[int], bytes],
    jitter: Callable[[], float],
) -> Enrolment:
    """Enrol this device and return what it now is; running it again after a lost answer is safe.

    Raises:
        UsageError: ``bad-code``, ``state-folder-not-empty``, ``examples-in-state-folder``,
            ``models-in-state-folder``, or what is wrong with the examples: a code is good for one device, so everything
            that can fail here is checked before it is used.
        Refused: ``already-enrolled``, ``wrong-root``, ``wrong-certificate``, or the server's reason.
        TryLater: if the server cannot be reached.
        BrokenState: ``journal-damaged``.
    """
    code = EnrolmentCode.from_text(code_text)
    if examples.resolve().is_relative_to(folder.path.resolve()):
        raise UsageError(
            "examples-in-state-folder",
            f"{examples} is inside {folder.path}, which is the agent's own.",
            "keep the examples in a folder apart from --state",
        )
    if models is not None and models.resolve().is_relative_to(folder.path.resolve()):
        raise UsageError(
            "models-in-state-folder",
            f"{models} is inside {folder.path}, into which no other user may look.",
            "give --models a folder apart from --state",
        )
    if not records(examples):  # applications may begin later
        read_examples(examples, clock.now_s())
    folder.create()
    with folder.lock():
        key = key_for_enrolment(folder, random_bytes)
        document = _root_document(code, clock, jitter)
        root = Root.verified(document, code.fingerprint)
        certificate = _redeem(code, root, key, clock, jitter)
        enrolment = Enrolment(
            url=code.url,
            root_document=document,
            fingerprint=code.fingerprint,
            certificate=certificate,
            examples=examples.resolve(),
            name=name,
            floors=floors,
            privacy_floors=privacy_floors or PrivacyFloors(),
            renew_key_days=renew_key_days,
            models=None if models is None else models.resolve(),
            key_since_s=clock.now_s(),
            journal_id=make_journal(folder.journal_file, random_id("journal", random_bytes)),
        )
        save_enrolment(folder, enrolment)
    return enrolment


def _root_document(code: EnrolmentCode, clock: Clock, jitter: Callable[[], float]) -> bytes:
    transport = Transport(code.url, unverified_pool(), signer=None, clock=clock, jitter=jitter)
    try:
        return transport.send("GET", ROOT).body
    finally:
        transport.close()


def _redeem(code: EnrolmentCode, root: Root, key: SigningKey, clock: Clock, jitter: Callable[[], float]) -> Certificate:
    proof = key.sign(enrolment_message(code.fingerprint, code.secret, key.public))
    request = EnrolRequest(code.secret, key.public, proof).to_bytes()
    answer = ask_authority(root, code.url, ENROL, request, clock, jitter)
    certificate = Certificate.verified(read_signed(answer, "certificate"), root.authority_key)
    if certificate.identity_key != key.public:
        raise Refused("wrong-certificate", "The server's certificate is for another device.", "ask for a new code")
    if root.authority_url:
        body = write_signed("certificate", certificate.signed)
        post(code.url, root.tls_root_pem, ADMIT, body, clock, jitter)
    return certificate
