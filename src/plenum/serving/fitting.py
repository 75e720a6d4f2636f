"""From measured points to a calibration: a robust fit of the few constants of the physics, then a process over what remains.

The constants are fitted in three steps, each held near the one before it: for all points, for each engine, for each engine on each
kind of hardware. A few points then move little, and what was never measured gets what its kin has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.serving.calibration import UNCALIBRATED, Calibration, group_of
from plenum.serving.loads import AT_LOAD, AT_OUT, solve
from plenum.serving.measured import Measured
from plenum.serving.peaks import BANDWIDTH_MOST, COMPUTE_MOST
from plenum.serving.predict import Compiled, compile_loads, per_worker
from plenum.serving.residuals import (
    POINTS_LIMIT,
    TPOT_KERNEL,
    TTFT_KERNEL,
    Kernel,
    Residuals,
    features_of,
    fit_residuals,
)
from plenum.serving.roofline import EFFICIENCY_FIELDS, Efficiency, coefficients, efficiency_array, efficiency_of
from plenum.serving.steps import AT

ENOUGH_POINTS = 60
"""Distinct points from which the constants of the physics are fitted anew; fewer only correct those of the prior."""

FIT_POINTS = 600
"""Points that the constants are fitted to at most; groups are thinned evenly."""

GROUP_POINTS = 8.0
"""Points that one group of configurations counts for at most: its points share what the physics lacks."""

TPOT_SIGMA, TTFT_SIGMA, TTFT_WEIGHT = 0.12, 0.25, 0.35
"""Spread of logarithms below which residuals count as squares, above it only logarithmically; and what TTFT counts beside TPOT."""

POWER_SIGMA = 0.06
"""The same of power."""

_POWER = ("awake", "memory_power", "compute_power", "peak_power")
_MOST = {
    "compute": COMPUTE_MOST,
    "experts": COMPUTE_MOST,
    "attention": 0.75,
    "narrow": 1.0,
    "memory": BANDWIDTH_MOST,
    "expert_memory": BANDWIDTH_MOST,
    "cache_memory": BANDWIDTH_MOST,
    "network": 0.9,
    "burst": 1.0,
}
"""Parts of a peak that no fit is let exceed. Attention's is what FlashAttention-3 reaches on H100 (arXiv 2407.08608: 75 %)."""

_FREE = np.array([k for k, name in enumerate(EFFICIENCY_FIELDS) if name not in _POWER])
_CEILING = np.log([_MOST.get(name, np.inf) for name in EFFICIENCY_FIELDS])
_QUEUE = tuple(EFFICIENCY_FIELDS.index(name) for name in ("request_s", "queueing", "burst"))


WORK_MOST, BISECTIONS = 2.0, 14
"""Logarithm that work of open loops is taken to be faster or slower by at most, and how often the bracket is halved."""


class Step(NamedTuple):
    """How far the constants may go from those before them, in natural logarithms, and how often they are evaluated anew."""

    freedom: float
    evaluations: int


STEPS = (Step(0.7, 9), Step(0.35, 5), Step(0.25, 4))


def calibrate(
    points: Measured, *, prior: Calibration | None = None, name: str = "measurements", coverage: float = 0.90
) -> Calibration:
    """Learn from measured points.

    Parameters
    ----------
    points
        What was measured; NaN where TTFT or TPOT was not.
    prior
        What is known beforehand, and holds where nothing was measured; None: nothing but data sheets.
    name
        Where the points come from, in words.
    coverage
        Part of truths that intervals are to hold.

    Notes
    -----
    Deterministic. Seconds for thousands of points.
    """
    start = prior or UNCALIBRATED
    merged = _merged(points)
    efficiencies = dict(start.efficiencies)
    if len(merged) >= ENOUGH_POINTS:
        efficiencies |= _efficiencies(merged, start)
    physics = replace(start, name=name, efficiencies=efficiencies, tpot=None, ttft=None, coverage=coverage)
    physics = _with_power(merged, physics)
    residuals = _residuals(merged, physics)
    return replace(
        physics,
        tpot=_process(merged, residuals[:, 0], residuals[:, 2], TPOT_KERNEL, coverage),
        ttft=_process(merged, residuals[:, 1], residuals[:, 2], TTFT_KERNEL, coverage),
    )


