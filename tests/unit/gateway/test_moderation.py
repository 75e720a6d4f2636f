"""The moderation hook: what it objects to, and what happens while it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import openai
import pytest
from aiohttp import web
from tests.patience import PATIENCE_S
from tests.unit.gateway.canned import SECRET, CannedDispatch, canned_gateway, table

from plenum.gateway.moderation import Moderation, objections_of
from plenum.gateway.request import RefusedError
from plenum.gateway.settings import GatewaySettings, ModerationSettings
from plenum.ports.gateway import Key
from plenum.ports.policy import Hook, Policy


@asynccontextmanager
async def moderator() -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """A server that flags what says ``bad``, answers nonsense to ``nonsense``, nothing to ``slow``, and to ``parts`` in two of them."""
    asked: list[dict[str, str]] = []

    async def judge(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        asked.append(body)
        if "nonsense" in body["input"]:
            return web.json_response({"results": []})
        if "slow" in body["input"]:
            await asyncio.sleep(60)
        flagged = "bad" in body["input"]
        if "parts" in body["input"]:
            answer = web.StreamResponse()
            await answer.prepare(request)
            await answer.write(b'{"results": [{"flagged": ')
            await asyncio.sleep(0.05)
            await answer.write(b"true}]}")
            return answer
        return web.json_response(
            {"results": [{"flagged": flagged, "categories": {"violence": flagged, "hate": False}}]}
        )

    app = web.Application()
    app.router.add_post("/v1/moderations", judge)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/moderations", asked
    finally:
        await runner.cleanup()


async def say(asking: openai.AsyncOpenAI, text: str) -> str:
    answer = await asking.chat.completions.create(model="chat", messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("fail_open", [True, False])
def test_prompts_are_asked_about_before_any_engine_sees_them(tmp_path: Path, fail_open: bool) -> None:
    async def go() -> None:
        dispatch = CannedDispatch()
        async with moderator() as (hook, asked):
            patient = ModerationSettings(url=hook, timeout_s=PATIENCE_S, fail_open=fail_open)
            settings = GatewaySettings(moderation=patient)
            async with (
                canned_gateway(tmp_path, dispatch, settings=settings) as (url, gateway),
                openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as asking,
            ):
                assert await say(asking, "good") == "echo: good"
                assert asked[0]["tenant"] == "acme"
                assert "good" in asked[0]["input"]
                with pytest.raises(openai.BadRequestError) as refused:
                    await say(asking, "bad")
                assert refused.value.code == "moderation.flagged"
                assert "violence" in refused.value.message
                assert len(dispatch.asked) == 1
                for text, timeout_s in (("nonsense", PATIENCE_S), ("slow", 0.1)):
                    gateway.inference.moderation._own = msgspec.structs.replace(patient, timeout_s=timeout_s)
                    if fail_open:
                        assert await say(asking, text) == f"echo: {text}"
                        continue
                    with pytest.raises(openai.InternalServerError) as failed:
                        await say(asking, text)
                    assert failed.value.status_code == 503
                    assert "retry-after" in failed.value.response.headers
                assert len(dispatch.asked) == (3 if fail_open else 1)
                assert gateway.inference.moderation.failures == 2

    asyncio.run(go())


def test_only_tenants_that_are_named_are_asked_about(tmp_path: Path) -> None:
    async def go() -> None:
        async with moderator() as (hook, asked):
            settings = GatewaySettings(moderation=ModerationSettings(url=hook, tenants=("rival",)))
            async with (
                canned_gateway(tmp_path, CannedDispatch(), settings=settings) as (url, _),
                openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as asking,
            ):
                assert await say(asking, "bad") == "echo: bad"
            assert asked == []

    asyncio.run(go())


def test_a_tenants_own_hook_is_asked_beside_the_gateways_from_one_table_to_the_next(tmp_path: Path) -> None:
    async def go() -> None:
        async with moderator() as (everybodys, all_asked), moderator() as (own, asked):
            settings = GatewaySettings(moderation=ModerationSettings(url=everybodys))
            async with (
                canned_gateway(tmp_path, CannedDispatch(), settings=settings) as (url, gateway),
                openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as asking,
            ):
                for tenants, seen in (("rival", 0), ("acme", 1), ("rival", 1)):
                    policies = {tenants: Policy(moderation=Hook(url=own))}
                    gateway.use(msgspec.structs.replace(table(), policies=policies))
                    assert await say(asking, "good") == "echo: good"
                    assert len(asked) == seen
                assert len(all_asked) == 3
                gateway.use(
                    msgspec.structs.replace(table(), policies={"acme": Policy(moderation=Hook(url=own + "/gone"))})
                )
                with pytest.raises(openai.InternalServerError) as failed:
                    await say(asking, "good")
                assert failed.value.status_code == 503

    asyncio.run(go())


def prompt_of(tenant: str, text: str) -> Any:
    return SimpleNamespace(key=Key(id="k", hash="", tenant=tenant), body={}, prompt=text)


def test_a_new_table_gives_a_hook_no_more_at_once() -> None:
    asked: list[str] = []

    async def judge(tenant: str, prompt: str) -> tuple[str, ...]:
        asked.append(prompt)
        await asyncio.Event().wait()
        return ()

    async def go() -> None:
        moderation = Moderation(ModerationSettings(url="x", timeout_s=60.0, parallel=2), judge)
        tasks: list[asyncio.Task[None]] = []
        for prompt in ("first", "second", "third"):
            tasks.append(asyncio.create_task(moderation.check(prompt_of("a", prompt))))
            for _ in range(10):
                await asyncio.sleep(0)
            moderation.use({})
        assert asked == ["first", "second"]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(go())


def test_an_answer_in_parts_is_read_to_its_end_and_slow_hooks_take_no_connections_of_others() -> None:
    async def go() -> None:
        async with moderator() as (one, _), moderator() as (two, asked), moderator() as (three, _):
            moderation = Moderation()
            hooks = {name: Hook(url=url, timeout_s=60.0) for name, url in (("a", one), ("b", two), ("c", three))}
            moderation.use(hooks)
            slow = [asyncio.create_task(moderation.check(prompt_of(name, "slow"))) for name in "ab" for _ in range(64)]
            async with asyncio.timeout(PATIENCE_S):
                while len(asked) < 30:
                    await asyncio.sleep(0.01)
                with pytest.raises(RefusedError) as refused:
                    await moderation.check(prompt_of("c", "parts"))
            assert refused.value.code == "moderation.flagged"
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
            await moderation.close()

    asyncio.run(go())


def test_what_limits_refuse_is_no_load_of_the_hook(tmp_path: Path) -> None:
    async def go() -> None:
        async with moderator() as (hook, asked):
            settings = GatewaySettings(moderation=ModerationSettings(url=hook))
            async with (
                canned_gateway(tmp_path, CannedDispatch(), settings=settings) as (url, gateway),
                openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as asking,
            ):
                keys = tuple(msgspec.structs.replace(key, requests_per_minute=1) for key in table().keys)
                gateway.use(msgspec.structs.replace(table(), keys=keys))
                await say(asking, "good")
                with pytest.raises(openai.RateLimitError):
                    await say(asking, "good")
            assert len(asked) == 1

    asyncio.run(go())


def test_objections_are_read_strictly() -> None:
    def said(*results: object) -> bytes:
        return json.dumps({"results": results}).encode()

    assert objections_of(said({"flagged": False, "categories": {"hate": True}})) == ()
    assert objections_of(said({"flagged": True})) == ("flagged",)
    assert objections_of(said({"flagged": False}, {"flagged": True, "categories": {"a": True, "b": False}})) == ("a",)
    for nothing in (b"{}", b"[]", said(), said({"flagged": "no"})):
        with pytest.raises(ValueError, match="no answer"):
            objections_of(nothing)
