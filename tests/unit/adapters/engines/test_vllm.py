"""vLLM where it does not tell what it serves."""

import asyncio
import json

from tests.engines import KEY, recorded

from plenum.adapters.engines.vllm import Vllm


def test_one_started_without_its_documents_is_taken_for_a_plain_server(tmp_path):
    models = {"method": "GET", "path": "/v1/models", "json": {"data": [{"id": "small", "max_model_len": 4096}]}}
    health = {"method": "GET", "path": "/health", "text": [""]}
    (tmp_path / "vllm.json").write_text(json.dumps({"exchanges": [models, health]}))

    async def use() -> None:
        async with recorded(tmp_path / "vllm.json") as (url, _):
            engine = Vllm(url, key=KEY)
            await engine.start()
            can = engine.capabilities
            assert (can.chat, can.completions, can.tokenize, can.handoff) == (True, True, True, True)
            assert (can.embeddings, can.adapters) == (False, False)
            await engine.close()

    asyncio.run(use())
