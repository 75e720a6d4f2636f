"""The network between machines: it drops, delays, repeats and reorders."""

from __future__ import annotations

from collections.abc import Callable

from plenum.sim.chaos.schedule import Schedule

USUAL_S = 0.05
"""Mean time that a message takes."""


class Network:
    """Carries calls from one machine to another.

    Attributes
    ----------
    loss, repeats, delays
        Shares of messages that are lost, come twice, and take long (a mean of ``slow_s``).
    cut
        Machines that nothing reaches and nothing leaves, with the time until when.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.loss = self.repeats = self.delays = 0.0
        self.slow_s = 10.0
        self.cut: dict[str, float] = {}
        self._schedule = schedule

    def send(self, source: str, target: str, deliver: Callable[[], None]) -> None:
        """Send a message, or lose it."""
        s = self._schedule
        if self._is_cut(source) or self._is_cut(target) or (self.loss and s.chance(self.loss)):
            return
        self._carry(target, deliver)
        if self.repeats and s.chance(self.repeats):
            self._carry(target, deliver)

    def _carry(self, target: str, deliver: Callable[[], None]) -> None:
        s = self._schedule
        mean_s = self.slow_s if self.delays and s.chance(self.delays) else USUAL_S
        s.after(s.about(mean_s), lambda: None if self._is_cut(target) else deliver())

    def _is_cut(self, machine: str) -> bool:
        until_s = self.cut.get(machine)
        return until_s is not None and self._schedule.now_s < until_s
