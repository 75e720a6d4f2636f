"""How many replicas there should be, from what arrives and what the performance model says that one can do.

Way in: :func:`wanted_for_load` and :func:`wanted_for_slo` say how many would be right now, :func:`desired` makes of that a number to
act on, which stays put on constant load; :func:`share_budget` divides GPUs between prefill and decode.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import entry, inner
from plenum.model.errors import FieldError

HISTORY = 256
"""Recommendations that are remembered at most; the window reaches no further back than these."""

MAX_REPLICAS = 100_000


class Limits(NamedTuple):
    """What scaling may do.

    Attributes
    ----------
    least, most
        Replicas; ``least`` 0: down to none while nothing arrives.
    tolerance
        Part by which the right number may differ from the present one before anything is done (Kubernetes' HPA: 0.1).
    window_s
        Scaling down follows the highest recommendation of so long (HPA: 300 s).
    max_step
        Replicas added or taken away at once.
    idle_s
        The last replica goes after so long without arrivals.
    """

    least: int
    most: int
    tolerance: float
    window_s: float
    max_step: int
    idle_s: float


class History(NamedTuple):
    """What scaling remembers of one pool.

    Attributes
    ----------
    at_s, wanted
        (HISTORY,) float64: recommendations, a ring; NaN: none yet.
    next
        (1,) int64: where the next one goes.
    lowered_rps
        (1,) float64: the rate at which replicas were last taken away; NaN: not since the last time that some were added.
    too_few_rps
        (most + 1,) float64: the lowest rate at which so many replicas, tried by taking some away, proved too few; infinity: never.
    """

    at_s: NDArray[np.float64]
    wanted: NDArray[np.float64]
    next: NDArray[np.int64]
    lowered_rps: NDArray[np.float64]
    too_few_rps: NDArray[np.float64]


def limits(
    least: int,
    most: int,
    *,
    tolerance: float = 0.1,
    window_s: float = 300.0,
    max_step: int = 4,
    idle_s: float = 600.0,
) -> Limits:
    """Return limits that make sense.

    Raises
    ------
    FieldError
        One that does not.
    """
    if not 0 <= least <= most <= MAX_REPLICAS or most < 1:
        raise FieldError("autoscale", f"replicas must be 0 <= least <= most <= {MAX_REPLICAS:,}, not {least} to {most}")
    if not 0 <= tolerance < 1:
        raise FieldError("tolerance", f"must be a part from 0 up to but not including 1, not {tolerance:g}")
    if window_s < 0 or idle_s < 0 or max_step < 1:
        raise FieldError("autoscale", "windows must not be negative, and a step is at least 1 replica")
    return Limits(least, most, float(tolerance), float(window_s), max_step, float(idle_s))


def history_of(limit: Limits) -> History:
    """Return an empty memory."""
    return History(
        at_s=np.full(HISTORY, np.nan),
        wanted=np.full(HISTORY, np.nan),
        next=np.zeros(1, np.int64),
        lowered_rps=np.full(1, np.nan),
        too_few_rps=np.full(limit.most + 1, np.inf),
    )


@entry
def wanted_for_load(
    replicas: int, concurrency: float, target_concurrency: float, cache_used: float, target_cache_used: float
) -> float:
    """Return how many replicas bring concurrency and KV use down, or up, to their targets.

    Parameters
    ----------
    replicas
        That are ready.
    concurrency, target_concurrency
        Requests in the system, all replicas together; and what one replica should have.
    cache_used, target_cache_used
        Mean part of KV blocks that live requests hold; and what it should be.
    """
    return max(concurrency / target_concurrency, replicas * cache_used / target_cache_used)


@entry
def wanted_for_slo(rate_rps: float, replica_rps: float, backlog_requests: float, drain_s: float) -> float:
    """Return how many replicas keep a promise: for what arrives, and for working off what has piled up.

    Parameters
    ----------
    rate_rps
        Requests that arrive in a second (measured or forecast).
    replica_rps
        That one replica serves within the promise: the performance model's answer for the present lengths.
    backlog_requests, drain_s
        Requests that wait, and in how many seconds they should be gone.
    """
    return (rate_rps + backlog_requests / drain_s) / replica_rps


@entry
def desired(
    limit: Limits, history: History, now_s: float, current: int, wanted: float, rate_rps: float, quiet_s: float
) -> int:
    """Return how many replicas to have; remembers in ``history``.

    Parameters
    ----------
    now_s
        Never earlier than in the call before.
    current
        Replicas that there are, starting ones included.
    wanted
        How many would be right now.
    rate_rps, quiet_s
        What arrives, and seconds since the last arrival.

    Notes
    -----
    On a constant rate the number of changes is finite, whatever ``wanted`` does. A step down that had to be taken back is not taken
    again before arrivals have fallen by the tolerance; so each time that the direction turns from down to up, the lowest number that is
    still allowed rises by one or more, and it cannot rise above ``most``.
    """
    _remember(history, now_s, wanted)
    if limit.least == 0 and quiet_s >= limit.idle_s and rate_rps <= 0.0:
        return 0
    whole = min(max(math.ceil(wanted - 1e-9), max(limit.least, 1)), limit.most)
    if current < max(limit.least, 1):
        return min(whole, max(current + limit.max_step, limit.least))
    if current > limit.most:
        return limit.most
    if whole > current and wanted > current * (1.0 + limit.tolerance):
        _mark_too_few(limit, history, current, rate_rps)
        return min(whole, current + limit.max_step)
    highest = _highest(history, now_s, limit.window_s)
    if whole < current and highest < current * (1.0 - limit.tolerance):
        target = min(max(math.ceil(highest - 1e-9), whole, current - limit.max_step), current)
        while target < current and rate_rps >= history.too_few_rps[target] * (1.0 - limit.tolerance):
            target += 1
        if target < current:
            history.lowered_rps[0] = rate_rps
        return target
    return current


def share_budget(
    prefill_wanted: float,
    decode_wanted: float,
    prefill_gpus: int,
    decode_gpus: int,
    budget_gpus: int,
    least: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """Divide a budget of GPUs between prefill and decode instances, so that neither is short while the other has some to spare.

    Parameters
    ----------
    prefill_wanted, decode_wanted
        Instances that would be right.
    prefill_gpus, decode_gpus
        GPUs of one instance of each.
    least
        Instances of each at least.

    Returns
    -------
    tuple of int, int
        Instances of each: what is wanted where the budget allows, else those that serve the largest part of it. (0, 0) where the budget
        does not even hold ``least``.
    """
    want = (max(math.ceil(prefill_wanted - 1e-9), least[0]), max(math.ceil(decode_wanted - 1e-9), least[1]))
    if want[0] * prefill_gpus + want[1] * decode_gpus <= budget_gpus:
        return want
    best, best_served = (0, 0), -1.0
    for prefill in range(least[0], min(want[0], budget_gpus // prefill_gpus) + 1):
        decode = min(want[1], (budget_gpus - prefill * prefill_gpus) // decode_gpus)
        if decode < least[1]:
            break
        served = min(
            prefill / prefill_wanted if prefill_wanted > 0 else math.inf,
            decode / decode_wanted if decode_wanted > 0 else math.inf,
        )
        if served > best_served:
            best, best_served = (prefill, decode), served
    return best


@inner
def _remember(history: History, now_s: float, wanted: float) -> None:
    place = history.next[0]
    history.at_s[place] = now_s
    history.wanted[place] = wanted
    history.next[0] = (place + 1) % len(history.at_s)


@inner
def _highest(history: History, now_s: float, window_s: float) -> float:
    """Return the highest recommendation within the window; infinity where the memory does not reach back that far yet."""
    highest, oldest = -math.inf, math.inf
    for k in range(len(history.at_s)):
        if math.isnan(history.at_s[k]):
            continue
        oldest = min(oldest, history.at_s[k])
        if history.at_s[k] >= now_s - window_s:
            highest = max(highest, history.wanted[k])
    full = not math.isnan(history.at_s[history.next[0]])
    return highest if full or oldest <= now_s - window_s else math.inf


@inner
def _mark_too_few(limit: Limits, history: History, current: int, rate_rps: float) -> None:
    """Note that ``current`` replicas are too few, if that is where a step down led at about this rate."""
    lowered_rps = history.lowered_rps[0]
    if not math.isnan(lowered_rps) and rate_rps <= lowered_rps * (1.0 + limit.tolerance):
        for n in range(current + 1):
            history.too_few_rps[n] = min(history.too_few_rps[n], rate_rps)
    history.lowered_rps[0] = np.nan
