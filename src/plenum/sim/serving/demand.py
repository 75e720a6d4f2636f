"""What scaling knows of the load: how fast requests arrive, where that is going, and what one instance bears of their lengths.

It sees what a gateway sees: arrivals and prompts as they come, outputs once they are over.
"""

from __future__ import annotations

import math

import numpy as np

from plenum.serving.bearing import Lengths, bearable_rps
from plenum.serving.pools import Pool
from plenum.serving.steps import StepModel
from plenum.serving.workload import Slo
from plenum.sim.serving import fields as f
from plenum.sim.serving.policies import Scaling
from plenum.sim.serving.world import World

SIGNIFICANT = 3.0
"""Standard deviations by which the later half of arrivals must differ from the earlier one to be called a trend."""

ENOUGH = 400
"""Arrivals that a rate is read from where it can be: their chance, one in twenty, is half of what scaling tolerates by default."""

WIDEST = 8.0
"""Windows that are taken at most where few arrive."""

LENGTHS_WINDOWS = 5.0
"""Lengths are averaged over so many windows of arrivals: they change more slowly than rates do."""


class Demand:
    """Reads the load off a run, model by model."""

    def __init__(self, settings: Scaling) -> None:
        self._settings = settings
        self._slo = Slo(ttft_s=settings.ttft_s, tpot_s=settings.tpot_s)

    def seen_rps(self, w: World, model: int) -> tuple[float, float]:
        """Return the rate at which requests for a model arrived lately, and how long ago the last one did."""
        now_s = float(w.clock[f.NOW])
        ready_s = _arrivals(w, model)
        span_s = self._span_s(ready_s, now_s)
        last_s = float(ready_s.max()) if len(ready_s) else 0.0
        return np.count_nonzero(ready_s > now_s - span_s) / span_s, now_s - last_s

    def forecast_rps(self, w: World, model: int) -> float:
        """Return the rate to expect when an instance that is started now is up: more than now only on a significant trend."""
        now_s = float(w.clock[f.NOW])
        ready_s = _arrivals(w, model)
        span_s = self._span_s(ready_s, now_s)
        late = np.count_nonzero(ready_s > now_s - 0.5 * span_s)
        early = np.count_nonzero(ready_s > now_s - span_s) - late
        rate_rps = (early + late) / span_s
        if late - early <= SIGNIFICANT * math.sqrt(early + late):
            return rate_rps
        slope = (late - early) / (0.5 * span_s) ** 2
        ahead_s = 0.5 * span_s + self._settings.cold_start_s + self._settings.every_s
        return rate_rps + slope * ahead_s

    def bearable_rps(self, w: World, pool: Pool, member: int) -> float:
        """Return what one instance of a pool bears of the lengths seen lately; 0 where nothing was promised or nothing seen."""
        if math.isinf(self._slo.ttft_s) and math.isinf(self._slo.tpot_s):
            return 0.0
        lengths = self._lengths(w, pool.model)
        if lengths is None:
            return 0.0
        return bearable_rps(
            StepModel(coefficients=w.steps[member]),
            lengths,
            self._slo,
            role=pool.role,
            sequences=int(w.ni[f.MOST, member]),
            cache_tokens=float(w.ni[f.BLOCKS, member] * w.ni[f.BLOCK, member]),
            advance=float(w.nf[f.ADVANCE, member]),
        )

    def _span_s(self, ready_s: np.ndarray, now_s: float) -> float:
        """Return over how long arrivals are counted: the window, or longer where it holds few and they came no faster or slower before."""
        window_s = max(min(self._settings.rate_window_s, now_s), self._settings.every_s)
        lately = np.count_nonzero(ready_s > now_s - window_s)
        if lately >= ENOUGH:
            return window_s
        enough_s = now_s - float(np.sort(ready_s)[-ENOUGH]) if len(ready_s) >= ENOUGH else now_s
        wide_s = max(min(enough_s, WIDEST * window_s, now_s), window_s)
        before = np.count_nonzero(ready_s > now_s - wide_s) - lately
        # As many as lately, were it all one rate; what differs by more than chance is a change, and only the window has seen it.
        part = window_s / wide_s
        expected = (before + lately) * part
        changed = abs(lately - expected) > SIGNIFICANT * math.sqrt(max(expected * (1.0 - part), 0.0))
        return window_s if changed else wide_s

    def _lengths(self, w: World, model: int) -> Lengths | None:
        since_s = float(w.clock[f.NOW]) - LENGTHS_WINDOWS * self._settings.rate_window_s
        asked = (w.ri[:, f.ASKED] == model) & (w.rf[:, f.READY] > since_s)
        if not asked.any():
            return None
        begun = asked & np.isfinite(w.rf[:, f.STARTED_AT])
        cached = float(w.ri[begun, f.CACHED].mean()) if begun.any() else 0.0
        done = (w.ri[:, f.ASKED] == model) & (w.ri[:, f.REASON] == 0) & (w.rf[:, f.FINISHED] > since_s)
        prompt = float(w.ri[asked, f.PROMPT].mean())
        output = w.ri[done, f.LIMIT] if done.any() else w.ri[asked, f.LIMIT]
        return Lengths(prompt=prompt, fresh=max(prompt - cached, 1.0), output=float(output.mean()))


def _arrivals(w: World, model: int) -> np.ndarray:
    ready_s = w.rf[w.ri[:, f.ASKED] == model, f.READY]
    return ready_s[np.isfinite(ready_s)]
