"""OpenAI's Responses, as chats: what a client sends is translated for engines, and their answer back. Nothing is stored.

Sans I/O, but for the one route at the end. Batches come this way too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from plenum.gateway.answers import EVENTS, JSON, invalid
from plenum.gateway.call import Call
from plenum.gateway.engine_faults import unusable
from plenum.gateway.inference import Answering
from plenum.gateway.meter import UNREADABLE
from plenum.gateway.read import read_object
from plenum.gateway.response_events import Events, answered, shape_of
from plenum.gateway.routes import Route
from plenum.ports.engine import CHAT

PATH = "/v1/responses"
MAX_ITEMS = 8_192
MAX_PARTS = 1_024
MAX_TOOLS = 256

_SAME = frozenset(
    {
        "model",
        "temperature",
        "top_p",
        "user",
        "parallel_tool_calls",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
    }
)
"""Fields that chats have under the same name."""

_SHOWN = frozenset({"store", "truncation", "include", "metadata", "stream_options", "prompt_cache_retention", "stream"})
"""Fields that change nothing about what an engine is asked."""

_STATE = {
    "previous_response_id": "responses are not stored here; send the whole conversation as input",
    "conversation": "conversations are not stored here; send the whole conversation as input",
    "background": "responses are not worked on in the background here; use /v1/batches",
    "prompt": "prompt templates are not stored here; send instructions and input",
}

Body = dict[str, Any]


def chat_of(said: Body) -> Body:
    """Return the chat that a request for a response comes to.

    Raises
    ------
    RefusedError
        It asks for what is not there, or cannot be meant. What chats check of their fields is left to them.
    """
    chat: Body = {"messages": _messages(said)}
    for name, value in said.items():
        if value is None or value is False:
            continue
        if name in _STATE:
            raise invalid(name, _STATE[name], code="response.stateless")
        if name in _SAME:
            chat[name] = value
        elif name in _FIELDS:
            _FIELDS[name](chat, value)
        elif name not in _SHOWN and name not in ("input", "instructions"):
            shown = name[:64] if name.isprintable() else "?"
            raise invalid(shown, f"there is no field {shown!r} here; leave it out", code="request.field_unknown")
    if said.get("stream"):
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def _messages(said: Body) -> list[Body]:
    messages: list[Body] = []
    instructions, given = said.get("instructions"), said.get("input")
    if instructions is not None:
        if type(instructions) is not str:
            raise invalid("instructions", "instructions must be a text")
        messages.append({"role": "system", "content": instructions})
    if type(given) is str:
        return [*messages, {"role": "user", "content": given}]
    if type(given) is not list or not 0 < len(given) <= MAX_ITEMS:
        raise invalid("input", f"input must be a text, or a list of 1 to {MAX_ITEMS:,} items")
    for number, item in enumerate(given):
        _add(messages, item, f"input[{number}]")
    return messages


def _add(messages: list[Body], item: Any, field: str) -> None:
    """Add one item of the input to the chat."""
    if type(item) is not dict:
        raise invalid(field, "an item of the input must be an object")
    kind = item.get("type", "message")
    if kind == "message":
        role = item.get("role")
        # Templates of open models know no developer.
        messages.append(
            {"role": "system" if role == "developer" else role, "content": _content(item.get("content"), role, field)}
        )
    elif kind == "function_call":
        call = {"name": item.get("name"), "arguments": item.get("arguments")}
        calls = {"id": item.get("call_id"), "type": "function", "function": call}
        if messages and messages[-1].get("tool_calls"):
            messages[-1]["tool_calls"].append(calls)
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [calls]})
    elif kind == "function_call_output":
        output = item.get("output")
        content = output if type(output) is str else _content(output, "tool", field)
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
    elif kind != "reasoning":  # what a model thought earlier is not shown to it again
        raise invalid(f"{field}.type", f"items of the kind {str(kind)[:40]!r} are not understood here")


def _content(content: Any, role: Any, field: str) -> Any:
    if type(content) is str:
        return content
    if type(content) is not list or len(content) > MAX_PARTS:
        raise invalid(f"{field}.content", f"content must be a text or a list of at most {MAX_PARTS:,} parts")
    parts = [_part(part, field) for part in content]
    texts = [part["text"] for part in parts if part["type"] == "text"]
    # Many templates take a list of parts from users alone.
    return "".join(texts) if len(texts) == len(parts) or role != "user" else parts


def _part(part: Any, field: str) -> Body:
    kind = part.get("type") if type(part) is dict else None
    if kind in ("input_text", "output_text", "text") and type(part.get("text")) is str:
        return {"type": "text", "text": part["text"]}
    if kind == "refusal" and type(part.get("refusal")) is str:
        return {"type": "text", "text": part["refusal"]}
    if kind == "input_image" and type(part.get("image_url")) is str:
        detail = {"detail": part["detail"]} if type(part.get("detail")) is str else {}
        return {"type": "image_url", "image_url": {"url": part["image_url"], **detail}}
    raise invalid(f"{field}.content", f"parts of the kind {str(kind)[:40]!r} are not understood here; send text")


def _tools(chat: Body, tools: Any) -> None:
    if type(tools) is not list or len(tools) > MAX_TOOLS:
        raise invalid("tools", f"tools must be a list of at most {MAX_TOOLS}")
    for number, tool in enumerate(tools):
        if type(tool) is not dict or tool.get("type") != "function":
            raise invalid(f"tools[{number}].type", "there are no built-in tools here, only functions of the client's")
    if tools:
        chat["tools"] = [
            {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
            for tool in tools
        ]


def _tool_choice(chat: Body, choice: Any) -> None:
    if type(choice) is dict and choice.get("type") == "function":
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    chat["tool_choice"] = choice


def _text(chat: Body, text: Any) -> None:
    if type(text) is not dict:
        raise invalid("text", "text must be an object")
    wanted = text.get("format") or {"type": "text"}
    kind = wanted.get("type") if type(wanted) is dict else None
    if kind == "json_schema":
        schema = {name: value for name, value in wanted.items() if name != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif kind == "json_object":
        chat["response_format"] = {"type": "json_object"}
    elif kind != "text":
        raise invalid("text.format", "text.format must be text, json_object or json_schema")


def _reasoning(chat: Body, reasoning: Any) -> None:
    if type(reasoning) is not dict:
        raise invalid("reasoning", "reasoning must be an object")
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]


def _most(chat: Body, tokens: Any) -> None:
    chat["max_tokens"] = tokens


_FIELDS: dict[str, Callable[[Body, Any], None]] = {
    "tools": _tools,
    "tool_choice": _tool_choice,
    "text": _text,
    "reasoning": _reasoning,
    "max_output_tokens": _most,
}


def as_chat(raw: bytes, id: str) -> tuple[bytes, Body]:
    """Return the chat that a request's body comes to, and the response to it before anything has come.

    Raises
    ------
    RefusedError
        As :func:`chat_of`.
    """
    said = read_object(raw)
    return msgspec.json.encode(chat_of(said)), shape_of(said, id, time.time())


def response_of(shape: Body, answering: Answering, whole: bytes) -> bytes:
    """Return the response for a chat's whole answer.

    Raises
    ------
    RefusedError
        It is none: the engine's fault.
    """
    try:
        return answered(shape, whole, time.time())
    except UNREADABLE as error:
        answering.spoiled = True
        raise unusable() from error


async def _respond(call: Call) -> None:
    raw, shape = as_chat(await call.body(), call.id)
    async with (
        call.while_there(),
        call.gateway.inference.ask(call.key, CHAT, raw, id=call.id, wishes=call.wishes()) as answering,
    ):
        call.id = answering.id
        if answering.content_type != EVENTS:
            body = response_of(shape, answering, await answering.read())
            await call.begin(answering.status, JSON, [(b"content-length", b"%d" % len(body)), *answering.headers])
            await call.write(body)
        else:
            await call.begin(answering.status, EVENTS, answering.headers)
            events = Events(shape)
            await call.write(events.begin())
            async for data in answering.chunks():
                if told := events.feed(data, time.time()):
                    await call.write(told)
            if told := events.end(time.time()):
                await call.write(told)
            answering.spoiled = events.unreadable
    await call.end()


RESPONSES = (Route(method="POST", path=PATH, handler=_respond),)
