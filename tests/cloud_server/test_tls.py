"""The certificate that the server makes is renewed under the root that devices pin, and never that root."""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from cloud_server.tls import CERTIFICATE_FILE, KEY_FILE, ROOT_FILE, ROOT_KEY_FILE, ensure_certificates, fingerprint
from shared.errors import BrokenState, UsageError
from tests.shared.refusals import refused

NOW = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
YEAR = dt.timedelta(days=365)


def certificate(folder: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / CERTIFICATE_FILE).read_bytes())


def require_served(folder: Path) -> None:
    """Certificate and key belong together, and the pinned root signed the certificate."""
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(folder / CERTIFICATE_FILE, folder / KEY_FILE)
    root = x509.load_pem_x509_certificate((folder / ROOT_FILE).read_bytes())
    certificate(folder).verify_directly_issued_by(root)


def test_it_is_renewed_after_half_of_its_time_and_the_root_stays(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, "pi.local", NOW)
    root, first = (tmp_path / ROOT_FILE).read_bytes(), certificate(tmp_path)
    ensure_certificates(tmp_path, "pi.local", NOW + YEAR - dt.timedelta(days=2))
    assert certificate(tmp_path) == first
    later = NOW + YEAR + dt.timedelta(days=1)
    ensure_certificates(tmp_path, "pi.local", later)
    assert certificate(tmp_path).not_valid_after_utc > first.not_valid_after_utc
    assert (tmp_path / ROOT_FILE).read_bytes() == root
    require_served(tmp_path)


def test_a_fingerprint_is_the_one_that_browsers_show(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, "pi.local", NOW)
    pem = (tmp_path / CERTIFICATE_FILE).read_text("ascii")
    root = (tmp_path / ROOT_FILE).read_text("ascii")
    assert fingerprint(f"{pem}{root}") == hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    with refused("bad-tls", UsageError):
        fingerprint("no certificate")


def test_no_certificate_outlives_the_root(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, "pi.local", NOW)
    root = x509.load_pem_x509_certificate((tmp_path / ROOT_FILE).read_bytes())
    ensure_certificates(tmp_path, "pi.local", root.not_valid_after_utc - dt.timedelta(days=9))
    assert certificate(tmp_path).not_valid_after_utc <= root.not_valid_after_utc
    require_served(tmp_path)


def test_another_host_gets_a_certificate_under_the_same_root(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, "pi.local", NOW)
    root = (tmp_path / ROOT_FILE).read_bytes()
    ensure_certificates(tmp_path, "fleet.example", NOW)
    names = certificate(tmp_path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "fleet.example" in names.get_values_for_type(x509.DNSName)
    assert (tmp_path / ROOT_FILE).read_bytes() == root
    require_served(tmp_path)


@pytest.mark.parametrize("lost", [CERTIFICATE_FILE, KEY_FILE])
def test_a_start_killed_while_renewing_is_mended_by_the_next(tmp_path: Path, lost: str) -> None:
    ensure_certificates(tmp_path, "pi.local", NOW)
    root = (tmp_path / ROOT_FILE).read_bytes()
    (tmp_path / CERTIFICATE_FILE).unlink()
    (tmp_path / lost).unlink(missing_ok=True)
    ensure_certificates(tmp_path, "pi.local", NOW)
    assert (tmp_path / ROOT_FILE).read_bytes() == root
    require_served(tmp_path)


def test_only_the_owner_reads_the_keys(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, "pi.local", NOW)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in (KEY_FILE, ROOT_KEY_FILE)} == {0o600}


def test_without_the_root_s_key_it_is_said_what_cannot_be(tmp_path: Path) -> None:
    ensure_certificates(tmp_path, "pi.local", NOW)
    (tmp_path / ROOT_KEY_FILE).unlink()  # as in folders of before
    ensure_certificates(tmp_path, "pi.local", NOW + YEAR * 1.5)
    with refused("wrong-tls-host", UsageError):
        ensure_certificates(tmp_path, "fleet.example", NOW)
    with refused("tls-expired", UsageError):
        ensure_certificates(tmp_path, "pi.local", NOW + YEAR * 3)
    (tmp_path / CERTIFICATE_FILE).unlink()
    with refused("no-tls-certificate", UsageError):
        ensure_certificates(tmp_path, "pi.local", NOW)


def test_another_root_s_key_signs_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        ensure_certificates(tmp_path / name, "pi.local", NOW)
    (tmp_path / "a" / ROOT_KEY_FILE).write_bytes((tmp_path / "b" / ROOT_KEY_FILE).read_bytes())
    with refused("bad-key-file", BrokenState):
        ensure_certificates(tmp_path / "a", "fleet.example", NOW)
    (tmp_path / "a" / ROOT_KEY_FILE).write_bytes(b"rubbish")
    with refused("bad-key-file", BrokenState):
        ensure_certificates(tmp_path / "a", "fleet.example", NOW)
