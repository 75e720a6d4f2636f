"""Certificates of one's own: a chain that checks, names that fit, keys that stay private, renewal in time."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from plenum.bootstrap import tls
from plenum.bootstrap.tls import Credentials, credentials, own_certificate
from plenum.model.errors import FileError


def certificate(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


def verified(found: Credentials, ca: Path, name: x509.DNSName | x509.IPAddress) -> None:
    """Raise VerificationError unless the certificate is good for a name by an authority."""
    verifier = PolicyBuilder().store(Store([certificate(ca)])).build_server_verifier(name)
    verifier.verify(certificate(found.certificate), [])


def test_the_chain_is_good_for_its_names_and_no_others(tmp_path: Path) -> None:
    found = credentials(tmp_path / "tls", ["control.example", "192.0.2.7", "2001:db8::7"])
    for name in ("control.example", "localhost"):
        verified(found, found.ca, x509.DNSName(name))
    for address in ("192.0.2.7", "2001:db8::7", "127.0.0.1", "::1"):
        verified(found, found.ca, x509.IPAddress(ipaddress.ip_address(address)))
    with pytest.raises(VerificationError):
        verified(found, found.ca, x509.DNSName("other.example"))
    stranger = credentials(tmp_path / "other", [])
    with pytest.raises(VerificationError):
        verified(found, stranger.ca, x509.DNSName("localhost"))


def test_keys_are_for_their_user_alone(tmp_path: Path) -> None:
    credentials(tmp_path / "tls", [])
    assert (tmp_path / "tls").stat().st_mode & 0o077 == 0
    assert {file.name for file in (tmp_path / "tls").iterdir()} == {"ca.pem", "ca.key", "server.pem", "server.key"}
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "tls").glob("*.key"))


def test_an_authority_signs_servers_and_no_other_authorities(tmp_path: Path) -> None:
    found = credentials(tmp_path, [])
    ca, server = certificate(found.ca), certificate(found.certificate)
    basics = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (basics.ca, basics.path_length) == (True, 0)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (server.not_valid_after_utc - server.not_valid_before_utc).days <= 398  # longer, and clients refuse it


def test_a_certificate_of_its_own_is_new_each_time_and_serves_those_that_look_at_names_and_dates(
    tmp_path: Path,
) -> None:
    found, later = own_certificate(tmp_path / "tls", "192.0.2.7"), own_certificate(tmp_path / "tls", "192.0.2.7")
    assert found.sha256 != later.sha256
    assert Path(found.key_file).stat().st_mode & 0o077 == 0
    shown = certificate(Path(later.file))
    assert shown.fingerprint(hashes.SHA256()).hex() == later.sha256
    now = datetime.datetime.now(datetime.UTC)
    assert now - shown.not_valid_before_utc >= datetime.timedelta(days=1), "clocks differ"
    assert shown.not_valid_after_utc - now > datetime.timedelta(days=365)
    names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["192.0.2.7"]
    assert not shown.extensions.get_extension_for_class(x509.BasicConstraints).value.ca, "it signs no others"


def test_what_is_good_is_kept_and_what_is_not_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serial(*names: str) -> int:
        return certificate(credentials(tmp_path, names).certificate).serial_number

    first, ca = serial("a.example"), (tmp_path / "ca.pem").read_bytes()
    assert serial("a.example") == first
    assert serial() == first, "it is good for fewer names, too"
    second = serial("a.example", "b.example")
    assert second != first

    monkeypatch.setattr(tls, "SERVER_DAYS", tls.RENEW_DAYS - 1)
    (tmp_path / "server.pem").unlink()
    soon_over = serial("a.example")
    monkeypatch.undo()
    assert serial("a.example") != soon_over
    assert (tmp_path / "ca.pem").read_bytes() == ca, "clients know the authority; it stays"


def test_a_certificate_of_another_authority_or_key_is_made_anew(tmp_path: Path) -> None:
    found, other = credentials(tmp_path / "a", []), credentials(tmp_path / "b", [])
    found.certificate.write_bytes(other.certificate.read_bytes())
    verified(again := credentials(tmp_path / "a", []), again.ca, x509.DNSName("localhost"))
    found.key.write_bytes(other.key.read_bytes())
    again = credentials(tmp_path / "a", [])
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(again.certificate, again.key)


@pytest.mark.parametrize("file", ["server.pem", "server.key"])
def test_a_damaged_certificate_is_made_anew(tmp_path: Path, file: str) -> None:
    credentials(tmp_path, [])
    (tmp_path / file).write_text("junk")
    found = credentials(tmp_path, [])
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(found.certificate, found.key)


@pytest.mark.parametrize("file", ["ca.pem", "ca.key"])
def test_a_damaged_authority_is_not_replaced_behind_the_clients_backs(tmp_path: Path, file: str) -> None:
    credentials(tmp_path, [])
    (tmp_path / file).write_text("junk")
    (tmp_path / "server.pem").unlink()
    with pytest.raises(FileError, match="is damaged"):
        credentials(tmp_path, [])


def test_an_authority_near_its_end_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "CA_DAYS", 20)
    found = credentials(tmp_path, [])
    left = certificate(found.certificate).not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left.days <= 20, "it cannot outlive its authority"


def test_a_real_handshake_succeeds(tmp_path: Path) -> None:
    found = credentials(tmp_path, [])
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(found.certificate, found.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection, serving.wrap_socket(connection, server_side=True) as secure:
                secure.sendall(b"hello")

        thread = threading.Thread(target=answer)
        thread.start()
        trusting = ssl.create_default_context(cafile=found.ca)
        with (
            socket.create_connection(listening.getsockname()) as plain,
            trusting.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            assert secure.recv(5) == b"hello"
        thread.join()