def held_at_most(calibration: Calibration) -> dict[str, tuple[str, ...]]:
    """Return, by key of :attr:`Calibration.efficiencies`, constants that stand at the most that any device reaches.

    There the points asked for more than physics lets be: what they ask beyond is in the residuals.
    """
    most = np.exp(_CEILING) * (1.0 - 1e-3)
    found: dict[str, tuple[str, ...]] = {}
    for key, efficiency in calibration.efficiencies.items():
        names = tuple(
            n for n, v, m in zip(EFFICIENCY_FIELDS, efficiency_array(efficiency), most, strict=True) if v >= m
        )
        if names:
            found[key] = names
    return found


def physics_residuals(points: Measured, calibration: Calibration) -> NDArray[np.float64]:
    """Return logarithms of measured over predicted, offsets included, (n, 2): of TPOT and of TTFT.

    Where requests came at random, they are of the work rather than of the times: by what iterations are slower for the queue to do as it
    did, since that is how predictions apply them.
    """
    return _residuals(points, calibration)[:, :2]


def _residuals(points: Measured, calibration: Calibration) -> NDArray[np.float64]:
    """Return :func:`physics_residuals` and, of each point, requests in flight for each worker: (n, 3)."""
    compiled = _compiled(points, calibration)
    decode = coefficients(compiled.work, compiled.efficiency)
    first = coefficients(compiled.prefill_work, compiled.prefill_efficiency)
    offsets = np.array([calibration.offsets.get(group_of(i), (0.0, 0.0)) for i in points.instances]).reshape(-1, 2)
    out = solve(decode, first, compiled.loads)
    predicted = np.log(np.maximum(out[:, (AT_OUT["tpot_s"], AT_OUT["ttft_s"])], 1e-9)) + offsets
    truth = np.column_stack([points.log_tpot, points.log_ttft])
    residuals = truth - predicted
    opened = np.flatnonzero(~(points.concurrency > 0))
    if len(opened):
        work = _slower(decode[opened], first[opened], compiled.loads[opened], truth[opened])
        residuals[opened] = work - offsets[opened]
    return np.column_stack([residuals, per_worker(points.concurrency, out[:, AT_OUT["batch"]], points.workers)])


