"""The process of one emulated engine: OpenAI's dialect, and a loop that keeps the serving model's time.

``python -m plenum.adapters.engines.emulated_process`` is what :mod:`plenum.adapters.engines.emulated` starts.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any
from zlib import crc32

import msgspec
from aiohttp import web

from plenum.adapters.authorities import showing
from plenum.adapters.engines.batching import Batch, Stream
from plenum.adapters.engines.blocks import Blocks
from plenum.adapters.engines.dialect import MAX_PROMPT_BYTES, Writer
from plenum.adapters.engines.emulated import METRICS, Emulated, Faults, Settings
from plenum.adapters.engines.emulated_instance import instance_of, steps_of
from plenum.adapters.engines.handoff import DECODE, PREFILL, UNUSABLE, Order
from plenum.adapters.engines.leash import leash
from plenum.adapters.engines.splitting import split_reason
from plenum.model.errors import PlenumError
from plenum.ports.engine import CHAT, COMPLETIONS, Handle, HandleError
from plenum.serving.instance import Instance, cache_bytes_per_token, cache_capacity_tokens
from plenum.serving.steps import AT

MAX_SETTINGS_BYTES = 64 * 1024
MAX_WAITING = 10_000
MAX_OUTPUT_TOKENS = 65_536
KEPT_S = 60.0

_PIECE = re.compile(r"\s?[^\s]{1,6}|\s")
"""A token: up to six characters with the space before them."""

_WORDS = (" the", " model", " that", " would", " be", " here", " says", " so", " much", " at", " this", " pace")
_OPEN = ("/health",)


def main() -> None:
    """Serve until killed."""
    leash()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = msgspec.json.decode(sys.stdin.buffer.readline(MAX_SETTINGS_BYTES), type=Settings)
    try:
        instance = instance_of(settings)
    except PlenumError as error:
        sys.exit(str(error))
    asyncio.run(_run(settings, instance))


def tokens_of(text: str) -> list[int]:
    """Return the tokens of a text."""
    return [crc32(piece.encode()) for piece in _PIECE.findall(text)]


class EmulatedServer:
    """One emulated engine."""

    def __init__(self, settings: Settings, instance: Instance) -> None:
        self._settings, self._instance = settings, instance
        steps = steps_of(settings)
        limits = instance.settings
        tokens = settings.cache_tokens or max(cache_capacity_tokens(instance), 0)
        self._blocks = Blocks(tokens // limits.block_tokens, limits.block_tokens)
        self._batch = Batch(
            steps.coefficients,
            self._blocks,
            max_sequences=limits.max_sequences,
            max_batched_tokens=limits.max_batched_tokens * max(instance.parallelism.dp, 1),
        )
        self._before_s = float(steps.coefficients[AT["request_s"]])
        self._faults = settings.faults
        self._random = random.Random(settings.seed)
        self._woken = asyncio.Event()
        self.context_tokens = settings.context_tokens or int(instance.model.max_context)

    def app(self) -> web.Application:
        """Return its web application."""
        app = web.Application(middlewares=[self._guarded], client_max_size=MAX_PROMPT_BYTES)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/v1/models", self._models),
                web.post("/tokenize", self._tokenize),
                web.post("/faults", self._set_faults),
                web.post(CHAT, self._complete),
                web.post(COMPLETIONS, self._complete),
                web.post(PREFILL, self._prefill),
                web.post(DECODE, self._decode),
            ]
        )
        return app

    async def loop(self) -> None:
        """Run iterations, each as long as the model says, for ever."""
        clock = asyncio.get_running_loop()
        end_s, idle = clock.time(), True
        while True:
            seconds = 0.0 if self._faults.hang else self._batch.begin(idle=idle)
            idle = not seconds
            if idle:
                self._woken.clear()
                await self._woken.wait()
                end_s = clock.time()
                continue
            # Ends are counted from ends, so that the timer's lateness does not add up.
            end_s += seconds * self._settings.scale * self._faults.latency
            await asyncio.sleep(max(end_s - clock.time(), 0))
            self._batch.end()

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode()
        wanted = f"Bearer {self._settings.key}".encode()
        if self._settings.key and request.path not in _OPEN and not secrets.compare_digest(given, wanted):
            return _refused(401, "authentication_error", "this needs the engine's key")
        try:
            return await handler(request)
        except HandleError as error:
            return web.Response(status=UNUSABLE, text=error.sentence)
        except (msgspec.DecodeError, msgspec.ValidationError, ValueError, TypeError, KeyError) as error:
            return _refused(400, "invalid_request_error", f"the request cannot be read: {error}")

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=500 if self._faults.unhealthy else 200, text="")

    async def _metrics(self, _: web.Request) -> web.Response:
        if self._faults.hang:  # as with engines whose loop answers it
            await asyncio.Event().wait()
        batch, blocks = self._batch, self._blocks
        values = {
            "running": batch.running,
            "waiting": len(batch.waiting),
            "cache_used": blocks.occupied / max(blocks.capacity, 1),
            "prompt_tokens": batch.prompt_tokens,
            "cached_tokens": batch.cached_tokens,
            "output_tokens": batch.output_tokens,
        }
        return web.Response(text="".join(f"{METRICS[name][0]} {value}\n" for name, value in values.items()))

    async def _models(self, _: web.Request) -> web.Response:
        settings = self._settings
        model = {
            "id": settings.name,
            "object": "model",
            "owned_by": "plenum",
            "max_model_len": self.context_tokens,
            "slots": self._instance.settings.max_sequences,
            "digest": settings.digest,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read())
        prompt = _prompt(body["path"], body["body"]) if "path" in body else body["prompt"]
        return web.json_response({"tokens": tokens_of(prompt)})

    async def _set_faults(self, request: web.Request) -> web.Response:
        self._faults = msgspec.json.decode(await request.read(), type=Faults)
        self._woken.set()
        return web.json_response({})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if self._random.random() < self._faults.error_rate:
            return _refused(500, "server_error", "an error that was asked for")
        body = msgspec.json.decode(await request.read(), type=dict)
        stream, came = self._stream(request.path, body)
        if refused := self._refusal(stream):
            return refused
        await asyncio.sleep(self._before_s * self._settings.scale)
        return await self._answer(request, request.path, body, stream, came)

    async def _prefill(self, request: web.Request) -> web.Response:
        order = msgspec.json.decode(await request.read(), type=Order)
        body = msgspec.json.decode(order.body, type=dict)
        if reason := split_reason(order.path, body):
            raise HandleError(reason)
        stream, came = self._stream(order.path, body, output_tokens=1)
        if self._refusal(stream):
            raise HandleError("the prompt is too long, or too many wait")
        await asyncio.sleep(self._before_s * self._settings.scale)
        self._enter(stream)
        try:
            while not stream.done:
                came.clear()
                await came.wait()
        finally:
            self._batch.remove(stream)
        return web.Response(body=msgspec.json.encode(self._handle(stream)), content_type="application/json")

    async def _decode(self, request: web.Request) -> web.StreamResponse:
        order = msgspec.json.decode(await request.read(), type=Order)
        body = msgspec.json.decode(order.body, type=dict)
        stream, came = self._stream(order.path, body)
        handle = order.handle
        if handle is None or handle.model != self._settings.digest or handle.prompt_tokens != stream.prompt_tokens:
            raise HandleError("the cache is of another model, or of another prompt")
        if msgspec.json.decode(handle.data, type=_Kept).until < time.time():
            raise HandleError("the cache is not kept any more")
        if refused := self._refusal(stream):
            return refused
        await asyncio.sleep(handle.size_bytes / self._settings.transfer_bps * self._settings.scale)
        stream.brought, stream.generated = True, 1
        stream.cached_tokens = msgspec.json.decode(handle.first)["cached_tokens"]
        return await self._answer(request, order.path, body, stream, came)

    def _handle(self, stream: Stream) -> Handle:
        return Handle(
            engine=Emulated.kind,
            model=self._settings.digest,
            data=msgspec.json.encode(_Kept(until=time.time() + KEPT_S)),
            first=msgspec.json.encode({"cached_tokens": stream.cached_tokens}),
            prompt_tokens=stream.prompt_tokens,
            size_bytes=int(stream.prompt_tokens * cache_bytes_per_token(self._instance)) * self._settings.tensor,
        )

    def _stream(self, path: str, body: dict[str, Any], *, output_tokens: int = 0) -> tuple[Stream, asyncio.Event]:
        tokens = tokens_of(_prompt(path, body))
        asked = int(body.get("max_completion_tokens") or body.get("max_tokens") or 0)
        room = self.context_tokens - len(tokens)
        # Without a limit an answer has a length of its own, always the same one.
        own = 32 + crc32(str(tokens[-64:]).encode()) % 224
        came = asyncio.Event()
        stream = Stream(
            prompt_tokens=len(tokens),
            output_tokens=output_tokens or max(min(asked or own, room, MAX_OUTPUT_TOKENS), 1),
            hashes=_hashes(tokens, self._blocks.block_tokens, str(body.get("cache_salt", ""))),
            told=came.set,
        )
        return stream, came

    def _refusal(self, stream: Stream) -> web.Response | None:
        longest = self.context_tokens
        if stream.prompt_tokens >= longest or not self._batch.fits(stream):
            sentence = f"the prompt has {stream.prompt_tokens:,} tokens; at most {longest:,} fit with their answer"
            return _refused(400, "invalid_request_error", sentence)
        if len(self._batch.waiting) >= MAX_WAITING:
            return _refused(503, "overloaded_error", f"{MAX_WAITING:,} requests wait already")
        return None

    def _enter(self, stream: Stream) -> None:
        self._batch.add(stream)
        self._woken.set()

    async def _answer(
        self, request: web.Request, path: str, body: dict[str, Any], stream: Stream, came: asyncio.Event
    ) -> web.StreamResponse:
        if not stream.done:
            self._enter(stream)
        writer = Writer(path, body, prompt_tokens=stream.prompt_tokens)
        try:
            return await writer.answer(request, self._pieces(stream, came, writer, request))
        finally:
            self._batch.remove(stream)

    async def _pieces(
        self, stream: Stream, came: asyncio.Event, writer: Writer, request: web.Request
    ) -> AsyncIterator[dict[str, Any]]:
        said, faults = 0, self._faults
        while said < stream.output_tokens:
            while stream.generated > said:
                if faults.break_after and said >= faults.break_after and request.transport is not None:
                    request.transport.abort()
                writer.cached_tokens = stream.cached_tokens
                yield {"content": _WORDS[(stream.prompt_tokens + said) % len(_WORDS)], "stop": False}
                said += 1
            if said < stream.output_tokens:
                came.clear()
                await came.wait()
        yield {"content": "", "stop": True, "stop_type": "limit", "output_tokens": said}


class _Kept(msgspec.Struct, frozen=True):
    """A handle's data: until when the cache that it pretends to stand for is kept."""

    until: float


