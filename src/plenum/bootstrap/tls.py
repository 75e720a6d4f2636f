"""A certificate authority of one's own, so that everything speaks TLS from the first start; and certificates without any."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plenum.adapters.authorities import OwnCertificate
from plenum.bootstrap.config import private_folder, write_private
from plenum.model.errors import FileError, Where

CA_DAYS = 3650
SERVER_DAYS = 397
RENEW_DAYS = 30
"""A certificate with fewer days left is made anew at the next start."""

_SERVER = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Plenum")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Files of a certificate, its key, and the authority that signed it."""

    certificate: Path
    key: Path
    ca: Path


def credentials(folder: Path, names: Iterable[str], authority: Path | None = None) -> Credentials:
    """Return a server's certificate for some host names and addresses, made or renewed as needed.

    Parameters
    ----------
    folder
        Holds ``ca.pem`` and ``ca.key`` (the same for all that share it), ``server.pem`` and ``server.key``.
    authority
        Folder of ``ca.pem`` and ``ca.key`` where that is another one.

    Raises
    ------
    FileError
        The authority is damaged or has lost its key, and a certificate is needed. It is not replaced: clients trust the one they know.
    """
    private_folder(folder)
    authority = private_folder(authority or folder)
    found = Credentials(certificate=folder / "server.pem", key=folder / "server.key", ca=authority / "ca.pem")
    wanted = sorted({*names, "localhost", "127.0.0.1", "::1"})
    if not found.ca.exists():
        _make_ca(authority)
    if not _serves(found, wanted):
        _make_server(folder, authority, wanted)
    return found


def own_certificate(folder: Path, host: str) -> OwnCertificate:
    """Return a new certificate for a server at one address, signed by none but itself; its key is for this user only.

    Clients are told its fingerprint, so its dates bind only those that look at them, such as an engine that asks itself how it is.

    Parameters
    ----------
    folder
        Holds ``own.pem`` and ``own.key``; those that were there are replaced.
    """
    private_folder(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=SERVER_DAYS)
    certificate = _builder(key, _SERVER, [host], now - datetime.timedelta(days=1), until).sign(key, hashes.SHA256())
    write_private(folder / "own.key", _pem(key))
    write_private(folder / "own.pem", _certificate_pem(certificate))
    sha256 = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
    return OwnCertificate(file=str(folder / "own.pem"), key_file=str(folder / "own.key"), sha256=sha256)


def _serves(found: Credentials, wanted: list[str]) -> bool:
    """Whether there is a certificate with its key that is good for all names and for a while."""
    try:
        certificate = x509.load_pem_x509_certificate(found.certificate.read_bytes())
        key = serialization.load_pem_private_key(found.key.read_bytes(), None)
        certificate.verify_directly_issued_by(_read_ca(found.ca))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False  # a crash while they were made, or a damaged disk: they can be made again
    there = {str(name.value) for name in names}
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return set(wanted) <= there and left.days >= RENEW_DAYS and certificate.public_key() == key.public_key()


def _read_ca(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(file, error) from None


def _read_ca_key(file: Path, ca: x509.Certificate) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(file, error) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != ca.public_key():
        raise _damaged(file, "it is not the key of ca.pem")
    return key


def _damaged(file: Path, why: object) -> FileError:
    return FileError(
        f"is damaged or missing ({why}): put it back from a backup, or remove the whole folder for a new authority, which every client "
        "has to be given",
        Where(file=str(file)),
    )


def _make_ca(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Plenum CA {serial:x}"[:64])])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(folder / "ca.key", _pem(key))
    write_private(folder / "ca.pem", _certificate_pem(certificate))


def _make_server(folder: Path, authority: Path, names: list[str]) -> None:
    ca = _read_ca(authority / "ca.pem")
    ca_key = _read_ca_key(authority / "ca.key", ca)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    until = min(now + datetime.timedelta(days=SERVER_DAYS), ca.not_valid_after_utc)
    certificate = (
        _builder(key, ca.subject, names, now - datetime.timedelta(minutes=5), until)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    write_private(folder / "server.key", _pem(key))
    write_private(folder / "server.pem", _certificate_pem(certificate))


def _builder(
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    names: list[str],
    since: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_SERVER)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([_general_name(n) for n in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
