"""Files named by their SHA-256 in a bucket of Amazon S3, or of a server that speaks its protocol.

Content is what makes a name, so that any number of machines may put the same file at once, and nothing is ever locked.
Requests run in threads: in a web process, others are answered meanwhile.
"""

from __future__ import annotations

import errno
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cache
from typing import Any, BinaryIO, Final, TypeVar, cast
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from cloud_server.storage.blobs import (
    Content,
    Stored,
    blob_name,
    blob_unknown,
    checked,
    difference_name,
    is_digest,
    no_difference,
)
from shared.errors import BrokenState, UsageError
from shared.limits import OBJECT_PIECE_BYTES
from shared.wire.canonical import sha256

SCHEME: Final = "s3"
OWNER: Final = "owner"  # names the deployment whose files these are
CONNECT_S: Final = 5
REQUEST_S: Final = 60
RETRY_S: Final = 5
MAX_RETRIES: Final = 3
THREADS: Final = 16  # of one web process, for requests to the store
T = TypeVar("T")


@dataclass(frozen=True)
class Address:
    """Where a deployment's files are. What of the credentials is empty is taken from the environment, as usual for S3.

    Attributes:
        bucket: that exists.
        prefix: before every name, may be empty.
        endpoint: of another server than Amazon's, else empty.
        region: empty for the usual one.
        virtual_host: whether the bucket is a part of the host's name and not of the path.
        owner: the deployment's own mark in the bucket.
        access_key_id: of the credentials.
        secret_access_key: of the credentials.
    """

    bucket: str
    prefix: str
    endpoint: str = ""
    region: str = ""
    virtual_host: bool = False
    owner: str = ""
    access_key_id: str = ""
    secret_access_key: str = ""

    @classmethod
    def from_url(cls, url: str, endpoint: str, region: str, *, virtual_host: bool) -> Address:
        """Return what ``blobs use`` was told.

        Raises:
            UsageError: ``bad-object-store``.
        """
        parts = urlsplit(url)
        if parts.scheme != SCHEME or not parts.netloc or parts.query or parts.fragment:
            raise UsageError("bad-object-store", "That is no address of an S3 bucket.", "write it s3://BUCKET/PREFIX")
        if endpoint and urlsplit(endpoint).scheme not in {"http", "https"}:
            raise UsageError("bad-object-store", "The endpoint is no http or https address.", "check --endpoint")
        return cls(parts.netloc, parts.path.strip("/"), endpoint, region, virtual_host)

    @classmethod
    def from_bytes(cls, data: bytes) -> Address:
        """Read; raises ``bad-object-store`` (BrokenState) for a damaged file."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            remedy = "run `fedloom-server blobs use` again"
            raise BrokenState("bad-object-store", "keys/object_store.json is damaged.", remedy) from error

    def to_bytes(self) -> bytes:
        """Write."""
        return json.dumps(asdict(self)).encode()


class StoreFailed(OSError):
    """The object store does not do what it should; like a disk that fails, it is waited for."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EIO, what)


