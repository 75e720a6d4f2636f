"""Rate limits in constant space: the generic cell rate algorithm, one number a source."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from plenum.api.settings import Rate

MAX_SOURCES = 20_000
"""Sources remembered; the one that was quiet for longest is forgotten first."""


class Rates:
    """Counts the requests of many sources against one rate.

    Parameters
    ----------
    monotonic
        The time in seconds, never going back.
    """

    def __init__(self, rate: Rate, monotonic: Callable[[], float]) -> None:
        self._step_s = 1.0 / rate.per_s
        self._slack_s = rate.burst * self._step_s
        self._monotonic = monotonic
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """Source to the time at which all that it took is made up for."""

    def take(self, source: str) -> float:
        """Count a request; returns 0, or the seconds to wait if it is one too many (and then it does not count)."""
        now = self._monotonic()
        full_at = max(self._full_at.get(source, 0.0), now) + self._step_s
        if full_at - now > self._slack_s:
            return full_at - now - self._slack_s
        self._full_at[source] = full_at
        self._full_at.move_to_end(source)
        if len(self._full_at) > MAX_SOURCES:
            self._full_at.popitem(last=False)
        return 0.0

    def wait_s(self, source: str) -> float:
        """Return how long a source must wait before its next request counts; 0: it need not."""
        now = self._monotonic()
        full_at = self._full_at.get(source, 0.0) + self._step_s
        return max(0.0, full_at - now - self._slack_s)
