"""TLS in front of a server that speaks none: what arrives is decrypted and goes to its address on loopback, and its answers back.

xllamacpp's server is built without TLS; the other engines have their own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

from plenum.adapters.authorities import OwnCertificate, showing

MAX_OPEN = 1_024
"""Connections at once; more are closed as they come."""

HANDSHAKE_S = 10.0
"""Longest for one, and for taking leave."""

STALL_S = 300.0
"""Longest that one end may leave unread what the other has sent; a gateway's own clients may take a while to read."""

PIECE_BYTES = 64 * 1024


async def serve_tls(listener: socket.socket, certificate: OwnCertificate, url: str) -> None:
    """Speak TLS at a bound socket, for ever.

    Parameters
    ----------
    url
        Of the server behind it.
    """
    there = urlsplit(url)
    assert there.hostname is not None
    assert there.port is not None
    passed_on = _passing_on(there.hostname, there.port)
    tls = showing(certificate)
    server = await asyncio.start_server(
        passed_on, sock=listener, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S, ssl_shutdown_timeout=HANDSHAKE_S
    )
    await server.serve_forever()


def _passing_on(host: str, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    opened = 0

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        if opened >= MAX_OPEN:
            writer.transport.abort()
            return
        opened += 1
        try:
            with suppress(OSError):  # either end may go at any time, and the other is told by being closed
                await _join(reader, writer, *await asyncio.open_connection(host, port))
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        finally:
            opened -= 1

    return passed_on


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    own_reader: asyncio.StreamReader,
    own_writer: asyncio.StreamWriter,
) -> None:
    """Copy both ways until one end closes: a client that leaves frees the slot, a server that closes has said all."""
    ways = [asyncio.ensure_future(_copy(reader, own_writer)), asyncio.ensure_future(_copy(own_reader, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        own_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        async with asyncio.timeout(STALL_S):
            await writer.drain()
