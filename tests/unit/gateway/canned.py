"""A gateway on a free port whose engine answers from a can, with files, batches and responses; also as a process that can be killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from plenum.gateway.app import Gateway
from plenum.gateway.batch_runner import Runner
from plenum.gateway.batches import Batches
from plenum.gateway.files import FileLimits, Files
from plenum.gateway.journal import Journal
from plenum.gateway.offline import offline_routes
from plenum.gateway.request import Ask
from plenum.gateway.routes import Route
from plenum.gateway.server import serve
from plenum.gateway.settings import GatewaySettings
from plenum.model.endpoint import Endpoint
from plenum.ports.gateway import Key, Replica, Served, Table

SECRET = "sk-acme"
SECOND = "sk-acme-second"
RIVAL = "sk-rival"


def table() -> Table:
    spec = Endpoint(name="chat", tenant="acme", model="smollm2")
    replica = Replica(run="r1", url="http://127.0.0.1:9", engine="llamacpp", revision=1, pool="serve", phase="ready")
    served = Served(spec=spec, uid=1, revisions={1: 1.0}, specs={1: spec}, replicas=(replica,))
    keys = tuple(
        Key(id=id, hash=hashlib.sha256(secret.encode()).hexdigest(), tenant=tenant)
        for id, tenant, secret in (
            ("key-acme", "acme", SECRET),
            ("key-second", "acme", SECOND),
            ("key-rival", "rival", RIVAL),
        )
    )
    return Table(version=1, served=(served,), keys=keys)


def completion(text: str, prompt_tokens: int = 7, output_tokens: int = 3) -> bytes:
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "chat",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": output_tokens,
                "total_tokens": prompt_tokens + output_tokens,
                "prompt_tokens_details": {"cached_tokens": 2},
            },
        }
    ).encode()


@dataclass
class CannedAnswer:
    chunks_: list[bytes]
    status: int = 200
    content_type: str = "application/json"

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks_:
            yield chunk


@dataclass
class CannedDispatched:
    answer: CannedAnswer
    endpoint: str = "acme/chat"
    model: str = "chat"
    revision: int = 1
    run: str = "r1"

    def first_byte(self) -> None: ...

    async def prompt_tokens(self) -> int:
        return 0

    def ended(self, *, prompt_tokens: int, cached_tokens: int, output_tokens: int, outcome: str) -> None: ...


Answer = Callable[[Ask], Awaitable[CannedAnswer]]


async def echo(ask: Ask) -> CannedAnswer:
    return CannedAnswer([completion("echo: " + str(ask.body["messages"][-1]["content"]))])


@dataclass
class CannedDispatch:
    """Remembers what it was asked."""

    answer: Answer = echo
    asked: list[Ask] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, ask: Ask) -> AsyncIterator[CannedDispatched]:
        self.asked.append(ask)
        yield CannedDispatched(await self.answer(ask))


@asynccontextmanager
async def canned_gateway(
    folder: Path,
    dispatch: CannedDispatch,
    *,
    limits: FileLimits | None = None,
    routes: Callable[[Gateway], tuple[Route, ...]] | None = None,
    parallel: int = 4,
    settings: GatewaySettings | None = None,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[tuple[str, Gateway]]:
    files = Files(folder / "files", limits)
    batches = Batches(folder / "batches", files, now=now)
    journal = Journal(folder / "journal", "test", slots=64, settle=batches.settle)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    gateway = Gateway(dispatch, journal, settings)
    runner = Runner(batches, gateway.inference, parallel=parallel)
    gateway.add(offline_routes(files, batches, runner))
    if routes:
        gateway.add(routes(gateway))
    gateway.use(table())
    working = asyncio.create_task(runner.run())
    try:
        async with serve(gateway, listening):
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", gateway
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        journal.close()


async def _serve_until_killed(folder: Path) -> None:
    """Answer each line a little later than the one before, so that a kill always finds some under way."""

    async def slowly(ask: Ask) -> CannedAnswer:
        await asyncio.sleep(0.02)
        return await echo(ask)

    async with canned_gateway(folder, CannedDispatch(slowly)) as (url, _):
        print(url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve_until_killed(Path(sys.argv[1])))
