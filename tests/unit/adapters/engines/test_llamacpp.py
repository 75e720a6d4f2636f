"""A real llama.cpp as only some endpoints use it: embeddings, its own port's limits."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from tests.engines import MODEL, new_llamacpp

from plenum.adapters.engines.llamacpp import threads_of
from plenum.model.endpoint import Endpoint, Pool
from plenum.model.workload import Request
from plenum.ports.engine import EMBEDDINGS


def test_embeddings_have_an_instance_of_their_own(tmp_path):
    async def embed() -> None:
        engine = new_llamacpp(tmp_path, slots=1, context_tokens=256, arguments=("--embeddings",))
        await engine.start()
        try:
            assert engine.capabilities.embeddings
            assert not engine.capabilities.chat
            assert not engine.capabilities.handoff
            asked = json.dumps({"model": MODEL, "input": ["a cat", "a kitten", "stock market"]}).encode()
            async with engine.open(EMBEDDINGS, asked) as answer:
                found = msgspec.json.decode(await answer.read())
            cat, kitten, market = [each["embedding"] for each in found["data"]]
            assert len(cat) == 576
            assert _cosine(cat, kitten) > _cosine(cat, market)
            assert found["usage"]["prompt_tokens"] > 0
        finally:
            await engine.stop(0)
            await engine.close()

    asyncio.run(embed())


def _cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))  # they come with length 1


def test_it_says_of_itself_what_was_asked_for(tmp_path):
    async def learn() -> None:
        engine = new_llamacpp(tmp_path, slots=3, context_tokens=512)
        await engine.start()
        try:
            assert (engine.capabilities.slots, engine.capabilities.context_tokens) == (3, 512)
            (name,) = await engine.models()
            assert name == MODEL
            assert str(Path(tmp_path)) not in str(await engine.ask("GET", "/v1/models"))
        finally:
            await engine.stop(0)
            await engine.close()

    asyncio.run(learn())


@pytest.mark.parametrize(("given", "milli", "threads"), [("3", 1000, 3), ("", 2500, 2), ("", 0, 1), ("x", 4000, 4)])
def test_it_computes_with_the_cores_that_it_was_given(monkeypatch, given, milli, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)

    endpoint = Endpoint(name=MODEL, model=MODEL, pools=(Pool(request=Request(cpu_milli=milli)),))

    assert threads_of(endpoint) == threads
