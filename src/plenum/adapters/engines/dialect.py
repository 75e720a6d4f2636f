"""Answers in OpenAI's dialect, put together from an engine's own pieces of text: streamed, or whole."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from plenum.model.errors import PlenumError
from plenum.ports.engine import CHAT, EngineError

MAX_PROMPT_BYTES = 16 * 2**20
MAX_LINE_BYTES = 2**20

_REASONS = {"limit": "length", "eos": "stop", "word": "stop"}


async def first_of(text: str, chunks: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Yield a piece of text, one token, then what llama.cpp's stream goes on with.

    Raises
    ------
    EngineError
        The stream says that something went wrong.
    """
    yield {"content": text, "stop": False}
    async for event in events(chunks):
        if "error" in event:
            raise EngineError(f"the engine broke off: {str(event['error'])[:200]}")
        if event["stop"]:
            event["output_tokens"] = event["tokens_predicted"] + 1
        yield event


async def events(chunks: AsyncIterable[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Yield the objects of a stream of server-sent events; ``[DONE]`` and comments are left out.

    Raises
    ------
    ValueError
        A line is longer than :data:`MAX_LINE_BYTES`, or no JSON.
    """
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ValueError("a line of the stream is too long")
        for line in lines:
            if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                yield msgspec.json.decode(line[6:])


class Writer:
    """Writes one answer.

    Parameters
    ----------
    path, body
        The request.
    prompt_tokens, cached_tokens
        For its usage.

    Attributes
    ----------
    limit
        Output tokens that the request asks for at most; 0: does not say.
    cached_tokens
        May be set later, as long as it is before the end.
    """

    def __init__(self, path: str, body: dict[str, Any], *, prompt_tokens: int, cached_tokens: int = 0) -> None:
        self._chat = path == CHAT
        self._stream = bool(body.get("stream"))
        self._with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        self._prompt_tokens, self.cached_tokens = prompt_tokens, cached_tokens
        self._id = ("chatcmpl-" if self._chat else "cmpl-") + secrets.token_hex(12)
        self._model, self._created = str(body.get("model", "")), int(time.time())
        mark = '"' + secrets.token_hex(8) + '"'
        choice = (
            {"delta": {"content": msgspec.Raw(mark.encode())}} if self._chat else {"text": msgspec.Raw(mark.encode())}
        )
        line = self.line({"choices": [{"index": 0, **choice, "finish_reason": None}]})
        self._before, _, self._after = line.partition(mark.encode())
        self.limit = int(body.get("max_completion_tokens") or body.get("max_tokens") or body.get("n_predict") or 0)

    async def answer(self, request: web.Request, pieces: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
        """Answer with pieces as llama.cpp gives them: ``content``, and in the last ``stop``, ``stop_type``, ``tokens_predicted``."""
        return await (self._streamed(request, pieces) if self._stream else self._whole(pieces))

    def chunk(self, text: str, reason: str | None = None, *, first: bool = False) -> bytes:
        """Return one chunk of a stream as its ``data:`` line."""
        if text and not first and reason is None:
            return self._before + msgspec.json.encode(text) + self._after  # all but the first and the last
        if self._chat:
            delta: dict[str, Any] = {"role": "assistant"} if first else {}
            choice: dict[str, Any] = {"index": 0, "delta": delta | ({"content": text} if text or first else {})}
        else:
            choice = {"index": 0, "text": text, "logprobs": None}
        return self.line({"choices": [{**choice, "finish_reason": reason}]})

    def ending(self, reason: str, output_tokens: int) -> bytes:
        """Return the end of a stream: why it ended, usage where asked for, and the mark that all is said."""
        end = self.chunk("", reason)
        if self._with_usage:
            end += self.line({"choices": [], "usage": self.usage(output_tokens)})
        return end + b"data: [DONE]\n\n"

    def line(self, content: dict[str, Any]) -> bytes:
        """Return an object of the stream, with what each has alike."""
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        head = {"id": self._id, "object": kind, "created": self._created, "model": self._model}
        return b"data: " + msgspec.json.encode(head | content) + b"\n\n"

    def whole(self, text: str, reason: str, output_tokens: int) -> bytes:
        """Return a whole answer."""
        if self._chat:
            kind, said = "chat.completion", {"message": {"role": "assistant", "content": text}}
        else:
            kind, said = "text_completion", {"text": text, "logprobs": None}
        return msgspec.json.encode(
            {
                "id": self._id,
                "object": kind,
                "created": self._created,
                "model": self._model,
                "choices": [{"index": 0, "finish_reason": reason, **said}],
                "usage": self.usage(output_tokens),
            }
        )

    def usage(self, output_tokens: int) -> dict[str, Any]:
        """Return what is billed."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": self._prompt_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    async def _streamed(self, request: web.Request, pieces: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        try:
            await self._write(response, pieces)
        except (PlenumError, ValueError) as error:
            # What has begun can only be broken off: the status is out already.
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError(str(error)) from error
        return response

    async def _write(self, response: web.StreamResponse, pieces: AsyncIterator[dict[str, Any]]) -> None:
        first, output_tokens = True, 0
        async for piece in pieces:
            if piece["content"]:
                await response.write(self.chunk(piece["content"], first=first))
                first, output_tokens = False, output_tokens + 1
            if piece["stop"]:
                await response.write(self.ending(*_end(piece, output_tokens)))
                return await response.write_eof()
        raise EngineError("the engine broke off")

    async def _whole(self, pieces: AsyncIterator[dict[str, Any]]) -> web.Response:
        text: list[str] = []
        async for piece in pieces:
            text.append(piece["content"])
            if piece["stop"]:
                body = self.whole("".join(text), *_end(piece, len(text)))
                return web.Response(body=body, content_type="application/json")
        raise EngineError("the engine broke off")


def _end(piece: dict[str, Any], pieces: int) -> tuple[str, int]:
    return _REASONS.get(str(piece.get("stop_type")), "stop"), int(piece.get("output_tokens", pieces))
