"""A hundred streams at once, and in the middle of them an engine, the gateway or the control plane is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import aiohttp
from tests.e2e.clouds import Cloud, cloud_in, until
from tests.patience import PATIENCE_S

STREAMS = 100
TOKENS = 40
SPEC = {
    "model": "llama",
    "engine": "emulated",
    "timing": {"model": "llama-3.1-8b", "hardware": "H100"},
    "replicas": 2,
    "slots": STREAMS,
    "arguments": ["--scale", "12"],
}


async def one(session: aiohttp.ClientSession, url: str, began: Callable[[], None]) -> int:
    """Stream an answer; returns its tokens if it came whole, else 0 less those that came."""
    body = {
        "model": "chat",
        "stream": True,
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": "Tell me a story."}],
    }
    tokens, whole = 0, False
    try:
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    said = json.loads(line[6:])
                    if said.get("choices") and said["choices"][0].get("delta", {}).get("content"):
                        tokens += 1
                        if tokens == 2:
                            began()
                whole = whole or line.startswith(b"data: [DONE]")
    except aiohttp.ClientError:
        whole = False
    return tokens if whole else -tokens


async def streams(url: str, key: str, kill: Callable[[], None]) -> list[int]:
    """Open all streams, kill something once all of them have begun, and return what became of each."""
    left, all_begun = STREAMS, asyncio.Event()

    def began() -> None:
        nonlocal left
        left -= 1
        if not left:
            all_begun.set()

    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        asking = [asyncio.create_task(one(session, url, began)) for _ in range(STREAMS)]
        async with asyncio.timeout(PATIENCE_S):
            await all_begun.wait()
        await asyncio.to_thread(kill)
        return await asyncio.gather(*asking)


def billed(cloud: Cloud) -> tuple[dict[str, int], int]:
    """Return requests by outcome, and output tokens, in all."""
    items = cloud.ask("/usage")["items"]
    return (items[0]["requests"], items[0]["outputTokens"]) if items else ({}, 0)


def test_what_is_killed_costs_its_own_streams_alone_and_every_request_is_billed_once(tmp_path: Path):
    with cloud_in(tmp_path) as cloud:
        cloud.server("--gateway-port", "0", command="up")
        cloud.apply("chat", SPEC, kind="Endpoint")
        until(lambda: cloud.job("chat", "Endpoint")["replicas"]["running"] == 2, "two replicas")
        key = cloud.do("POST", "/tenants/default/keys", {})["secret"]
        url = until(lambda: found[0]["url"] if (found := cloud.ask("/gateways")["items"]) else "", "a gateway")
        cloud.takes(url, key)

        def round_of(kill: Callable[[], None]) -> list[int]:
            before = sum(billed(cloud)[0].values())
            ended = asyncio.run(streams(url, key, kill))
            until(lambda: sum(billed(cloud)[0].values()) == before + STREAMS, "a bill for each")
            return ended

        def kill_an_engine() -> None:
            (engine,) = cloud.processes("server")["serve-0"].children()
            engine.kill()

        ended = round_of(kill_an_engine)
        whole = [tokens for tokens in ended if tokens > 0]
        assert STREAMS / 4 <= len(whole) < STREAMS, "those at the other replica go on"
        assert set(whole) == {TOKENS}
        outcomes, tokens = billed(cloud)
        assert (outcomes["done"], outcomes["broken"]) == (len(whole), STREAMS - len(whole))
        # Of a stream that broke off, the event that tells its role is not counted, whether it held a token or not.
        assert 0 <= sum(map(abs, ended)) - tokens <= outcomes["broken"]
        until(lambda: cloud.job("chat", "Endpoint")["replicas"]["running"] == 2, "the replica to be back")

        assert round_of(cloud.restart) == [TOKENS] * STREAMS, "nobody notices that the control plane is gone"

        address = cloud.data / "gateway" / "address.json"
        ended = round_of(lambda: os.kill(json.loads(address.read_bytes())["pid"], signal.SIGKILL))
        cut = [-tokens for tokens in ended if tokens < 0]
        assert billed(cloud)[0]["interrupted"] == len(cut) > 0
