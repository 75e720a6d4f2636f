"""A replica as the gateway sees it: what it has sent there, what the engine says of itself, and whether it may be sent more."""

from __future__ import annotations

import hashlib
import math

from plenum.gateway.breakers import Breaker
from plenum.ports.engine import Engine, EngineMetrics
from plenum.ports.gateway import Replica

READY = "ready"

MANY = 256
"""Requests at once where neither the endpoint nor the engine says how many."""


class Target:
    """One replica.

    Attributes
    ----------
    prefilling, decoding
        Requests of this gateway there: without their first token yet, and with it.
    queued_tokens
        Prompt tokens of those that prefill, found prefixes not counted.
    others_waiting, others_running
        Requests that the engine told of beyond those: other gateways' and other clients'.
    limit
        Requests at once at most; follows the time per token that is measured.
    """

    __slots__ = (
        "breaker",
        "cache_used",
        "decoding",
        "engine",
        "identity",
        "limit",
        "others_running",
        "others_waiting",
        "prefilling",
        "queued_tokens",
        "replica",
        "slots",
    )

    def __init__(self, replica: Replica, engine: Engine, slots: int) -> None:
        self.replica, self.engine = replica, engine
        self.breaker = Breaker()
        self.prefilling = self.decoding = self.queued_tokens = 0
        self.others_waiting = self.others_running = 0
        self.cache_used = 0.0
        self.slots, self.limit = 0, 0.0
        self.sized(slots)
        self.identity = int.from_bytes(hashlib.blake2b(replica.run.encode(), digest_size=8).digest())

    def sized(self, slots: int) -> None:
        """Note how many requests it works on at once; 0: nobody says."""
        if slots != self.slots:
            self.slots = slots or MANY
            self.limit = float(self.slots)

    @property
    def own(self) -> int:
        """Requests of this gateway there."""
        return self.prefilling + self.decoding

    @property
    def load(self) -> int:
        """Requests there, whoever sent them."""
        return self.own + self.others_waiting + self.others_running

    def open_to(self, now_s: float) -> bool:
        """Whether it is ready and not shut off."""
        return self.replica.phase == READY and self.breaker.allows(now_s)

    def take_metrics(self, metrics: EngineMetrics) -> None:
        """Note what the engine says of itself; what it does not tell stays as it was."""
        if not math.isnan(metrics.cache_used):
            self.cache_used = min(max(metrics.cache_used, 0.0), 1.0)
        if not (math.isnan(metrics.running) or math.isnan(metrics.waiting)):
            beyond = max(int(metrics.running) + int(metrics.waiting) - self.own, 0)
            self.others_waiting = min(int(metrics.waiting), beyond)
            self.others_running = beyond - self.others_waiting
