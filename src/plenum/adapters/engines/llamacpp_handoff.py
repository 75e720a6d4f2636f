"""Hand-offs of a llama.cpp server: prompts prefilled here and saved, or fetched, restored and decoded here.

A saved cache is a file whose name nobody can guess, which is what lets another replica fetch it. The server itself takes damaged files
without a word, so the handle carries their SHA-256, and the digest of the weights that computed them. The first token is sampled where
the prompt is computed and goes along: a restored cache has no logits, and computing its last token again gives slightly other ones.
The whole prompt goes along too, so where a slot is taken away between restore and decode, it is computed again: time is all that is lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from plenum.adapters.authorities import OwnCertificate, sha256_of, showing
from plenum.adapters.engines.dialect import MAX_PROMPT_BYTES, Writer, first_of
from plenum.adapters.engines.handoff import CACHES, DECODE, PREFILL, UNUSABLE, Order
from plenum.adapters.engines.http import StatusError
from plenum.adapters.engines.llamacpp import LlamaCpp
from plenum.adapters.engines.splitting import sampling, split_reason
from plenum.ports.engine import CHAT, EngineError, Handle, HandleError

KEPT_S = 60.0
LEFT_S = 900.0
"""After which a file that nobody knows of goes: whoever had it made left before it was."""

MAX_KEPT = 64
MAX_KEPT_BYTES = 4 * 2**30
"""Of saved caches that nobody has fetched; then the oldest go."""

FETCH_TIMEOUT_S = 30.0
PREFILL_TIMEOUT_S = 900.0
PIECE_BYTES = 2**20

_NAME = re.compile(r"[A-Za-z0-9_-]{22,64}")


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A handle's data: which file, where and behind which certificate, what it must be, and the prompt's tokens."""

    name: str
    url: str
    sha256: str
    tokens: tuple[int, ...]
    certificate_sha256: str = ""


class First(msgspec.Struct, frozen=True, kw_only=True):
    """The first generated token; ``stop`` is why nothing follows it, or empty."""

    token: int
    text: str
    stop: str = ""
    cached_tokens: int = 0


