"""Whether one set of requests did surely worse than another: the tests behind a canary's rollback."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.01
"""Chance at most that a canary exactly at its limits is rolled back all the same, over all looks at all its figures together."""

FIRST_LOOK = 12
"""Samples before the first look; each later look takes twice as many."""

FIGURES = 3
"""Time to first token, time per output token, failures."""

MAX_LOOKS = 16


def look_at(samples: int, taken: int) -> bool:
    """Tell whether there are enough samples for the look after so many."""
    return taken < MAX_LOOKS and samples >= FIRST_LOOK << taken


def level(taken: int) -> float:
    """Return the chance of a false alarm that the look after so many may have.

    Notes
    -----
    A half, a quarter, an eighth ... of each figure's part, so that all looks together stay below :data:`ALPHA` by the union bound, however
    many there are: looking again and again at one level would raise an alarm in the end. (Alpha spending: Lan and DeMets, Biometrika 70,
    1983.)
    """
    return ALPHA / FIGURES * 2.0 ** -(taken + 1)


def is_slower(new: Sequence[float], old: Sequence[float], ratio: float, alpha: float) -> tuple[bool, float]:
    """Tell whether latencies are surely more than so many times others.

    Parameters
    ----------
    new, old
        Seconds; each from its own requests of the same time, so that both see the same load.
    ratio
        Of the latencies, as a limit.
    alpha
        Chance of saying so though the new ones are just ``ratio`` times the old.

    Returns
    -------
    bool, float
        Whether, and the p-value.

    Notes
    -----
    The one-sided rank-sum test of Mann and Whitney (Annals of Mathematical Statistics 18, 1947) of ``new`` against ``ratio x old``, with
    the normal approximation, corrected for ties and continuity; it asks nothing of the shape of the latencies but that the two differ by a
    factor. O(n log n).
    """
    x, y = np.asarray(new, np.float64), ratio * np.asarray(old, np.float64)
    n, m = len(x), len(y)
    if not n or not m:
        return False, 1.0
    both = np.concatenate([x, y])
    ranks, ties = _ranked(both)
    u = float(ranks[:n].sum()) - n * (n + 1) / 2
    total = n + m
    variance = n * m / 12.0 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:
        return False, 1.0
    z = (u - n * m / 2.0 - 0.5) / math.sqrt(variance)
    p = 1.0 - NormalDist().cdf(z)
    return p < alpha, p


def _ranked(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return ranks from 1, ties sharing their mean; and the sum of t³ - t over ties."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means = ends - (counts - 1) / 2.0
    return means[where.reshape(-1)], float((counts.astype(np.float64) ** 3 - counts).sum())


def fails_more(new: tuple[int, int], old: tuple[int, int], margin: float, alpha: float) -> tuple[bool, float, float]:
    """Tell whether so much more of the new requests surely fail.

    Parameters
    ----------
    new, old
        Failed and all requests.
    margin
        Part of all requests, as a limit of the difference.

    Returns
    -------
    bool, float, float
        Whether; the least part of the new ones and the most of the old ones that are plausible.

    Notes
    -----
    Chernoff's bound on the tail of a binomial (Annals of Mathematical Statistics 23, 1952), each side at half of ``alpha``: it holds for
    any number of requests, where a normal approximation would not.
    """
    low = _bound(new, alpha / 2, lower=True)
    high = _bound(old, alpha / 2, lower=False)
    return low - high > margin, low, high


def _bound(failed: tuple[int, int], alpha: float, *, lower: bool) -> float:
    """Return the end of the interval of chances that so many failures are plausible under."""
    k, n = failed
    if n <= 0:
        return 0.0 if lower else 1.0
    seen, limit = k / n, -math.log(alpha) / n
    inside, outside = seen, 0.0 if lower else 1.0
    for _ in range(40):
        middle = (inside + outside) / 2
        if _divergence(seen, middle) <= limit:
            inside = middle
        else:
            outside = middle
    return inside


def _divergence(a: float, b: float) -> float:
    """Return the relative entropy between two coins."""
    if a == b:
        return 0.0
    if b <= 0.0 or b >= 1.0:
        return math.inf
    head = a * math.log(a / b) if a else 0.0
    tail = (1 - a) * math.log((1 - a) / (1 - b)) if a < 1 else 0.0
    return head + tail
