"""A real llama.cpp as only some endpoints use it: embeddings, its own port's limits."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engines import MODEL, chat, new_llamacpp, said, smollm2_adapter

from plenum.adapters.engines.llamacpp import threads_of
from plenum.model.endpoint import Endpoint, Pool
from plenum.model.workload import Request
from plenum.ports.engine import CHAT, COMPLETIONS, EMBEDDINGS, HandleError


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


def _adapters(folder: Path) -> tuple[tuple[str, str], ...]:
    names = ("poet", "lawyer")
    return tuple((name, str(smollm2_adapter(folder / f"{name}.gguf", k))) for k, name in enumerate(names))


def test_it_says_of_itself_what_was_asked_for_and_answers_as_several_models_at_once(tmp_path):
    async def learn() -> None:
        engine = new_llamacpp(tmp_path, slots=3, context_tokens=512, adapters=_adapters(tmp_path))
        await engine.start()
        try:
            told = engine.capabilities
            assert (told.slots, told.context_tokens, told.adapters) == (3, 512, True)
            names = await engine.models()
            assert names == (MODEL, "poet", "lawyer")
            assert str(Path(tmp_path)) not in str(await engine.ask("GET", "/v1/models"))
            bodies = [chat(model=name, max_tokens=4, cache_prompt=False) for name in names]
            at_once = await asyncio.gather(*(said(engine.open(CHAT, body)) for body in bodies))
            assert at_once == [await said(engine.open(CHAT, body)) for body in bodies]
        finally:
            await engine.stop(0)
            await engine.close()

    asyncio.run(learn())


def test_what_one_adapter_computed_is_used_for_no_other_and_not_for_the_model(tmp_path):
    async def speak() -> None:
        # One slot, so that what one request leaves there is what the next one finds.
        plain, engine = (
            new_llamacpp(tmp_path / "0", slots=1),
            new_llamacpp(tmp_path, slots=1, adapters=_adapters(tmp_path)),
        )

        def ask(name: str, **fields: Any) -> Any:
            return said(engine.open(CHAT, chat(model=name, max_tokens=4, **fields)))

        try:
            await asyncio.gather(plain.start(), engine.start())
            alone = {name: await ask(name) for name in await engine.models()}
            assert alone[MODEL] == await said(plain.open(CHAT, chat(max_tokens=4)))
            assert len({text for _, text, _ in alone.values()}) == 3
            # What the poet left in the slot is not gone on from; nor is it once it was put by for a prompt unlike it.
            await ask("poet")
            assert (await ask(MODEL, stream=True))[1] == alone[MODEL][1]
            await ask("poet")
            unlike = json.dumps({"model": MODEL, "prompt": "Of nothing alike. " * 6, "max_tokens": 1}).encode()
            await said(engine.open(COMPLETIONS, unlike))
            assert await ask(MODEL) == alone[MODEL]
            with pytest.raises(HandleError, match="adapters"):
                await engine.prefill(CHAT, chat(model="poet"))
            handle = await engine.prefill(CHAT, chat(max_tokens=4))
            await ask("poet")
            assert (await said(engine.decode(CHAT, chat(max_tokens=4), handle)))[1] == alone[MODEL][1]
        finally:
            await asyncio.gather(*(each.stop(0) for each in (plain, engine)))
            await asyncio.gather(*(each.close() for each in (plain, engine)))

    asyncio.run(speak())


@pytest.mark.parametrize(("given", "milli", "threads"), [("3", 1000, 3), ("", 2500, 2), ("", 0, 1), ("x", 4000, 4)])
def test_it_computes_with_the_cores_that_it_was_given(monkeypatch, given, milli, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)

    endpoint = Endpoint(name=MODEL, model=MODEL, pools=(Pool(request=Request(cpu_milli=milli)),))

    assert threads_of(endpoint) == threads
