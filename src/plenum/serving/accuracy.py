"""How far predictions lie from what was measured."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.serving.calibration import UNCALIBRATED, Calibration
from plenum.serving.fitting import calibrate
from plenum.serving.measured import Measured
from plenum.serving.predict import Predictions, predict_many


class Error(NamedTuple):
    """Of ``points`` predictions: median and mean of the relative error, and the part of truths that intervals held; NaN of none."""

    points: int
    median: float
    mean: float
    held: float


class Accuracy(NamedTuple):
    """Errors of both times."""

    ttft: Error
    tpot: Error


def predict_measured(points: Measured, calibration: Calibration | None) -> Predictions:
    """Predict what was measured."""
    return predict_many(
        points.instances,
        isl=points.isl,
        osl=points.osl,
        concurrency=points.concurrency,
        rate_rps=points.rate_rps,
        workers=points.workers,
        prefill=points.prefill,
        prefill_workers=points.prefill_workers,
        together=points.together,
        calibration=calibration,
    )


def accuracy(points: Measured, calibration: Calibration | None) -> Accuracy:
    """Compare predictions with measurements; ``calibration`` None: nothing but data sheets."""
    found = predict_measured(points, calibration or UNCALIBRATED)
    return Accuracy(
        ttft=_error(np.exp(points.log_ttft), found.ttft_s, found.ttft_low_s, found.ttft_high_s),
        tpot=_error(np.exp(points.log_tpot), found.tpot_s, found.tpot_low_s, found.tpot_high_s),
    )


def held_out(points: Measured, prior: Calibration | None, seed: int) -> Accuracy:
    """Calibrate on a random half, and compare on the other."""
    order = np.random.default_rng(seed).permutation(len(points))
    half = len(points) // 2
    return accuracy(points.take(order[half:]), calibrate(points.take(order[:half]), prior=prior))


def _error(
    truth: NDArray[np.float64],
    value: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> Error:
    known = np.isfinite(truth) & np.isfinite(value)
    if not known.any():
        return Error(0, float("nan"), float("nan"), float("nan"))
    off = np.abs(value[known] / truth[known] - 1)
    held = (low <= truth) & (truth <= high)
    return Error(int(known.sum()), float(np.median(off)), float(off.mean()), float(held[known].mean()))
