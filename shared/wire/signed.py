"""Bytes with a signature beside them: certificates, join messages, agreements, requests.

A signature covers the exact bytes received, never a value that was parsed and written again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import Unauthenticated
from shared.ids import require_name
from shared.wire.canonical import Fields, Json, decode, encode, octets_to_text, transcript

SIGNATURE_BYTES: Final = 64
PUBLIC_KEY_BYTES: Final = 32
CERTIFICATE_DOMAIN: Final = "fedloom/1/certificate"
MAX_SERIAL: Final = 2**31 - 1
_YEAR_9999_S: Final = 253_402_300_799
_FIELD_PRIME: Final = 2**255 - 19
_ORDER_8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER: Final = frozenset({0, 1, _FIELD_PRIME - 1, _ORDER_8, _FIELD_PRIME - _ORDER_8})  # all y of such points


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key (RFC 8032).

    Attributes:
        secret: 32 octets.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, random_bytes: Callable[[int], bytes]) -> SigningKey:
        """Return a fresh key."""
        return cls(random_bytes(32))

    @property
    def public(self) -> bytes:
        """The 32 octets that verify."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64-octet signature over ``message``."""
        return Ed25519PrivateKey.from_private_bytes(self.secret).sign(message)


def verify(public_key: bytes, message: bytes, signature: bytes, what: str) -> None:
    """Raise ``bad-signature`` (Unauthenticated) unless ``public_key`` signed exactly ``message``.

    A key of small order, for which anyone can sign, and a second encoding of a key count for nothing.
    """
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    if y >= _FIELD_PRIME or y in _SMALL_ORDER:
        raise Unauthenticated("bad-signature", f"The key of {what} is of small order or not in its shortest form.")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise Unauthenticated("bad-signature", f"The signature of {what} does not match.") from error


@dataclass(frozen=True)
class Signed:
    """A body and the signature over (domain, body).

    Attributes:
        body: canonical JSON.
        signature: 64 octets.
    """

    body: bytes
    signature: bytes

    @classmethod
    def make(cls, key: SigningKey, domain: str, body: bytes) -> Signed:
        """Sign ``body`` for the purpose ``domain``."""
        return cls(body, key.sign(transcript(domain, body)))

    def verify(self, public_key: bytes, domain: str, what: str) -> None:
        """Raise ``bad-signature`` unless ``public_key`` signed this for ``domain``."""
        verify(public_key, transcript(domain, self.body), self.signature, what)

    def to_json(self) -> Json:
        """Return the form that travels."""
        return {"body": octets_to_text(self.body), "signature": octets_to_text(self.signature)}

    def to_bytes(self) -> bytes:
        """Return ``to_json`` as canonical bytes."""
        return encode(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> Signed:
        """Undo ``to_bytes``; the signature is not verified yet."""
        return cls.from_json(decode(data), "signed document")

    @classmethod
    def from_json(cls, value: Json, where: str) -> Signed:
        """Read the form that travels; the signature is not verified yet."""
        fields = Fields(value, where)
        signed = cls(fields.octets("body"), fields.octets("signature", SIGNATURE_BYTES))
        fields.end()
        return signed


@dataclass(frozen=True)
class Certificate:
    """The authority's word that a key belongs to an enrolled device of one task.

    The device's name in it is a pseudonym, made for this task alone.

    Attributes:
        task: the task.
        device: the pseudonym.
        identity_key: Ed25519 public key, 32 octets.
        expires_at_s: seconds since the epoch.
        signed: the exact bytes and the authority's signature.
        group: of the code that was redeemed, empty for none.
        serial: how many keys the device had before this one.
    """

    task: str
    device: str
    identity_key: bytes
    expires_at_s: int
    signed: Signed
    group: str = ""
    serial: int = 0

    @classmethod
    def issue(
        cls,
        authority: SigningKey,
        *,
        task: str,
        device: str,
        identity_key: bytes,
        expires_at_s: int,
        group: str = "",
        serial: int = 0,
    ) -> Certificate:
        """Sign a certificate."""
        fields: dict[str, Json] = {
            "format": "fedloom-certificate-1",
            "task": task,
            "device": device,
            "identity_key": octets_to_text(identity_key),
            "expires_at_s": expires_at_s,
        }
        optional: dict[str, Json] = {"group": group, "serial": serial}
        body = encode(fields | {name: value for name, value in optional.items() if value})
        signed = Signed.make(authority, CERTIFICATE_DOMAIN, body)
        return cls(task, device, identity_key, expires_at_s, signed, group, serial)

    @classmethod
    def verified(cls, signed: Signed, authority_key: bytes) -> Certificate:
        """Return the certificate in ``signed`` after checking the authority's signature; expiry is the caller's check.

        Raises:
            Unauthenticated: ``bad-signature``.
            UsageError: for a malformed body.
        """
        signed.verify(authority_key, CERTIFICATE_DOMAIN, "a device certificate")
        fields = Fields(decode(signed.body), "certificate")
        fields.choice("format", ("fedloom-certificate-1",))
        certificate = cls(
            task=require_name(fields.text("task"), "the task"),
            device=require_name(fields.text("device"), "the device"),
            identity_key=fields.octets("identity_key", PUBLIC_KEY_BYTES),
            expires_at_s=fields.integer("expires_at_s", 0, _YEAR_9999_S),
            signed=signed,
            group=require_name(fields.text("group"), "the group") if fields.has("group") else "",
            serial=fields.integer("serial", 1, MAX_SERIAL) if fields.has("serial") else 0,
        )
        fields.end()
        return certificate
