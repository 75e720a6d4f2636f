"""One HTTP request at the gateway, with what every route needs: who asks, the body within its limits, an answer, and whether they left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from plenum.gateway.answers import JSON, Headers, client_id, error_body, error_event, error_headers, invalid
from plenum.gateway.inference import new_id
from plenum.gateway.read import Wishes, cost_bytes
from plenum.gateway.request import RefusedError
from plenum.ports.gateway import Key

if TYPE_CHECKING:
    from plenum.gateway.app import Gateway

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LINGER_S = 2.0
LINGER_BYTES = 32 * 2**20
"""How long and how much of a refused body is still taken, unread: closing at once would take the answer from the client, too."""


class GoneError(Exception):
    """The client has left; there is nobody to tell."""


class Call:
    """A request.

    Attributes
    ----------
    key
        Whose it is; of a route that is open, nobody's.
    id
        Of this request alone, for ever.
    held_bytes
        Of its body, in memory until it ends.
    values
        What the path's template names.
    """

    __slots__ = (
        "_complete",
        "_gone",
        "_headers",
        "_receive",
        "_send",
        "extra",
        "gateway",
        "held_bytes",
        "id",
        "key",
        "scope",
        "started",
        "values",
    )

    def __init__(self, gateway: Gateway, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self.gateway, self.scope, self._receive, self._send = gateway, scope, receive, send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._complete = self._gone = self.started = False
        self.id, self.held_bytes = new_id(), 0
        self.key: Key = NOBODY
        self.values: dict[str, str] = {}
        self.extra: Headers = []

    @property
    def method(self) -> str:
        """Such as ``POST``."""
        return self.scope["method"]

    @property
    def path(self) -> str:
        """Percent signs decoded."""
        return self.scope["path"]

    @property
    def address(self) -> str:
        """Where it comes from."""
        client = self.scope.get("client")
        return client[0] if client else ""

    def header(self, name: bytes) -> bytes:
        """Return a header by its lower-case name; the last one of several, empty where there is none."""
        return self._headers.get(name, b"")

    def wishes(self) -> Wishes:
        """Return what the headers say of the request for tokens in the body."""
        # What OpenAI's clients send: after how long without a byte they leave.
        patience = self._headers.get(b"x-stainless-read-timeout", b"")
        timeout_s = float(patience) if patience.replace(b".", b"", 1).isdigit() and len(patience) < 16 else 0.0
        session = client_id(self._headers.get(b"x-session-id", b"")).decode()
        tier = "batch" if self._headers.get(b"x-plenum-tier") == b"batch" else ""
        return Wishes(timeout_s=timeout_s, tier=tier, session=session)

    async def body(self, most_bytes: int = 0) -> bytes:
        """Return the body.

        Parameters
        ----------
        most_bytes
            0: the gateway's limit.

        Raises
        ------
        RefusedError
            It is too large (then none of it is waited for), there is no room for it, or it takes too long.
        GoneError
            The client left.
        """
        settings = self.gateway.settings
        most_bytes = most_bytes or settings.body_bytes
        length = self.header(b"content-length")
        if length and int(length) > most_bytes:
            raise _too_large(most_bytes)
        try:
            async with asyncio.timeout(settings.body_s):
                return await self._body(most_bytes)
        except TimeoutError as error:
            sentence = f"the request did not arrive within {settings.body_s:g} s"
            raise invalid("", sentence, code="request.too_slow", status=408) from error

    async def pieces(self, most_bytes: int) -> AsyncIterator[bytes]:
        """Yield the body as it comes, for what need not be in memory as a whole; each piece within ``body_s``.

        Raises
        ------
        RefusedError, GoneError
            As :meth:`body`.
        """
        length, size = self.header(b"content-length"), 0
        if length and int(length) > most_bytes:
            raise _too_large(most_bytes)
        while not self._complete:
            try:
                async with asyncio.timeout(self.gateway.settings.body_s):
                    part = await self._next()
            except TimeoutError as error:
                raise invalid("", "the upload stopped coming", code="request.too_slow", status=408) from error
            size += len(part)
            if size > most_bytes:
                raise _too_large(most_bytes)
            yield part

    async def _body(self, most_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while not self._complete:
            part = await self._next()
            size += len(part)
            if size > most_bytes:
                raise _too_large(most_bytes)
            if part:
                self._hold(len(part))  # as it comes: what is only announced would take others' room, and cost nothing
                parts.append(part)
        raw = parts[0] if len(parts) == 1 else b"".join(parts)
        self._hold_all(cost_bytes(raw))
        return raw

    def _hold_all(self, size_bytes: int) -> None:
        """Set aside what reading a body takes, beyond the room that it has had as it came."""
        most_bytes = self.gateway.settings.tenant_bodies_bytes
        if size_bytes > most_bytes:
            sentence = f"to read this body would take {size_bytes:,} bytes of memory, and a tenant's open requests may hold {most_bytes:,}"
            raise invalid(
                "", f"{sentence}; send fewer items or less text at once", code="request.too_large", status=413
            )
        self._hold(size_bytes - self.held_bytes)

    def _hold(self, size_bytes: int) -> None:
        self.gateway.room.take(self.key.tenant, size_bytes)
        self.held_bytes += size_bytes

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        self._complete = not message.get("more_body", False)
        return message.get("body", b"")

    @asynccontextmanager
    async def while_there(self):
        """Cancel what is done within as soon as the client leaves; then raises :class:`GoneError`."""
        task = asyncio.current_task()
        assert task is not None
        watch = asyncio.get_running_loop().create_task(self._await_end())
        watch.add_done_callback(lambda done: self._left(done, task))
        try:
            yield
        except asyncio.CancelledError:
            if self._gone and task.uncancel() == 0:
                raise GoneError from None
            raise
        finally:
            self._complete = True
            watch.cancel()

    async def _await_end(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def _left(self, watch: asyncio.Task[None], task: asyncio.Task[Any]) -> None:
        if not watch.cancelled() and not self._gone:
            self._gone = True
            task.cancel()

    async def begin(self, status: int, content_type: bytes, headers: Headers) -> None:
        """Send the head of an answer; :meth:`write` and :meth:`end` follow."""
        self.started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", content_type),
                    (b"x-request-id", self.id.encode()),
                    *_ALWAYS,
                    *self.extra,
                    *headers,
                ],
            }
        )

    async def write(self, data: bytes) -> None:
        """Send a part of the body; returns once the client keeps up."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        """Send the last part."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def answer(
        self, status: int, body: bytes, content_type: bytes = JSON, headers: Headers | None = None
    ) -> None:
        """Send a whole answer."""
        length = (b"content-length", b"%d" % len(body))
        unread = self._unread()
        if unread:
            headers = [*(headers or ()), (b"connection", b"close")]
        await self.begin(status, content_type, [length, *(headers or ())])
        if unread:
            await self.write(body)
            await self._linger()
            body = b""
        await self.end(body)

    async def refuse(self, error: RefusedError) -> None:
        """Send a refusal, in a stream that has begun as its last event."""
        if self.started:
            await self.end(error_event(error))
        else:
            await self.answer(error.status, error_body(error), headers=error_headers(error))

    def _unread(self) -> bool:
        """Return whether there is a body that nobody has read."""
        return not self._complete and (
            self.header(b"content-length") not in (b"", b"0") or b"transfer-encoding" in self._headers
        )

    async def _linger(self) -> None:
        """Take what still comes of the body, for a while and up to a limit."""
        size = 0
        with suppress(TimeoutError, GoneError):
            async with asyncio.timeout(LINGER_S):
                while not self._complete and size < LINGER_BYTES:
                    size += len(await self._next())


NOBODY = Key(id="", hash="", tenant="")

_ALWAYS: Headers = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


def _too_large(most_bytes: int) -> RefusedError:
    return invalid("", f"the body has more than {most_bytes:,} bytes", code="request.too_large", status=413)
