"""A replica as the gateway sees it: what it has sent there, what the engine says of itself, and whether it may be sent more."""

from __future__ import annotations

import asyncio
import hashlib
import math

from plenum.gateway.breakers import Breaker
from plenum.ports.engine import Engine, EngineMetrics
from plenum.ports.gateway import Replica

READY, DRAINING = "ready", "draining"

MANY = 256
"""Requests at once where neither the endpoint nor the engine says how many."""

PACE_MEMORY = 0.1
"""How much one first token moves a replica's pace."""

OUTLIER_RATIO = 3.0
"""A replica whose first tokens come so many times as late as the median replica's is left alone for a while."""

OUTLIER_SAMPLES = 20

OUTLIERS_MOST = 0.5
"""Part of a pool that may be left alone for its lateness at once."""


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
    firsts
        First tokens that came from there.
    listening
        Takes in what it tells of its cache, where it does.
    pace
        Logarithm of how late first tokens come there against predictions, averaged; ``paced`` first tokens went into it.
    """

    __slots__ = (
        "_beyond",
        "asking",
        "breaker",
        "cache_used",
        "decoding",
        "engine",
        "firsts",
        "identity",
        "learned",
        "limit",
        "listening",
        "others_running",
        "others_waiting",
        "pace",
        "paced",
        "prefilling",
        "queued_tokens",
        "replica",
        "slots",
    )

    def __init__(self, replica: Replica, engine: Engine, slots: int) -> None:
        self.replica, self.engine = replica, engine
        self.breaker, self.asking, self.learned = Breaker(), False, False
        self.prefilling = self.decoding = self.queued_tokens = 0
        self.others_waiting = self.others_running = self._beyond = 0
        self.cache_used = 0.0
        self.pace, self.paced, self.firsts = 0.0, 0, 0
        self.listening: asyncio.Task[None] | None = None
        self.slots, self.limit = 0, 0.0
        self.sized(slots)
        self.identity = int.from_bytes(hashlib.blake2b(replica.run.encode(), digest_size=8).digest())

    def sized(self, slots: int) -> None:
        """Note how many requests it works on at once; 0: nobody says."""
        slots = slots or MANY
        if slots != self.slots:
            self.slots, self.limit = slots, float(slots)

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

    def keep_pace(self, ratio: float) -> None:
        """Note a first token that came after so many times what was predicted."""
        self.pace += PACE_MEMORY * (math.log(max(ratio, 1e-3)) - self.pace)
        self.paced += 1

    def take_metrics(self, metrics: EngineMetrics, own: int) -> None:
        """Note what the engine says of itself; what it does not tell stays as it was.

        Parameters
        ----------
        own
            :attr:`own` when it was asked. Only what is more than that, and than now, and was so last time too, is others' for sure.
        """
        if not math.isnan(metrics.cache_used):
            self.cache_used = min(max(metrics.cache_used, 0.0), 1.0)
        if math.isnan(metrics.running) or math.isnan(metrics.waiting):
            return
        before, self._beyond = self._beyond, max(int(metrics.running + metrics.waiting) - max(own, self.own), 0)
        others = min(before, self._beyond)
        self.others_waiting = min(int(metrics.waiting), others)
        self.others_running = others - self.others_waiting


def leave_out_the_late(targets: list[Target], now_s: float) -> list[Target]:
    """Open the breakers of replicas whose first tokens come much later than the others'; returns which.

    At most half of them are shut off at once, those that fail counted: if most are late, it is not they that are odd.
    """
    known = [target for target in targets if target.paced >= OUTLIER_SAMPLES and target.breaker.state == "closed"]
    if len(known) < 2:
        return []
    known.sort(key=lambda target: target.pace)
    bound = known[(len(known) - 1) // 2].pace + math.log(OUTLIER_RATIO)
    shut = sum(target.breaker.state != "closed" for target in targets)
    late = [target for target in reversed(known) if target.pace > bound]
    late = late[: max(int(OUTLIERS_MOST * len(targets)) - shut, 0)]
    for target in late:
        target.breaker.open(now_s)
        target.pace, target.paced = 0.0, 0
    return late
