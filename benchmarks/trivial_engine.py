"""An engine that computes nothing, as fast as this language can: what is left of a request is what passes it on.

What it does stands in the prompt: ``chunks=8`` events with content, ``delay=0.1`` seconds before each,
``break=3`` (the connection ends after so many), ``status=500``. ``GET /state`` says how many streams are open and how many were
left early.

    python -m benchmarks.trivial_engine [PORT]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from typing import Any

import uvloop

_WORDS = {name: re.compile(rb"%s=([0-9.]+)" % name) for name in (b"chunks", b"delay", b"break", b"status", b"cached")}
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)

_HEAD = b"HTTP/1.1 %d OK\r\ncontent-type: %s\r\n%s\r\n"
_ROLE = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}\n\n'
_TOKEN = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}\n\n'
_STOP = (
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
)
_USAGE = b'data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":%s}\n\n'
_DONE = b"data: [DONE]\n\n"

open_streams = left_early = requests = 0
last_body = b""


class Connection(asyncio.Protocol):
    """One connection; requests one after the other."""

    def __init__(self) -> None:
        self._buffer = b""
        self._work: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._work is not None:
            self._work.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if found and len(rest) >= size:
            self._buffer = rest[size:]
            self._answer(head, rest[:size])

    def _answer(self, head: bytes, body: bytes) -> None:
        global requests, last_body
        if head.startswith(b"GET"):
            said = {
                "open": open_streams,
                "left": left_early,
                "requests": requests,
                "body": last_body.decode("utf-8", "replace"),
            }
            self._whole(200, json.dumps(said).encode() if b" /state" in head else b'{"data":[{"id":"m"}]}')
            return
        requests += 1
        last_body = body
        said = {name.decode(): float(found[1]) for name, word in _WORDS.items() if (found := word.search(body))}
        chunks, status = int(said.get("chunks", 4)), int(said.get("status", 200))
        usage = json.dumps(
            {
                "prompt_tokens": 11,
                "completion_tokens": chunks,
                "prompt_tokens_details": {"cached_tokens": int(said.get("cached", 0))},
            },
            separators=(",", ":"),
        ).encode()
        if status != 200:
            self._whole(status, b'{"error":{"message":"as it was asked","type":"invalid_request_error","code":400}}')
        elif b'"stream":true' in body:
            self._work = asyncio.get_running_loop().create_task(
                self._stream(chunks, said.get("delay", 0.0), int(said.get("break", -1)), usage)
            )
        elif "delay" in said:
            self._work = asyncio.get_running_loop().create_task(self._late(said["delay"], usage))
        else:
            self._whole(
                200, b'{"object":"chat.completion","choices":[{"message":{"content":"words"}}],"usage":%s}' % usage
            )

    async def _late(self, delay_s: float, usage: bytes) -> None:
        with _counted():
            await asyncio.sleep(delay_s)
            self._whole(
                200, b'{"object":"chat.completion","choices":[{"message":{"content":"words"}}],"usage":%s}' % usage
            )

    def _whole(self, status: int, body: bytes) -> None:
        self._transport.write(_HEAD % (status, b"application/json", b"content-length: %d\r\n" % len(body)) + body)

    async def _stream(self, chunks: int, delay_s: float, breaks: int, usage: bytes) -> None:
        write = self._transport.write
        with _counted():
            write(_HEAD % (200, b"text/event-stream", b"transfer-encoding: chunked\r\n") + _part(_ROLE))
            token = _part(_TOKEN)
            for number in range(chunks):
                # Also without a delay each goes out by itself.
                await asyncio.sleep(delay_s)
                if number == breaks:
                    self._transport.abort()
                    return
                write(token)
            write(_part(_STOP) + _part(_USAGE % usage) + _part(_DONE) + b"0\r\n\r\n")


@contextlib.contextmanager
def _counted():
    global open_streams, left_early
    open_streams += 1
    try:
        yield
    except asyncio.CancelledError:
        left_early += 1
        raise
    finally:
        open_streams -= 1


def _part(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def main(port: int) -> None:
    """Serve on a port of loopback until killed, and print which."""
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
