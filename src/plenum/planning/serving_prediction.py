"""The planner's predictions: coefficients and intervals as calibration has them."""

from __future__ import annotations

from plenum.planning.serving_options import Prediction, Predictor
from plenum.serving.calibration import Calibration, calibrated_steps
from plenum.serving.instance import Instance

UNMEASURED_TTFT, UNMEASURED_TPOT = (0.5, 2.0), (0.6, 1.6)
"""Ends of the intervals where nothing was measured."""


def calibrated(calibration: Calibration | None = None) -> Predictor:
    """Return a predictor that rests on ``calibration``; None: the shipped one."""

    def predict(instance: Instance) -> Prediction:
        return Prediction(
            steps=calibrated_steps(instance, calibration),
            ttft=UNMEASURED_TTFT,
            tpot=UNMEASURED_TPOT,
            measured="the roofline of the data sheets with typical efficiencies",
        )

    return predict
