"""Time that passes when told to."""

from __future__ import annotations


class VirtualClock:
    """A :class:`~plenum.ports.clock.Clock` for simulations and tests.

    Parameters
    ----------
    now_s
        Seconds since the epoch at the start; the default is midnight UTC of 1 January 2026.
    """

    def __init__(self, now_s: float = 1_767_225_600.0) -> None:
        self._start_s = now_s
        self._passed_s = 0.0
        self._jumped_s = 0.0

    def now(self) -> float:
        """Return seconds since the epoch."""
        return self._start_s + self._passed_s + self._jumped_s

    def monotonic(self) -> float:
        """Return seconds since the start."""
        return self._passed_s

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises
        ------
        ValueError
            Back in time.
        """
        if seconds < 0:
            raise ValueError("time does not pass backwards; only the wall clock jumps")
        self._passed_s += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or (below 0) back, as a correction by NTP would; no time passes."""
        self._jumped_s += seconds
