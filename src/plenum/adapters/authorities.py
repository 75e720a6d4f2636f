"""Whose certificates are trusted: authorities', or one of a server's own, known by its fingerprint."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from plenum.model.errors import FileError, Where

PROBE_S = 5.0


class OwnCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """A server's certificate that nobody else signed: whoever was told its SHA-256 (hexadecimal, of its DER) trusts it, and no other.

    Parameters
    ----------
    file, key_file
        PEM.
    """

    file: str
    key_file: str
    sha256: str


def showing(own: OwnCertificate | None) -> ssl.SSLContext | None:
    """Return what a server speaks TLS with; without a certificate, none."""
    if own is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(own.file, own.key_file)
    return context


def sha256_of(own: OwnCertificate | None) -> str:
    """Return the fingerprint that clients are told; empty: there is no certificate."""
    return own.sha256 if own is not None else ""


def pinned() -> ssl.SSLContext:
    """Return what lets any server finish its handshake: none may be told anything before :func:`shows` has looked at its certificate.

    The handshake proves that it has the key; of a certificate known by its fingerprint, dates, names and signers say nothing more.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def shows(transport: asyncio.BaseTransport, sha256: str) -> bool:
    """Whether the server at the other end of a connection has the certificate with this fingerprint."""
    connection = transport.get_extra_info("ssl_object")
    shown = None if connection is None else connection.getpeercert(binary_form=True)
    return bool(shown) and hashlib.sha256(shown).hexdigest() == sha256


def trusting(ca: Path | str | None, *, beside_system: bool = False) -> ssl.SSLContext:
    """Return what trusts the authorities in a file of PEM alone, or beside the system's; without a file, the system's.

    Raises
    ------
    FileError
        It holds none that can be read.
    """
    if not ca:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=None if beside_system else str(ca))
        context.load_verify_locations(ca)
        return context
    except OSError as error:
        why = f"holds no certificates in PEM that can be read: {error.strerror or error}"
        raise FileError(why, Where(file=str(ca))) from None


def authority_for(url: str, ca: str) -> str:
    """Return the file of authorities that a server's certificate needs: ``ca``, or empty where the system's do, or it speaks no TLS."""
    parts = urlsplit(url)
    if not ca or parts.scheme != "https" or parts.hostname is None:
        return ""
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 443), PROBE_S) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return ""
    except OSError:
        return ca
