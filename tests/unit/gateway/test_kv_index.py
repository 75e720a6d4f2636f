"""Blocks that engines tell of."""

import asyncio

import msgspec
import zmq
import zmq.asyncio
from tests.patience import PATIENCE_S
from tests.ports import free_port
from tests.unit.gateway.scripted import Script, replica, stage

from plenum.adapters.engines.kv_events import Cleared, Removed, Stored
from plenum.gateway.kv_index import KvIndex
from plenum.model.endpoint import Endpoint


def _stored(*blocks, parent=None, tokens, medium=""):
    return Stored(blocks=blocks, parent=parent, tokens=tuple(tokens), block_tokens=4, medium=medium)


def test_a_prompt_is_found_as_far_as_its_blocks_follow_one_another():
    index = KvIndex()
    index.take("a", [_stored(b"x", b"y", tokens=range(8)), _stored(7, parent=b"y", tokens=range(8, 12))])
    assert index.found("a", range(14)) == 12
    assert index.found("a", [*range(8), 99, 99, 99, 99]) == 8
    assert index.found("a", range(1, 9)) == 0
    assert index.found("b", range(14)) == 0
    index.take("a", [Removed(blocks=(b"y",))])
    assert index.found("a", range(14)) == 4
    index.take("a", [Cleared()])
    assert index.found("a", range(14)) == 0


def test_blocks_whose_beginning_was_missed_are_not_known_and_one_on_two_media_is_gone_when_both_are():
    index = KvIndex()
    index.take("a", [_stored(b"z", parent=b"never seen", tokens=range(4))])
    assert index.found("a", range(4)) == 0
    index.take("a", [_stored(b"x", tokens=range(4), medium="GPU"), _stored(b"x", tokens=range(4), medium="CPU")])
    index.take("a", [Removed(blocks=(b"x",), medium="GPU")])
    assert index.found("a", range(4)) == 4
    index.take("a", [_stored(b"y", parent=b"x", tokens=range(4, 8), medium="GPU")])
    assert index.found("a", range(8)) == 8
    index.take("a", [Removed(blocks=(b"x",), medium="CPU")])
    assert index.found("a", range(8)) == 0
    index.keep([])
    assert not index


def test_what_an_engine_tells_decides_where_a_prompt_goes():
    asyncio.run(_told())


async def _told():
    port = free_port()
    config = msgspec.json.encode({"publisher": "zmq", "endpoint": f"tcp://*:{port}"}).decode()
    spec = Endpoint(name="m", model="m", routing="kv-aware", arguments=("--kv-events-config", config))
    text = "the words of a prompt"
    tokens = list(text.encode())  # as the scripted engine has it
    event = {"type": "BlockStored", "block_hashes": [1, 2], "parent_block_hash": None, "token_ids": tokens[:16]}
    payload = msgspec.msgpack.encode({"ts": 0.0, "events": [event | {"block_size": 8}]})
    context = zmq.asyncio.Context()
    publisher = context.socket(zmq.PUB)
    publisher.bind(f"tcp://127.0.0.1:{port}")
    try:
        scripts = {"a": Script(first_s=0, token_s=0), "127.0.0.1": Script(first_s=0, token_s=0)}
        async with stage(scripts, spec, (replica("a"), replica("127.0.0.1"))) as on:
            group = on.dispatcher._fleet.groups("default/m")[1]
            number = 0
            async with asyncio.timeout(PATIENCE_S):
                while not group.kv_index.found("127.0.0.1", tokens):
                    await publisher.send_multipart((b"", number.to_bytes(8, "big"), payload))
                    number += 1
                    await asyncio.sleep(0.01)
            for _ in range(4):
                assert (await on.take(on.ask(prompt=text, prompt_tokens=21)))[0] == "127.0.0.1"
    finally:
        publisher.close(0)
        context.term()
