"""Whether a replica is sent anything: a circuit breaker for each, as a plain machine over times that it is given.

Closed: everything goes. Open: nothing does, for a time that doubles with each opening. Half open: one request tries, and decides.
"""

from __future__ import annotations

from typing import Literal

FAILURES = 5
"""Failures one after another that open it. Envoy's outlier detection takes five too (``consecutive_5xx``)."""

OPEN_S, OPEN_MOST_S = 1.0, 30.0
"""How long it is open at first, and at most."""

FORGET_S = 60.0
"""After so long without another opening it opens for ``OPEN_S`` again."""

State = Literal["closed", "open", "half-open"]


class Breaker:
    """The breaker of one replica; times are seconds of any one clock."""

    __slots__ = ("_open_s", "_opened_at", "_trying", "failures", "state")

    def __init__(self) -> None:
        self.state: State = "closed"
        self.failures = 0
        self._open_s, self._opened_at, self._trying = OPEN_S, float("-inf"), False

    def allows(self, now_s: float) -> bool:
        """Whether a request may be sent now."""
        if self.state == "closed":
            return True
        if self.state == "open":
            return now_s >= self.reopens_s
        return not self._trying

    @property
    def reopens_s(self) -> float:
        """When, if it is open, it lets a request try."""
        return self._opened_at + self._open_s

    def sent(self, now_s: float) -> None:
        """Note that a request goes there; of an open breaker whose time is over, it is the one that tries."""
        if self.state == "open" and now_s >= self.reopens_s:
            self.state = "half-open"
        if self.state == "half-open":
            self._trying = True

    def succeeded(self) -> None:
        """Note an answer."""
        self.failures = 0
        self.state, self._trying = "closed", False

    def failed(self, now_s: float) -> None:
        """Note a failure; the trying request's, or one too many, opens it."""
        self.failures += 1
        if self.state == "half-open" or (self.state == "closed" and self.failures >= FAILURES):
            self.open(now_s)

    def abandoned(self) -> None:
        """Note that a request ended without showing anything, such as one that its client cancelled."""
        self._trying = False

    def open(self, now_s: float) -> None:
        """Open it, for twice as long as last time if that is not long ago."""
        again = now_s - self._opened_at < FORGET_S
        self._open_s = min(2 * self._open_s, OPEN_MOST_S) if again else OPEN_S
        self.state, self._opened_at, self._trying = "open", now_s, False