def _prompt(path: str, body: dict[str, Any]) -> str:
    if path != CHAT:
        prompt = body["prompt"]
        if not isinstance(prompt, str):
            raise ValueError("an emulated engine takes one prompt, of text")
        return prompt
    return "".join(f"\n{each['role']}\n{_text(each.get('content'))}" for each in body["messages"]) + "\nassistant\n"


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content)
    return str(content or "")


def _hashes(tokens: list[int], block_tokens: int, salt: str) -> list[int]:
    """Return a hash for each whole block, of everything up to its end."""
    before, hashes = hash(salt), []
    for end in range(block_tokens, len(tokens) + 1, block_tokens):
        before = hash((before, *tokens[end - block_tokens : end]))
        hashes.append(before)
    return hashes


def _refused(status: int, kind: str, sentence: str) -> web.Response:
    return web.json_response({"error": {"message": sentence, "type": kind, "code": None, "param": None}}, status=status)


async def _run(settings: Settings, instance: Instance) -> None:
    server = EmulatedServer(settings, instance)
    runner = web.AppRunner(server.app(), handler_cancellation=True, access_log=None, shutdown_timeout=0)
    await runner.setup()
    tls = showing(settings.certificate)
    await web.TCPSite(runner, settings.host, settings.port, backlog=1024, ssl_context=tls).start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: os._exit(0))
    await server.loop()


if __name__ == "__main__":
    main()
