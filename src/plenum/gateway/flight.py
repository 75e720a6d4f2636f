"""One request on one replica: opened, its first bytes awaited, its chunks passed on, its end noted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

from plenum.gateway.request import Ask
from plenum.gateway.seats import Seat
from plenum.model.errors import PlenumError
from plenum.ports.engine import Answer, EngineError

_LOG = logging.getLogger("plenum.gateway.flight")

BUSY = 429
"""The engine has too much to do: another one may have less; it is no fault."""

OURS = (401, 403)
"""An engine that does not know us is out of order; the client did nothing wrong."""

MAX_SAID_BYTES = 400

LENGTH_TIMEOUT_S = 1.0
"""For how long a prompt is, once nobody waits for the answer any more."""

OUTPUT_MEMORY = 0.05
"""How much one request's output moves the mean that the next ones are expected to have."""


class TurnedAwayError(EngineError):
    """An answer that another replica may give better."""

    code = "engine.turned-away"

    def __init__(self, sentence: str, *, busy: bool) -> None:
        super().__init__(sentence)
        self.busy = busy


class Flight:
    """An answer whose first bytes have come; :class:`~plenum.gateway.request.Dispatched`, and the ``answer`` of it too."""

    __slots__ = (
        "_ask",
        "_broke",
        "_chunks",
        "_context",
        "_first",
        "_first_s",
        "_last_s",
        "_now",
        "_over",
        "_sent_s",
        "content_type",
        "group",
        "seat",
        "status",
    )

    def __init__(self, ask: Ask, seat: Seat, now: Callable[[], float]) -> None:
        self._ask, self._now = ask, now
        self.group, self.seat = seat.group, seat
        self._context: AbstractAsyncContextManager[Answer] | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._first, self.status, self.content_type = b"", 0, ""
        self._sent_s = self._first_s = self._last_s = now()
        self._over = self._broke = False

    @property
    def answer(self) -> Flight:
        """Itself."""
        return self

    @property
    def endpoint(self) -> str:
        """The endpoint's id."""
        return self.group.spec.id

    @property
    def model(self) -> str:
        """What the client is told that answered."""
        return self._ask.model

    @property
    def revision(self) -> int:
        """Of the endpoint."""
        return self.group.revision

    @property
    def run(self) -> str:
        """The replica."""
        return self.seat.target.replica.run

    async def begin(self, context: AbstractAsyncContextManager[Answer]) -> None:
        """Open it, and wait for its first bytes.

        Raises
        ------
        EngineError
            There are none to be had, or others should be asked.
        """
        answer = await context.__aenter__()
        self._context = context
        self._chunks = answer.chunks()
        self._first = await anext(self._chunks, b"")
        self.status, self.content_type = answer.status, answer.content_type
        if answer.status >= 500 or 300 <= answer.status < 400 or answer.status in OURS or answer.status == BUSY:
            said = self._first[:MAX_SAID_BYTES].decode(errors="replace")
            raise TurnedAwayError(f"the engine answered {answer.status}: {said}", busy=answer.status == BUSY)
        self._first_s = self._last_s = self._now()
        self.seat.began()
        self.seat.target.firsts += 1
        self.seat.target.breaker.succeeded()
        if answer.status == 200:
            self.seat.cached()
        if self._ask.stream and answer.status == 200:
            ratio = self.group.forecast.learn_ttft(self.seat.features, self._first_s - self._sent_s)
            self.seat.target.keep_pace(ratio)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body's bytes as they arrive; a break is the replica's failure."""
        assert self._chunks is not None
        if self._first:
            yield self._first
        try:
            async for chunk in self._chunks:
                self._last_s = self._now()
                yield chunk
        except EngineError:
            self._broke = True
            self.group.failed(self.seat.target)
            raise

    def first_byte(self) -> None:
        """Nothing to do: an answer that has been handed over is never tried again."""

    async def prompt_tokens(self) -> int:
        """Ask the engine how long the prompt is; 0: it does not say."""
        try:
            async with asyncio.timeout(LENGTH_TIMEOUT_S):
                return max(await self.seat.target.engine.prompt_tokens(self._ask.path, self._ask.raw), 0)
        except (PlenumError, TimeoutError):
            return 0
        except Exception as error:  # a bill by the estimate is better than none, whatever it answers
            _LOG.warning("%s told no length of a prompt: %r", self.run, error)
            return 0

    def ended(self, *, prompt_tokens: int, cached_tokens: int, output_tokens: int, outcome: str) -> None:
        """Note what it took."""
        if self._over:
            return
        self._over = True
        tally = self.group.tally
        tally.ended(prompt_tokens, cached_tokens, output_tokens)
        if self.status >= 400:
            # The gateway found nothing wrong with it: a revision whose engine refuses what the one before took has failed.
            tally.failed += 1
        elif outcome in ("done", "cancelled"):
            tally.finished += 1
        elif (
            outcome == "broken" and not self._broke
        ):  # it said that all was well, and was not: no reason to shut it off
            tally.failed += 1
        if outcome == "done" and self.status < 400:
            self._learn(cached_tokens, output_tokens)
            self.group.forecast.learn_mix(prompt_tokens, output_tokens)
        self.seat.settle(prompt_tokens, output_tokens)

    def _learn(self, cached_tokens: int, output_tokens: int) -> None:
        group, seat = self.group, self.seat
        if output_tokens:
            group.output_tokens_mean += OUTPUT_MEMORY * (output_tokens - group.output_tokens_mean)
        group.tells_cached = group.tells_cached or cached_tokens > 0
        if group.tells_cached:
            group.index.learn(seat.target.replica.run, seat.hit_tokens, cached_tokens)
        if not self._ask.stream:
            return
        group.tally.ttft_s.append(self._first_s - self._ask.arrived_s)
        if output_tokens > 1:
            tpot_s = (self._last_s - self._first_s) / (output_tokens - 1)
            group.tally.tpot_s.append(tpot_s)
            running = (seat.features[4] + 1.0 + seat.target.decoding + seat.target.others_running) / 2.0
            group.forecast.learn_tpot(running, tpot_s)

    async def close(self) -> None:
        """End it, whether it has come to its end or not: the engine's place is free after that."""
        context, self._context = self._context, None
        try:
            if context is not None:
                await context.__aexit__(None, None, None)
        finally:
            self.seat.leave()
