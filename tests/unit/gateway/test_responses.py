"""Responses through the openai client: the same answer whole and streamed, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.gateway.canned import SECRET, CannedAnswer, CannedDispatch, canned_gateway, completion

from plenum.gateway.app import Gateway
from plenum.gateway.request import Ask, RefusedError
from plenum.gateway.response_events import Events, shape_of
from plenum.gateway.responses import RESPONSES, chat_of
from plenum.gateway.routes import Route

TOOL = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}


def routes(gateway: Gateway) -> tuple[Route, ...]:
    return RESPONSES


def stream(*deltas: dict[str, Any], finish: str = "stop") -> bytes:
    events: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas
    ]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 5},
    }
    events.append({"choices": [], "usage": usage})
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def streamed(data: bytes) -> CannedAnswer:
    return CannedAnswer([data[:31], data[31:]], content_type="text/event-stream")


async def answer(ask: Ask) -> CannedAnswer:
    if not ask.stream:
        return CannedAnswer([completion("Hello there")])
    return streamed(stream({"role": "assistant", "content": ""}, {"content": "Hello "}, {"content": "there"}))


def test_a_response_comes_whole_and_streamed(tmp_path: Path) -> None:
    async def go() -> None:
        dispatch = CannedDispatch(answer)
        async with (
            canned_gateway(tmp_path, dispatch, routes=routes) as (url, gateway),
            openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as asking,
        ):
            whole = await asking.responses.create(model="chat", input="Hi", instructions="Be kind", max_output_tokens=9)
            assert whole.output_text == "Hello there"
            assert whole.status == "completed"
            assert whole.usage
            assert (whole.usage.input_tokens, whole.usage.output_tokens) == (7, 3)
            assert dispatch.asked[0].body["messages"] == [
                {"role": "system", "content": "Be kind"},
                {"role": "user", "content": "Hi"},
            ]
            assert dispatch.asked[0].body["max_tokens"] == 9

            events = [event async for event in await asking.responses.create(model="chat", input="Hi", stream=True)]
            assert [event.type for event in events] == [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added",
                "response.output_text.delta",
                "response.output_text.delta",
                "response.output_text.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.completed",
            ]
            assert [event.sequence_number for event in events] == list(range(10))
            last = events[-1]
            assert last.type == "response.completed"
            assert last.response.output_text == "Hello there"
            assert last.response.usage
            assert last.response.usage.input_tokens_details.cached_tokens == 5

            async with asking.responses.stream(model="chat", input="Hi") as following:
                final = await following.get_final_response()
            assert final.output_text == "Hello there"
            billed = gateway.journal.pending()
            assert billed
            assert [row.output_tokens for row in billed.rows] == [3, 4, 4]

    asyncio.run(go())


@pytest.mark.parametrize("said", [b"<html>", b'{"choices":null}', b'{"choices":[{"message":"\xff"}]}'])
def test_an_answer_that_is_none_is_the_engines_fault_and_not_billed(tmp_path: Path, said: bytes) -> None:
    async def html(ask: Ask) -> CannedAnswer:
        return CannedAnswer([said])

    async def go() -> None:
        async with (
            canned_gateway(tmp_path, CannedDispatch(html), routes=routes) as (url, gateway),
            openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as asking,
        ):
            with pytest.raises(openai.InternalServerError) as refused:
                await asking.responses.create(model="chat", input="Hi")
            assert (refused.value.status_code, refused.value.code) == (502, "engine.answer")
            billed = gateway.journal.pending()
            assert billed
            assert [(row.outcome, row.prompt_tokens, row.output_tokens) for row in billed.rows] == [("broken", 0, 0)]

    asyncio.run(go())


def test_functions_are_called_and_answered(tmp_path: Path) -> None:
    call = {"id": "call_1", "type": "function", "index": 0, "function": {"name": "weather", "arguments": ""}}
    more = [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in ('{"at":', '"Oslo"}')]

    async def calls(ask: Ask) -> CannedAnswer:
        return streamed(
            stream({"role": "assistant", "content": "I ask"}, {"tool_calls": [call]}, *more, finish="tool_calls")
        )

    async def go() -> None:
        dispatch = CannedDispatch(calls)
        async with (
            canned_gateway(tmp_path, dispatch, routes=routes) as (url, _),
            openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as asking,
        ):
            async with asking.responses.stream(model="chat", input="Weather?", tools=[TOOL]) as following:  # type: ignore[list-item]
                final = await following.get_final_response()
            message, called = final.output
            assert message.type == "message"
            assert called.type == "function_call"
            assert (called.name, called.call_id, called.arguments) == ("weather", "call_1", '{"at":"Oslo"}')
            (tool,) = dispatch.asked[0].body["tools"]
            assert tool == {"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}}

    asyncio.run(go())


def test_items_become_the_messages_of_a_chat() -> None:
    chat = chat_of(
        {
            "model": "chat",
            "input": [
                {"role": "developer", "content": "Be brief"},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "a", "name": "weather", "arguments": "{}"},
                {"type": "function_call", "call_id": "b", "name": "weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "a", "output": "rain"},
                {"role": "assistant", "content": [{"type": "output_text", "text": "Rain", "annotations": []}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "And this?"},
                        {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"},
                    ],
                },
            ],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
            "tool_choice": {"type": "function", "name": "weather"},
            "reasoning": {"effort": "low"},
            "store": True,
            "include": ["reasoning.encrypted_content"],
            "previous_response_id": None,
        }
    )
    function = {"name": "weather", "arguments": "{}"}
    assert chat == {
        "model": "chat",
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": id, "type": "function", "function": function} for id in "ab"],
            },
            {"role": "tool", "tool_call_id": "a", "content": "rain"},
            {"role": "assistant", "content": "Rain"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "And this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
                ],
            },
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"kv_transfer_params": {}}, "kv_transfer_params"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}]},
            "input[0].content",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"instructions": []}, "instructions"),
    ],
)
def test_what_is_not_there_is_refused_by_name(more: dict[str, Any], field: str) -> None:
    with pytest.raises(RefusedError) as refused:
        chat_of({"model": "chat", "input": "Hi"} | more)
    assert (refused.value.status, refused.value.field) == (400, field)


def test_an_image_elsewhere_is_not_fetched(tmp_path: Path) -> None:
    part = {"type": "input_image", "image_url": "http://169.254.169.254/latest/meta-data", "detail": "auto"}

    async def go() -> None:
        dispatch = CannedDispatch(answer)
        async with (
            canned_gateway(tmp_path, dispatch, routes=routes) as (url, _),
            openai.AsyncOpenAI(base_url=url + "/v1", api_key=SECRET, max_retries=0) as asking,
        ):
            with pytest.raises(openai.BadRequestError):
                await asking.responses.create(model="chat", input=[{"role": "user", "content": [part]}])  # type: ignore[list-item]
        assert dispatch.asked == []

    asyncio.run(go())


def told(events: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[5:]) for line in events.split(b"\n") if line.startswith(b"data:")]


@given(st.lists(st.integers(0, 400), max_size=8))
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    data = stream({"content": "Grüße "}, {"content": "\n\n"}, {"content": "data: x"}, finish="length")
    events = Events(shape_of({"model": "chat"}, "req-1", 1.0))
    found = events.begin()
    places = [0, *sorted(cut % len(data) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(places):
        found += events.feed(data[begin:end], 2.0)
    found += events.end(2.0)
    last = told(found)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert last["response"]["output"][0]["content"][0]["text"] == "Grüße \n\ndata: x"
    assert len(told(found)) == 11


@pytest.mark.parametrize(
    "rest", [b"", b'data: {"error": {"message": "gone", "code": "engine.lost"}}\n\n', b"data: {\n\n"]
)
def test_what_breaks_off_ends_as_failed(rest: bytes) -> None:
    events = Events(shape_of({"model": "chat"}, "req-1", 1.0))
    begun = stream({"content": "Hel"}).partition(b"\n\n")[0] + b"\n\n"
    found = told(events.begin() + events.feed(begun + rest, 2.0) + events.end(2.0))
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["error"]["code"] == "server_error"
    assert found[-1]["response"]["output"][0]["status"] == "incomplete"
