"""The host's clocks."""

from __future__ import annotations

import time

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The :class:`~plenum.ports.clock.Clock` of a live system.

    Parameters
    ----------
    asleep
        Whether :meth:`monotonic` goes on while the host is suspended: it must for an agent, whose lease runs out meanwhile, as
        the control plane elsewhere counts that time too.
    """

    def __init__(self, *, asleep: bool = False) -> None:
        self._clock = _BOOTTIME if asleep else time.CLOCK_MONOTONIC

    def now(self) -> float:
        """Return seconds since the epoch; jumps when the host's time is set."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds since the host started; never goes back."""
        return time.clock_gettime(self._clock)
