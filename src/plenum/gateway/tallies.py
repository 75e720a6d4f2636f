"""What a gateway saw of a pool since it last reported: counts and samples of times."""

from __future__ import annotations

from collections import deque

from plenum.ports.gateway import PoolLoad

MAX_SAMPLES = 256
"""Newest times of each kind that a report carries."""


class Tally:
    """Counts of one pool of one revision; :meth:`report` starts them anew."""

    __slots__ = (
        "arrived",
        "cached_tokens",
        "failed",
        "finished",
        "output_tokens",
        "prompt_tokens",
        "refused",
        "tpot_s",
        "ttft_s",
    )

    def __init__(self) -> None:
        self.ttft_s: deque[float] = deque(maxlen=MAX_SAMPLES)
        self.tpot_s: deque[float] = deque(maxlen=MAX_SAMPLES)
        self._zero()

    def ended(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """Count what a request took."""
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens
        self.output_tokens += output_tokens

    def report(
        self, endpoint: str, revision: int, pool: str, *, waiting: int, running: int, cache_used: float
    ) -> PoolLoad:
        """Return what was counted, and begin again."""
        load = PoolLoad(
            endpoint=endpoint,
            revision=revision,
            pool=pool,
            arrived=self.arrived,
            finished=self.finished,
            failed=self.failed,
            refused=self.refused,
            waiting=waiting,
            running=running,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            cache_used=cache_used,
            ttft_s=tuple(self.ttft_s),
            tpot_s=tuple(self.tpot_s),
        )
        self._zero()
        return load

    def _zero(self) -> None:
        self.arrived = self.finished = self.failed = self.refused = 0
        self.prompt_tokens = self.cached_tokens = self.output_tokens = 0
        self.ttft_s.clear()
        self.tpot_s.clear()
