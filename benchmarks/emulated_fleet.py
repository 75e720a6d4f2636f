"""Four emulated engines, each a process of its own on the loopback, and a dispatcher before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from plenum.adapters.engines.emulated import Emulated, Settings, launch_emulated
from plenum.adapters.nodes.ports import free_port
from plenum.gateway.dispatch import Dispatcher
from plenum.gateway.request import Ask, RefusedError
from plenum.model.endpoint import Endpoint
from plenum.model.errors import PlenumError
from plenum.ports.engine import COMPLETIONS
from plenum.ports.gateway import Key, Replica, Served, Table, engine_key

REPLICAS = 4
NAME, SECRET = "bench", "not a secret"


@dataclass(slots=True, kw_only=True)
class Seen:
    """What became of one request; ``first_s`` and ``end_s`` after it was sent, NaN if they never came."""

    tier: str
    sent_s: float
    run: str = ""
    verdict: str = ""
    refused: str = ""
    retry_after_s: float = 0.0
    first_s: float = float("nan")
    end_s: float = float("nan")
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    chunk_s: list[float] = field(default_factory=list)

    @property
    def tpot_s(self) -> float:
        """Seconds per output token after the first."""
        return (self.end_s - self.first_s) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0


@dataclass(slots=True)
class Bench:
    """A dispatcher before its engines."""

    dispatcher: Dispatcher
    served: Served
    asked: int = 0

    async def ask(self, prompt: str, prompt_tokens: int, output_tokens: int, *, tier: str, tenant: str = "t") -> Seen:
        """Send one request and read it to its end."""
        self.asked += 1
        now_s = time.monotonic()
        body: dict[str, Any] = {"model": NAME, "prompt": prompt, "max_tokens": output_tokens, "stream": True}
        body["stream_options"] = {"include_usage": True}
        ask = Ask(
            id=f"bench-{self.asked}",
            key=Key(id="k", hash="", tenant=tenant),
            served=self.served,
            path=COMPLETIONS,
            body=body,
            raw=msgspec.json.encode(body),
            model=NAME,
            stream=True,
            prompt=prompt,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            tier=tier,
            arrived_s=now_s,
        )
        seen = Seen(tier=tier, sent_s=now_s)
        try:
            await self._read(ask, seen)
        except RefusedError as error:
            seen.refused, seen.retry_after_s = error.code, error.retry_after_s
        except PlenumError as error:
            seen.refused = error.code
        seen.verdict = ask.verdict
        return seen

    async def _read(self, ask: Ask, seen: Seen) -> None:
        async with self.dispatcher.send(ask) as flight:
            last = b""
            async for chunk in flight.answer.chunks():
                if not last:
                    seen.first_s = time.monotonic() - seen.sent_s
                last = (last + chunk)[-4096:]
            seen.end_s, seen.run = time.monotonic() - seen.sent_s, flight.run
            usage = _usage(last)
            seen.prompt_tokens, seen.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
            seen.cached_tokens = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
            flight.ended(
                prompt_tokens=seen.prompt_tokens,
                cached_tokens=seen.cached_tokens,
                output_tokens=seen.output_tokens,
                outcome="done",
            )


def _usage(last: bytes) -> dict[str, Any]:
    for line in reversed(last.split(b"\n")):
        if line.startswith(b"data: {") and b'"usage":{' in line:
            return msgspec.json.decode(line[6:])["usage"]
    raise ValueError("the stream told no usage")


@asynccontextmanager
async def engines(settings: Settings) -> AsyncIterator[list[Emulated]]:
    """Start the engines; end them at the end."""
    async with AsyncExitStack() as stack:
        started: list[Emulated] = []
        taken: set[int] = set()
        for number in range(REPLICAS):
            port = free_port("127.0.0.1", taken)
            taken.add(port)
            key = engine_key(SECRET, f"run-{number}")
            engine = launch_emulated(msgspec.structs.replace(settings, name=NAME, port=port, key=key))
            stack.push_async_callback(engine.close)
            stack.push_async_callback(engine.stop, 0.0)
            started.append(engine)
        await asyncio.gather(*(engine.start() for engine in started))
        yield started


@asynccontextmanager
async def fleet(spec: Endpoint, started: list[Emulated]) -> AsyncIterator[Bench]:
    """Put a new dispatcher before engines that run."""
    replicas = tuple(
        Replica(run=f"run-{n}", url=engine.url, engine="emulated", revision=1, pool="serve", phase="ready")
        for n, engine in enumerate(started)
    )
    served = Served(spec=spec, uid=1, revisions={1: 1.0}, replicas=replicas)
    async with Dispatcher("bench", lambda replica, key: Emulated(replica.url, key=key)) as dispatcher:
        dispatcher.update(Table(version=1, served=(served,), engine_secret=SECRET))
        await asyncio.sleep(1.0)  # they are asked what they can do
        yield Bench(dispatcher, served)
