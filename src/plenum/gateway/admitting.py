"""Whether a request is served, and how: what admission reads is measured here; :mod:`plenum.serving.admission` decides.

Pressure is counted from what arrives (of batch work: from what is let go on), so that saturation is seen before completions slow down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from plenum.model.endpoint import Promise
from plenum.serving import admission

WINDOW_S = 10.0
"""Over about how long arrivals are averaged."""

LIMITS = (1.5, 1.0)
"""Pressure that each class stands, in the order of :data:`plenum.gateway.fairness.TIERS`: batch yields first."""

OUTPUT_CAP = 256
"""Tokens to which outputs are cut where more arrives than can be done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What would become of a request.

    Parameters
    ----------
    ttft_s, tpot_s
        Predicted, the gateway's own queue included; 0: nothing is known.
    ttft_high_s, tpot_high_s
        Upper ends of their intervals.
    work_s
        Seconds of a whole replica that it takes.
    """

    ttft_s: float = 0.0
    tpot_s: float = 0.0
    ttft_high_s: float = 0.0
    tpot_high_s: float = 0.0
    work_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What admission says: a step of its ladder, and why."""

    step: int
    code: str
    sentence: str

    @property
    def name(self) -> str:
        """``admit``, ``cap``, ``cheaper``, ``defer`` or ``shed``."""
        return admission.VERDICTS[self.step]


class Pressure:
    """Work that arrives for one revision over what its replicas can do, class by class."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._at_s = now, now()
        self._of = [0.0 for _ in LIMITS]

    def arrived(self, tier: int, work_s: float, replicas: int) -> None:
        """Count a request; of batch work, when it is let go on."""
        now_s, each = self._now(), max(float(replicas), 1.0)
        elapsed_s, self._at_s = now_s - self._at_s, now_s
        self._of = [
            admission.pressure_after(pressure, elapsed_s, work_s if k == tier else 0.0, each, WINDOW_S)
            for k, pressure in enumerate(self._of)
        ]

    def up_to(self, tier: int) -> float:
        """Return the pressure of a class and those above it."""
        return sum(self._of[: tier + 1]) * math.exp((self._at_s - self._now()) / WINDOW_S)

    def above(self, tier: int) -> float:
        """Return the pressure of the classes above."""
        return self.up_to(tier - 1) if tier else 0.0

    def lets_go(self, tier: int) -> bool:
        """Whether there is room for one more of a class that yields."""
        return self.up_to(tier) <= LIMITS[tier]

    def retry_after_s(self, tier: int, backlog_s: float) -> float:
        """Return when one that is refused should come back."""
        return float(admission.retry_after_s(self.up_to(tier), LIMITS[tier], backlog_s, WINDOW_S))


def judge(
    outlook: Outlook,
    cheaper: Outlook | None,
    promise: Promise,
    pressure: Pressure,
    tier: int,
    waited_s: float,
    output_tokens: int,
) -> Verdict:
    """Ask admission about a request.

    Parameters
    ----------
    cheaper
        On the cheaper endpoint; None: there is none that its tenant may use.
    waited_s
        So far.
    """
    batch = tier > 0  # nothing is promised of its times
    step, reason = admission.decide(
        outlook.ttft_s,
        outlook.ttft_high_s,
        outlook.tpot_s,
        outlook.tpot_high_s,
        math.inf if batch else promise.ttft_s - waited_s,
        math.inf if batch else promise.tpot_s,
        pressure.up_to(tier),
        pressure.above(tier),
        LIMITS[tier],
        output_tokens,
        OUTPUT_CAP,
        cheaper.ttft_high_s if cheaper else math.inf,
        cheaper.tpot_high_s if cheaper else math.inf,
        batch,
    )
    code, sentence = admission.REASONS[reason]
    return Verdict(step=step, code=code, sentence=sentence)


def warm() -> None:
    """Compile what admission needs, or load what was compiled, before the first request."""
    pressure = Pressure(lambda: 0.0)
    pressure.arrived(0, 0.0, 1)
    pressure.retry_after_s(0, 0.0)
    judge(Outlook(), None, Promise(), pressure, 0, 0.0, 0)
