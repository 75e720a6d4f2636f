"""A small server that speaks OpenAI's dialect: each word is a token, and a chat template adds seven."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

TEMPLATE_TOKENS = 7

Hook = Callable[[web.Request, dict], Awaitable[web.StreamResponse | None]]


@asynccontextmanager
async def openai_server(hook: Hook | None = None, *, per_word: int = 1) -> AsyncIterator[tuple[str, list[dict]]]:
    """Serve on a free port; give the URL and the bodies that came."""
    bodies: list[dict] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        bodies.append(body)
        if hook and (answer := await hook(request, body)) is not None:
            return answer
        text = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        tokens = per_word * len(text.split()) + TEMPLATE_TOKENS
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for number in range(body["max_tokens"]):
            piece = {"delta": {"content": f"w{number} "}} if "messages" in body else {"text": f"w{number} "}
            await answer.write(b"data: " + json.dumps({"choices": [piece]}).encode() + b"\n\n")
        usage = {
            "prompt_tokens": tokens,
            "completion_tokens": body["max_tokens"],
            "prompt_tokens_details": {"cached_tokens": 3},
        }
        await answer.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n")
        return answer

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_post("/v1/completions", chat)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}", bodies
    finally:
        await runner.cleanup()


def refused(status: int, code: str) -> web.Response:
    return web.json_response({"error": {"message": "no", "type": "rate_limit_error", "code": code}}, status=status)
