"""Authorities by which certificates are checked."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from plenum.model.errors import FileError, Where

PROBE_S = 5.0


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
