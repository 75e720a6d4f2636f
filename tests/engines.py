"""Engines for tests: real ones on free ports, and servers that answer as they were recorded."""

import array
import asyncio
import json
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.patience import PATIENCE_S
from tests.ports import free_port

from plenum.adapters.authorities import OwnCertificate
from plenum.adapters.engines.emulated import Emulated, Faults, Settings, launch_emulated
from plenum.adapters.engines.http import HttpEngine
from plenum.adapters.engines.table import Start, engine_to_start
from plenum.adapters.weights import stage
from plenum.model.endpoint import Endpoint

KEY = "an-engine's-key"
MODEL = "small"

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 30,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": True,
}
"""The `config.json` of a small Llama."""


def new_llamacpp(
    folder: Path,
    *,
    slots: int = 2,
    context_tokens: int = 1024,
    arguments: tuple[str, ...] = (),
    adapters: tuple[tuple[str, str], ...] = (),
    certificate: OwnCertificate | None = None,
):
    """A llama.cpp with SmolLM2, not started; its caches lie in ``folder / "caches"``."""
    staged = stage("smollm2", folder / "weights")
    endpoint = Endpoint(
        name=MODEL,
        model="smollm2",
        slots=slots,
        context_tokens=context_tokens,
        arguments=("--threads=1", *arguments),
        adapters=adapters,
    )
    caches = folder / "caches"
    caches.mkdir(parents=True, exist_ok=True)
    start = Start(
        endpoint=endpoint,
        weights=staged.path,
        digest=staged.digest,
        port=free_port(),
        key=KEY,
        caches=caches,
        certificate=certificate,
    )
    return engine_to_start(start)


def smollm2_adapter(path: Path, seed: int) -> Path:
    """A GGUF with a LoRA adapter of SmolLM2 135M: noise on what its first layer adds, so that nothing it says is as before."""
    noise = random.Random(seed)
    shapes = {"blk.0.ffn_down.weight.lora_a": (1536, 1), "blk.0.ffn_down.weight.lora_b": (1, 576)}
    settings = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    head, data = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(settings) + 1), b""
    for name, value in settings.items():
        head += _counted(name) + struct.pack("<I", 8) + _counted(value)
    head += _counted("adapter.lora.alpha") + struct.pack("<If", 6, 1.0)
    for name, shape in shapes.items():
        head += _counted(name) + struct.pack("<IQQIQ", 2, *shape, 0, len(data))  # offsets are of multiples of 32
        data += array.array("f", (noise.gauss(0, 2) for _ in range(shape[0] * shape[1]))).tobytes()
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def _counted(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def new_emulated(*, scale: float = 0.02, faults: Faults | None = None, **settings: Any) -> Emulated:
    """An emulated engine, not started: Llama 3.1 8B on an H100, many times as fast."""
    return launch_emulated(
        Settings(
            host="127.0.0.1",
            port=free_port(),
            name=MODEL,
            key=KEY,
            digest="emulated",
            scale=scale,
            faults=faults or Faults(),
            **settings,
        )
    )


class Recorded:
    """A server that answers as a file says, and remembers what it was asked."""

    def __init__(self, file: Path) -> None:
        self._exchanges = json.loads(file.read_text())["exchanges"]
        self.asked: list[tuple[str, Any]] = []
        self._waiting: dict[int, asyncio.Event] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path != "/health" and request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"error": {"message": "no key", "type": "authentication_error"}}, status=401)
        raw = await request.read()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            return web.json_response({"error": {"message": "not JSON", "type": "invalid_request_error"}}, status=400)
        self.asked.append((request.path, body))
        for exchange in self._exchanges:
            if (request.method, request.path) == (exchange["method"], exchange["path"]) and _fits(
                exchange.get("given", {}), body
            ):
                return await self._say(request, exchange, body)
        return web.json_response({"error": {"message": "not recorded"}}, status=404)

    async def _say(self, request: web.Request, exchange: dict[str, Any], body: Any) -> web.StreamResponse:
        if "meets" in exchange:  # SGLang: neither half answers before the other is there
            room = self._waiting.setdefault(body["bootstrap_room"], asyncio.Event())
            room.set() if exchange["meets"] == "decode" else await room.wait()
        if "events" in exchange:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            for event in exchange["events"]:
                await response.write(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n".encode())
            await response.write_eof()
            return response
        if "text" in exchange:
            return web.Response(text="\n".join(exchange["text"]), content_type="text/plain")
        return web.json_response(exchange["json"], status=exchange.get("status", 200))


def _fits(given: dict[str, Any], body: Any) -> bool:
    return all(
        (name in (body or {})) if want == "*" else (body or {}).get(name) == want for name, want in given.items()
    )


@asynccontextmanager
async def recorded(file: Path) -> AsyncIterator[tuple[str, Recorded]]:
    """Serve a recording; gives its URL and what it remembers."""
    server = Recorded(file)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    try:
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        await runner.cleanup()


def chat(text: str = "Name three colours.", **fields: Any) -> bytes:
    """A chat request, greedy, with a system prompt."""
    messages = [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": text}]
    return json.dumps({"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 12} | fields).encode()


async def said(opening: Any) -> tuple[int, str, dict[str, Any]]:
    """Status, text and usage of an answer, streamed or whole."""
    async with opening as answer:
        body = b"".join([chunk async for chunk in answer.chunks()])
        if not answer.content_type.startswith("text/event-stream"):
            whole = json.loads(body)
            text = "".join(_text(choice) for choice in whole.get("choices", ()))
            return answer.status, text, whole.get("usage") or {}
    assert body.endswith(b"data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    text = "".join(_text(choice) for event in events for choice in event["choices"])
    usage = [event["usage"] for event in events if event.get("usage")]
    return answer.status, text, usage[-1] if usage else {}


def _text(choice: dict[str, Any]) -> str:
    return (choice.get("delta") or choice.get("message") or {}).get("content") or choice.get("text") or ""


async def until(check: Any, deadline_s: float = PATIENCE_S) -> None:
    """Wait until an asynchronous check is true."""
    async with asyncio.timeout(deadline_s):
        while not await check():
            await asyncio.sleep(0.02)


__all__ = [
    "KEY",
    "MODEL",
    "HttpEngine",
    "chat",
    "new_emulated",
    "new_llamacpp",
    "recorded",
    "said",
    "smollm2_adapter",
    "until",
]
