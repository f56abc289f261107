"""What every listening process needs: an address that others can reach, TLS files, the form of its log."""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import socket
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cloud_server.api.limiting import Limits
from cloud_server.logs import FORMS
from cloud_server.proxies import Proxies
from cloud_server.tls import CERTIFICATE_FILE, KEY_FILE, ROOT_FILE, ensure_certificates
from shared.errors import UsageError
from shared.limits import MAX_CONNECTIONS_PER_ADDRESS, REQUESTS_PER_ADDRESS_S, REQUESTS_PER_DEVICE_S

_LARGEST_PORT = 65_535


def add_listening(parser: argparse.ArgumentParser, port: int) -> None:
    """Declare ``--log``, and the options that ``public_url``, ``tls_files`` and ``limits`` read."""
    # A server is there to be reached.
    parser.add_argument("--listen", default=f"0.0.0.0:{port}", metavar="HOST:PORT")
    parser.add_argument("--public-url", help="address in enrolment codes, where it differs from --listen")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain in PEM, its root last")
    parser.add_argument("--tls-key", type=Path, metavar="FILE")
    parser.add_argument("--log", choices=FORMS, default="text", help="form of the log: for people, or JSON lines")
    _add_limits(parser)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Declare the options that ``limits`` reads; each counts in each web process by itself."""
    parser.add_argument(
        "--requests-per-address-s",
        type=float,
        default=REQUESTS_PER_ADDRESS_S,
        metavar="N",
        help="requests a second of one address that are no enrolled device's; 0 for no limit (default %(default)g)",
    )
    parser.add_argument(
        "--requests-per-device-s",
        type=float,
        default=REQUESTS_PER_DEVICE_S,
        metavar="N",
        help="requests a second of one enrolled device; 0 for no limit (default %(default)g)",
    )
    parser.add_argument(
        "--connections-per-address",
        type=int,
        default=MAX_CONNECTIONS_PER_ADDRESS,
        metavar="N",
        help="connections of one address at once; 0 for no limit (default %(default)d)",
    )
    parser.add_argument(
        "--trusted-proxy",
        action="append",
        default=[],
        metavar="ADDRESS[/BITS]",
        help="proxy whose X-Forwarded-For and X-Forwarded-Proto are believed; may be given again",
    )


def limits(arguments: argparse.Namespace) -> Limits:
    """Return what one asker may have.

    Raises:
        UsageError: ``bad-limit`` or ``bad-proxy``.
    """
    return Limits(
        arguments.requests_per_address_s,
        arguments.requests_per_device_s,
        arguments.connections_per_address,
        Proxies.from_text(",".join(arguments.trusted_proxy)),
    )


@dataclass(frozen=True)
class TlsFiles:
    """What a listening process shows.

    Attributes:
        certificate: file with the chain in PEM.
        key: file with its private key.
        root_pem: the certificate that clients must be led to.
    """

    certificate: Path
    key: Path
    root_pem: str


def public_url(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return the address for others, and its host.

    Raises:
        UsageError: ``bad-listen``, ``address-in-use`` or ``bad-url``.
    """
    host, _, port = arguments.listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > _LARGEST_PORT:
        raise UsageError("bad-listen", f"--listen is {arguments.listen!r}.", "write it as HOST:PORT")
    _require_free(host, int(port))
    anywhere = host in {"0.0.0.0", "[::]", "::"}  # noqa: S104  # compared, not bound
    url: str = arguments.public_url or f"https://{'127.0.0.1' if anywhere else host}:{port}"
    public_host = urlsplit(url).hostname
    if not url.startswith("https://") or not public_host:
        raise UsageError("bad-url", f"--public-url is {url!r}.", "write it like https://my-server:8443")
    if anywhere and not arguments.public_url:
        logging.getLogger("fedloom").warning("codes will carry %s: other machines need --public-url", url)
    return url, public_host


def _require_free(host: str, port: int) -> None:
    """Refuse an address that another process has, before a child of this one fails at it again and again."""
    address = host.strip("[]")
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise UsageError(
                "address-in-use",
                f"Nothing can listen at {host}:{port} ({error.strerror or error}).",
                "stop what listens there already, or give another --listen HOST:PORT",
            ) from error


def tls_files(arguments: argparse.Namespace, keys: Path, host: str) -> TlsFiles:
    """Return what is given, or what is self-made in ``keys`` where nothing is.

    Raises:
        UsageError: ``bad-tls`` or ``wrong-tls-host``.
    """
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise UsageError("bad-tls", "--tls-cert and --tls-key go together.", "give both, or none for a self-made one")
    if arguments.tls_cert is None:
        ensure_certificates(keys, host, dt.datetime.now(dt.UTC))
        return TlsFiles(keys / CERTIFICATE_FILE, keys / KEY_FILE, (keys / ROOT_FILE).read_text("ascii"))
    for path in (arguments.tls_cert, arguments.tls_key):
        if not path.is_file():
            raise UsageError("bad-tls", f"{path} is not a file.")
    text = read_text(arguments.tls_cert, "ascii", "bad-tls", "the certificate chain in PEM")
    last = text.rstrip().rpartition("-----BEGIN CERTIFICATE-----")
    if not last[1]:
        raise UsageError("bad-tls", f"{arguments.tls_cert} holds no certificate in PEM.")
    return TlsFiles(arguments.tls_cert, arguments.tls_key, last[1] + last[2] + "\n")


def read_text(path: Path, encoding: str, code: str, what: str) -> str:
    """Return a file's text; raises ``code`` (UsageError) where it cannot be read."""
    try:
        return path.read_text(encoding)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        raise UsageError(code, f"{path} cannot be read ({reason}).", f"give {what}") from error
