"""Engines: what turns prompts into tokens. The port, and the plain values that cross it.

An engine is one replica: a process that a node started (:meth:`Engine.start`), or a server that ran already. It speaks OpenAI's HTTP
dialect, so bodies of requests and answers cross the port as the bytes they are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from plenum.model.errors import PlenumError

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
"""Paths of :meth:`Engine.open`."""


class EngineError(PlenumError):
    """The engine could not be reached, or broke off; nothing of the answer can be trusted to have come."""

    code = "engine.unreachable"


class HandleError(PlenumError):
    """A handle's cache is missing, damaged, too old, or of another model: decode must prefill by itself."""

    code = "engine.handle"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do.

    Parameters
    ----------
    handoff
        ``prefill`` here and ``decode`` elsewhere.
    kv_events
        It tells which blocks enter and leave its prefix cache.
    cache_salt
        It keeps prefixes of different salts apart.
    """

    chat: bool = True
    completions: bool = True
    embeddings: bool = False
    tokenize: bool = False
    handoff: bool = False
    kv_events: bool = False
    adapters: bool = False
    cache_salt: bool = False
    slots: int = 0
    context_tokens: int = 0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether it answers, and if not, why (``loading`` is no fault)."""

    ready: bool
    loading: bool = False
    sentence: str = ""


class EngineMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """What every engine can tell of itself, under one set of names; NaN: it does not tell.

    Parameters
    ----------
    running, waiting
        Requests in the batch, and those that wait for a place in it.
    cache_used
        Part of KV blocks in use, 0 to 1.
    prompt_tokens, cached_tokens, output_tokens
        Since it started; ``cached_tokens`` are the prompt tokens found in its prefix cache.
    """

    running: float = float("nan")
    waiting: float = float("nan")
    cache_used: float = float("nan")
    prompt_tokens: float = float("nan")
    cached_tokens: float = float("nan")
    output_tokens: float = float("nan")


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """A prefilled prompt that another replica may decode from.

    Parameters
    ----------
    engine, model
        Kind of engine, and digest of the weights: only the same may take it.
    data
        What the engine said, verbatim (JSON), such as vLLM's ``kv_transfer_params``; or the name and digest of a saved cache.
    first
        JSON of the first generated token, where the engine's hand-off needs it.
    """

    engine: str
    model: str
    data: bytes
    first: bytes = b""
    prompt_tokens: int = 0
    size_bytes: int = 0


class Answer(Protocol):
    """An engine's answer, as it comes."""

    status: int
    content_type: str

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes as they arrive.

        Raises
        ------
        EngineError
            It broke off.
        """
        ...


class Engine(Protocol):
    """The port. Implementations: llama.cpp, vLLM, SGLang, emulated; each passes ``tests/contracts/test_engines.py``."""

    kind: str
    url: str
    capabilities: Capabilities

    async def start(self) -> None:
        """Start its server and wait until it is ready; of a server that runs already, only wait.

        Raises
        ------
        EngineError
            It did not come up; says why, with the end of what it wrote.
        """
        ...

    async def stop(self, grace_s: float) -> None:
        """Let open requests finish for up to ``grace_s``, then end what :meth:`start` started."""
        ...

    async def health(self) -> Health:
        """Return whether it answers; never raises."""
        ...

    async def models(self) -> tuple[str, ...]:
        """Return the names that it serves, adapters among them."""
        ...

    def open(
        self, path: str, body: bytes, headers: dict[str, str] | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request and give its answer while the context is open; leaving it early frees the engine's slot.

        Raises
        ------
        EngineError
            No answer began.
        """
        ...

    async def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text."""
        ...

    async def prompt_tokens(self, path: str, body: bytes) -> int:
        """Return how many tokens a request's prompt has, its template included.

        Raises
        ------
        EngineError
            It does not tell.
        """
        ...

    async def metrics(self) -> EngineMetrics:
        """Return what it tells of itself."""
        ...

    async def prefill(self, path: str, body: bytes) -> Handle:
        """Compute a prompt's cache and keep it for another replica.

        Raises
        ------
        EngineError, HandleError
            It could not.
        """
        ...

    def decode(self, path: str, body: bytes, handle: Handle) -> AbstractAsyncContextManager[Answer]:
        """As :meth:`open`, going on from a handle instead of computing the prompt.

        Raises
        ------
        HandleError
            The handle cannot be used here; the caller falls back to :meth:`open`.
        EngineError
            No answer began.
        """
        ...

    async def close(self) -> None:
        """Close connections; what :meth:`start` started goes on."""
        ...
