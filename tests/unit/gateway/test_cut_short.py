"""A stream that does not come to its usage is billed the prompt's real length; that is asked of the engine once nobody waits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
from tests.unit.gateway.canned import CannedAnswer, CannedDispatch, CannedDispatched, canned_gateway

from plenum.gateway.request import Ask
from plenum.ports.engine import CHAT
from plenum.ports.gateway import Key

LENGTH = 32
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
BODY = msgspec.json.encode(
    {"model": "chat", "stream": True, "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
)


@dataclass
class Told(CannedDispatch):
    """Engines that know how long a prompt is; closed before they are asked."""

    length: int = LENGTH
    order: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, ask: Ask) -> AsyncIterator[CannedDispatched]:
        told = self

        class Known(CannedDispatched):
            async def prompt_tokens(self) -> int:
                told.order.append("asked")
                return told.length

        try:
            yield Known(await self.answer(ask))
        finally:
            self.order.append("left")


async def _streamed(chunks: list[bytes]) -> CannedAnswer:
    return CannedAnswer(chunks, content_type="text/event-stream")


@pytest.mark.parametrize(
    ("chunks", "leave", "outcome", "order"),
    [
        ([EVENT, EVENT], False, "broken", ["left", "asked"]),
        ([EVENT, EVENT, USAGE], True, "cancelled", ["left", "asked"]),
        ([EVENT, USAGE], False, "done", ["left"]),
    ],
)
def test_the_prompt_is_billed_as_the_engine_counts_it(tmp_path, chunks, leave, outcome, order):
    async def work():
        dispatch = Told(answer=lambda ask: _streamed(chunks))
        async with canned_gateway(tmp_path, dispatch) as (_, gateway):
            async with gateway.inference.ask(_key(), CHAT, BODY) as answering:
                async for _ in answering.chunks():
                    if leave:
                        break
            assert answering.usage is not None
            assert answering.usage.outcome == outcome
            assert answering.usage.prompt_tokens == (9 if outcome == "done" else LENGTH)
            assert not answering.usage.estimated
            assert dispatch.order == order

    asyncio.run(work())


def test_where_the_engine_does_not_say_the_estimate_is_billed(tmp_path):
    async def work():
        dispatch = Told(answer=lambda ask: _streamed([EVENT]), length=0)
        async with canned_gateway(tmp_path, dispatch) as (_, gateway):
            async with gateway.inference.ask(_key(), CHAT, BODY) as answering:
                await answering.read()
            assert answering.usage is not None
            assert 0 < answering.usage.prompt_tokens < LENGTH
            assert answering.usage.estimated

    asyncio.run(work())


def _key() -> Key:
    return Key(id="k", hash="", tenant="acme")