class ObjectBlobs:
    """A bucket, or what is below a prefix of one; see ``BlobStore``."""

    def __init__(self, address: Address) -> None:
        options: dict[str, Any] = {"virtual_hosted_style_request": address.virtual_host}
        for name in ("endpoint", "region", "access_key_id", "secret_access_key"):
            if value := getattr(address, name):
                options[name] = value
        self._store = S3Store(
            address.bucket,
            prefix=address.prefix or None,
            client_options={
                "allow_http": address.endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=CONNECT_S),
                "timeout": timedelta(seconds=REQUEST_S),
            },
            retry_config={"max_retries": MAX_RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
            **options,
        )
        self._owner = address.owner

    @property
    def kind(self) -> str:
        """See ``BlobStore``."""
        return "object store"

    def put(self, data: bytes) -> str:
        """See ``BlobStore``."""
        digest = sha256(data).hex()
        self._put(blob_name(digest), data)
        return digest

    def get(self, digest: str) -> bytes:
        """See ``BlobStore``."""
        if not is_digest(digest):
            raise blob_unknown()
        try:
            data = _do(lambda: bytes(obstore.get(self._store, blob_name(digest)).bytes()))
        except FileNotFoundError:
            raise blob_unknown() from None
        return checked(digest, data)

    def open(self, digest: str) -> Content:
        """See ``BlobStore``."""
        if not is_digest(digest):
            raise blob_unknown()
        try:
            return self._open(blob_name(digest))
        except FileNotFoundError:
            raise blob_unknown() from None

    def put_difference(self, before: str, after: str, data: bytes) -> None:
        """See ``BlobStore``."""
        self._put(difference_name(before, after), data)

    def open_difference(self, before: str, after: str) -> Content:
        """See ``BlobStore``."""
        if not is_digest(before) or not is_digest(after):
            raise no_difference()
        try:
            return self._open(difference_name(before, after))
        except FileNotFoundError:
            raise no_difference() from None

    def stored(self) -> Iterator[Stored]:
        """See ``BlobStore``."""
        pages = iter(obstore.list(self._store))
        while page := _do(lambda: next(pages, None)):
            for entry in page:
                if "/" in entry["path"]:
                    yield Stored(entry["path"], entry["last_modified"].timestamp())

    def remove(self, name: str, put_before_s: float) -> bool:
        """See ``BlobStore``; between question and deletion nothing keeps others out, but the moment is short."""
        try:
            found = _do(lambda: obstore.head(self._store, name))
            if found["last_modified"].timestamp() >= put_before_s:
                return False
            _do(lambda: obstore.delete(self._store, name))
        except FileNotFoundError:
            return False
        return True

    def missing(self) -> str:
        """See ``BlobStore``."""
        try:
            found = self.owner()
        except OSError as error:
            return error.strerror or "does not answer"
        return "" if found == self._owner else "belongs to another deployment, or to none"

    def owner(self) -> str:
        """Return the mark of the deployment that uses this bucket and prefix, empty if none does."""
        try:
            return _do(lambda: bytes(obstore.get(self._store, OWNER).bytes())).decode("ascii", "replace")
        except FileNotFoundError:
            return ""

    def claim(self) -> None:
        """Put this deployment's mark there."""
        self._put(OWNER, self._owner.encode("ascii"))

    def _put(self, name: str, data: bytes) -> None:
        _do(lambda: obstore.put(self._store, name, data))

    def _open(self, name: str) -> Content:
        size_bytes = _do(lambda: obstore.head(self._store, name))["size"]
        return Content(cast("BinaryIO", io.BufferedReader(_Object(self._store, name, size_bytes), 1)), size_bytes)


class _Object(io.RawIOBase):
    """One object as a file: each piece is a request of its own, so that nothing is held while a device reads slowly."""

    def __init__(self, store: S3Store, name: str, size_bytes: int) -> None:
        super().__init__()
        self._store = store
        self._name = name
        self._size_bytes = size_bytes
        self._position = 0
        self._piece = b""
        self._piece_start = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  # any writable buffer
        view = memoryview(buffer)
        if self._position >= self._size_bytes:
            return 0
        offset = self._position - self._piece_start
        if not 0 <= offset < len(self._piece):
            end = min(self._position + OBJECT_PIECE_BYTES, self._size_bytes)
            self._piece = _do(self._fetch(self._position, end))
            self._piece_start, offset = self._position, 0
        part = self._piece[offset : offset + len(view)]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _fetch(self, start: int, end: int) -> Callable[[], bytes]:
        return lambda: bytes(obstore.get_range(self._store, self._name, start=start, end=end))


def _do(call: Callable[[], T]) -> T:
    """Run a request; raises FileNotFoundError where there is no such object, and ``StoreFailed``."""
    try:
        return _threads().apply(call) if _is_patched() else call()
    except FileNotFoundError:
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise StoreFailed("the object store refuses the credentials") from error
    except (BaseError, ValueError) as error:
        raise StoreFailed("the object store does not answer as it should") from error


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))


@cache
def _threads() -> Any:  # noqa: ANN401  # gevent is not typed
    from gevent.threadpool import ThreadPool  # noqa: PLC0415  # web processes alone have it loaded

    return ThreadPool(THREADS)
