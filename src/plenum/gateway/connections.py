"""Connections of HTTP clients, kept within bounds: those of a gateway, and those of a control plane.

uvicorn bounds neither how many there are, nor how long or how large a request's head is, nor how long an answer stays unread, so
:class:`Guard` does. It refuses pipelining as well: no client of ours does it, and one that leaves would be noticed for its last request
only. Who offers to go on in another protocol (``Upgrade: h2c``) is served in this one.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import httptools
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from plenum.gateway.answers import is_loopback

SPARE_FILES = 256
"""Files that the process has open beside connections of clients and, as many at most, to engines."""

ACCEPT_PAUSE_S = 0.1
"""Where the system gives no more connections."""

_OF_UPGRADES = frozenset({b"upgrade", b"http2-settings"})
"""Headers of an offer to go on in another protocol, and words of ``Connection``."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What connections may come to, as in :class:`~plenum.gateway.settings.GatewaySettings`."""

    connections: int
    connections_per_client: int
    headers_bytes: int
    headers_s: float
    stall_s: float


class Places:
    """Connections that are open, all of them and by address; with TLS from before their handshake.

    Parameters
    ----------
    changed
        Told by how many there are more.
    dropped
        Told why one was ended.
    """

    def __init__(
        self,
        bounds: Bounds,
        *,
        changed: Callable[[int], None] = lambda more: None,
        dropped: Callable[[str], None] = lambda why: None,
    ) -> None:
        self.bounds, self.dropped = bounds, dropped
        self._changed = changed
        self._clients: Counter[str] = Counter()
        self._count = 0

    def take(self, address: str) -> str:
        """Count a connection; returns why it must end, empty if it may stay. Either way :meth:`leave` follows when it has ended."""
        self._clients[address] += 1
        self._count += 1
        self._changed(1)
        if self._count > self.bounds.connections:
            return "too-many"
        if self._clients[address] > self.bounds.connections_per_client and not is_loopback(address):
            return "too-many-of-one"
        return ""

    def leave(self, address: str) -> None:
        """Count one less."""
        self._clients[address] -= 1
        if self._clients[address] <= 0:
            del self._clients[address]
        self._count -= 1
        self._changed(-1)


def room_for(connections: int, *, files_each: int = 2, raising: bool = True) -> int:
    """Return for how many connections a process may have files open: all that are wanted, or as many as the system lets it have.

    Else clients would take the files that it needs besides; of a gateway, engines that are well would count as lost.

    Parameters
    ----------
    files_each
        Of a gateway two: its connections to engines may become as many.
    raising
        Whether it may ask for a higher limit, which processes that it starts have from it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return connections
    wanted = files_each * connections + SPARE_FILES
    if soft < wanted and raising:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(min(connections, (soft - SPARE_FILES) // files_each), 1)


class Server(uvicorn.Server):
    """uvicorn without signal handlers of its own, as whoever starts it decides when it stops, and with bounds for connections."""

    def __init__(self, config: uvicorn.Config, places: Places) -> None:
        super().__init__(config)
        self.servers = []
        self._places = places

    @contextmanager
    def capture_signals(self):
        """Leave signals to others."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; of those who speak TLS uvicorn itself would know nothing before a handshake that may take a minute."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the application did not start")
        config, loop = self.config, asyncio.get_running_loop()
        state = self.lifespan.state
        made = partial(Guard, config=config, server_state=self.server_state, app_state=state, places=self._places)
        for listening in sockets or ():
            if config.ssl:
                listening.listen(config.backlog)
                server: Any = _TlsListener(listening, made, config.ssl, self._places)
            else:
                server = await loop.create_server(made, sock=listening, backlog=config.backlog)
            self.servers.append(server)
        self.started = True


class _TlsListener:
    """Takes connections and has them speak TLS; those that have not done so yet count like all others.

    Parameters
    ----------
    made
        Makes the protocol of one that does, given ``arrived``.
    """

    def __init__(
        self, listening: socket.socket, made: Callable[..., Guard], tls: ssl.SSLContext, places: Places
    ) -> None:
        self._listening, self._made, self._tls, self._places = listening, made, tls, places
        self._greeting: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept())

    def close(self) -> None:
        """Take no more connections."""
        for task in (self._accepting, *self._greeting):
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until none is taken any more."""
        await asyncio.gather(self._accepting, *self._greeting, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listening)
            except OSError:
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            self._take(connection, address[0])
            await asyncio.sleep(0)  # those who are there have their turn, however many come

    def _take(self, connection: socket.socket, address: str) -> None:
        place = ExitStack()
        place.callback(self._places.leave, address)
        if why := self._places.take(address):
            self._places.dropped(why)
            place.close()
            connection.close()
            return
        task = asyncio.create_task(self._greet(connection, place))
        self._greeting.add(task)
        task.add_done_callback(self._greeting.discard)

    async def _greet(self, connection: socket.socket, place: ExitStack) -> None:
        made, limit_s = partial(self._made, arrived=place.close), self._places.bounds.headers_s
        with place, suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                made, connection, ssl=self._tls, ssl_handshake_timeout=limit_s
            )


class Guard(HttpToolsProtocol):
    """One connection, within bounds.

    Parameters
    ----------
    places
        One for all connections.
    arrived
        Called when it is there, which with TLS is after its handshake.
    """

    def __init__(self, *args: Any, places: Places, arrived: Callable[[], None] | None = None, **named: Any) -> None:
        super().__init__(*args, **named)
        self._places, self._bounds, self._arrived = places, places.bounds, arrived
        self._address = ""
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there may be one more."""
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if self._arrived is not None:
            self._arrived()
        if why := self._places.take(self._address):
            self._drop(why)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._places.leave(self._address)
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
            if self._head_bytes > self._bounds.headers_bytes:
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
        if sum(len(name) + len(value) for name, value in self.headers) > self._bounds.headers_bytes:
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
        self._stall_timer = self.loop.call_later(self._bounds.stall_s, self._drop, "stalled")

    def resume_writing(self) -> None:
        """It reads again."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self._bounds.headers_s, self._drop, "slow-head")

    def _drop(self, why: str) -> None:
        self._places.dropped(why)
        self.transport.abort()
