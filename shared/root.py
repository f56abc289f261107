"""What an enrolment code pins: one document with every key that a device must trust from then on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from shared.errors import Refused, UsageError
from shared.wire.canonical import Fields, Json, decode, encode, octets_from_text, octets_to_text, sha256
from shared.wire.signed import PUBLIC_KEY_BYTES

CODE_PREFIX: Final = "fedloom1."
SECRET_BYTES: Final = 20
_MAX_PEM_CHARACTERS: Final = 20_000
_URL: Final = re.compile(r"https://[^/?#\s]+(?:/[^?#\s]*)?")  # a server, perhaps below a path


@dataclass(frozen=True)
class Root:
    """The keys of one deployment.

    Attributes:
        authority_key: Ed25519 key that certifies devices.
        release_key: Ed25519 key that signs releases.
        tls_root_pem: the certificate that TLS must lead to, empty for the system's trusted roots.
        authority_url: where codes are redeemed, empty where the server itself is the authority.
        authority_tls_root_pem: the certificate that TLS must lead to there.
    """

    authority_key: bytes
    release_key: bytes
    tls_root_pem: str
    authority_url: str = ""
    authority_tls_root_pem: str = ""

    def to_bytes(self) -> bytes:
        """Return the exact bytes that the fingerprint covers."""
        return encode(
            {
                "format": "fedloom-root-1",
                "authority_key": octets_to_text(self.authority_key),
                "release_key": octets_to_text(self.release_key),
                "tls_root_pem_octets": octets_to_text(self.tls_root_pem.encode("ascii")),
                **self._authority_json(),
            }
        )

    def _authority_json(self) -> dict[str, Json]:
        if not self.authority_url:
            return {}
        pem = octets_to_text(self.authority_tls_root_pem.encode("ascii"))
        return {"authority_url": self.authority_url, "authority_tls_root_pem_octets": pem}

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of ``to_bytes``, 32 octets."""
        return sha256(self.to_bytes())

    @classmethod
    def verified(cls, data: bytes, fingerprint: bytes) -> Root:
        """Read the document that a server sent, if it is the pinned one.

        Raises:
            Refused: ``wrong-root`` when the hash differs: this is not the server that the code is for.
        """
        if sha256(data) != fingerprint:
            raise Refused(
                "wrong-root",
                "The server's keys are not the ones that the enrolment code pins.",
                "check the address in the code, and for a proxy that intercepts TLS; else ask for a new code",
            )
        fields = Fields(decode(data), "root document")
        fields.choice("format", ("fedloom-root-1",))
        root = cls(
            fields.octets("authority_key", PUBLIC_KEY_BYTES),
            fields.octets("release_key", PUBLIC_KEY_BYTES),
            _pem(fields, "tls_root_pem_octets"),
            *(_authority(fields) if fields.has("authority_url") else ()),
        )
        fields.end()
        return root


def _pem(fields: Fields, name: str) -> str:
    octets = fields.octets(name, max_length=_MAX_PEM_CHARACTERS)
    if not octets.isascii():
        raise UsageError("bad-field", f"root document: {name} should be a certificate in PEM form.")
    return octets.decode("ascii")


def _authority(fields: Fields) -> tuple[str, str]:
    return require_url(fields.text("authority_url", 2048)), _pem(fields, "authority_tls_root_pem_octets")


def require_url(url: str) -> str:
    """Return ``url`` if it is the address of a server with TLS.

    Raises:
        UsageError: ``bad-url``.
    """
    if not _URL.fullmatch(url):
        raise UsageError("bad-url", "An address is not one of a server with TLS.", "write it like https://host:8443")
    return url


@dataclass(frozen=True)
class EnrolmentCode:
    """What an operator hands to the owner of a device; good for one device.

    Attributes:
        url: where the server is, ``https://host:port``.
        fingerprint: of the root document, 32 octets.
        secret: 20 octets, known to the authority by their hash only.
    """

    url: str
    fingerprint: bytes
    secret: bytes

    def to_text(self) -> str:
        """Return the code as one word."""
        body = encode(
            {"url": self.url, "root": octets_to_text(self.fingerprint), "secret": octets_to_text(self.secret)}
        )
        return CODE_PREFIX + octets_to_text(body)

    @classmethod
    def from_text(cls, text: str) -> EnrolmentCode:
        """Read a code that a person pasted.

        Raises:
            UsageError: ``bad-code``.
        """
        try:
            # Without its prefix a text is read as empty, which is not a code either.
            _, _, word = text.strip().partition(CODE_PREFIX)
            fields = Fields(decode(octets_from_text(word)), "code")
            url = fields.text("url", 2048)
            code = cls(url.rstrip("/"), fields.octets("root", 32), fields.octets("secret", SECRET_BYTES))
            fields.end()
        except UsageError as error:
            raise UsageError(
                "bad-code",
                "This is not a complete enrolment code.",
                f"paste it whole; it begins with {CODE_PREFIX} and has no spaces",
            ) from error
        if not _URL.fullmatch(url):
            raise UsageError("bad-code", "The code leads to an address without TLS, or to none.", "ask for a new code")
        return code
