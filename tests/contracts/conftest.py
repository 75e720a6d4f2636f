"""The loop that engines live on, and real ones that several suites talk to."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.ports import free_port
from tests.vllms import ON_PROCESSORS, Pair, new_vllm, tiny_model

from plenum.model.endpoint import DECODE, PREFILL


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """The one loop of all engines."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Weights of a tiny model."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def on_processors() -> Iterator[None]:
    """An environment in which vLLM runs on processors."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ON_PROCESSORS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def vllms(loop, tiny, on_processors) -> Iterator[Pair]:
    """Two real vLLMs, which take minutes to start."""
    published = {"enable_kv_cache_events": True, "publisher": "zmq"}
    published |= {name: f"tcp://*:{free_port()}" for name in ("endpoint", "replay_endpoint")}
    events = ("--kv-events-config", json.dumps(published))

    async def start(stack: AsyncExitStack) -> Pair:
        pair = Pair(new_vllm(tiny, PREFILL, events), new_vllm(tiny, DECODE), events)
        for engine in (pair.prefill, pair.decode):
            stack.push_async_callback(engine.close)
            stack.push_async_callback(engine.stop, 0.0)
        await asyncio.gather(pair.prefill.start(), pair.decode.start())
        return pair

    stack = AsyncExitStack()
    try:
        yield loop.run(start(stack))
    finally:
        loop.run(stack.aclose())
