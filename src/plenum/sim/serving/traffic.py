"""Invented traffic: when requests come, and how long they are. Everything is drawn from the generator that is passed.

Way in: an arrival process (:func:`poisson`, :func:`bursty`, :func:`switching`, :func:`diurnal`, :func:`steady`), lengths
(:func:`fixed`, :func:`lognormal`, :func:`empirical`) and :func:`plenum.serving.workload.requests_of`; :mod:`plenum.sim.serving.chats` for
conversations, :mod:`plenum.sim.serving.slices` to cut and scale traces.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError

MAX_REQUESTS = 5_000_000
"""Of one trace."""

Floats = NDArray[np.float64]
Tokens = NDArray[np.int32]


def steady(rate_rps: float, duration_s: float) -> Floats:
    """Return arrivals at equal distances."""
    _check(rate_rps, duration_s)
    return np.arange(round(rate_rps * duration_s)) / rate_rps


def poisson(rng: np.random.Generator, rate_rps: float, duration_s: float) -> Floats:
    """Return arrivals of many users who know nothing of one another.

    Raises
    ------
    FieldError
        A rate or duration that is not positive, or too many requests.
    """
    _check(rate_rps, duration_s)
    count = rng.poisson(rate_rps * duration_s)
    return np.sort(rng.uniform(0, duration_s, count))


def bursty(rng: np.random.Generator, rate_rps: float, duration_s: float, variation: float) -> Floats:
    """Return arrivals whose gaps are gamma distributed with the given coefficient of variation: 1 is Poisson, more is burstier.

    Notes
    -----
    Production traces of LLM services have coefficients between 1 and 3 (BurstGPT, arXiv 2401.17644).

    Raises
    ------
    FieldError
        See :func:`poisson`; or a variation that is not positive.
    """
    _check(rate_rps, duration_s)
    if not 0 < variation <= 100:
        raise FieldError("variation", f"must be above 0 and at most 100, not {variation:g}")
    shape = 1 / variation**2
    arrivals = np.zeros(0)
    while not len(arrivals) or arrivals[-1] < duration_s:
        more = int(rate_rps * duration_s * 0.2) + 100
        gaps = rng.gamma(shape, 1 / (rate_rps * shape), more)
        arrivals = np.concatenate([arrivals, (arrivals[-1] if len(arrivals) else 0.0) + np.cumsum(gaps)])
        if len(arrivals) > 2 * MAX_REQUESTS:
            raise FieldError("rate", f"makes more than {MAX_REQUESTS:,} requests")
    return arrivals[arrivals < duration_s]


def switching(
    rng: np.random.Generator, rates_rps: Sequence[float], stay_s: Sequence[float], duration_s: float
) -> Floats:
    """Return arrivals of a process that switches between states at random (a Markov-modulated Poisson process).

    Parameters
    ----------
    rates_rps, stay_s
        Of each state: arrivals a second, and the mean time until another state, each of the others equally likely.
    """
    if len(rates_rps) != len(stay_s) or len(rates_rps) < 2:
        raise FieldError("states", "are at least two, each with a rate and a mean stay")
    _check(max(rates_rps), duration_s)
    if min(stay_s) <= 0 or duration_s / min(stay_s) > MAX_REQUESTS:
        raise FieldError("stay", f"must be positive, and at least the duration over {MAX_REQUESTS:,}")
    parts: list[Floats] = []
    now_s, state = 0.0, int(rng.integers(len(rates_rps)))
    while now_s < duration_s:
        until_s = min(now_s + rng.exponential(stay_s[state]), duration_s)
        count = rng.poisson(rates_rps[state] * (until_s - now_s))
        parts.append(np.sort(rng.uniform(now_s, until_s, count)))
        now_s = until_s
        state = int(state + 1 + rng.integers(len(rates_rps) - 1)) % len(rates_rps)
    return np.concatenate(parts)


def diurnal(
    rng: np.random.Generator,
    rate_rps: float,
    duration_s: float,
    *,
    swing: float = 0.6,
    period_s: float = 86_400.0,
    peak_s: float = 50_400.0,
) -> Floats:
    """Return arrivals whose rate follows the day: ``rate_rps`` on average, ``1 + swing`` times that at ``peak_s``."""
    _check(rate_rps * (1 + swing), duration_s)
    if not 0 <= swing <= 1:
        raise FieldError("swing", f"must be a part from 0 to 1, not {swing:g}")
    candidates = poisson(rng, rate_rps * (1 + swing), duration_s)
    rate = 1 + swing * np.cos(2 * np.pi * (candidates - peak_s) / period_s)
    return candidates[rng.random(len(candidates)) * (1 + swing) < rate]


def fixed(count: int, tokens: int) -> Tokens:
    """Return ``count`` times the same length."""
    return np.full(count, max(tokens, 1), np.int32)


def lognormal(rng: np.random.Generator, count: int, mean: float, variation: float, most: int = 131_072) -> Tokens:
    """Return lengths with the given mean and coefficient of variation, cut off at 1 and ``most``."""
    if not 0 < mean <= most or variation < 0:
        raise FieldError("lengths", f"need a mean of 1 to {most:,} tokens and a variation that is not negative")
    sigma = np.sqrt(np.log1p(variation**2))
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(np.rint(drawn), 1, most).astype(np.int32)


def empirical(rng: np.random.Generator, count: int, seen: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return indices of ``seen`` drawn with replacement: prompt and output lengths taken by the same index keep their correlation."""
    if not len(seen):
        raise FieldError("lengths", "there are none to draw from")
    return rng.integers(0, len(seen), count)


def _check(rate_rps: float, duration_s: float) -> None:
    if not (0 < rate_rps < np.inf and 0 < duration_s < np.inf):
        raise FieldError("rate", "the rate and the duration must be above 0")
    if rate_rps * duration_s > MAX_REQUESTS:
        sentence = f"{rate_rps:g}/s for {duration_s:g} s are more than {MAX_REQUESTS:,} requests"
        raise FieldError("rate", sentence)
