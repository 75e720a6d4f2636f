"""SGLang, started here or attached: its names for metrics, and its hand-off, in which both replicas get the request at the same time.

The decode replica waits in a room for the cache that the prefill replica pushes there (SGLang's documentation of PD disaggregation:
``bootstrap_host``, ``bootstrap_port``, ``bootstrap_room``). So :meth:`Sglang.prefill` returns at once, and the prefill goes on behind it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

import msgspec

from plenum.adapters.engines.http import HttpAnswer, HttpEngine, Opening
from plenum.adapters.engines.splitting import read_asked, split_reason
from plenum.ports.engine import Capabilities, Handle, HandleError

PREFILL_TIMEOUT_S = 900.0
MAX_ROOMS = 4_096
DEFAULT_BOOTSTRAP_PORT = 8998


class Room(msgspec.Struct, frozen=True):
    """Where a cache is handed over; the names are SGLang's."""

    bootstrap_host: str
    bootstrap_port: int
    bootstrap_room: int


class Sglang(HttpEngine):
    """An SGLang server."""

    kind = "sglang"
    metric_names: Mapping[str, tuple[str, ...]] = {
        "running": ("sglang:num_running_reqs",),
        "waiting": ("sglang:num_queue_reqs",),
        "cache_used": ("sglang:token_usage",),
        "prompt_tokens": ("sglang:prompt_tokens_total",),
        "cached_tokens": ("sglang:cached_tokens_total",),
        "output_tokens": ("sglang:generation_tokens_total",),
    }
    root = ""
    _bootstrap_port = DEFAULT_BOOTSTRAP_PORT

    async def learn(self) -> None:
        """Ask for the model, its context, and in which part of a hand-off it is."""
        model = (await self.ask_json("GET", "/v1/models"))["data"][0]
        info = await self.ask_json("GET", "/get_server_info")
        self.root = str(info.get("model_path") or model.get("root") or model["id"])
        self._model = str(model["id"])
        self._bootstrap_port = int(info.get("disaggregation_bootstrap_port") or DEFAULT_BOOTSTRAP_PORT)
        self.capabilities = Capabilities(
            embeddings=bool(info.get("is_embedding")),
            tokenize=True,
            handoff=info.get("disaggregation_mode") in ("prefill", "decode"),
            adapters=bool(info.get("enable_lora")),
            slots=int(info.get("max_running_requests") or 0),
            context_tokens=int(model.get("max_model_len") or info.get("context_length") or 0),
        )

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text."""
        if not self.root:
            await self.learn()
        asked = {"model": self._model, "prompt": text, "add_special_tokens": False}
        return tuple((await self.ask_json("POST", "/tokenize", asked))["tokens"])

    async def prefill(self, path: str, body: bytes) -> Handle:
        """Send the request to this replica, and return where another can meet its cache."""
        asked = read_asked(body)
        if reason := split_reason(path, asked):
            raise HandleError(reason)
        if not self.root:
            await self.learn()
        if len(_prefills) >= MAX_ROOMS:
            raise HandleError(f"{MAX_ROOMS:,} hand-offs are on their way already")
        room = Room(self._host, self._bootstrap_port, secrets.randbits(63))
        task = asyncio.ensure_future(self._prefill(path, {**asked, "stream": False}, room))
        _prefills[room.bootstrap_room] = task
        task.add_done_callback(lambda _: _forget_later(room.bootstrap_room))
        return Handle(engine=self.kind, model=self.root, data=msgspec.json.encode(room))

    def decode(self, path: str, body: bytes, handle: Handle) -> Opening:
        """As :meth:`open`, going on from a handle."""
        return SglangDecode(self, path, body, handle)

    async def _prefill(self, path: str, asked: dict[str, Any], room: Room) -> None:
        asked.pop("stream_options", None)
        await self.ask_json("POST", path, asked | msgspec.to_builtins(room), timeout_s=PREFILL_TIMEOUT_S)

    @property
    def _host(self) -> str:
        return self.wire.host


class SglangDecode(Opening):
    """A decode request, which gives up as soon as its prefill has failed: else it would wait in its room for nothing."""

    __slots__ = ("_handle", "_room")
    _engine: Sglang

    def __init__(self, engine: Sglang, path: str, body: bytes, handle: Handle) -> None:
        try:
            self._room = msgspec.json.decode(handle.data, type=Room)
        except msgspec.DecodeError as error:
            raise HandleError(f"the handle cannot be read: {error}") from error
        sent = read_asked(body) | msgspec.to_builtins(self._room)
        super().__init__(engine, path, msgspec.json.encode(sent))
        self._handle = handle

    async def __aenter__(self) -> HttpAnswer:
        if not self._engine.root:
            await self._engine.learn()
        if (self._handle.engine, self._handle.model) != (self._engine.kind, self._engine.root):
            raise HandleError(f"the cache is of {self._handle.model}, this replica serves {self._engine.root}")
        prefill = _prefills.get(self._room.bootstrap_room)
        opening = asyncio.ensure_future(super().__aenter__())
        try:
            waited = {opening} if prefill is None else {opening, prefill}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done() and prefill is not None and prefill.exception() is None:
                await asyncio.wait({opening})
            if not opening.done() and prefill is not None:
                raise HandleError(f"the prefill failed: {prefill.exception()}")
            return opening.result()
        finally:
            if not opening.done():
                opening.cancel()
                await asyncio.wait({opening})
                await self.__aexit__(None, None, None)


_prefills: dict[int, asyncio.Task[None]] = {}
"""Rooms of this process to their prefills, until a moment after their end."""

_KEPT_S = 5.0


def _forget_later(room: int) -> None:
    task = _prefills.get(room)
    if task is not None and task.done() and not task.cancelled():
        task.exception()  # looked at, lest the loop complains where no decode ever came
    asyncio.get_running_loop().call_later(_KEPT_S, _prefills.pop, room, None)
