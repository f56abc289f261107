"""The release keys of an aggregator elsewhere: what its authority certified, and whose requests it answers.

Operators hand files over, as they do with ``authority.json`` and ``root.json``: whoever has a copy of the key that is
to be replaced could ask over the network, too, and would then be certified instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cloud_server.authority.registry import Authority
from cloud_server.settings import write_private
from shared.errors import Conflict
from shared.release_key import ReleaseKey, requested_release_key, verify_release_key
from shared.root import Root
from shared.wire.messages import read_signed, write_signed
from shared.wire.signed import Signed

CERTIFIED_FILE: Final = "release_key.json"
REQUEST: Final = "release_key_request"  # the name in a request's file
CERTIFIED: Final = "release_key"  # and in the answer's


def newest_certified(folder: Path, authority_key: bytes) -> tuple[ReleaseKey, Signed] | None:
    """Return the newest key that was certified in ``folder``, None while that is the root document's."""
    path = folder / CERTIFIED_FILE
    if not path.exists():
        return None
    word = read_signed(path.read_bytes(), CERTIFIED)
    return verify_release_key(word, authority_key), word


def key_of_now(folder: Path, authority_key: bytes, root: Root) -> bytes:
    """Return the public key whose requests are the aggregator's."""
    found = newest_certified(folder, authority_key)
    return root.release_key if found is None else found[0].public_key


def certify(authority: Authority, folder: Path, request: bytes, root: Root) -> tuple[ReleaseKey, bytes]:
    """Return a key and the authority's word on it, as a file; the same request gets the same word again.

    Args:
        authority: whose word it is.
        folder: of the authority.
        request: the aggregator's file.
        root: document of that aggregator.

    Raises:
        Conflict: ``release-key-certified`` where the number is another key's.
        Refused: ``other-aggregator``.
        Unauthenticated: ``bad-signature``.
        UsageError: for what is no request.
    """
    key = requested_release_key(read_signed(request, REQUEST), root.fingerprint)
    before = newest_certified(folder, authority.public_key)
    if before is not None and before[0] == key:
        return key, write_signed(CERTIFIED, before[1])
    newest = 0 if before is None else before[0].number
    if key.number <= newest:
        raise Conflict(
            "release-key-certified",
            f"Key {newest} was certified already, and this is another one with number {key.number}.",
            "somebody else may have asked: compare key ids with the aggregator's operator",
        )
    word = write_signed(CERTIFIED, authority.certify_release_key(key))
    write_private(folder / CERTIFIED_FILE, word)
    return key, word
