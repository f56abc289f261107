"""``release.json``: which files make one version of a task, signed so that a device can trust a server it must not.

The signature is a plain Ed25519 signature over the file's exact bytes. A device checks signature, task, expiry and
that the version never decreases before it uses any file, and checks every file by its hash. Not handled here: who
may sign (the root document pins the key).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from shared.errors import Refused, UsageError
from shared.ids import require_name
from shared.limits import MAX_BLOB_BYTES, MAX_NAME_CHARACTERS
from shared.wire.canonical import Fields, Json, decode, encode, sha256
from shared.wire.signed import SigningKey, verify

RELEASE_FILE: Final = "release.json"
SIGNATURE_FILE: Final = "release.json.sig"
PLAN_FILE: Final = "plan.json"
WEIGHTS_FILE: Final = "weights_int8.safetensors"
LOCAL_FILE: Final = "local_initial.safetensors"  # where local tensors start, the same in every version
MAX_VERSION: Final = 2**31 - 1  # what an INTEGER column of every database holds
MAX_FILES: Final = 32
_FILE_NAME: Final = re.compile(rf"[A-Za-z0-9_-][A-Za-z0-9._-]{{0,{MAX_NAME_CHARACTERS - 1}}}", re.ASCII)
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class FileEntry:
    """One file of a release: its SHA-256 in hexadecimal and its size in bytes."""

    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, data: bytes) -> FileEntry:
        """Describe ``data``."""
        return cls(sha256(data).hex(), len(data))

    def check(self, data: bytes, name: str) -> bytes:
        """Return ``data`` if it is the file that was meant.

        Raises:
            Refused: ``wrong-file-hash``.
        """
        if FileEntry.of(data) != self:
            raise Refused(
                "wrong-file-hash",
                f"{name} has {len(data)} bytes that do not match the release; it was not used.",
                "check the link and the server's storage, then run again",
            )
        return data


@dataclass(frozen=True)
class Release:
    """One version of a task.

    Attributes:
        task: the task.
        version: strictly increasing from 0.
        issued_at_s: seconds since the epoch.
        expires_at_s: seconds since the epoch.
        files: by name.
        key_id: hexadecimal SHA-256 of the signing key.
        model_sha256: hexadecimal, see ``model_hash``: of the dequantized f32 weights that training starts from, local
            tensors at their initial values, and of the manifest.
    """

    task: str
    version: int
    issued_at_s: int
    expires_at_s: int
    files: Mapping[str, FileEntry]
    key_id: str
    model_sha256: str

    def to_bytes(self) -> bytes:
        """Return the exact bytes of ``release.json``."""
        files: dict[str, Json] = {
            name: {"sha256": entry.sha256, "bytes": entry.size_bytes} for name, entry in self.files.items()
        }
        return encode(
            {
                "task": self.task,
                "version": self.version,
                "issued_at": _to_text(self.issued_at_s),
                "expires_at": _to_text(self.expires_at_s),
                "files": files,
                "key_id": self.key_id,
                "model_sha256": self.model_sha256,
            }
        )


def key_id(public_key: bytes) -> str:
    """Return the name of a signing key."""
    return sha256(public_key).hex()


def sign_release(release: Release, key: SigningKey) -> tuple[bytes, bytes]:
    """Return the exact bytes of the release and their detached signature, 64 octets."""
    body = release.to_bytes()
    return body, key.sign(body)


def verify_release(
    body: bytes, signature: bytes, *, public_key: bytes, task: str, min_version: int, now_s: float
) -> Release:
    """Return the release in ``body`` if this device may use it.

    Raises:
        Unauthenticated: ``bad-signature``.
        Refused: ``wrong-task``, ``version-rollback``, ``release-expired``, ``wrong-key``.
        UsageError: for a malformed body.
    """
    verify(public_key, body, signature, RELEASE_FILE)
    release = parse_release(body)
    if release.key_id != key_id(public_key):
        raise Refused("wrong-key", "The release names another signing key than the one that signed it.")
    if release.task != task:
        raise Refused("wrong-task", f"The release is for task {release.task!r}, this device is enrolled in {task!r}.")
    if release.version < min_version:
        raise Refused(
            "version-rollback",
            f"The server offers version {release.version}; this device already used {min_version}.",
            "the server may have been restored from an old backup: ask its operator",
        )
    if release.expires_at_s < now_s:
        raise Refused(
            "release-expired",
            f"The release expired at {_to_text(release.expires_at_s)}.",
            "check this device's clock; else the operator has to issue a new version",
        )
    return release


def parse_release(body: bytes) -> Release:
    """Read release.json without verifying it: for the server's own releases."""
    fields = Fields(decode(body), RELEASE_FILE)
    entries = fields.mapping("files", MAX_FILES)
    release = Release(
        task=require_name(fields.text("task"), "the task"),
        version=fields.integer("version", 0, MAX_VERSION),
        issued_at_s=_from_text(fields.text("issued_at", 20)),
        expires_at_s=_from_text(fields.text("expires_at", 20)),
        files={name: _entry(name, value) for name, value in entries.items()},
        key_id=fields.text("key_id", 64),
        model_sha256=_hex_sha256(fields.text("model_sha256", 64)),
    )
    fields.end()
    return release


def _entry(name: str, value: Json) -> FileEntry:
    if not _FILE_NAME.fullmatch(name):
        raise UsageError("bad-file-name", "A release names a file outside its folder, or by odd characters.")
    fields = Fields(value, name)
    entry = FileEntry(_hex_sha256(fields.text("sha256", 64)), fields.integer("bytes", 0, MAX_BLOB_BYTES))
    fields.end()
    return entry


def _hex_sha256(text: str) -> str:
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise UsageError("bad-hash", "A release holds a hash that is not 64 hexadecimal digits.")
    return text


def _to_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME_FORMAT)


def _from_text(text: str) -> int:
    try:
        seconds = int(datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise UsageError("bad-time", "A release holds a time that is not like 2030-01-31T12:00:00Z.") from error
    if _to_text(seconds) != text:
        raise UsageError("bad-time", "A release holds a time with digits left out.")
    return seconds
