"""HTTP/1.1 to one server, as lean as it goes: requests of known length, answers parsed by httptools, bytes passed on as they come.

What a general client does besides (cookies, redirects, proxies, decompression) costs more than passing a token on does, and none of it may
happen between a gateway and its engines.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

from plenum.adapters.authorities import pinned, shows
from plenum.model.errors import FieldError

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 900.0
"""Longest without a byte of an answer: a long prompt on a small machine takes minutes."""

KEPT_S = 4.0
"""How long a connection is kept for the next request: less than llama.cpp's 5 s, lest it close one as it is used."""

MAX_KEPT = 256
MAX_HEADER_BYTES = 64 * 1024
MAX_WAITING_BYTES = 1024 * 1024
"""Of an answer that nobody has taken yet; then no more is read from the server."""


class WireError(Exception):
    """No answer, or a broken one.

    Parameters
    ----------
    unanswered
        The connection ended before a byte of an answer came: where it had been kept, the server may not even have seen the request.
    """

    def __init__(self, sentence: str, *, unanswered: bool = False) -> None:
        super().__init__(sentence)
        self.unanswered = unanswered


class Wire:
    """Connections to one server.

    Parameters
    ----------
    url
        Scheme, host and port, maybe with the beginning of all paths.
    headers
        Sent with each request.
    certificate_sha256
        Of the one certificate that is trusted, in hexadecimal; empty: over https, those that the system's authorities signed.
    """

    def __init__(self, url: str, headers: Mapping[str, str], certificate_sha256: str = "") -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or not url.isprintable():
            raise FieldError("url", f"{url!r} is no address of an engine, such as http://127.0.0.1:8000")
        if certificate_sha256 and parts.scheme != "https":
            raise FieldError("url", f"{url!r} must begin with https://, as its server has a certificate")
        self.host, self._path = parts.hostname, parts.path.rstrip("/")
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._certificate_sha256 = certificate_sha256
        self._tls = _trusting(certificate_sha256) if parts.scheme == "https" else None
        self._head = f"\r\nHost: {parts.netloc}\r\n{_lines(headers)}Content-Length: "
        self._kept: deque[Connection] = deque(maxlen=MAX_KEPT)
        self.connections: set[Connection] = set()

    async def send(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        silence_s: float = SILENCE_TIMEOUT_S,
    ) -> Exchange:
        """Send a request and return its answer as soon as that begins.

        Raises
        ------
        WireError
            No answer began.
        """
        more = _lines(headers) if headers else ""
        head = f"{method} {self._path}{path} HTTP/1.1{self._head}{len(body)}\r\n{more}\r\n".encode()
        connection = self._reused()
        if connection is not None:
            try:
                return await connection.exchange(head, body, silence_s)
            except WireError as error:
                if not error.unanswered:
                    raise
        # Once only, and afresh: a request that brings its server down is not to be tried on every connection that is left.
        return await (await self._connected()).exchange(head, body, silence_s)

    def close(self) -> None:
        """Close all connections; answers that have not ended break off."""
        self._kept.clear()
        for connection in [*self.connections]:
            connection.abort()

    def keep(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        if len(self._kept) == MAX_KEPT:
            self._kept.popleft().abort()
        self._kept.append(connection)

    def _reused(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._kept:
            connection = self._kept.pop()  # the one used last: the others can grow old and be closed
            if connection.usable and now - connection.idle_since < KEPT_S:
                return connection
            connection.abort()
        return None

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                transport, connection = await loop.create_connection(
                    lambda: Connection(self, loop), self.host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            raise WireError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise WireError(str(error)) from error
        if self._certificate_sha256 and not shows(transport, self._certificate_sha256):
            connection.abort()
            raise WireError("it shows another certificate than the one that its node made for it")
        return connection


class Exchange:
    """One answer.

    Attributes
    ----------
    status, content_type
        Of the answer.
    """

    __slots__ = ("_connection", "content_type", "status")

    def __init__(self, connection: Connection, status: int, content_type: str) -> None:
        self._connection: Connection | None = connection
        self.status, self.content_type = status, content_type

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes as they arrive.

        Raises
        ------
        WireError
            It broke off.
        """
        connection = self._connection
        while connection is not None:
            data = connection.taken()
            if data:
                yield data
            elif connection.complete:
                self._connection = None
                connection.rest()
                return
            else:
                await connection.more()

    def close(self) -> None:
        """Give the connection up where the answer has not ended: that is how the server learns that nobody wants it any more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if connection.complete and not connection.waits:
                connection.rest()
            else:
                connection.abort()


class Connection(asyncio.Protocol):
    """One connection, with at most one exchange at a time; the callbacks without underscore are asyncio's and httptools'."""

    def __init__(self, wire: Wire, loop: asyncio.AbstractEventLoop) -> None:
        self._wire, self._loop = wire, loop
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._chunks: list[bytes] = []
        self.waits = 0
        self._error, self._left = "", False
        self._paused = False
        self._begin()

    def _begin(self) -> None:
        self._status, self._content_type, self._header_bytes = 0, "application/json", 0
        self._to_the_end = True
        self.complete, self._answered, self._lasts = False, False, False

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return not self._error and self._transport is not None and not self._transport.is_closing()

    async def exchange(self, head: bytes, body: bytes, silence_s: float) -> Exchange:
        """Send a request and wait for the beginning of its answer."""
        assert self._transport is not None
        self._begin()
        self._parser = httptools.HttpResponseParser(self)
        self._silence_s = silence_s
        self._heard_s = self._loop.time()
        self._timer = self._loop.call_later(silence_s, self._check_silence)
        self._transport.write(head + body if len(body) < 65_536 else head)
        if len(body) >= 65_536:
            self._transport.write(body)
        try:
            while not self._status:
                await self.more()
        except BaseException:
            self.abort()
            raise
        return Exchange(self, self._status, self._content_type)

    async def more(self) -> None:
        """Wait until something has come.

        Raises
        ------
        WireError
            Nothing will.
        """
        if self._error:
            raise WireError(self._error, unanswered=self._left and not self._answered)
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def taken(self) -> bytes:
        """Return what has come and was not taken yet."""
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.waits = 0
        return data

    def rest(self) -> None:
        """Be kept for the next request, if the server lets us."""
        self._stop_timer()
        if self.usable and self._lasts and not self._to_the_end:
            if self._paused and self._transport is not None:
                self._paused = False
                self._transport.resume_reading()
            self.idle_since = self._loop.time()
            self._wire.keep(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self._stop_timer()
        self._error = self._error or "the connection was given up"
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember it."""
        self._transport = cast(asyncio.Transport, transport)
        self._wire.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came; between two exchanges nothing may."""
        if self._parser is None or self.complete:
            self._fail("the server says more than was asked for")
            return
        self._answered = True
        self._heard_s = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is no HTTP: {error}")
            return
        if not self._status:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._fail(f"the answer's headers are longer than {MAX_HEADER_BYTES:,} bytes")
                return
        if self.waits > MAX_WAITING_BYTES and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """End an answer that lasts until the connection does; break off any other."""
        self._left = not self._error  # it was the server that left, not we that gave it up
        if self._status and self._to_the_end and exc is None:
            self.complete = True
        elif not self.complete:
            self._error = self._error or (f"the connection broke: {exc}" if exc else "the server closed the connection")
        self._error = self._error or "the server closed the connection"
        self._wire.connections.discard(self)
        self._stop_timer()
        self._wake()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Look at one header."""
        name = name.lower()
        if name == b"content-type":
            self._content_type = value.decode("latin-1")
        elif name in (b"content-length", b"transfer-encoding"):
            self._to_the_end = False

    def on_headers_complete(self) -> None:
        """Take the status; those below 200 are only on the way to another."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200:
            self._status = status

    def on_message_begin(self) -> None:
        """Refuse a second answer: it would be taken for that of the next request."""
        if self.complete:
            self._error = "the server says more than was asked for"

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if not self.complete:
            self._chunks.append(body)
            self.waits += len(body)

    def on_message_complete(self) -> None:
        """Note the end, and whether the server lets the connection be used again."""
        if self._status and not self.complete:
            assert self._parser is not None
            self.complete, self._lasts = True, self._parser.should_keep_alive()

    def _fail(self, sentence: str) -> None:
        self._error = self._error or sentence
        self.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_silence(self) -> None:
        """Give up after too long a silence; one timer for a whole exchange, set anew for what is left of it."""
        left_s = self._heard_s + self._silence_s - self._loop.time()
        if left_s <= 0 and not self._paused:
            self._fail(f"nothing came for {self._silence_s:g} s")
        else:
            self._timer = self._loop.call_later(max(left_s, 1.0), self._check_silence)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _trusting(certificate_sha256: str) -> ssl.SSLContext:
    return pinned() if certificate_sha256 else ssl.create_default_context()


def _lines(headers: Mapping[str, str]) -> str:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if not lines.replace("\r\n", "").isprintable() or lines.count("\r\n") != len(headers):
        raise FieldError("headers", "a header has characters that no header may have")
    return lines
