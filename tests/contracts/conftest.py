"""The loop that engines live on, and real ones that several suites talk to."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
from tests.engines import free_port
from tests.vllms import ON_PROCESSORS, Pair, new_vllm, tiny_model

from plenum.model.endpoint import DECODE, PREFILL


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """The one loop of all engines."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def vllms(loop, tmp_path_factory) -> Iterator[Pair]:
    """Two real vLLMs, which take minutes to start."""
    weights = tiny_model(tmp_path_factory.mktemp("tiny"))
    published = {"enable_kv_cache_events": True, "publisher": "zmq"}
    published |= {name: f"tcp://*:{free_port()}" for name in ("endpoint", "replay_endpoint")}
    events = ("--kv-events-config", json.dumps(published))

    async def start(stack: AsyncExitStack) -> Pair:
        pair = Pair(new_vllm(weights, PREFILL, events), new_vllm(weights, DECODE), events)
        for engine in (pair.prefill, pair.decode):
            stack.push_async_callback(engine.close)
            stack.push_async_callback(engine.stop, 0.0)
        await asyncio.gather(pair.prefill.start(), pair.decode.start())
        return pair

    stack = AsyncExitStack()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ON_PROCESSORS.items():
            patch.setenv(name, value)
        try:
            yield loop.run(start(stack))
        finally:
            loop.run(stack.aclose())
