"""Asking a second replica where the first is unusually late: the better of two answers, for a few requests in a hundred.

Dean and Barroso, "The Tail at Scale" (CACM 2013): a second request once the first is later than the 95th percentile, so that at most
about five in a hundred are sent twice; a budget holds it to that when everything is late at once.
"""

from __future__ import annotations

PART = 0.05
"""Requests sent twice, of all."""

SAVED = 10.0
"""Second requests that may be saved up for a bad moment."""


class HedgeBudget:
    """How many second requests may be sent."""

    def __init__(self, part: float = PART, saved: float = SAVED) -> None:
        self._part, self._saved, self._left = part, saved, 0.0

    def earn(self) -> None:
        """Count a request."""
        self._left = min(self._left + self._part, self._saved)

    def spend(self) -> bool:
        """Take one second request out of it; False: there is none left."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def give_back(self) -> None:
        """Return what was taken out for nothing."""
        self._left += 1.0
