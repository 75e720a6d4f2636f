"""The planner's traffic as the queueing model takes it."""

from __future__ import annotations

from statistics import NormalDist

from plenum.planning.serving.question import Traffic
from plenum.serving.queueing import BOTH, DECODE, PREFILL, Load

ROLES = {"both": BOTH, "prefill": PREFILL, "decode": DECODE}
"""Roles of a pool, as the compiled code knows them."""

MAX_BISECTION = 14
"""2^-14 of the largest rate that compute could bear: finer than the model is."""


def load_of(traffic: Traffic, percentile: float = 99.0) -> Load:
    """Return what the compiled code reads of the traffic and of the percentile that tails are asked for."""
    found = min(traffic.found_tokens, traffic.prompt_tokens - 1.0)
    return Load(
        computed=float(traffic.prompt_tokens - found),
        found=float(found),
        computed_tail=max(traffic.prompt_tail - found, 1.0),
        output=float(traffic.output_tokens),
        output_tail=float(traffic.output_tail),
        spread2=float(traffic.prompt_spread**2),
        burst2=float(traffic.burst2),
        beyond=1.0 - percentile / 100.0,
        deviations=NormalDist().inv_cdf(percentile / 100.0),
    )
