"""One revision of an endpoint: its replicas, who waits for one of them, and who gets which."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from plenum.gateway.fairness import OUTPUT_WEIGHT, PROMPT_WEIGHT, TIERS, FairQueue
from plenum.gateway.request import Ask, RefusedError
from plenum.gateway.tallies import Tally
from plenum.gateway.targets import READY, Target
from plenum.model.endpoint import PREFILL, Endpoint

MAX_WAITING = 1_000
"""Requests of one class that wait for one revision."""

BATCH_PART = 0.75
"""Part of a replica's places that batch work may fill, so that an interactive request finds one."""

DEADLINE_S = 600.0
"""Of requests that have none."""


class MovedError(Exception):
    """The revision that a request waited for is gone; it is to look for another."""


class Ticket:
    """A request that wants a replica.

    Attributes
    ----------
    tried
        Runs that failed it already.
    until_s
        How long it waits at most.
    """

    __slots__ = ("ask", "seat", "tenant", "tier", "tried", "until_s")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.tenant, self.tier = ask.key.tenant, TIERS.index(ask.tier) if ask.tier in TIERS else 0
        self.tried: set[str] = set()
        self.until_s = ask.deadline_s or ask.arrived_s + DEADLINE_S
        self.seat: asyncio.Future[Seat] | None = None


class Seat:
    """A place at a replica, from when it is chosen until the request has ended."""

    __slots__ = ("_began", "_charged", "_left", "group", "target", "tenant", "tokens")

    def __init__(self, group: Group, target: Target, tenant: str, tokens: int, charged: float) -> None:
        self.group, self.target, self.tenant, self.tokens = group, target, tenant, tokens
        self._began = self._left = False
        self._charged = charged
        target.prefilling += 1
        target.queued_tokens += tokens

    def began(self) -> None:
        """Note its first token."""
        if not self._began:
            self._began = True
            self.target.prefilling -= 1
            self.target.queued_tokens -= self.tokens
            self.target.decoding += 1

    def settle(self, prompt_tokens: int, output_tokens: int) -> None:
        """Put right what its tenant was charged."""
        real = PROMPT_WEIGHT * prompt_tokens + OUTPUT_WEIGHT * output_tokens
        self.group.queue.charge(self.tenant, real - self._charged)
        self._charged = real

    def leave(self) -> None:
        """Give it back."""
        if self._left:
            return
        self.began()
        self._left = True
        self.target.decoding -= 1
        self.group.pump()


Pick = Callable[["Group", Ticket, list[Target]], "Target | None"]
"""Chooses among replicas that have room."""


