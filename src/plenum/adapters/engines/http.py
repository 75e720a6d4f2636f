"""The client of every engine: OpenAI's dialect over HTTP, bytes passed on as they come.

Servers close kept connections when they like (llama.cpp after 5 s without requests and after each hundredth), so a connection that turns
out to be closed before an answer began is replaced once, without anybody noticing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any

import msgspec

from plenum.adapters.engines.prometheus import engine_metrics
from plenum.adapters.engines.server import Server
from plenum.adapters.engines.wire import Exchange, Wire, WireError
from plenum.ports.engine import Capabilities, EngineError, EngineMetrics, Handle, HandleError, Health

ASK_TIMEOUT_S = 20.0
"""Of everything but requests for tokens."""

ATTACH_TIMEOUT_S = 30.0
ATTACH_POLL_S = 0.2
"""How long, and how often, a server that somebody else started is asked whether it is ready."""

MAX_ANSWER_BYTES = 16 * 2**20
"""Of answers that are read whole."""

_JSON = "application/json"


class StatusError(EngineError):
    """The engine answered, but not with what was asked for; below 500 the question was at fault.

    Parameters
    ----------
    status
        Of HTTP.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class HttpAnswer:
    """An answer as it comes; see :class:`plenum.ports.engine.Answer`."""

    __slots__ = ("_exchange", "_url", "content_type", "status")

    def __init__(self, exchange: Exchange, url: str) -> None:
        self._exchange, self._url = exchange, url
        self.status, self.content_type = exchange.status, exchange.content_type

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes as they arrive."""
        try:
            async for chunk in self._exchange.chunks():
                yield chunk
        except WireError as error:
            raise EngineError(f"the engine at {self._url} broke off in its answer: {error}") from error

    async def read(self) -> bytes:
        """Return the whole body.

        Raises
        ------
        EngineError
            It broke off, or it is longer than :data:`MAX_ANSWER_BYTES`.
        """
        parts, size = [], 0
        async for chunk in self.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise EngineError(f"the engine at {self._url} answered with more than {MAX_ANSWER_BYTES:,} bytes")
        return b"".join(parts)


class Opening:
    """A request that is sent on entering, and whose connection is closed on leaving if the answer has not ended."""

    __slots__ = ("_body", "_engine", "_exchange", "_headers", "_path", "_wire")

    def __init__(
        self,
        engine: HttpEngine,
        path: str,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        wire: Wire | None = None,
    ) -> None:
        self._engine, self._path, self._body, self._headers = engine, path, body, headers
        self._wire = wire or engine.wire
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> HttpAnswer:
        try:
            self._exchange = await self._wire.send("POST", self._path, self._body, self._headers)
        except WireError as error:
            raise EngineError(f"no answer from the engine at {self._engine.url}: {error}") from error
        return HttpAnswer(self._exchange, self._engine.url)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Of an answer that has ended the connection is kept; else closing it is what frees the engine's slot.
        if self._exchange is not None:
            self._exchange.close()


class HttpEngine:
    """An engine behind a URL: what all of them have alike.

    Parameters
    ----------
    url
        Scheme, host and port.
    key
        Bearer token that it asks for; empty: none.
    certificate_sha256
        Of the certificate that it shows, where its node made one for it.
    server
        What :meth:`start` starts; None: it runs already.
    """

    kind = "openai"
    metric_names: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, url: str, *, key: str = "", certificate_sha256: str = "", server: Server | None = None) -> None:
        self.url, self.certificate_sha256 = url.rstrip("/"), certificate_sha256
        self.capabilities = Capabilities()
        self.headers = {"Content-Type": _JSON} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.wire = Wire(self.url, self.headers, certificate_sha256)
        self._server = server

    async def start(self) -> None:
        """Start its server and wait until it is ready."""
        if self._server is None:
            await self._wait_attached()
        else:
            await self._server.start(self.health)
        await self.learn()

    async def learn(self) -> None:
        """Find out what it can do, where that has to be asked."""

    async def stop(self, grace_s: float) -> None:
        """Let open requests finish for up to ``grace_s``, then end what :meth:`start` started."""
        if self._server is not None:
            await self._server.stop(grace_s, self._idle)

    async def exited(self) -> int:
        """Wait until what :meth:`start` started has ended; returns its exit code. Of an attached server: for ever."""
        if self._server is None:
            await asyncio.Event().wait()
            return 0
        return await self._server.exited()

    async def health(self) -> Health:
        """Return whether it answers; never raises."""
        try:
            status, body = await self.ask("GET", "/health")
        except EngineError as error:
            return Health(ready=False, sentence=error.sentence)
        if status == 200:
            return Health(ready=True)
        return Health(ready=False, loading=status == 503, sentence=f"{self.url} answers {status}: {_start(body)}")

    async def models(self) -> tuple[str, ...]:
        """Return the names that it serves, adapters among them."""
        found = await self.ask_json("GET", "/v1/models")
        return tuple(str(each["id"]) for each in found["data"])

    def open(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Opening:
        """Send a request and give its answer while the context is open."""
        return Opening(self, path, body, headers)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text."""
        raise EngineError(f"the engine at {self.url} ({self.kind}) tells no tokens of a text")

    async def prompt_tokens(self, path: str, body: bytes) -> int:
        """Return how many tokens a request's prompt has, its template included."""
        raise EngineError(f"the engine at {self.url} ({self.kind}) does not tell the length of a prompt")

    async def metrics(self) -> EngineMetrics:
        """Return what it tells of itself."""
        status, body = await self.ask("GET", "/metrics")
        if status != 200:
            raise EngineError(f"{self.url}/metrics answers {status}: {_start(body)}")
        return engine_metrics(body.decode("utf-8", "replace"), self.metric_names)

    async def prefill(self, path: str, body: bytes) -> Handle:
        """Compute a prompt's cache and keep it for another replica."""
        raise HandleError(f"the engine at {self.url} ({self.kind}) hands no caches over")

    def decode(self, path: str, body: bytes, handle: Handle) -> Any:
        """As :meth:`open`, going on from a handle."""
        raise HandleError(f"the engine at {self.url} ({self.kind}) takes no caches over")

    async def close(self) -> None:
        """Close connections; what :meth:`start` started goes on."""
        self.wire.close()

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, timeout_s: float = ASK_TIMEOUT_S
    ) -> tuple[int, bytes]:
        """Send a small question; returns status and body.

        Raises
        ------
        EngineError
            No answer within ``timeout_s``, or a broken or too long one.
        """
        exchange: Exchange | None = None
        try:
            async with asyncio.timeout(timeout_s):
                exchange = await self.wire.send(method, path, body)
                return exchange.status, await HttpAnswer(exchange, self.url).read()
        except TimeoutError as error:
            raise EngineError(f"no answer from the engine at {self.url}{path} within {timeout_s:g} s") from error
        except WireError as error:
            raise EngineError(f"no answer from the engine at {self.url}{path}: {error}") from error
        finally:
            if exchange is not None:
                exchange.close()

    async def ask_json(self, method: str, path: str, body: Any = None, *, timeout_s: float = ASK_TIMEOUT_S) -> Any:
        """As :meth:`ask`, JSON both ways; an answer other than 200 is an error too, a :class:`StatusError`."""
        sent = b"" if body is None else msgspec.json.encode(body)
        status, answer = await self.ask(method, path, sent, timeout_s=timeout_s)
        if status != 200:
            raise StatusError(status, f"{self.url}{path} answers {status}: {_start(answer)}")
        try:
            return msgspec.json.decode(answer)
        except msgspec.DecodeError as error:
            raise EngineError(f"{self.url}{path} answers something else than JSON: {_start(answer)}") from error

    async def _wait_attached(self) -> None:
        until = asyncio.get_running_loop().time() + ATTACH_TIMEOUT_S
        while not (health := await self.health()).ready:
            if asyncio.get_running_loop().time() > until:
                raise EngineError(health.sentence)
            await asyncio.sleep(ATTACH_POLL_S)

    async def _idle(self) -> bool:
        metrics = await self.metrics()
        return not (metrics.running > 0 or metrics.waiting > 0)


class Follower(HttpEngine):
    """What runs on all nodes of a replica but the first: it answers nobody, so it does well as long as it has not ended."""

    kind = "follower"

    async def health(self) -> Health:
        """Return that nothing is known against it."""
        return Health(ready=True)

    async def metrics(self) -> EngineMetrics:
        """Return none: what it works on, the first node knows."""
        return EngineMetrics()


def _start(body: bytes) -> str:
    return body[:200].decode("utf-8", "replace")
