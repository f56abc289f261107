"""Which key signs releases after the one in the root document: the authority's word, whose key that document pins.

A number orders them and only grows, so that a key that was replaced, stolen perhaps, is worth nothing to devices that
know a later one. Not handled here: replacing the authority's own key, for which devices enrol anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from shared.errors import Refused
from shared.release import MAX_VERSION
from shared.wire.canonical import Fields, decode, encode, octets_to_text
from shared.wire.signed import PUBLIC_KEY_BYTES, Signed, SigningKey

_DOMAIN: Final = "fedloom/1/release-key"
_FORMAT: Final = "fedloom-release-key-1"
_REQUEST_DOMAIN: Final = "fedloom/1/release-key-request"
_REQUEST_FORMAT: Final = "fedloom-release-key-request-1"
_YEAR_9999_S: Final = 253_402_300_799


@dataclass(frozen=True)
class ReleaseKey:
    """The key that signs releases.

    Attributes:
        number: 0 for the one in the root document, then growing.
        public_key: Ed25519, 32 octets.
    """

    number: int
    public_key: bytes


def certify_release_key(authority: SigningKey, key: ReleaseKey, now_s: float) -> Signed:
    """Return the authority's word that releases are signed by ``key`` from now on."""
    body = encode(
        {
            "format": _FORMAT,
            "number": key.number,
            "release_key": octets_to_text(key.public_key),
            "issued_at_s": int(now_s),
        }
    )
    return Signed.make(authority, _DOMAIN, body)


def verify_release_key(signed: Signed, authority_key: bytes, *, min_number: int = 1) -> ReleaseKey:
    """Return the key in ``signed`` after checking the authority's signature.

    Raises:
        Unauthenticated: ``bad-signature``.
        Refused: ``release-key-replayed`` for a smaller number than ``min_number``.
        UsageError: for a malformed body.
    """
    signed.verify(authority_key, _DOMAIN, "a release key")
    fields = Fields(decode(signed.body), "release key")
    fields.choice("format", (_FORMAT,))
    key = ReleaseKey(fields.integer("number", 1, MAX_VERSION), fields.octets("release_key", PUBLIC_KEY_BYTES))
    fields.integer("issued_at_s", 0, _YEAR_9999_S)
    fields.end()
    if key.number < min_number:
        raise Refused(
            "release-key-replayed",
            f"The server shows release key {key.number}; this device already trusts {min_number}.",
            "the server may have been restored from an old backup: ask its operator",
        )
    return key


def request_release_key(key: SigningKey, number: int, fingerprint: bytes) -> Signed:
    """Return what an aggregator hands to an authority elsewhere, signed by the key that is to be certified.

    Args:
        key: the next release key.
        number: of it.
        fingerprint: of the aggregator's root document, 32 octets.
    """
    body = encode(
        {
            "format": _REQUEST_FORMAT,
            "number": number,
            "release_key": octets_to_text(key.public),
            "root": octets_to_text(fingerprint),
        }
    )
    return Signed.make(key, _REQUEST_DOMAIN, body)


def requested_release_key(signed: Signed, fingerprint: bytes) -> ReleaseKey:
    """Return the key that is to be certified, after checking that whoever asks has it.

    Raises:
        Refused: ``other-aggregator`` for another root document than ``fingerprint``'s.
        Unauthenticated: ``bad-signature``.
        UsageError: for a malformed body.
    """
    fields = Fields(decode(signed.body), "request for a release key")
    fields.choice("format", (_REQUEST_FORMAT,))
    key = ReleaseKey(fields.integer("number", 1, MAX_VERSION), fields.octets("release_key", PUBLIC_KEY_BYTES))
    root = fields.octets("root", 32)
    fields.end()
    if root != fingerprint:
        raise Refused(
            "other-aggregator", "The request is another aggregator's than this authority's.", "check whose file it is"
        )
    signed.verify(key.public_key, _REQUEST_DOMAIN, "the request for a release key")
    return key
