"""Answers of chats as responses: whole, or event by event in the order that OpenAI's clients rely on."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from plenum.gateway.meter import UNREADABLE

Shape = dict[str, Any]

_ECHOED = (
    "instructions", "max_output_tokens", "metadata", "reasoning", "service_tier", "temperature", "text", "tool_choice", "tools", "top_p",
    "user",
)  # fmt: skip


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    message: str = ""
    code: str | int | None = None


class _Chat(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_read = msgspec.json.Decoder(_Chat).decode


def shape_of(said: dict[str, Any], request: str, now: float) -> Shape:
    """Return a response to a request, before anything of it has come."""
    echoed = {name: said[name] for name in _ECHOED if said.get(name) is not None}
    return {
        "id": "resp_" + request.removeprefix("req-"),
        "object": "response",
        "created_at": int(now),
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": said.get("model"),
        "output": [],
        "parallel_tool_calls": said.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": None,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        **echoed,
    }


def answered(shape: Shape, body: bytes, now: float) -> bytes:
    """Return the response for a whole answer of a chat."""
    events = Events(shape)
    chat = _read(body)
    for choice in chat.choices[:1]:
        choice.delta, choice.message = choice.message, None
    events.take(chat)
    events.finish(now)
    return msgspec.json.encode(events.shape)


class Events:
    """The events of one response.

    Attributes
    ----------
    shape
        The response so far.
    unreadable
        Whether something came that is no part of a chat's answer.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = dict(shape)
        self._number = 0
        self._rest = b""
        self._told: list[bytes] = []
        self._items: list[dict[str, Any]] = []
        self._calls: dict[int, int] = {}
        self._pieces: list[list[str]] = []
        self._open = -1
        self._finish = ""
        self._usage: _Usage | None = None
        self._error: _Error | None = None
        self._over = self.unreadable = False

    def begin(self) -> bytes:
        """Return the first events."""
        self._tell("response.created", response=self.shape)
        self._tell("response.in_progress", response=self.shape)
        return self._taken()

    def feed(self, data: bytes, now: float) -> bytes:
        """Take bytes of a chat's stream; returns the events that they come to."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if not line.startswith(b"data:") or self._over:
                continue
            said = line[5:].strip()
            if said == b"[DONE]":
                self.finish(now)
                continue
            try:
                self.take(_read(said))
            except UNREADABLE:
                self.unreadable, self._error = True, _Error("the engine's answer could not be read")
            if self._error:
                self.finish(now)
        return self._taken()

    def end(self, now: float) -> bytes:
        """Return what is left to tell when nothing more comes."""
        if not self._over:
            self._error = self._error or _Error("the answer broke off")
            self.finish(now)
        return self._taken()

    def take(self, chat: _Chat) -> None:
        """Take a part of a chat's answer."""
        self._usage, self._error = chat.usage or self._usage, chat.error or self._error
        for choice in chat.choices[:1]:
            self._finish = choice.finish_reason or self._finish
            delta = choice.delta
            if delta is None:
                continue
            if delta.content:
                self._text(delta.content)
            for call in delta.tool_calls or []:
                self._call(call)

    def finish(self, now: float) -> None:
        """Close what is open, and tell how it ended."""
        self._over = True
        cut = self._finish == "length"
        ended = "failed" if self._error else "incomplete" if cut else "completed"
        self._close("completed" if ended == "completed" else "incomplete")
        self.shape |= {"status": ended, "output": self._items, "usage": _shown(self._usage)}
        if ended == "completed":
            self.shape["completed_at"] = int(now)
        if cut:
            self.shape["incomplete_details"] = {"reason": "max_output_tokens"}
        if self._error:
            self.shape["error"] = {"code": "server_error", "message": self._error.message}
        self._tell(f"response.{ended}", response=self.shape)

    def _text(self, text: str) -> None:
        if self._open < 0 or self._items[self._open]["type"] != "message":
            self._add(
                {"type": "message", "id": self._id("msg"), "status": "in_progress", "role": "assistant", "content": []}
            )
            self._tell_of("response.content_part.added", content_index=0, part=_part(""))
        self._pieces[self._open].append(text)
        self._tell_of("response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def _call(self, call: _ToolCall) -> None:
        function = call.function or _Function()
        if call.index not in self._calls:
            self._calls[call.index] = len(self._items)
            self._add(
                {
                    "type": "function_call",
                    "id": self._id("fc"),
                    "status": "in_progress",
                    "call_id": call.id or self._id("call"),
                    "name": function.name or "",
                    "arguments": "",
                }
            )
        if function.arguments and self._calls[call.index] == self._open:
            self._pieces[self._open].append(function.arguments)
            self._tell_of("response.function_call_arguments.delta", delta=function.arguments)

    def _add(self, item: dict[str, Any]) -> None:
        self._close("completed")
        self._items.append(item)
        self._pieces.append([])
        self._open = len(self._items) - 1
        self._tell("response.output_item.added", output_index=self._open, item=item)

    def _close(self, status: str) -> None:
        """End the item that is open."""
        if self._open < 0:
            return
        item, text = self._items[self._open], "".join(self._pieces[self._open])
        if item["type"] == "message":
            self._tell_of("response.output_text.done", content_index=0, text=text, logprobs=[])
            self._tell_of("response.content_part.done", content_index=0, part=_part(text))
            item = item | {"status": status, "content": [_part(text)]}
        else:
            name = item["name"]
            self._tell_of("response.function_call_arguments.done", name=name, arguments=text)
            item = item | {"status": status, "arguments": text}
        self._items[self._open] = item
        self._tell("response.output_item.done", output_index=self._open, item=item)
        self._open = -1

    def _id(self, kind: str) -> str:
        about = f"{self.shape['id']} {kind} {len(self._items)}"
        return f"{kind}_{hashlib.sha256(about.encode()).hexdigest()[:32]}"

    def _tell_of(self, kind: str, **values: Any) -> None:
        self._tell(kind, item_id=self._items[self._open]["id"], output_index=self._open, **values)

    def _tell(self, kind: str, **values: Any) -> None:
        event = {"type": kind, "sequence_number": self._number, **values}
        self._number += 1
        self._told.append(b"event: %b\ndata: %b\n\n" % (kind.encode(), msgspec.json.encode(event)))

    def _taken(self) -> bytes:
        told, self._told = b"".join(self._told), []
        return told


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _shown(usage: _Usage | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    output, details = usage.completion_tokens or 0, usage.prompt_tokens_details
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": (details.cached_tokens or 0) if details else 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + output,
    }
