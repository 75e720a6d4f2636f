"""TLS before a server that has none: bytes cross it both ways, and either end's leaving reaches the other."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from plenum.adapters.authorities import pinned
from plenum.adapters.engines import tls_front
from plenum.adapters.engines.tls_front import serve_tls
from plenum.bootstrap.tls import own_certificate

LONG = bytes(1_000_000)


def test_bytes_cross_ends_are_passed_on_and_there_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tls_front, "MAX_OPEN", 1)
    left = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while (line := await reader.readline()) not in (b"", b"bye\n"):
                writer.write(line * (len(LONG) // len(line)))
        left.set()
        writer.close()

    async def settled(front: asyncio.Future[None]) -> None:
        """Wait until nobody serves a connection any more."""
        await asyncio.gather(*(asyncio.all_tasks() - {front, asyncio.current_task()}))

    async def within() -> None:
        async with asyncio.timeout(60):
            await go()

    async def go() -> None:
        behind = await asyncio.start_server(echo, "127.0.0.1", 0)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        url = f"http://127.0.0.1:{behind.sockets[0].getsockname()[1]}"
        front = asyncio.ensure_future(serve_tls(listener, own_certificate(tmp_path, "127.0.0.1"), url))
        for _ in range(2):  # what was open before has made room
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=pinned())
            writer.write(b"1234567\n")
            assert await reader.readexactly(len(LONG)) == b"1234567\n" * (len(LONG) // 8)
            more, unserved = await asyncio.open_connection("127.0.0.1", port, ssl=pinned())
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await more.readexactly(1)
            unserved.close()
            writer.write(b"bye\n")
            assert await reader.read() == b""
            writer.close()
            await settled(front)
        left.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=pinned())
        writer.write(b"1234567\n")
        writer.close()
        await left.wait()
        await settled(front)
        front.cancel()
        behind.close()

    asyncio.run(within())


def test_who_reads_nothing_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tls_front, "STALL_S", 0.1)
    left = asyncio.Event()

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(LONG)
                await writer.drain()
        left.set()
        writer.close()

    async def go() -> None:
        behind = await asyncio.start_server(pour, "127.0.0.1", 0)
        listener = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{behind.sockets[0].getsockname()[1]}"
        front = asyncio.ensure_future(serve_tls(listener, own_certificate(tmp_path, "127.0.0.1"), url))
        async with asyncio.timeout(60):
            _, writer = await asyncio.open_connection(*listener.getsockname(), ssl=pinned())
            await left.wait()
        writer.transport.abort()
        front.cancel()
        behind.close()

    asyncio.run(go())
