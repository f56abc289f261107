"""A self-signed root and a server certificate below it, for set-ups without a public name."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_server.settings import write_private
from shared.errors import BrokenState, UsageError

ROOT_FILE = "tls_root.pem"
CERTIFICATE_FILE = "tls_server.pem"
KEY_FILE = "tls_server.key"
ROOT_KEY_FILE = "tls_root.key"
_ANEW = "a new root (remove keys/tls_*) means enrolling every device anew"
_ROOT_VALID = dt.timedelta(days=10 * 365)
_SERVER_VALID = dt.timedelta(days=2 * 365)


def ensure_certificates(folder: Path, host: str, now: dt.datetime) -> None:
    """Write root, server certificate and keys into ``folder`` where they are missing; renew the certificate in time.

    Devices pin the root, which stays: under it a certificate is made for another host, or once half of the time of the
    one before is over.

    Args:
        folder: where keys live.
        host: name or address under which devices reach the server; localhost is always included.
        now: the time.

    Raises:
        UsageError: ``no-tls-certificate``; ``wrong-tls-host`` or ``tls-expired``, if there is no key of the root, as in
            folders that an older program made, and the certificate does not cover ``host``, or has expired.
        BrokenState: ``bad-key-file``.
    """
    if not (folder / ROOT_FILE).exists():
        _make_root(folder, now)
    made = (folder / CERTIFICATE_FILE).exists()
    if made and _is_good(folder / CERTIFICATE_FILE, host, now):
        return
    if (folder / ROOT_KEY_FILE).exists():
        _make_certificate(folder, host, now)
    elif made:
        _require_usable(folder / CERTIFICATE_FILE, host, now)
    else:
        raise UsageError(
            "no-tls-certificate",
            "The TLS root that devices pin was not made here, and no certificate below it was given.",
            f"give --tls-cert and --tls-key as before; {_ANEW}",
        )


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of the first certificate of a PEM file, as browsers show it but without colons.

    Raises:
        UsageError: ``bad-tls``.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii")).fingerprint(SHA256()).hex()
    except ValueError as error:
        raise UsageError(
            "bad-tls", "What should be a certificate in PEM is none.", "give another --tls-cert"
        ) from error


def _make_root(folder: Path, now: dt.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Fedloom self-signed root")
    root = (
        _builder(name, name, key.public_key(), now, _ROOT_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    write_private(folder / ROOT_KEY_FILE, _pem(key))
    write_private(folder / ROOT_FILE, root.public_bytes(Encoding.PEM))


def _make_certificate(folder: Path, host: str, now: dt.datetime) -> None:
    root = x509.load_pem_x509_certificate((folder / ROOT_FILE).read_bytes())
    root_key = _load_key(folder / ROOT_KEY_FILE)
    if root_key.public_key() != root.public_key():
        raise BrokenState("bad-key-file", f"{ROOT_KEY_FILE} is another root's key.", "restore it from a backup")
    key = ec.generate_private_key(ec.SECP256R1())
    valid = min(_SERVER_VALID, root.not_valid_after_utc - now)
    certificate = (
        _builder(_name("Fedloom aggregator"), root.subject, key.public_key(), now, valid)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(host)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, SHA256())
    )
    # Killed in between, the next start makes both again: key and certificate of different ones would serve nobody.
    (folder / CERTIFICATE_FILE).unlink(missing_ok=True)
    write_private(folder / KEY_FILE, _pem(key))
    write_private(folder / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM))


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BrokenState("bad-key-file", f"{path.name} is damaged.", "restore it from a backup")
    return key


def _is_good(certificate: Path, host: str, now: dt.datetime) -> bool:
    """Say whether a certificate covers ``host`` and has more than half of its time left."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    begins, ends = loaded.not_valid_before_utc, loaded.not_valid_after_utc
    return _covers(loaded, host) and now < begins + (ends - begins) / 2


def _covers(certificate: x509.Certificate, host: str) -> bool:
    covered = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(_alternative_names(host)) <= set(covered)


def _require_usable(path: Path, host: str, now: dt.datetime) -> None:
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if not _covers(certificate, host):
        raise UsageError(
            "wrong-tls-host",
            f"The TLS certificate that was made here does not cover {host}, so devices would refuse the server.",
            f"serve under the name of the first start, or give --tls-cert and --tls-key; {_ANEW}",
        )
    if certificate.not_valid_after_utc < now:
        raise UsageError("tls-expired", "The TLS certificate that was made here has expired.", _ANEW)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    valid: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # A day back: a Raspberry Pi has no clock chip and may be behind.
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + valid)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_names(host: str) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    try:
        names.append(x509.IPAddress(ipaddress.ip_address(host)))
    except ValueError:
        names.append(x509.DNSName(host))
    return list(dict.fromkeys(names))
