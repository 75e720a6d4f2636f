"""What traffic is expected: Holt and Winters' exponential smoothing with a season, by statsmodels (extra ``forecast``)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from plenum.model.errors import MissingExtraError

LEAST_SEASONS = 2
"""Whole seasons that must be known before one is looked for."""

LEAST_POINTS = 8
MAX_POINTS = 4_000


def forecast_rps(rates: Sequence[float], ahead: int, season: int = 0) -> float:
    """Return the highest rate expected over the next points.

    Parameters
    ----------
    rates
        Requests a second at equal distances, oldest first; the newest ``MAX_POINTS`` count.
    ahead
        How many points to look ahead: as long as a replica takes to start.
    season
        Points of a season, such as a day; 0: none. One that fewer than two are known of is left out.

    Returns
    -------
    float
        Never negative; NaN where too little is known to expect anything.

    Raises
    ------
    MissingExtraError
        statsmodels is not installed.

    Notes
    -----
    Additive season, damped additive trend: a burst is not taken for a trend without end. Winters, Management Science 6 (1960); Gardner
    and McKenzie, Management Science 31 (1985).
    """
    known = [max(rate, 0.0) for rate in rates[-MAX_POINTS:] if math.isfinite(rate)]
    if len(known) < LEAST_POINTS or ahead < 1:
        return math.nan
    if max(known) == min(known):
        return known[-1]
    try:
        from statsmodels.tsa.holtwinters import ExponentialSmoothing
    except ImportError as error:
        raise MissingExtraError("forecasts need statsmodels: pip install 'plenum-os[forecast]'") from error
    seasonal = 1 < season <= len(known) // LEAST_SEASONS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged on so short a history is no news
        fitted = ExponentialSmoothing(
            known,
            trend="add",
            damped_trend=True,
            seasonal="add" if seasonal else None,
            seasonal_periods=season if seasonal else None,
            # To estimate where each point of a season starts takes minutes where a day has hundreds; to smooth them is enough.
            initialization_method="heuristic" if seasonal else "estimated",
        ).fit()
        expected = [float(x) for x in fitted.forecast(ahead)]
    finite = [x for x in expected if math.isfinite(x)]
    # More than twice what was ever seen is the fit's doing, not the traffic's.
    return min(max(finite, default=math.nan), 2.0 * max(known)) if finite and max(finite) > 0 else 0.0
