"""A request that wants a replica, and the place that it gets: what is counted of it there, and what its tenant is charged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plenum.gateway.choosing import BY_PREFIX, session_number
from plenum.gateway.fairness import OUTPUT_WEIGHT, PROMPT_WEIGHT, TIERS
from plenum.gateway.prefixes import blocks_of
from plenum.gateway.request import Ask
from plenum.gateway.targets import Target

if TYPE_CHECKING:
    from plenum.gateway.group import Group

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
    blocks, size_bytes
        Numbers of its prompt's blocks, and the prompt's bytes.
    tokens
        Of its prompt, where engines tell which they have in their caches.
    hit_tokens
        Of its prompt, in the cache of the replica last chosen for it.
    work_s
        Seconds of a whole replica that it takes.
    """

    __slots__ = (
        "ask", "blocks", "hit_tokens", "seat", "session", "size_bytes", "tenant", "tier", "tokens", "tried", "until_s", "work_s",
    )  # fmt: skip

    def __init__(self, ask: Ask, salt: str, policy: int) -> None:
        self.ask = ask
        self.tenant, self.tier = ask.key.tenant, TIERS.index(ask.tier) if ask.tier in TIERS else 0
        self.tried: set[str] = set()
        self.until_s = ask.deadline_s or ask.arrived_s + DEADLINE_S
        self.session = session_number(self.tenant, ask.session)
        looked_for = policy in BY_PREFIX or ask.served.spec.apart
        self.blocks: Sequence[int] = blocks_of(ask.prompt, f"{self.tenant}\0{salt}") if looked_for else ()
        self.size_bytes = len(ask.prompt)
        self.hit_tokens, self.work_s = 0, 0.0
        self.tokens: Sequence[int] = ()
        self.seat: asyncio.Future[Seat] | None = None


class Seat:
    """A place at a replica, from when it is chosen until the request has ended.

    Attributes
    ----------
    hit_tokens
        Of its prompt, expected in the replica's cache.
    features
        What :meth:`plenum.gateway.forecast.Forecast.ttft_s` was to predict by when it was sent.
    """

    __slots__ = (
        "_began",
        "_blocks",
        "_charged",
        "_charged_at",
        "_firsts",
        "_left",
        "_prompt_tokens",
        "_settled",
        "features",
        "group",
        "hit_tokens",
        "target",
        "tenant",
        "tokens",
    )

    def __init__(self, group: Group, target: Target, ticket: Ticket, hit_tokens: int, charged: float) -> None:
        self.group, self.target, self.tenant = group, target, ticket.tenant
        self.hit_tokens, self._charged, self._blocks = hit_tokens, charged, ticket.blocks
        self._charged_at = group.queue.charge(ticket.tenant, charged)
        prompt = ticket.ask.prompt_tokens
        self._began = self._left = self._settled = False
        self._prompt_tokens = prompt
        self._firsts = target.firsts
        waiting, running = target.prefilling + target.others_waiting, target.decoding + target.others_running
        self.features = (float(prompt), float(hit_tokens), float(target.queued_tokens), float(waiting), float(running))
        self.tokens = max(prompt - hit_tokens, 1)
        target.prefilling += 1
        target.queued_tokens += self.tokens

    def began(self) -> None:
        """Note its first token."""
        if not self._began:
            self._began = True
            self.target.prefilling -= 1
            self.target.queued_tokens -= self.tokens
            self.target.decoding += 1

    @property
    def stuck(self) -> bool:
        """Whether no first token at all has come from the replica since: else it works, and is only busy."""
        return self.target.firsts == self._firsts

    def cached(self) -> None:
        """Note that its prompt is in the replica's cache: from its first token on, not before, as in the simulator."""
        if self._blocks:
            self.group.index.note(self.target.replica.run, self._blocks)

    def settle(self, prompt_tokens: int, output_tokens: int) -> None:
        """Put right what its tenant was charged."""
        real = PROMPT_WEIGHT * prompt_tokens + OUTPUT_WEIGHT * output_tokens
        self.group.queue.settle(self.tenant, real - self._charged, self._charged_at)
        self._charged, self._settled = real, True

    def leave(self) -> None:
        """Give it back."""
        if self._left:
            return
        if not self._settled:  # as an attempt that was given up never is: it took its prompt at most
            self.settle(self._prompt_tokens if self._began else 0, 0)
        self.began()
        self._left = True
        self.target.decoding -= 1
        self.target.breaker.abandoned()  # no word of how it went: the next one tries
        self.group.pump()