class Group:
    """Replicas of one revision, and those who wait for them.

    Parameters
    ----------
    now
        Monotonic clock, in seconds.
    pick
        Routing.
    call
        Called when a request finds no replica at all.
    """

    def __init__(
        self, spec: Endpoint, revision: int, now: Callable[[], float], pick: Pick, call: Callable[[], None]
    ) -> None:
        self.spec, self.revision = spec, revision
        self.targets: list[Target] = []
        self.queue: FairQueue[Ticket] = FairQueue(MAX_WAITING)
        self.tallies = {pool.name: Tally() for pool in spec.pools}
        self.output_tokens_mean = 128.0
        self._now, self._pick, self._call = now, pick, call

    @property
    def tally(self) -> Tally:
        """Of the pool that answers."""
        return self.tallies[self.spec.pools[-1].name]

    @property
    def answering(self) -> list[Target]:
        """Replicas that answer clients."""
        return [target for target in self.targets if target.replica.pool != PREFILL]

    @property
    def prefilling(self) -> list[Target]:
        """Replicas that only prefill."""
        return [target for target in self.targets if target.replica.pool == PREFILL]

    def ready(self) -> bool:
        """Whether any replica may be sent requests in time."""
        return any(target.replica.phase == READY for target in self.answering)

    def usable(self, tried: set[str]) -> bool:
        """Whether there is a replica that has not failed this request, and is not shut off."""
        now_s = self._now()
        return any(t.open_to(now_s) and t.replica.run not in tried for t in self.answering)

    async def seat(self, ticket: Ticket) -> Seat:
        """Wait for a place at a replica.

        Raises
        ------
        RefusedError
            Too many wait, or it has waited as long as it may.
        MovedError
            The revision is gone.
        """
        if not any(self.queue.waiting(tier) for tier in range(ticket.tier + 1)):
            target = self._target_for(ticket)
            if target is not None:
                return self._take(ticket, target)
        if not self.queue.takes(ticket.tenant, ticket.tier):
            sentence = f"{len(self.queue):,} requests wait for model {ticket.ask.model}; come back later"
            raise RefusedError(503, "overloaded_error", "queue.full", sentence, retry_after_s=5.0)
        if not self.ready():
            self._call()
        loop = asyncio.get_running_loop()
        ticket.seat = loop.create_future()
        self.queue.push(ticket, front=bool(ticket.tried))
        wake_s = min(self.spec.wake_wait_s, max(ticket.until_s - self._now(), 0.0))
        timers = [
            loop.call_later(wake_s, self._expire, ticket, True),
            loop.call_later(max(ticket.until_s - self._now(), 0.0), self._expire, ticket, False),
        ]
        try:
            return await ticket.seat
        except asyncio.CancelledError:
            if ticket.seat.done() and not ticket.seat.cancelled() and ticket.seat.exception() is None:
                ticket.seat.result().leave()
            raise
        finally:
            for timer in timers:
                timer.cancel()
            self.queue.leave(ticket)

    def pump(self) -> None:
        """Give places that are free to those that wait, in their order."""
        for tier in range(len(TIERS)):
            while (ticket := self.queue.peek(tier)) is not None:
                target = self._target_for(ticket)
                if target is None:
                    return  # what an interactive request waits for is not given to a batch one
                self.queue.leave(ticket)
                assert ticket.seat is not None
                if not ticket.seat.done():
                    ticket.seat.set_result(self._take(ticket, target))

    def failed(self, target: Target) -> None:
        """Note that a replica failed a request; those that wait look again when it may be tried."""
        now_s = self._now()
        target.breaker.failed(now_s)
        self.tallies[target.replica.pool].failed += 1
        if target.breaker.state == "open":
            asyncio.get_running_loop().call_later(max(target.breaker.reopens_s - now_s, 0.0), self.pump)

    def dissolve(self) -> None:
        """Send those that wait elsewhere: this revision is gone."""
        self.targets = []
        for ticket in self.queue.everyone():
            self.queue.leave(ticket)
            if ticket.seat is not None and not ticket.seat.done():
                ticket.seat.set_exception(MovedError())

    def _target_for(self, ticket: Ticket) -> Target | None:
        now_s = self._now()
        able = [target for target in self.answering if target.open_to(now_s)]
        fresh = [target for target in able if target.replica.run not in ticket.tried]
        part = BATCH_PART if ticket.tier else 1.0
        roomy = [target for target in fresh or able if target.load < max(target.limit * part, 1.0)]
        return self._pick(self, ticket, roomy) if roomy else None

    def _take(self, ticket: Ticket, target: Target) -> Seat:
        ask = ticket.ask
        target.breaker.sent(self._now())
        output = min(self.output_tokens_mean, ask.output_tokens or self.output_tokens_mean)
        charged = PROMPT_WEIGHT * ask.prompt_tokens + OUTPUT_WEIGHT * output
        self.queue.charge(ticket.tenant, charged)
        return Seat(self, target, ticket.tenant, ask.prompt_tokens, charged)

    def _expire(self, ticket: Ticket, waking: bool) -> None:
        if ticket.seat is None or ticket.seat.done() or (waking and self.ready()):
            return
        if self.ready():
            sentence = f"no replica of model {ticket.ask.model} had room in time; come back later"
            error = RefusedError(503, "overloaded_error", "queue.timeout", sentence, retry_after_s=2.0)
        else:
            sentence = f"no replica of model {ticket.ask.model} is ready yet; come back in some seconds"
            error = RefusedError(503, "overloaded_error", "endpoint.waking", sentence, retry_after_s=5.0)
        ticket.seat.set_exception(error)
