"""What one replica really bore: the rate between windows of time in which it kept its promise and windows in which it was late."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

import msgspec

WINDOWS = 32
"""Windows kept in which promises were kept, and as many in which they were not, the newest."""

KEEP_S = 3_600.0
"""Older ones say nothing of now."""

ENOUGH = 3
"""Windows on a side before anything is made of them."""

FACTOR = 2.0
"""What was measured counts for at most so many times what the performance model says, and at least for this part of it."""

MARGIN = 1.25
"""Where it is known only with how much a replica is late: it is taken to bear this part less."""

MODEL, MEASURED = "model", "measured"
"""Where a replica's rate comes from."""


class Bears(NamedTuple):
    """Requests a second that one replica serves within its promise, and who says so; 0: nobody can."""

    rps: float
    source: str


class _Window(NamedTuple):
    at_s: float
    load: float
    """Requests a second of one replica; where there is a model, as a part of what that says: so it holds for requests of any length."""


class Sustained(msgspec.Struct, kw_only=True):
    """What was seen of one pool's replicas since they are what they are.

    Parameters
    ----------
    basis
        What they are, and what is promised; of others nothing is known.
    """

    basis: Hashable
    replicas: int = 0
    began_s: float = 0.0
    kept: deque[_Window] = msgspec.field(default_factory=lambda: deque(maxlen=WINDOWS))
    late: deque[_Window] = msgspec.field(default_factory=lambda: deque(maxlen=WINDOWS))

    def is_over(self, replicas: int, now_s: float, window_s: float) -> bool:
        """Tell whether as many replicas have been ready for a whole window since the one before; if so the next begins."""
        if replicas != self.replicas:
            self.replicas, self.began_s = replicas, now_s
        if not replicas or now_s < self.began_s + window_s:
            return False
        self.began_s = now_s
        return True

    def note(self, now_s: float, rps: float, model_rps: float, *, late: bool) -> None:
        """Take in a window in which each replica served so much."""
        if rps > 0:
            (self.late if late else self.kept).append(_Window(now_s, rps / model_rps if model_rps else rps))

    def bears(self, now_s: float, model_rps: float) -> Bears:
        """Return what one replica bears.

        Parameters
        ----------
        model_rps
            What the performance model says; 0: it does not know.

        Notes
        -----
        What was seen lies between the highest rate that kept the promise and the lowest that did not, as told by the cut between the two
        that misjudges the fewest windows: single ones, as noise has them, move nothing. The model's answer holds where it lies in between,
        and else the nearer end, within :data:`FACTOR`. Without a model nothing is known before a replica was late: that one bore little
        so far says nothing of how much it can.
        """
        least, most = self._between(now_s)
        if model_rps:
            part = min(max(1.0, least), most)
            held = min(max(part, 1.0 / FACTOR), FACTOR)
            return Bears(model_rps * held, MODEL if part == 1.0 else MEASURED)
        return Bears(max(least, most / MARGIN), MEASURED) if math.isfinite(most) else Bears(0.0, "")

    def _between(self, now_s: float) -> tuple[float, float]:
        kept, late = (
            sorted(window.load for window in some if window.at_s > now_s - KEEP_S) for some in (self.kept, self.late)
        )
        cuts = [0.0, *kept]
        cut = min(cuts, key=lambda load: (sum(x > load for x in kept) + sum(x <= load for x in late), load))
        kept, late = [load for load in kept if load <= cut], [load for load in late if load > cut]
        least = kept[-ENOUGH] if len(kept) >= ENOUGH else 0.0
        return least, late[ENOUGH - 1] if len(late) >= ENOUGH else math.inf
