"""The host's clocks."""

from __future__ import annotations

import time


class SystemClock:
    """The :class:`~plenum.ports.clock.Clock` of a live system."""

    def now(self) -> float:
        """Return seconds since the epoch; jumps when the host's time is set."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since the host started; never goes back."""
        return time.monotonic()
