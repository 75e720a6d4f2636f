"""Virtual time: a heap of events, processes that run between them, and clocks that disagree a little."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np

from plenum.sim.clock import VirtualClock

Life = Generator[float, None, None]
"""A process: yields the seconds until it goes on; below 0 it may be woken before that."""


class Schedule:
    """What happens when; events at the same time happen in the order in which they were planned."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.clock = VirtualClock()
        self.steps = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._planned = 0

    @property
    def now_s(self) -> float:
        """Seconds since the start."""
        return self.clock.monotonic()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan an event."""
        self._planned += 1
        heapq.heappush(self._heap, (self.now_s + seconds, self._planned, action))

    def step(self) -> None:
        """Let the next event happen."""
        at_s, _, action = heapq.heappop(self._heap)
        self.clock.advance(max(0.0, at_s - self.now_s))
        self.steps += 1
        action()

    def chance(self, share: float) -> bool:
        """Draw whether something with a probability happens."""
        return bool(self.rng.random() < share)

    def between(self, low: float, high: float) -> float:
        """Draw a number, evenly."""
        return low + (high - low) * float(self.rng.random())

    def about(self, mean: float) -> float:
        """Draw a number above 0, exponentially."""
        return float(self.rng.exponential()) * mean

    def below(self, n: int) -> int:
        """Draw a whole number from 0 to n - 1."""
        return int(self.rng.random() * n)


@dataclass(slots=True)
class MachineClock:
    """The clocks of one machine: a little fast or slow, and the wall clock may be set.

    Parameters
    ----------
    rate
        Seconds of its monotonic clock a second.
    """

    base: VirtualClock
    rate: float = 1.0
    jumped_s: float = 0.0

    def now(self) -> float:
        """Return seconds since the epoch, as the machine believes."""
        return self.base.now() + self.jumped_s

    def monotonic(self) -> float:
        """Return seconds since the start, as the machine counts them."""
        return self.base.monotonic() * self.rate


class Process:
    """Something with a life of its own, which can be killed, paused and started again.

    Subclasses say what it does in :meth:`life`.
    """

    def __init__(self, schedule: Schedule, name: str) -> None:
        self.schedule = schedule
        self.name = name
        self.up = False
        self.incarnation = 0
        self.paused_until_s = 0.0
        self._life: Life | None = None
        self._turn = 0
        self._wakeable = False

    def life(self) -> Life:
        """Return what it does from its start on."""
        raise NotImplementedError

    def start(self) -> None:
        """Begin a new life; nothing happens if it has one."""
        if not self.up:
            self.up, self.incarnation, self._life = True, self.incarnation + 1, self.life()
            self._plan(0.0)

    def kill(self) -> None:
        """End its life at once; what it sent is on its way."""
        self.up, self._life = False, None
        self._turn += 1

    def pause(self, seconds: float) -> None:
        """Let it stand still for a while, wherever it is."""
        self.paused_until_s = max(self.paused_until_s, self.schedule.now_s + seconds)

    @property
    def paused(self) -> bool:
        """Whether it stands still."""
        return self.schedule.now_s < self.paused_until_s

    def wake(self) -> None:
        """Let it go on now if it is only waiting for something to do."""
        if self.up and self._wakeable:
            self._plan(0.0)

    def _plan(self, seconds: float) -> None:
        self._turn += 1
        self._wakeable = seconds < 0
        turn = self._turn
        self.schedule.after(abs(seconds), lambda: self._go_on(turn))

    def _go_on(self, turn: int) -> None:
        if turn != self._turn or self._life is None:
            return
        if self.paused:
            self._wakeable = False
            self.schedule.after(self.paused_until_s - self.schedule.now_s, lambda: self._go_on(turn))
            return
        self._wakeable = False
        life = self._life
        seconds = next(life)
        if self._life is life:
            self._plan(seconds)
