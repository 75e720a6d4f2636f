"""What a layout offers at a load, and which of many offers are worth a look: those that no other beats in everything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.planning.serving.layout import UNBOUND, Figures, Layout
from plenum.planning.serving.search import Candidate, Search
from plenum.serving.queueing import E2E, E2E_TAIL, TPOT, TPOT_TAIL, TTFT, TTFT_TAIL, WATTS

LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.87, 0.93, 0.97)
"""Parts of what a layout bears at all, at which it is looked at."""

GROWN = (1.0, 1.25, 1.5, 2.0)
"""Times as many instances as a rate needs: dearer, and quicker."""

MAX_LAYOUTS = 120
"""Layouts that are looked at under several loads."""

HOUR_S = 3600.0


class Interval(NamedTuple):
    """What is predicted, and what holds the truth in nine cases of ten."""

    low: float
    typical: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Point:
    """What a layout offers at a rate.

    Parameters
    ----------
    layout
        Engine limits are set.
    rate_rps
        Requests a second.
    ttft_s, tpot_s, e2e_s
        Seconds at the percentile of the SLO.
    ttft_mean_s, tpot_mean_s, e2e_mean_s
        Means.
    tokens_per_s
        Answer tokens a second of the whole, ``tokens_per_s_per_device`` of each device.
    usd_per_million_tokens
        Price of a million answer tokens.
    watts
        Of all devices.
    meets
        Whether the SLO is kept.
    """

    layout: Layout
    rate_rps: float
    ttft_s: Interval
    tpot_s: Interval
    e2e_s: Interval
    ttft_mean_s: float
    tpot_mean_s: float
    e2e_mean_s: float
    tokens_per_s: float
    usd_per_million_tokens: float
    watts: float
    meets: bool

    @property
    def devices(self) -> int:
        """Devices of all pools."""
        return self.layout.devices

    @property
    def usd_per_hour(self) -> float:
        """Price of all devices for an hour."""
        return self.layout.usd_per_hour

    @property
    def tokens_per_s_per_device(self) -> float:
        """Answer tokens a second of each device."""
        return self.tokens_per_s / self.devices


def error_of(layout: Layout) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return by what TTFT and TPOT of a layout may be off: the widest of the pools that they come from."""
    firsts = [pool.option.prediction.ttft for pool in layout.pools if pool.role != "decode"]
    laters = [pool.option.prediction.tpot for pool in layout.pools if pool.role != "prefill"]
    ttft = (min(low for low, _ in firsts), max(high for _, high in firsts))
    return ttft, (min(low for low, _ in laters), max(high for _, high in laters))


def point_of(state: Search, layout: Layout, figures: Figures) -> Point:
    """Return what ``layout`` offers."""
    total = figures.total
    ttft, tpot = error_of(layout)
    first, later = float(total[TTFT_TAIL]), float(total[TPOT_TAIL])
    rest = float(total[E2E_TAIL]) - first
    tokens_per_s = figures.rate * state.load.output
    return Point(
        layout=layout,
        rate_rps=figures.rate,
        ttft_s=Interval(first * ttft[0], first, first * ttft[1]),
        tpot_s=Interval(later * tpot[0], later, later * tpot[1]),
        e2e_s=Interval(first * ttft[0] + rest * tpot[0], first + rest, first * ttft[1] + rest * tpot[1]),
        ttft_mean_s=float(total[TTFT]),
        tpot_mean_s=float(total[TPOT]),
        e2e_mean_s=float(total[E2E]),
        tokens_per_s=tokens_per_s,
        usd_per_million_tokens=layout.usd_per_hour / HOUR_S / tokens_per_s * 1e6,
        watts=float(total[WATTS]),
        meets=state.keeps(figures),
    )


def points_of(state: Search, candidates: list[Candidate]) -> list[Point]:
    """Return what the candidates offer at several loads or, where the rate is given, sizes."""
    found: list[Point] = []
    rate = state.question.traffic.rps
    for candidate in candidates[:MAX_LAYOUTS]:
        layout = candidate.layout
        if rate > 0:
            tries = [(grown, rate) for times in GROWN if (grown := _grown(state, layout, times))]
        else:
            most = state.capacity(layout, UNBOUND)
            tries = [(layout, candidate.capacity_rps), *((layout, most * part) for part in LOADS)]
        for tried, at in tries:
            figures = state.figures(tried, at)
            if figures.fits and np.isfinite(figures.total).all():
                found.append(point_of(state, tried, figures))
    return found


def _grown(state: Search, layout: Layout, times: float) -> Layout | None:
    """Return the layout with ``times`` as many instances of each pool; None beyond stock or budget."""
    pools = tuple(replace(pool, count=int(np.ceil(pool.count * times))) for pool in layout.pools)
    grown = Layout(pools=pools)
    return grown if state.allows(grown) else None


def frontier_of(points: list[Point]) -> list[Point]:
    """Return the points that keep the SLO and that no other beats, quickest tokens first.

    One beats another that is nowhere worse and somewhere better: in tokens a second of each device, price, time to first token, and
    time per output token.
    """
    kept = [point for point in points if point.meets]
    if not kept:
        return []
    values = np.array(
        [[-p.tokens_per_s_per_device, p.usd_per_million_tokens, p.ttft_s.typical, p.tpot_s.typical] for p in kept]
    )
    best = [point for point, good in zip(kept, undominated(values), strict=True) if good]
    return sorted(best, key=lambda p: (p.tpot_s.typical, p.ttft_s.typical))


def undominated(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows no other row beats, smaller being better; of equal rows the first.

    Parameters
    ----------
    values
        (N, K) float64, without NaN.

    Returns
    -------
    ndarray
        (N,) bool.

    Notes
    -----
    In lexicographic order nothing later can beat anything earlier, so each row is held against those kept so far only:
    O(N F K) for a frontier of F rows.
    """
    count = len(values)
    good = np.zeros(count, np.bool_)
    if not count:
        return good
    order = np.lexsort(values.T[::-1])
    kept = np.empty_like(values)
    size = 0
    for index in order:
        row = values[index]
        if size and (kept[:size] <= row).all(axis=1).any():
            continue
        kept[size] = row
        size += 1
        good[index] = True
    return good