def _slower(
    decode: NDArray[np.float64], first: NDArray[np.float64], loads: NDArray[np.float64], truth: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return by what logarithm all work is slower for the times of open loops to be ``truth``, by bisection: (n, 2)."""
    found = np.full(truth.shape, np.nan)
    for column, name in enumerate(("tpot_s", "ttft_s")):
        low, high = np.full(len(loads), -WORK_MOST), np.full(len(loads), WORK_MOST)
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            times = solve(_scaled(decode, middle), _scaled(first, middle), _requested(loads, middle))[:, AT_OUT[name]]
            late = ~(np.log(np.maximum(times, 1e-9)) < truth[:, column])
            low, high = np.where(late, low, middle), np.where(late, middle, high)
        found[:, column] = np.where(np.isfinite(truth[:, column]), 0.5 * (low + high), np.nan)
    return found


def _scaled(rows: NDArray[np.float64], log_slower: NDArray[np.float64]) -> NDArray[np.float64]:
    out = rows.copy()
    for name in ("prefill_scale", "decode_scale", "request_s"):
        out[:, AT[name]] *= np.exp(log_slower)
    return out


def _requested(loads: NDArray[np.float64], log_slower: NDArray[np.float64]) -> NDArray[np.float64]:
    out = loads.copy()
    out[:, AT_LOAD["request_s"]] *= np.exp(log_slower)
    return out


def _compiled(points: Measured, calibration: Calibration) -> Compiled:
    return compile_loads(
        points.instances,
        points.prefill,
        calibration=calibration,
        isl=points.isl,
        osl=points.osl,
        concurrency=points.concurrency,
        rate_rps=points.rate_rps,
        workers=points.workers,
        prefill_workers=points.prefill_workers,
        together=points.together,
    )


def _merged(points: Measured) -> Measured:
    """Points of one configuration under one load become their mean, so that repeats do not count twice."""
    keys: dict[tuple[object, ...], list[int]] = {}
    for i in range(len(points)):
        prefill = points.prefill[i]
        numbers = tuple(
            float(getattr(points, n)[i])
            for n in ("workers", "prefill_workers", "concurrency", "rate_rps", "isl", "osl", "together")
        )
        key = id(points.instances[i]), id(prefill), tuple(-1.0 if math.isnan(v) else v for v in numbers)
        keys.setdefault(key, []).append(i)
    groups = list(keys.values())
    first = points.take(np.array([group[0] for group in groups], dtype=np.int64))
    return replace(
        first,
        **{
            name: np.array([np.mean(getattr(points, name)[group]) for group in groups])
            for name in ("log_ttft", "log_tpot", "peak_w", "average_w")
        },
    )


def _process(
    points: Measured, residuals: NDArray[np.float64], load: NDArray[np.float64], kernel: Kernel, coverage: float
) -> Residuals | None:
    index = np.flatnonzero(np.isfinite(residuals))
    if not len(index):
        return None
    if len(index) > POINTS_LIMIT:
        index = index[np.linspace(0, len(index) - 1, POINTS_LIMIT).astype(np.int64)]
    kept = points.take(index)
    features = features_of(kept.instances, kept.prefill, kept.isl, kept.osl, load[index])
    # What no prediction can be that far from says more about the point than about the model.
    return fit_residuals(features, np.clip(residuals[index], -3.0, 3.0), kernel, coverage)


def _efficiencies(points: Measured, start: Calibration) -> Mapping[str, Efficiency]:
    """Fit the constants: for all, for each engine, for each engine and hardware."""
    points = _thinned(points)
    compiled = _compiled(points, start)
    truth = np.column_stack([points.log_tpot, points.log_ttft])
    groups = np.unique(_clusters(points), return_inverse=True)[1]
    weights = np.sqrt(np.minimum(1.0, GROUP_POINTS / np.bincount(groups)[groups]))
    engines = np.array([i.settings.engine for i in points.instances])
    kinds = np.array([i.hardware.name for i in points.instances])
    found: dict[str, NDArray[np.float64]] = {}

    def fit(key: str, index: NDArray[np.integer], before: NDArray[np.float64], step: Step) -> NDArray[np.float64]:
        found[key] = _fitted(_part(compiled, index), truth[index], weights[index], before, step)
        return found[key]

    everything = np.arange(len(points))
    whole = fit("", everything, np.log(efficiency_array(start.efficiencies.get("", Efficiency()))), STEPS[0])
    for engine in sorted(set(engines)):
        mine = everything[engines == engine]
        own = fit(engine, mine, whole, STEPS[1])
        for kind in sorted(set(kinds[mine])):
            fit(f"{engine}|{kind}", mine[kinds[mine] == kind], own, STEPS[2])
    return {key: efficiency_of(np.exp(np.minimum(theta, _CEILING))) for key, theta in found.items()}


def _with_power(points: Measured, calibration: Calibration) -> Calibration:
    """Fit the constants of power, where power was measured; they hold for all engines, since the devices are what draws it.

    Peaks are compared with prefill. Of static batches the average is compared with decode, which nearly all of their time is.
    """
    from scipy.optimize import least_squares

    index = np.flatnonzero(np.isfinite(points.peak_w) | np.isfinite(points.average_w))
    if len(index) < len(_POWER) * 2:
        return calibration
    part = points.take(index)
    compiled = _compiled(part, calibration)
    devices = np.array([i.devices for i in part.instances], dtype=np.float64)
    where = np.array([EFFICIENCY_FIELDS.index(name) for name in _POWER])
    measured = np.log(np.column_stack([part.peak_w, part.average_w]))
    known = np.isfinite(measured)
    columns = np.where(part.together > 0, AT_OUT["decode_w"], AT_OUT["watts"])

    def errors(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        efficiency, prefill = compiled.efficiency.copy(), compiled.prefill_efficiency.copy()
        efficiency[:, where], prefill[:, where] = np.exp(theta), np.exp(theta)
        out = solve(
            coefficients(compiled.work, efficiency), coefficients(compiled.prefill_work, prefill), compiled.loads
        )
        watts = np.column_stack([out[:, AT_OUT["prompt_w"]], out[np.arange(len(out)), columns]])
        off = np.where(known, np.log(watts / devices[:, None]) - np.where(known, measured, 0.0), 0.0) / POWER_SIGMA
        return (np.sign(off) * np.sqrt(4.0 * np.log1p(off * off / 4.0))).ravel()

    before = np.log(efficiency_array(Efficiency())[where])
    found = least_squares(errors, before, diff_step=1e-2, max_nfev=30).x
    watts = dict(zip(_POWER, (float(v) for v in np.exp(found)), strict=True))
    kept = calibration.efficiencies or {"": Efficiency()}
    return replace(calibration, efficiencies={key: replace(eff, **watts) for key, eff in kept.items()})


def _clusters(points: Measured) -> NDArray[np.str_]:
    return np.array([f"{group_of(i)}|{p is None}" for i, p in zip(points.instances, points.prefill, strict=True)])


def _thinned(points: Measured) -> Measured:
    if len(points) <= FIT_POINTS:
        return points
    order = np.argsort(_clusters(points), kind="stable")
    return points.take(order[np.linspace(0, len(order) - 1, FIT_POINTS).astype(np.int64)])


def _part(compiled: Compiled, index: NDArray[np.integer]) -> Compiled:
    return Compiled(*(array[index] for array in compiled))


def _fitted(
    compiled: Compiled,
    truth: NDArray[np.float64],
    weights: NDArray[np.float64],
    before: NDArray[np.float64],
    step: Step,
) -> NDArray[np.float64]:
    from scipy.optimize import least_squares

    known = np.isfinite(truth)
    wanted = np.where(known, truth, 0.0)
    scale = known * weights[:, None] * np.array([1.0, TTFT_WEIGHT])
    sigma = np.array([TPOT_SIGMA, TTFT_SIGMA])

    def theta(z: NDArray[np.float64]) -> NDArray[np.float64]:
        moved = before.copy()
        moved[_FREE] += z * step.freedom
        return moved

    def errors(z: NDArray[np.float64]) -> NDArray[np.float64]:
        off = np.clip(_predicted(compiled, theta(z)) - wanted, -3.0, 3.0) / sigma
        robust = np.sign(off) * np.sqrt(4.0 * np.log1p(off * off / 4.0))  # Cauchy's loss: outliers stop pulling
        return np.concatenate([(robust * scale).ravel(), z])

    found = least_squares(errors, np.zeros(len(_FREE)), diff_step=1e-2, max_nfev=step.evaluations, xtol=1e-3, ftol=1e-4)
    return theta(found.x)


def _predicted(compiled: Compiled, theta: NDArray[np.float64]) -> NDArray[np.float64]:
    efficiency = np.exp(np.minimum(theta, _CEILING))[None, :]
    loads = compiled.loads.copy()
    for name, k in zip(("request_s", "queueing", "burst"), _QUEUE, strict=True):
        loads[:, AT_LOAD[name]] = efficiency[0, k]
    out = solve(coefficients(compiled.work, efficiency), coefficients(compiled.prefill_work, efficiency), loads)
    return np.log(np.clip(out[:, (AT_OUT["tpot_s"], AT_OUT["ttft_s"])], 1e-9, 1e9))
