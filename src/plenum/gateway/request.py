"""A request on its way through the gateway, and how it may be refused."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from plenum.model.errors import PlenumError
from plenum.ports.engine import Answer
from plenum.ports.gateway import Key, Served


class RefusedError(PlenumError):
    """A request that is not served, as its sender is told.

    Parameters
    ----------
    status
        Of HTTP.
    kind
        OpenAI's ``error.type``: ``invalid_request_error``, ``authentication_error``, ``rate_limit_error``, ``overloaded_error`` …
    code
        Ours, permanent, such as ``admission.saturated``: OpenAI's ``error.code``.
    field
        What in the request is wrong, ``error.param``; empty: nothing in particular.
    retry_after_s
        When to come back; 0: no use.
    engine_code
        What an engine calls it, told in place of ours; any text, so it counts nothing. Empty: nothing else.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        code: str,
        sentence: str,
        *,
        field: str = "",
        retry_after_s: float = 0.0,
        engine_code: str = "",
    ) -> None:
        super().__init__(sentence)
        self.status, self.kind, self.code, self.field, self.retry_after_s = status, kind, code, field, retry_after_s
        self.engine_code = engine_code


class Ask(msgspec.Struct, kw_only=True):
    """One request, read and allowed, not yet decided on.

    Parameters
    ----------
    id
        Unique for ever; the client sees it as ``x-request-id``.
    path
        ``/v1/chat/completions``, ``/v1/completions`` or ``/v1/embeddings``.
    body
        As parsed; the dispatcher may change it (a capped output, another model) before it is encoded for the engine.
    raw
        As it came; sent on as it is where nothing was changed.
    model
        What the client wrote; an endpoint's ``model_name`` or one of its adapters.
    prompt
        Text that prefixes are told by: messages in their order, as the engine's template would join them.
    prompt_tokens
        Estimated until the engine says.
    output_tokens
        Asked for at most.
    tier
        ``interactive`` or ``batch``.
    session
        What the client says belongs together (``user``, ``prompt_cache_key`` or ``x-session-id``); empty: nothing.
    arrived_s
        By the monotonic clock.
    deadline_s
        By the same, after which nobody waits for it any more.
    verdict
        What admission made of it, for headers and metrics.
    """

    id: str
    key: Key
    served: Served
    path: str
    body: dict[str, Any]
    raw: bytes
    model: str
    stream: bool = False
    prompt: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    tier: str = "interactive"
    session: str = ""
    arrived_s: float = 0.0
    deadline_s: float = 0.0
    verdict: str = ""


class Dispatched(Protocol):
    """An answer on its way to a client; beside the bytes, who gives it."""

    @property
    def answer(self) -> Answer:
        """The bytes."""
        ...

    @property
    def endpoint(self) -> str:
        """Whose replica it is, ``tenant/name``."""
        ...

    @property
    def model(self) -> str:
        """As the client wrote it, or what admission turned to instead."""
        ...

    @property
    def revision(self) -> int:
        """Of the endpoint."""
        ...

    @property
    def run(self) -> str:
        """The replica."""
        ...

    def first_byte(self) -> None:
        """Note that the client has been sent something: from here on nothing is tried again elsewhere."""
        ...

    async def prompt_tokens(self) -> int:
        """Ask the engine how long the prompt is; 0: it does not say."""
        ...

    def ended(self, *, prompt_tokens: int, cached_tokens: int, output_tokens: int, outcome: str) -> None:
        """Note how it ended, as in :class:`~plenum.ports.gateway.Usage`, for load, breakers and predictions."""
        ...


class Dispatch(Protocol):
    """Decides where a request goes, and gets it there: queue, admission, routing, retries, hand-off of prefills."""

    def send(self, ask: Ask) -> AbstractAsyncContextManager[Dispatched]:
        """Give a request's answer while the context is open; leaving it early cancels it and frees the engine's slot.

        Raises
        ------
        RefusedError
            It is not served, or no replica could; nothing was sent to the client yet.
        """
        ...