class Handoffs:
    """The second address of a llama.cpp server.

    Parameters
    ----------
    engine
        The server, over its own address.
    folder
        Where it saves and restores caches; emptied.
    digest
        Of its weights.
    url, certificate
        Where this is served, and what it speaks TLS with.
    """

    def __init__(
        self,
        engine: LlamaCpp,
        folder: Path,
        digest: str,
        slots: int,
        *,
        url: str,
        key: str,
        certificate: OwnCertificate | None = None,
    ) -> None:
        self._engine, self._folder, self._digest, self._url, self._key = engine, folder, digest, url, key
        self._certificate = certificate
        self._free = set(range(slots))
        self._prompts: dict[
            int, list[int]
        ] = {}  # what was prefilled last in each slot: what begins alike goes there again
        self._freed = asyncio.Event()
        self._kept: dict[str, tuple[float, int]] = {}
        for left in folder.iterdir():
            left.unlink()

    async def serve(self, listener: socket.socket) -> None:
        """Serve from now on, as long as the loop runs."""
        app = web.Application(middlewares=[self._allowed], client_max_size=MAX_PROMPT_BYTES)
        app.add_routes(
            [
                web.post(PREFILL, self._prefill),
                web.post(DECODE, self._decode),
                web.get(CACHES + "{name}", self._give),
            ]
        )
        # Who goes away while it waits is not to keep a slot.
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener, ssl_context=showing(self._certificate)).start()

    @web.middleware
    async def _allowed(self, request: web.Request, handler: Any) -> web.StreamResponse:
        # A cache's name is a secret of its own: another replica has no key for this one.
        known = f"Bearer {self._key}" if self._key else ""
        given = request.headers.get("Authorization", "") if self._key else ""
        if not request.path.startswith(CACHES) and not secrets.compare_digest(given.encode(), known.encode()):
            return web.Response(status=401, text="this needs the engine's key")
        try:
            return await handler(request)
        except HandleError as error:
            return web.Response(status=UNUSABLE, text=error.sentence)
        except StatusError as error:  # what is wrong with the request, the plain way says best
            return web.Response(status=UNUSABLE if error.status < 500 else 502, text=error.sentence)
        except EngineError as error:
            return web.Response(status=502, text=error.sentence)
        except msgspec.DecodeError as error:
            return web.Response(status=400, text=f"the order cannot be read: {error}")

    async def _prefill(self, request: web.Request) -> web.Response:
        order = msgspec.json.decode(await request.read(), type=Order)
        body = _body(order)
        settings = self._settings(order, body)
        tokens = await self._tokens(order.path, body)
        async with self._slot(tokens) as slot:
            told = await self._engine.ask_json(
                "POST",
                "/completion",
                {**settings, "prompt": tokens, "n_predict": 1, "return_tokens": True, "id_slot": slot},
                timeout_s=PREFILL_TIMEOUT_S,
            )
            first = _first(told, body)
            if told["tokens_evaluated"] != len(tokens) or told.get("truncated"):
                raise HandleError("the prompt does not fit a slot")
            name = secrets.token_urlsafe(24)
            saved = await self._engine.ask_json("POST", f"/slots/{slot}?action=save", {"filename": name})
            self._prompts[slot] = tokens
        if saved["n_saved"] != len(tokens):  # somebody else's request came in between
            (self._folder / name).unlink(missing_ok=True)
            raise HandleError("the slot was taken away before its cache was saved")
        sha256 = await asyncio.to_thread(_hash, self._folder / name)
        self._keep(name, int(saved["n_written"]))
        data = Saved(
            name=name,
            url=self._url,
            sha256=sha256,
            tokens=tuple(tokens),
            certificate_sha256=sha256_of(self._certificate),
        )
        handle = Handle(
            engine=self._engine.kind,
            model=self._digest,
            data=msgspec.json.encode(data),
            first=msgspec.json.encode(first),
            prompt_tokens=len(tokens),
            size_bytes=int(saved["n_written"]),
        )
        return web.Response(body=msgspec.json.encode(handle), content_type="application/json")

    async def _decode(self, request: web.Request) -> web.StreamResponse:
        order = msgspec.json.decode(await request.read(), type=Order)
        body = _body(order)
        handle, saved, first = self._read(order.handle)
        settings = self._settings(order, body)
        writer = Writer(order.path, body, prompt_tokens=len(saved.tokens), cached_tokens=first.cached_tokens)
        left = writer.limit - 1 if writer.limit else -1
        if first.stop or left == 0:
            return await writer.answer(request, _only(first))
        path = await self._fetch(saved, handle.size_bytes)
        try:
            async with self._slot() as slot:
                await self._restore(slot, path.name, len(saved.tokens))
                path.unlink(missing_ok=True)
                asked = {**settings, "prompt": [*saved.tokens, first.token], "n_predict": left, "id_slot": slot}
                body = msgspec.json.encode({**asked, "stream": True})
                async with self._engine.open("/completion", body) as answer:
                    if answer.status != 200:
                        said = (await answer.read())[:200].decode("utf-8", "replace")
                        raise EngineError(f"the server answers {answer.status}: {said}")
                    return await writer.answer(request, first_of(first.text, answer.chunks()))
        finally:
            path.unlink(missing_ok=True)

    def _settings(self, order: Order, body: dict[str, Any]) -> dict[str, Any]:
        adapters = self._engine.lora(order.body)
        if any(each["scale"] for each in adapters):  # the server takes whatever is restored for the model's own
            raise HandleError("requests of adapters are not split")
        return {**sampling(body), "lora": adapters}

    async def _give(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if name not in self._kept or not (self._folder / name).is_file():
            return web.Response(status=404, text="no such cache is kept here (any more)")
        return web.FileResponse(self._folder / name)

    def _read(self, handle: Handle | None) -> tuple[Handle, Saved, First]:
        if handle is None or handle.engine != self._engine.kind:
            raise HandleError("the handle is not one of llama.cpp's")
        if handle.model != self._digest:
            raise HandleError(f"the cache is of the model {handle.model or 'unknown'}, this replica has {self._digest}")
        try:
            saved = msgspec.json.decode(handle.data, type=Saved)
            first = msgspec.json.decode(handle.first, type=First)
        except msgspec.DecodeError as error:
            raise HandleError(f"the handle cannot be read: {error}") from error
        if not _NAME.fullmatch(saved.name):
            raise HandleError(f"{saved.name[:80]!r} is no name of a cache")
        return handle, saved, first

    async def _fetch(self, saved: Saved, size_bytes: int) -> Path:
        """Bring a cache here under a name of our own; what is not exactly what was saved is refused."""
        path = self._folder / secrets.token_urlsafe(24)
        digest, got = hashlib.sha256(), 0
        try:
            with path.open("xb") as file:
                async for piece in self._pieces(saved):
                    got += len(piece)
                    if got > size_bytes:
                        break
                    # Hashing lets go of the interpreter, but a megabyte takes less time than a thread's turn.
                    digest.update(piece)
                    file.write(piece)
            if got != size_bytes or digest.hexdigest() != saved.sha256:
                raise HandleError(f"the cache came damaged: {got:,} bytes of {size_bytes:,}, or other ones than saved")
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    async def _pieces(self, saved: Saved) -> AsyncIterator[bytes]:
        timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
        try:
            only = aiohttp.Fingerprint(bytes.fromhex(saved.certificate_sha256)) if saved.certificate_sha256 else True
            async with (
                aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
                session.get(saved.url + CACHES + saved.name, allow_redirects=False, ssl=only) as response,
            ):
                if response.status != 200:
                    raise HandleError(f"the replica that kept the cache answers {response.status}")
                async for piece in response.content.iter_chunked(PIECE_BYTES):
                    yield piece
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise HandleError(f"the cache cannot be fetched: {error or type(error).__name__}") from error

    async def _restore(self, slot: int, name: str, tokens: int) -> None:
        status, said = await self._engine.ask(
            "POST", f"/slots/{slot}?action=restore", msgspec.json.encode({"filename": name})
        )
        if status != 200 or msgspec.json.decode(said).get("n_restored") != tokens:
            raise HandleError(f"the server does not take the cache: {said[:200].decode('utf-8', 'replace')}")

    async def _tokens(self, path: str, body: dict[str, Any]) -> list[int]:
        prompt: Any = body.get("prompt")
        if path == CHAT:
            prompt = (await self._engine.ask_json("POST", "/apply-template", body))["prompt"]
        if isinstance(prompt, str):
            asked = {"content": prompt, "add_special": True, "parse_special": True}
            return (await self._engine.ask_json("POST", "/tokenize", asked))["tokens"]
        if isinstance(prompt, list) and prompt and all(type(each) is int for each in prompt):
            return prompt
        raise HandleError("only one prompt, of text or tokens, is handed over")

    @asynccontextmanager
    async def _slot(self, tokens: Sequence[int] = ()) -> AsyncIterator[int]:
        """Hold a slot that no other hand-off has.

        Requests that come directly have theirs, so an idle one is better; among these, one whose last prompt began as this one does.
        """
        busy: set[int] | None = None
        while busy is None or not self._free:
            while not self._free:
                self._freed.clear()
                await self._freed.wait()
            busy = {each["id"] for each in await self._engine.ask_json("GET", "/slots") if each["is_processing"]}
        slot = min(self._free, key=lambda each: (each in busy, -_alike(self._prompts.get(each, ()), tokens), each))
        self._free.remove(slot)
        self._prompts.pop(slot, None)
        try:
            yield slot
        finally:
            # Waits for nothing: who is cancelled on the way out gives it back all the same.
            self._free.add(slot)
            self._freed.set()

    def _keep(self, name: str, size_bytes: int) -> None:
        now = asyncio.get_running_loop().time()
        self._kept[name] = (now, size_bytes)
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if path.name not in self._kept and path.stat().st_mtime < time.time() - LEFT_S:
                    path.unlink()
        # The newest stays, however large it is: it is what was asked for.
        while len(self._kept) > 1 and (
            len(self._kept) > MAX_KEPT
            or sum(size for _, size in self._kept.values()) > MAX_KEPT_BYTES
            or next(iter(self._kept.values()))[0] < now - KEPT_S
        ):
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            (self._folder / oldest).unlink(missing_ok=True)


def _body(order: Order) -> dict[str, Any]:
    body = msgspec.json.decode(order.body)
    if not isinstance(body, dict):
        raise msgspec.DecodeError("a request is an object")
    if reason := split_reason(order.path, body):
        raise HandleError(reason)
    return body


def _first(told: dict[str, Any], body: dict[str, Any]) -> First:
    """Read the first token off a prefill's answer.

    Raises
    ------
    HandleError
        It is not whole text, or may be the beginning of a word that the request stops at: the two halves could not be put together.
    """
    text, tokens = str(told["content"]), told["tokens"]
    stop = {"eos": "stop", "word": "stop"}.get(told["stop_type"], "")
    if not stop and (len(tokens) != 1 or not text or "\ufffd" in text):
        raise HandleError("the first token is no text by itself")
    words = body.get("stop") or []
    for word in [words] if isinstance(words, str) else words:
        if not stop and any(text.endswith(word[:length]) for length in range(1, len(word) + 1)):
            raise HandleError("the first token may begin one of the request's stop words")
    cached = int(told.get("timings", {}).get("cache_n", 0))
    return First(token=tokens[0] if tokens else -1, text=text, stop=stop, cached_tokens=cached)


async def _only(first: First) -> AsyncIterator[dict[str, Any]]:
    if first.text:
        yield {"content": first.text, "stop": False}
    yield {"content": "", "stop": True, "stop_type": "eos" if first.stop else "limit", "output_tokens": 1}


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens that two prompts begin with."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
