"""The gateway on a port: uvicorn with httptools and uvloop, and a protocol that slow and greedy clients cannot hold up.

Why this server: of a streamed answer it takes as much processor time a chunk as granian (22 and 24 µs with the same small application) and
less a request (0.06 and 0.09 ms); and its protocol is a class in Python, where what follows can be put right.

uvicorn bounds neither how long nor how large a request's head is, nor how long an answer stays unread, so :class:`Guard` does. It refuses
pipelining as well: no client of this dialect does it, and a client that leaves would be noticed for its last request only. Who offers to go
on in another protocol (``Upgrade: h2c``) is served in this one.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from plenum.gateway.answers import is_loopback
from plenum.gateway.app import Gateway

BACKLOG = 2_048

SPARE_FILES = 256
"""Files that the process has open beside connections of clients and, as many at most, to engines."""

_OF_UPGRADES = frozenset({b"upgrade", b"http2-settings"})
"""Headers of an offer to go on in another protocol, and words of ``Connection``."""


@asynccontextmanager
async def serve(
    gateway: Gateway, listening: socket.socket, *, certificate: Path | None = None, key: Path | None = None
) -> AsyncIterator[None]:
    """Serve on a socket that listens, while the context is open; leaving it lets open streams end, up to ``drain_s``.

    Parameters
    ----------
    certificate, key
        Files for TLS; None: plain HTTP.

    Raises
    ------
    RuntimeError
        The server did not come up.
    """
    settings = gateway.settings
    config = uvicorn.Config(
        gateway,
        http=partial(Guard, gateway=gateway, clients=Counter(), most=room_for(settings.connections)),  # pyright: ignore[reportArgumentType]
        loop="none",
        lifespan="off",
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=int(settings.idle_s),
        timeout_graceful_shutdown=int(settings.drain_s),
        backlog=BACKLOG,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    server = _Quiet(config)
    server.servers, server.handshake_s = [], settings.headers_s
    serving = asyncio.create_task(server.serve([listening]))
    keeping = asyncio.create_task(gateway.keep_journal())
    try:
        while not server.started:
            if serving.done():
                raise RuntimeError("the gateway's server did not start") from serving.exception()
            await asyncio.sleep(0.01)
        # Modules and compiled loops live as long as the process; to walk them in each full collection takes tens of milliseconds.
        gc.collect()
        gc.freeze()
        yield
    finally:
        gateway.close()
        server.should_exit = True
        await serving
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await gateway.inference.end()


def room_for(connections: int) -> int:
    """Let the process have as many files open as connections need; returns how many connections that is enough for.

    Else clients would take what connections to engines need, and engines that are well would count as lost.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    wanted = 2 * connections + SPARE_FILES
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(min(connections, (soft - SPARE_FILES) // 2), 1)


class _Quiet(uvicorn.Server):
    """uvicorn without signal handlers of its own, as whoever starts it decides when it stops, and without patience for TLS handshakes."""

    handshake_s = 10.0

    @contextmanager
    def capture_signals(self):
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn's own leaves a handshake a minute."""
        config, loop = self.config, asyncio.get_running_loop()
        protocol = partial(config.http_protocol_class, config=config, server_state=self.server_state, app_state={})
        tls: dict[str, Any] = {"ssl": config.ssl, "ssl_handshake_timeout": self.handshake_s} if config.ssl else {}
        for listening in sockets or ():
            self.servers.append(await loop.create_server(protocol, sock=listening, backlog=config.backlog, **tls))
        self.started = True


class Guard(HttpToolsProtocol):
    """One connection, within the gateway's limits.

    Parameters
    ----------
    clients
        Connections by address, one for all connections.
    most
        Connections at once.
    """

    def __init__(self, *args: Any, gateway: Gateway, clients: Counter[str], most: int, **named: Any) -> None:
        super().__init__(*args, **named)
        self._gateway, self._settings, self._clients = gateway, gateway.settings, clients
        self._address, self._most = "", most
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there may be one more."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        self._clients[self._address] += 1
        self._gateway.measures.connections.inc()
        settings = self._settings
        if len(self.connections) > self._most:
            self._drop("too-many")
        elif self._clients[self._address] > settings.connections_per_client and not is_loopback(self._address):
            self._drop("too-many-of-one")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._clients[self._address] -= 1
        if self._clients[self._address] <= 0:
            del self._clients[self._address]
        self._gateway.measures.connections.dec()
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stall_timer = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; of a head only so many, and only for so long."""
        self._parse(data)
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._settings.headers_bytes:
                self._drop("long-head")
        elif self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            # Blank lines before a request are allowed, and would keep a connection for ever.
            self._await_head()

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.transport.is_closing():
                return  # what follows was pipelined: a read may hold thousands of such
            # The parser takes what follows for the other protocol; so it gets the head again, without the offer.
            head, self.parser = self._head_without_upgrade(), httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
            self._parse(head + data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _head_without_upgrade(self) -> bytes:
        """Return the head that was read, as of a request that asks for no other protocol; nothing is left of one that cannot be one."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            return b"\0"
        lines = [method + b" " + self.url + b" HTTP/" + self.parser.get_http_version().encode()]
        for name, value in self.headers:
            if name == b"connection":
                value = b",".join(word for word in value.split(b",") if word.strip().lower() not in _OF_UPGRADES)
            if name not in _OF_UPGRADES and (value or name != b"connection"):
                lines.append(name + b": " + value)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._drop("pipelined")
        self._in_head = True
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand a request on."""
        if self.parser.should_upgrade():
            return  # it comes again
        self._in_head, self._head_bytes = False, 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if sum(len(name) + len(value) for name, value in self.headers) > self._settings.headers_bytes:
            self._drop("long-head")
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that a request has come."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def pause_writing(self) -> None:
        """Give a client that does not read what it is sent a while to do so."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self._settings.stall_s, self._drop, "stalled")

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._settings.headers_s, self._drop, "slow-head")

    def _drop(self, why: str) -> None:
        self._gateway.measures.dropped.labels(why).inc()
        self.transport.abort()
