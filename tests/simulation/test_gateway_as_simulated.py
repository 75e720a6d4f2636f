"""The gateway's dispatcher before emulated engines, on a clock that jumps, does what the simulator says of the same requests.

Both decide with :func:`plenum.serving.routing.choose` and take time from :func:`plenum.serving.steps.step`; everything between them
(tables, tickets, seats, breakers, prefix indices against real caches, batches against batches) is different code.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tests.unit.gateway.scripted import Script, ScriptedEngine, ask_of, replica, run

from plenum.adapters.engines.emulated import Settings
from plenum.adapters.engines.emulated_process import EmulatedServer, instance_of
from plenum.gateway.dispatch import Dispatcher
from plenum.model.endpoint import Endpoint
from plenum.ports.engine import COMPLETIONS
from plenum.ports.gateway import Served, Table
from plenum.serving.calibration import calibrated_steps
from plenum.serving.pools import Pool, Serving
from plenum.serving.workload import Requests, requests_of
from plenum.sim.serving import Policies, simulate

BLOCK, REPLICAS = 64, 4
SETTINGS = Settings(
    host="", port=0, model="llama-3.1-70b", hardware="H100", tensor=4, slots=64, block_tokens=BLOCK, cache_tokens=40_000
)


class Paced:
    """An answer of an emulated server, without HTTP."""

    status, content_type = 200, "text/event-stream"

    def __init__(self, stream, came) -> None:
        self.stream, self.came = stream, came

    async def chunks(self) -> AsyncIterator[bytes]:
        said = 0
        while said < self.stream.output_tokens:
            while self.stream.generated > said:
                said += 1
                yield b"data: x\n\n"
            if said < self.stream.output_tokens:
                self.came.clear()
                await self.came.wait()


class PacedEngine(ScriptedEngine):
    """An emulated server, called instead of connected to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.server = EmulatedServer(SETTINGS, instance_of(SETTINGS))
        self.batch = self.server._batch
        self.loop = asyncio.ensure_future(self.server.loop())

    @asynccontextmanager
    async def open(self, path, body, headers=None):
        stream, came = self.server._stream(path, msgspec.json.decode(body))
        await asyncio.sleep(self.server._before_s)
        self.server._enter(stream)
        try:
            yield Paced(stream, came)
        finally:
            self.batch.remove(stream)

    async def close(self) -> None:
        self.loop.cancel()


def _chats(seed: int = 3, chats: int = 40, turns: int = 5) -> Requests:
    """Return chats whose prompts carry all that went before, in whole blocks, arriving at random."""
    rng = np.random.default_rng(seed)
    rows = []
    for chat in range(chats):
        at_s, blocks = float(rng.uniform(0, 8)), [0, 1, 2]
        for turn in range(turns):
            blocks = [*blocks, *(1000 * chat + 100 * turn + n + 10 for n in range(int(rng.integers(2, 12))))]
            rows.append((at_s, blocks, int(rng.integers(20, 60))))
            at_s += float(rng.exponential(3.0))
    rows.sort(key=lambda row: row[0])
    ids = np.concatenate([blocks for _, blocks, _ in rows])
    counts = [len(blocks) for _, blocks, _ in rows]
    requests = requests_of(np.array([r[0] for r in rows]), np.array(counts) * BLOCK, np.array([r[2] for r in rows]))
    offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    dense = np.unique(ids, return_inverse=True)[1].astype(np.int64)
    return replace(requests, block_offset=offset, block_id=dense, block_tokens=BLOCK)


async def _lived(requests: Requests, policy: str) -> tuple[float, np.ndarray]:
    loop = asyncio.get_running_loop()
    engines = {f"run-{n}": PacedEngine(f"http://run-{n}", Script(slots=SETTINGS.slots)) for n in range(REPLICAS)}
    spec = Endpoint(name="m", model="m", engine="emulated", routing=policy, slots=SETTINGS.slots)
    served = Served(spec=spec, uid=1, revisions={1: 1.0}, replicas=tuple(map(replica, engines)))
    ttft_s = np.full(len(requests), np.nan)

    async def one(number: int) -> None:
        start, stop = requests.block_offset[number], requests.block_offset[number + 1]
        prompt = "".join(f" {block:06d}" * BLOCK for block in requests.block_id[start:stop].tolist())
        tokens, output = int(requests.prompt_tokens[number]), int(requests.output_tokens[number])
        raw, now_s = msgspec.json.encode({"prompt": prompt, "max_tokens": output}), loop.time()
        ask = ask_of(served, f"r{number}", arrived_s=now_s, prompt=prompt, raw=raw, path=COMPLETIONS,
                     prompt_tokens=tokens, output_tokens=output)  # fmt: skip
        async with dispatcher.send(ask) as flight:
            ttft_s[number] = loop.time() - now_s
            chunks = [chunk async for chunk in flight.answer.chunks()]
            flight.ended(prompt_tokens=tokens, cached_tokens=0, output_tokens=len(chunks), outcome="done")

    async with Dispatcher("g", lambda which, key: engines[which.run], now=loop.time) as dispatcher:
        dispatcher.update(Table(version=1, served=(served,), engine_secret="s"))
        start_s, sending = loop.time(), []
        for number, at_s in enumerate(requests.arrival_s.tolist()):
            await asyncio.sleep(max(start_s + at_s - loop.time(), 0.0))
            sending.append(asyncio.ensure_future(one(number)))
        await asyncio.gather(*sending)
    prompts = sum(engine.batch.prompt_tokens for engine in engines.values())
    return sum(engine.batch.cached_tokens for engine in engines.values()) / prompts, ttft_s


@pytest.mark.parametrize(("policy", "close"), [("round-robin", 0.01), ("least-loaded", 0.1), ("prefix-aware", 0.1)])
def test_what_is_lived_is_what_was_simulated(policy, close):
    requests = _chats()
    instance = instance_of(SETTINGS)
    pool = Pool(instance=instance, steps=calibrated_steps(instance), count=REPLICAS, cache_tokens=SETTINGS.cache_tokens)
    simulated = simulate(requests, Serving(pools=(pool,)), Policies(routing=policy), seed=0)
    hit_rate, ttft_s = run(_lived(requests, policy))
    assert hit_rate == pytest.approx(simulated.cached_tokens.sum() / requests.prompt_tokens.sum(), rel=close)
    assert ttft_s.mean() == pytest.approx(simulated.ttft_s.mean(), rel=close)
