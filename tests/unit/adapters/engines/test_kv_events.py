"""Cache events of vLLM: both encodings, numbers, replays, restarts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio
from tests.patience import PATIENCE_S

from plenum.adapters.engines.kv_events import Cleared, EventError, Removed, Stored, published_at, read_batch, watch

STORED = Stored(blocks=(11, b"\x01\x02"), parent=7, tokens=(1, 2, 3, 4), block_tokens=2, adapter="law", medium="GPU")
BATCH = (STORED, Removed(blocks=(11,), medium="GPU"), Cleared())

AS_MAPS = {
    "ts": 1.5,
    "events": [
        {
            "type": "BlockStored",
            "block_hashes": [11, b"\x01\x02"],
            "parent_block_hash": 7,
            "token_ids": [1, 2, 3, 4],
            "block_size": 2,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": "law",
            "group_idx": 0,
        },
        {"type": "BlockRemoved", "block_hashes": [11], "medium": "GPU"},
        {"type": "AllBlocksCleared"},
        {"type": "SomethingNew", "x": 1},
    ],
    "data_parallel_rank": 0,
}
AS_ARRAYS = [
    1.5,
    [
        ["BlockStored", [11, b"\x01\x02"], 7, [1, 2, 3, 4], 2, None, "GPU", "law"],
        ["BlockRemoved", [11], "GPU"],
        ["AllBlocksCleared"],
        ["SomethingNew", 1],
    ],
]


MIXED = [AS_MAPS["ts"], AS_MAPS["events"], 0]
"""As vLLM 0.32 has it: an array of maps."""


@pytest.mark.parametrize("batch", [AS_MAPS, AS_ARRAYS, MIXED], ids=["maps", "arrays", "an array of maps"])
def test_both_encodings_mean_the_same(batch):
    assert read_batch(msgspec.msgpack.encode(batch)) == BATCH


def test_the_oldest_events_have_fewer_fields():
    (event,) = read_batch(msgspec.msgpack.encode([1.0, [["BlockStored", [1], None, [5, 6], 2, 3]]]))

    assert event == Stored(blocks=(1,), parent=None, tokens=(5, 6), block_tokens=2, adapter="3")


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", msgspec.msgpack.encode({"ts": 1}), msgspec.msgpack.encode([1.0, [["BlockStored", [1]]]])],
)
def test_what_is_no_batch_is_said(payload):
    with pytest.raises(EventError, match="cannot be read"):
        read_batch(payload)


class Publisher:
    """As vLLM publishes: what was said is kept for replays from ``kept_from`` on."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self._pub, self._router = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
        self.address = f"tcp://127.0.0.1:{self._pub.bind_to_random_port('tcp://127.0.0.1')}"
        self.replay = f"tcp://127.0.0.1:{self._router.bind_to_random_port('tcp://127.0.0.1')}"
        self._said: list[tuple[int, bytes]] = []
        self.kept_from = 0

    def keep(self, number: int) -> bytes:
        payload = msgspec.msgpack.encode([0.0, [["BlockRemoved", [number]]]])
        self._said.append((number, payload))
        return payload

    async def say(self, number: int) -> None:
        await self._pub.send_multipart((b"", number.to_bytes(8, "big"), self.keep(number)))

    async def serve_replays(self) -> None:
        while True:
            client, _, first = await self._router.recv_multipart()
            for number, payload in self._said:
                if number >= max(int.from_bytes(first, "big"), self.kept_from):
                    await self._router.send_multipart((client, b"", number.to_bytes(8, "big"), payload))
            await self._router.send_multipart((client, b"", (-1).to_bytes(8, "big", signed=True), b""))

    async def joined(self) -> None:
        """Wait for a subscriber: what is said before, it never hears."""
        await self._pub.recv()

    def close(self) -> None:
        self._pub.close(0)
        self._router.close(0)


@asynccontextmanager
async def publishing() -> AsyncIterator[Publisher]:
    context = zmq.asyncio.Context()
    publisher = Publisher(context)
    replays = asyncio.ensure_future(publisher.serve_replays())
    try:
        yield publisher
    finally:
        replays.cancel()
        await asyncio.wait({replays})
        publisher.close()
        context.destroy(0)


def heard(numbers: list[int], wanted: int, *, kept: bool = True, kept_from: int = 0, unsaid: tuple[int, ...] = ()):
    """What a subscriber hears of ``numbers``, as far as ``wanted`` batches."""

    async def listen() -> list[Any]:
        async with publishing() as publisher:
            publisher.kept_from = kept_from
            found: list[Any] = []
            async with aclosing(watch(publisher.address, replay=publisher.replay if kept else "")) as events:
                first = asyncio.ensure_future(anext(events))
                async with asyncio.timeout(PATIENCE_S):
                    await publisher.joined()
                    for number in unsaid:
                        publisher.keep(number)
                    for number in numbers:
                        await publisher.say(number)
                    found.append(await first)
                    while len(found) < wanted:
                        found.append(await anext(events))
            return [event.blocks[0] if isinstance(event, Removed) else event for batch in found for event in batch]

    return asyncio.run(listen())


def test_events_come_in_their_order():
    assert heard([0, 1, 2], 3) == [0, 1, 2]


def test_what_was_missed_is_had_again():
    assert heard([0, 3], 4, unsaid=(1, 2)) == [0, 1, 2, 3]


def test_who_comes_late_hears_what_is_kept():
    assert heard([2], 3, unsaid=(0, 1)) == [0, 1, 2]


def test_what_cannot_be_had_again_voids_what_was_known():
    assert heard([0, 3], 3, kept=False) == [0, Cleared(), 3]
    assert heard([0, 3], 3, kept_from=2, unsaid=(1, 2)) == [0, Cleared(), 3]


def test_an_engine_that_starts_anew_has_an_empty_cache():
    assert heard([0, 1, 0], 4, kept=False) == [0, 1, Cleared(), 0]


def test_where_it_publishes_is_in_its_arguments():
    config = (
        '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:5557","replay_endpoint":"tcp://*:5558"}'
    )
    both = ("tcp://10.0.0.1:5557", "tcp://10.0.0.1:5558")

    assert published_at(("--kv-events-config", config), "http://10.0.0.1:8000") == both
    assert published_at((f"--kv-events-config={config}",), "http://10.0.0.1:8000") == both
    assert published_at(("--kv-events-config", "{"), "http://10.0.0.1:8000") == ("", "")
    assert published_at((), "http://10.0.0.1:8000") == ("", "")
