"""Engines that answer as a script says, on a clock that jumps: minutes of a gateway's life in milliseconds, the same every time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from plenum.gateway.dispatch import Dispatcher
from plenum.gateway.request import Ask
from plenum.model.endpoint import Endpoint
from plenum.ports.engine import Capabilities, EngineError, EngineMetrics, Handle, HandleError, Health
from plenum.ports.gateway import Key, Replica, Served, Table


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when there is nothing else to do, and then jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._at_s = 0.0

    def time(self) -> float:
        return self._at_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            while self._scheduled and self._scheduled[0]._cancelled:
                self._timer_cancelled_count -= 1
                heapq.heappop(self._scheduled)._scheduled = False
            if self._scheduled:
                self._at_s = max(self._at_s, self._scheduled[0]._when)
        super()._run_once()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a test on jumping time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


@dataclass
class Script:
    """How an engine behaves; may be changed while it runs.

    ``first_s`` and ``token_s`` are seconds, ``tokens`` chunks; ``dead``: nothing connects; ``status``: answered instead of 200;
    ``breaks_after``: chunks after which it breaks off; ``slots``: requests at once, others wait.
    """

    first_s: float = 0.1
    token_s: float = 0.01
    tokens: int = 10
    dead: bool = False
    status: int = 200
    breaks_after: int = -1
    slots: int = 0
    handoff: bool = False
    bad_handles: bool = False
    prefill_s: float = 0.0


@dataclass
class ScriptedAnswer:
    script: Script
    status: int
    content_type: str = "text/event-stream"

    async def chunks(self) -> AsyncIterator[bytes]:
        if self.status != 200:
            yield b'{"error": {"message": "as the script says"}}'
            return
        for number in range(self.script.tokens):
            if number == self.script.breaks_after or self.script.dead:
                raise EngineError("broke off")
            await asyncio.sleep(self.script.token_s if number else self.script.first_s)
            yield b"data: x\n\n"


@dataclass
class ScriptedEngine:
    """:class:`plenum.ports.engine.Engine`."""

    url: str
    script: Script
    kind: str = "emulated"
    running: int = 0
    most: int = 0
    opened: list[bytes] = field(default_factory=list)
    prefilled: list[bytes] = field(default_factory=list)
    decoded: list[bytes] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.capabilities = Capabilities(slots=self.script.slots, handoff=self.script.handoff)
        self._places = asyncio.Semaphore(self.script.slots or 10_000)

    @asynccontextmanager
    async def open(
        self, path: str, body: bytes, headers: dict[str, str] | None = None
    ) -> AsyncIterator[ScriptedAnswer]:
        if self.script.dead:
            raise EngineError("connection refused")
        self.opened.append(body)
        async with self._places:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                yield ScriptedAnswer(self.script, self.script.status)
            finally:
                self.running -= 1

    async def prefill(self, path: str, body: bytes) -> Handle:
        if self.script.dead:
            raise EngineError("connection refused")
        self.prefilled.append(body)
        await asyncio.sleep(self.script.prefill_s)
        return Handle(engine=self.kind, model="m", data=body, size_bytes=1_000)

    @asynccontextmanager
    async def decode(self, path: str, body: bytes, handle: Handle) -> AsyncIterator[ScriptedAnswer]:
        if self.script.bad_handles:
            raise HandleError("not this one")
        self.decoded.append(body)
        async with self.open(path, body) as answer:
            yield answer

    async def start(self) -> None: ...

    async def stop(self, grace_s: float) -> None: ...

    async def health(self) -> Health:
        return Health(ready=not self.script.dead)

    async def models(self) -> tuple[str, ...]:
        return ("m",)

    async def tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    async def prompt_tokens(self, path: str, body: bytes) -> int:
        return len(body)

    async def metrics(self) -> EngineMetrics:
        if self.script.dead:
            raise EngineError("connection refused")
        return EngineMetrics(running=self.running, waiting=0, cache_used=0.0)

    async def close(self) -> None:
        self.closed = True


@dataclass
class Stage:
    """A dispatcher before scripted engines."""

    dispatcher: Dispatcher
    engines: dict[str, ScriptedEngine]
    table: Table

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def ask(self, name: str = "", **fields: Any) -> Ask:
        self.asked = getattr(self, "asked", 0) + 1
        served = fields.pop("served", self.table.served[0])
        return ask_of(served, name or f"req-{self.asked}", arrived_s=self.now(), **fields)

    async def take(self, ask: Ask, outcome: str = "done") -> tuple[str, list[bytes]]:
        """Send it and read it to its end; returns the run, and what came."""
        async with self.dispatcher.send(ask) as flight:
            chunks = [chunk async for chunk in flight.answer.chunks()]
            flight.ended(prompt_tokens=ask.prompt_tokens, cached_tokens=0, output_tokens=len(chunks), outcome=outcome)
            return flight.run, chunks

    def replicas(self, *replicas: Replica, **served: Any) -> None:
        """Change the table's first endpoint."""
        import msgspec

        one = msgspec.structs.replace(self.table.served[0], replicas=replicas, **served)
        self.table = msgspec.structs.replace(self.table, version=self.table.version + 1, served=(one,))
        self.dispatcher.update(self.table)


def replica(name: str, **fields: Any) -> Replica:
    """A ready replica."""
    settings = {"revision": 1, "pool": "serve", "phase": "ready", "engine": "emulated"} | fields
    return Replica(run=name, url=f"http://{name}", **settings)


def ask_of(served: Served, name: str, **fields: Any) -> Ask:
    """A request for an endpoint."""
    key = fields.pop("key", None) or Key(id="k", hash="", tenant=fields.pop("tenant", "default"))
    settings: dict[str, Any] = {
        "path": "/v1/chat/completions", "body": {}, "raw": name.encode(), "model": served.spec.model_name,
        "stream": True, "prompt_tokens": 100, "output_tokens": 10,
    }  # fmt: skip
    return Ask(id=name, key=key, served=served, **(settings | fields))


@asynccontextmanager
async def stage(
    scripts: dict[str, Script],
    spec: Endpoint | None = None,
    replicas: tuple[Replica, ...] = (),
    others: tuple[Served, ...] = (),
    make: Callable[..., Dispatcher] = Dispatcher,
    **served: Any,
) -> AsyncIterator[Stage]:
    """A dispatcher with one replica for each script, unless told which."""
    engines = {name: ScriptedEngine(f"http://{name}", script) for name, script in scripts.items()}
    one = Served(
        spec=spec or Endpoint(name="m", model="m", engine="emulated"),
        uid=1,
        replicas=replicas or tuple(replica(name) for name in scripts),
        **({"revisions": {1: 1.0}} | served),
    )
    table = Table(version=1, served=(one, *others), engine_secret="s")
    loop = asyncio.get_running_loop()
    async with make("gateway", lambda which, key: engines[which.run], now=loop.time) as dispatcher:
        dispatcher.update(table)
        yield Stage(dispatcher, engines, table)
