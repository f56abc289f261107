"""The authority as an aggregator sees it that does not hold its key: who it is, and how to ask it for a seed."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from shared.errors import Refused, TryLater, UsageError
from shared.limits import MAX_JSON_BYTES
from shared.root import Root, require_url
from shared.wire.canonical import Fields, decode, encode, octets_to_text
from shared.wire.messages import EnrolRequest, RenewalRequest, SeedRequest, read_signed
from shared.wire.requests import JSON, SEEDS, seed_request_message
from shared.wire.signed import PUBLIC_KEY_BYTES, Certificate, Signed

DESCRIPTION_FILE: Final = "authority.json"
TIMEOUT_S: Final = 10.0
_FORMAT: Final = "fedloom-authority-1"
_MAX_PEM_BYTES: Final = 20_000


@dataclass(frozen=True)
class Description:
    """What an aggregator must know of its authority; nothing in it is secret.

    Attributes:
        public_key: Ed25519 key that verifies certificates and seeds, 32 octets.
        url: where it listens.
        tls_root_pem: the certificate that TLS must lead to there.
    """

    public_key: bytes
    url: str
    tls_root_pem: str

    def to_bytes(self) -> bytes:
        """Return the file that the authority's operator hands to the aggregator's."""
        pem = octets_to_text(self.tls_root_pem.encode("ascii"))
        key = octets_to_text(self.public_key)
        return encode({"format": _FORMAT, "authority_key": key, "url": self.url, "tls_root_pem_octets": pem})

    @classmethod
    def from_bytes(cls, data: bytes) -> Description:
        """Undo ``to_bytes``.

        Raises:
            UsageError: ``bad-json``, ``bad-field`` or ``bad-url``.
        """
        fields = Fields(decode(data), DESCRIPTION_FILE)
        fields.choice("format", (_FORMAT,))
        described = cls(
            fields.octets("authority_key", PUBLIC_KEY_BYTES),
            require_url(fields.text("url", 2048)),
            fields.octets("tls_root_pem_octets", max_length=_MAX_PEM_BYTES).decode("ascii", "replace"),
        )
        fields.end()
        return described


_REFUSALS: Final = frozenset({"seed-drawn", "bad-signature"})


class RemoteAuthority:
    """An authority in another process, under another operator.

    Args:
        described: who it is.
        sign: signs with the aggregator's release key of now; the authority answers its requests only.
    """

    def __init__(self, described: Description, sign: Callable[[bytes], bytes]) -> None:
        self._described = described
        self._sign = sign

    @property
    def public_key(self) -> bytes:
        """Ed25519 key that verifies certificates and seeds, 32 octets."""
        return self._described.public_key

    def root(self, release_key: bytes, tls_root_pem: str) -> Root:
        """Return the root document that sends devices to the authority with their codes."""
        described = self._described
        return Root(described.public_key, release_key, tls_root_pem, described.url, described.tls_root_pem)

    def redeem(self, _request: EnrolRequest, _fingerprint: bytes) -> Certificate:
        """Refuse: a code is for the authority alone; raises ``other-authority``."""
        raise Refused(
            "other-authority", "Codes of this deployment are redeemed elsewhere.", "use a newer fedloom-agent"
        )

    def renew(self, _request: RenewalRequest, _fingerprint: bytes) -> Certificate:
        """Refuse: devices renew their keys where they redeemed their codes; raises ``other-authority``."""
        raise Refused("other-authority", "Keys of this deployment are renewed elsewhere.", "use a newer fedloom-agent")

    def mint(self, _task: str, *, count: int, valid_s: float, group: str = "") -> list[bytes]:
        """Refuse: an aggregator cannot invent devices; raises ``other-authority``."""
        raise UsageError(
            "other-authority",
            f"This aggregator cannot make {count} codes of group {group!r}, valid for {valid_s:g} s: its authority is"
            " elsewhere.",
            "run `fedloom-server code create` with the authority's --data",
        )

    def draw_seed(self, cohort: str, roster_root: bytes) -> Signed:
        """Ask for the seed of a cohort's graph; see ``Authority.draw_seed``.

        Raises:
            TryLater: ``no-authority`` while it cannot be reached or cannot answer.
            Refused: with its own code, ``seed-drawn`` or ``bad-signature``; ``seed-refused`` for any other text.
        """
        signature = self._sign(seed_request_message(cohort, roster_root))
        status, body = self._post(SEEDS, SeedRequest(cohort, roster_root, signature).to_bytes())
        if status == HTTPStatus.OK:
            return read_signed(body, "seed")
        code = Fields(decode(body), "problem").text("code") if body.startswith(b"{") else "no-answer"
        if HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR:
            message, remedy = f"The authority refused to draw a seed ({code}).", "read the authority's messages"
            if code not in _REFUSALS:
                raise Refused("seed-refused", message, remedy)  # members are shown it: no text of somebody else's
            raise Refused(code, message, remedy)
        raise TryLater("no-authority", f"The authority cannot draw a seed now ({code}).", "it is tried again")

    def _post(self, target: str, body: bytes) -> tuple[int, bytes]:
        address = urlsplit(self._described.url)
        connection = http.client.HTTPSConnection(
            address.hostname or "",
            address.port,
            timeout=TIMEOUT_S,
            context=ssl.create_default_context(cadata=self._described.tls_root_pem or None),
        )
        try:
            connection.request("POST", address.path.rstrip("/") + target, body, {"Content-Type": JSON})
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_JSON_BYTES)
        except (OSError, http.client.HTTPException) as error:
            reason = f"The authority cannot be reached ({type(error).__name__})."
            raise TryLater("no-authority", reason, "it is tried again") from error
        finally:
            connection.close()
