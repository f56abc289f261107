"""A self-signed root and a server certificate below it, for set-ups without a public name."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud_server.settings import write_private
from shared.errors import UsageError

ROOT_FILE = "tls_root.pem"
CERTIFICATE_FILE = "tls_server.pem"
KEY_FILE = "tls_server.key"
_ROOT_VALID = dt.timedelta(days=10 * 365)
_SERVER_VALID = dt.timedelta(days=2 * 365)


def ensure_certificates(folder: Path, host: str, now: dt.datetime) -> None:
    """Write root, server certificate and key into ``folder`` unless they are there.

    Raises:
        UsageError: ``wrong-tls-host`` if those that are there do not cover ``host``.

    Args:
        folder: where keys live.
        host: name or address under which devices reach the server; localhost is always included.
        now: the time.
    """
    if (folder / CERTIFICATE_FILE).exists() and (folder / ROOT_FILE).exists():
        _require_host(folder / CERTIFICATE_FILE, host)
        return
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = _name("Fedloom self-signed root")
    root = (
        _builder(root_name, root_name, root_key.public_key(), now, _ROOT_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(root_key.public_key()), critical=False)
        .sign(root_key, SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_name("Fedloom aggregator"), root_name, key.public_key(), now, _SERVER_VALID)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(_alternative_names(host)), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()),
            critical=False,
        )
        .sign(root_key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(folder / KEY_FILE, private)
    write_private(folder / CERTIFICATE_FILE, certificate.public_bytes(Encoding.PEM))
    # The root's private key is dropped: it has signed the only certificate that it ever will.
    write_private(folder / ROOT_FILE, root.public_bytes(Encoding.PEM))


def _require_host(certificate: Path, host: str) -> None:
    names = x509.load_pem_x509_certificate(certificate.read_bytes()).extensions
    covered = names.get_extension_for_class(x509.SubjectAlternativeName).value
    if not set(_alternative_names(host)) <= set(covered):
        raise UsageError(
            "wrong-tls-host",
            f"The TLS certificate that was made here does not cover {host}, so devices would refuse the server.",
            "serve under the name of the first start, or give --tls-cert and --tls-key; a new certificate"
            " (remove keys/tls_*) means enrolling every device anew",
        )


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
