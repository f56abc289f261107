"""Who this device is and whom it trusts: its key, its certificate, and the root document that its code pinned.

A missing or damaged file is never replaced by a new identity on its own: the server would then see two devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from edge_client.durable import write_durably
from edge_client.state_folder import StateFolder
from shared.errors import BrokenState, FedloomError, Refused
from shared.privacy.charges import PrivacyFloors
from shared.root import Root
from shared.secagg.session import DeviceFloors
from shared.wire.canonical import Fields, decode, encode, octets_to_text
from shared.wire.signed import Certificate, Signed, SigningKey

LARGEST_PRIVACY_FLOOR = 10**6
_FORMAT = "fedloom-enrolment-1"
_KEY_BYTES = 32
_ENROL_AGAIN = "run `fedloom-agent leave` and enrol with a new code"


@dataclass(frozen=True)
class Enrolment:
    """What enrolling gave this device, and what its owner chose.

    Attributes:
        url: of the server.
        root_document: the exact bytes that the code's fingerprint covers.
        fingerprint: of ``root_document``.
        certificate: the authority's word on this device's key.
        examples: the folder with this device's data.
        name: the owner's name for this device; it never leaves the device.
        floors: what the owner demands of any plan.
        privacy_floors: the same of its noise, and how much may ever leave.
        journal_id: of the journal that was made with it; None where that was before journals had one.
    """

    url: str
    root_document: bytes
    fingerprint: bytes
    certificate: Certificate
    examples: Path
    name: str
    floors: DeviceFloors
    privacy_floors: PrivacyFloors = field(default_factory=PrivacyFloors)
    journal_id: str | None = None

    @property
    def root(self) -> Root:
        """The keys that this device trusts."""
        return Root.verified(self.root_document, self.fingerprint)

    @property
    def task(self) -> str:
        """The task that this device is enrolled in."""
        return self.certificate.task

    @property
    def device(self) -> str:
        """This device's pseudonym."""
        return self.certificate.device


@dataclass(frozen=True)
class Identity:
    """The enrolment and the secret key that belongs to it."""

    key: SigningKey
    enrolment: Enrolment


def key_for_enrolment(folder: StateFolder, random_bytes: Callable[[int], bytes]) -> SigningKey:
    """Return the key to enrol with, written to disk before it is used.

    A key that is already there is used again: the answer to an earlier attempt may have been lost on its way.

    Raises:
        Refused: ``already-enrolled``.
        BrokenState: ``identity-damaged``.
    """
    if folder.enrolment_file.exists():
        raise Refused(
            "already-enrolled",
            f"{folder.path} belongs to an enrolled device.",
            "use another --state folder, or `fedloom-agent leave` first",
        )
    if not folder.key_file.exists():
        write_durably(folder.key_file, SigningKey.generate(random_bytes).secret)
    return _read_key(folder)


def save_enrolment(folder: StateFolder, enrolment: Enrolment) -> None:
    """Write what makes this folder an enrolled device."""
    body = encode(
        {
            "format": _FORMAT,
            "url": enrolment.url,
            "root": octets_to_text(enrolment.root_document),
            "fingerprint": octets_to_text(enrolment.fingerprint),
            "certificate": enrolment.certificate.signed.to_json(),
            "examples": str(enrolment.examples),
            "name": enrolment.name,
            "min_survivors": enrolment.floors.min_survivors,
            "max_l2_norm": enrolment.floors.max_l2_norm,
            "privacy_floors": asdict(enrolment.privacy_floors),
            **({} if enrolment.journal_id is None else {"journal": enrolment.journal_id}),
            **({"adversary": "semi-honest"} if enrolment.floors.semi_honest else {}),
            "min_corrupt_share": enrolment.floors.min_corrupt_share,
        }
    )
    write_durably(folder.enrolment_file, body)


def load_identity(folder: StateFolder) -> Identity:
    """Read the key and the enrolment.

    Raises:
        Refused: ``identity-missing`` where nobody enrolled.
        BrokenState: ``identity-damaged`` where a file is missing, unreadable or belongs to another key.
    """
    enrolment = load_enrolment(folder)
    key = _read_key(folder)
    if key.public != enrolment.certificate.identity_key:
        raise BrokenState("identity-damaged", "The key is not the one in this device's certificate.", _ENROL_AGAIN)
    return Identity(key, enrolment)


def load_enrolment(folder: StateFolder) -> Enrolment:
    """Read the enrolment without the key; raises as ``load_identity``."""
    if not folder.enrolment_file.exists():
        raise Refused(
            "identity-missing",
            f"No device is enrolled in {folder.path}.",
            "run `fedloom-agent enroll CODE --state DIR --examples DIR` with a code from the operator",
        )
    try:
        return _parse(folder.enrolment_file.read_bytes())
    except (OSError, FedloomError) as error:
        raise BrokenState("identity-damaged", f"{folder.enrolment_file} cannot be read.", _ENROL_AGAIN) from error


def _parse(body: bytes) -> Enrolment:
    fields = Fields(decode(body), "enrolment")
    fields.choice("format", (_FORMAT,))
    url = fields.text("url")
    document, fingerprint = fields.octets("root"), fields.octets("fingerprint", 32)
    signed = Signed.from_json(fields.mapping("certificate", 2), "certificate")
    enrolment = Enrolment(
        url=url,
        root_document=document,
        fingerprint=fingerprint,
        certificate=Certificate.verified(signed, Root.verified(document, fingerprint).authority_key),
        examples=Path(fields.text("examples")),
        name=fields.text("name"),
        floors=_floors(fields),
        privacy_floors=_privacy_floors(fields),
        journal_id=fields.text("journal") if fields.has("journal") else None,
    )
    fields.end()
    return enrolment


def _privacy_floors(fields: Fields) -> PrivacyFloors:
    if not fields.has("privacy_floors"):  # a device that enrolled before there were any
        return PrivacyFloors()
    inner = Fields(fields.mapping("privacy_floors", 4), "privacy_floors")
    floors = PrivacyFloors(
        min_noise_multiplier=inner.number("min_noise_multiplier", 0, LARGEST_PRIVACY_FLOOR),
        max_participations=inner.integer("max_participations", 0, LARGEST_PRIVACY_FLOOR),
        max_epsilon=inner.number("max_epsilon", 0, LARGEST_PRIVACY_FLOOR),
        delta=inner.number("delta", 0, 1) if inner.has("delta") else PrivacyFloors().delta,
    )
    inner.end()
    return floors


def _floors(fields: Fields) -> DeviceFloors:
    semi_honest = fields.has("adversary") and bool(fields.choice("adversary", ("semi-honest",)))
    # Its owner demanded nothing where it is not there: that was what enrolling did.
    share = fields.number("min_corrupt_share", 0, 1) if fields.has("min_corrupt_share") else 0.0
    clip = fields.number("max_l2_norm", 0, 1e12) if fields.has("max_l2_norm") else DeviceFloors().max_l2_norm
    return DeviceFloors(fields.integer("min_survivors", 2, 2**20), clip, semi_honest, share)


def _read_key(folder: StateFolder) -> SigningKey:
    try:
        secret = folder.key_file.read_bytes()
    except OSError as error:
        raise BrokenState("identity-damaged", f"{folder.key_file} cannot be read.", _ENROL_AGAIN) from error
    if len(secret) != _KEY_BYTES:
        raise BrokenState("identity-damaged", f"{folder.key_file} is not a whole key.", _ENROL_AGAIN)
    return SigningKey(secret)
