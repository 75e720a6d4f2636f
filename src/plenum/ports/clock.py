"""Time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Two clocks: one to tell people when, one to measure how long."""

    def now(self) -> float:
        """Return seconds since the Unix epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some instant; never goes back."""
        ...
