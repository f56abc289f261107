"""Who this device is and whom it trusts: its key, its certificate, and the root document that its code pinned.

A missing or damaged file is never replaced by a new identity on its own: the server would then see two devices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from edge_client.durable import replace_durably, write_durably
from edge_client.state_folder import StateFolder
from shared.errors import BrokenState, FedloomError, Refused
from shared.privacy.floors import PrivacyFloors
from shared.root import Root
from shared.secagg.floors import DeviceFloors
from shared.wire.canonical import Fields, Json, decode, encode, octets_to_text, sha256
from shared.wire.signed import Certificate, Signed, SigningKey

LARGEST_PRIVACY_FLOOR = 10**6
RENEW_KEY_DAYS = 90  # unless the owner chose otherwise
LARGEST_RENEW_KEY_DAYS = 1000  # of a certificate's five years
_FORMAT = "fedloom-enrolment-1"
_HASH = "sha256"
_KEY_BYTES = 32
_YEAR_9999_S = 253_402_300_799
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
        renew_key_days: how old the owner lets the key become, 0 for as old as it will.
        key_since_s: when the key in the certificate came into use, None where that was not written down.
        next_certificate: of the next key, until the aggregator has taken that.
        models: the folder in which applications of other users find the released model, None for none.
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
    renew_key_days: int = RENEW_KEY_DAYS
    key_since_s: float | None = None
    next_certificate: Certificate | None = None
    models: Path | None = None

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
    """The enrolment and the secret key that belongs to it.

    Attributes:
        key: of the certificate.
        enrolment: what enrolling gave.
        next_key: that is to follow, None unless the identity is being renewed.
    """

    key: SigningKey
    enrolment: Enrolment
    next_key: SigningKey | None = None


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


def make_next_key(folder: StateFolder, identity: Identity, random_bytes: Callable[[int], bytes]) -> Identity:
    """Return the identity with the key that is to follow, which is on the disk; one that is there already stays."""
    if identity.next_key is not None:
        return identity
    key = SigningKey.generate(random_bytes)
    write_durably(folder.next_key_file, key.secret)
    return replace(identity, next_key=key)


def use_next_key(folder: StateFolder, enrolment: Enrolment) -> None:
    """Put the next key in the place of the one before, if it is the one in the certificate: also after a power cut."""
    key = _read_next_key(folder)
    if key is not None and key.public == enrolment.certificate.identity_key:
        replace_durably(folder.next_key_file, folder.key_file)


def save_enrolment(folder: StateFolder, enrolment: Enrolment) -> None:
    """Write what makes this folder an enrolled device, with a hash: most of it is signed by nobody."""
    document: dict[str, Json] = {
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
        "renew_key_days": enrolment.renew_key_days,
        **({} if enrolment.key_since_s is None else {"key_since_s": enrolment.key_since_s}),
        **_next_json(enrolment.next_certificate),
        **({} if enrolment.models is None else {"models": str(enrolment.models)}),
    }
    write_durably(folder.enrolment_file, encode({**document, _HASH: sha256(encode(document)).hex()}))


def _next_json(certificate: Certificate | None) -> dict[str, Json]:
    return {} if certificate is None else {"next_certificate": certificate.signed.to_json()}


def load_identity(folder: StateFolder) -> Identity:
    """Read the keys and the enrolment; the key is the one in the certificate, wherever a renewal was interrupted.

    Raises:
        Refused: ``identity-missing`` where nobody enrolled.
        BrokenState: ``identity-damaged`` where a file is missing, unreadable or belongs to another key.
    """
    enrolment = load_enrolment(folder)
    next_key = _read_next_key(folder)
    if next_key is not None and next_key.public == enrolment.certificate.identity_key:
        return Identity(next_key, enrolment)
    key = _read_key(folder)
    if key.public != enrolment.certificate.identity_key:
        raise BrokenState("identity-damaged", "The key is not the one in this device's certificate.", _ENROL_AGAIN)
    following = enrolment.next_certificate
    if following is not None and (next_key is None or next_key.public != following.identity_key):
        raise BrokenState("identity-damaged", "The next key is not the one in its certificate.", _ENROL_AGAIN)
    return Identity(key, enrolment, next_key)


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
    document = decode(body)
    if isinstance(document, dict) and _HASH in document:  # which those of before have not
        written = document.pop(_HASH)
        if written != sha256(encode(document)).hex():
            raise BrokenState("identity-damaged", "The enrolment is not what was written.", _ENROL_AGAIN)
    fields = Fields(document, "enrolment")
    fields.choice("format", (_FORMAT,))
    url = fields.text("url")
    root_document, fingerprint = fields.octets("root"), fields.octets("fingerprint", 32)
    authority_key = Root.verified(root_document, fingerprint).authority_key
    enrolment = Enrolment(
        url=url,
        root_document=root_document,
        fingerprint=fingerprint,
        certificate=_certificate(fields, "certificate", authority_key),
        examples=Path(fields.text("examples")),
        name=fields.text("name"),
        floors=_floors(fields),
        privacy_floors=_privacy_floors(fields),
        journal_id=fields.text("journal") if fields.has("journal") else None,
        renew_key_days=_renew_key_days(fields),
        key_since_s=fields.number("key_since_s", 0, _YEAR_9999_S) if fields.has("key_since_s") else None,
        next_certificate=_next_certificate(fields, authority_key),
        models=Path(fields.text("models")) if fields.has("models") else None,
    )
    fields.end()
    return enrolment


def _certificate(fields: Fields, name: str, authority_key: bytes) -> Certificate:
    return Certificate.verified(Signed.from_json(fields.mapping(name, 2), name), authority_key)


def _next_certificate(fields: Fields, authority_key: bytes) -> Certificate | None:
    return _certificate(fields, "next_certificate", authority_key) if fields.has("next_certificate") else None


def _renew_key_days(fields: Fields) -> int:
    if not fields.has("renew_key_days"):  # a device that enrolled before keys were renewed
        return RENEW_KEY_DAYS
    return fields.integer("renew_key_days", 0, LARGEST_RENEW_KEY_DAYS)


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


def _read_next_key(folder: StateFolder) -> SigningKey | None:
    """Return the next key, None where there is none; half a one was never shown to anybody, and counts as none."""
    try:
        secret = folder.next_key_file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BrokenState("identity-damaged", f"{folder.next_key_file} cannot be read.", _ENROL_AGAIN) from error
    return SigningKey(secret) if len(secret) == _KEY_BYTES else None


def _read_key(folder: StateFolder) -> SigningKey:
    try:
        secret = folder.key_file.read_bytes()
    except OSError as error:
        raise BrokenState("identity-damaged", f"{folder.key_file} cannot be read.", _ENROL_AGAIN) from error
    if len(secret) != _KEY_BYTES:
        raise BrokenState("identity-damaged", f"{folder.key_file} is not a whole key.", _ENROL_AGAIN)
    return SigningKey(secret)
