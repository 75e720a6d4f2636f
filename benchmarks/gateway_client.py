"""An open-loop client of streamed chats: requests are sent when they are due, whatever has become of those before.

Raw sockets and as little reading as can be, for it shares the machine with what it measures.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, NamedTuple

import numpy as np

PATIENCE_S = 30.0
"""For fifty streams to begin."""

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_END = b"0\r\n\r\n"


def request(port: int, key: str, prompt: str, *, stream: bool = True, model: str = "m") -> bytes:
    """Return a chat's bytes."""
    streams = b',"stream":true,"stream_options":{"include_usage":true}' if stream else b""
    body = b'{"model":"%s","messages":[{"role":"user","content":"%s"}]%s}' % (model.encode(), prompt.encode(), streams)
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer %s\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (port, key.encode(), len(body), body)
    )


class Answer(NamedTuple):
    """When its first and its last byte came, and whether it was a 200."""

    first_s: float
    ended_s: float
    fine: bool


class Connection(asyncio.Protocol):
    """A connection, kept for the next request."""

    def __init__(self, free: list[Connection]) -> None:
        self._free = free
        self.lost = False
        self._done: asyncio.Future[Answer] | None = None
        self._tail = b""
        self._left = -1
        self.first_s = 0.0
        self.head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def send(self, data: bytes) -> asyncio.Future[Answer]:
        """Send a request; its answer comes once all of it has come."""
        self._done = asyncio.get_running_loop().create_future()
        self._tail, self.head, self.first_s = b"", b"", 0.0
        self._transport.write(data)
        return self._done

    def data_received(self, data: bytes) -> None:
        if not self.first_s:
            self.first_s = time.perf_counter()
            self.head = data[:16]
            head, _, body = data.partition(b"\r\n\r\n")
            length = _LENGTH.search(head)
            # Heads are small and come whole; a body is chunked, or as long as its head says.
            self._left = int(length[1]) - len(body) if length else -1
        elif self._left > 0:
            self._left -= len(data)
        # A chunked body's end may come in two pieces.
        self._tail = (self._tail + data)[-5:] if len(data) < 5 else data[-5:]
        if (self._left == 0 or (self._left < 0 and self._tail == _END)) and self._done is not None:
            done, self._done = self._done, None
            if not done.done():
                done.set_result(Answer(self.first_s, time.perf_counter(), self.begun))
            self._free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the connection was closed"))

    @property
    def begun(self) -> bool:
        """Whether an answer has begun, and well."""
        return self.head.startswith(b"HTTP/1.1 200")

    def close(self) -> None:
        """End it."""
        self._transport.close()


class Client:
    """Connections to one port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[Connection] = []
        self.connections: list[Connection] = []

    async def open(self) -> Connection:
        """Return a connection that is free."""
        while self._free:
            connection = self._free.pop()
            if not connection.lost:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self._free), "127.0.0.1", self.port)
        self.connections.append(connection)
        return connection

    def close(self) -> None:
        """End all connections."""
        for connection in self.connections:
            connection.close()


async def open_loop(port: int, data: bytes, *, per_s: float, count: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Send ``count`` requests at their times; returns milliseconds to first and last byte from when each was due, and failures."""
    client = Client(port)
    first_ms, total_ms, failed = np.zeros(count), np.zeros(count), 0

    async def one(number: int, due_s: float) -> None:
        nonlocal failed
        try:
            connection = await client.open()
            answer = await connection.send(data)
            first_ms[number], total_ms[number] = 1e3 * (answer.first_s - due_s), 1e3 * (answer.ended_s - due_s)
            failed += not answer.fine
        except OSError:
            failed += 1
            total_ms[number] = first_ms[number] = np.inf

    began_s = time.perf_counter() + 0.05
    tasks: list[asyncio.Task[None]] = []
    for number in range(count):
        due_s = began_s + number / per_s
        pause_s = due_s - time.perf_counter()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        tasks.append(asyncio.create_task(one(number, due_s)))
    await asyncio.gather(*tasks)
    client.close()
    return first_ms, total_ms, failed


async def closed_loop(port: int, data: bytes, *, parallel: int, count: int) -> tuple[float, int]:
    """Send ``count`` requests, ``parallel`` at a time; returns the seconds that it took and how many failed."""
    client = Client(port)
    left, failed = count, 0

    async def worker() -> None:
        nonlocal left, failed
        while left > 0:
            left -= 1
            try:
                connection = await client.open()
                failed += not (await connection.send(data)).fine
            except OSError:
                failed += 1

    began_s = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(parallel)))
    client.close()
    return time.perf_counter() - began_s, failed


async def idle_streams(port: int, data: bytes, *, count: int) -> tuple[Client, int]:
    """Open streams and leave them open; returns whom to close, and how many had begun."""
    client = Client(port)
    for start in range(0, count, 50):
        connections = [await client.open() for _ in range(min(50, count - start))]
        for connection in connections:
            connection.send(data).add_done_callback(lambda done: done.cancelled() or done.exception())
        deadline_s = time.perf_counter() + PATIENCE_S
        while any(not connection.first_s for connection in connections) and time.perf_counter() < deadline_s:
            await asyncio.sleep(0.01)
    return client, sum(connection.begun for connection in client.connections)
