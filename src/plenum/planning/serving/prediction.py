"""The planner's predictions: coefficients and intervals as calibration has them."""

from __future__ import annotations

import math

import numpy as np

from plenum.planning.serving.options import Prediction, Predictor
from plenum.planning.serving.question import Traffic
from plenum.serving.calibration import Calibration, basis_of, calibrated_steps, corrections, shipped
from plenum.serving.instance import Instance

MIDDLING = 16.0
"""Requests in flight about which intervals are taken: between those that are bound by memory and by compute."""


def calibrated(traffic: Traffic, calibration: Calibration | None = None) -> Predictor:
    """Return a predictor for such traffic that rests on ``calibration``; None: the shipped one."""
    chosen = calibration or shipped()

    def predict(instance: Instance) -> Prediction:
        tpot, ttft = corrections(
            [instance], chosen, isl=traffic.prompt_tokens, osl=traffic.output_tokens, load=np.array([MIDDLING])
        )
        return Prediction(
            steps=calibrated_steps(instance, chosen, isl=traffic.prompt_tokens, osl=traffic.output_tokens),
            ttft=_ends(float(ttft.half[0])),
            tpot=_ends(float(tpot.half[0])),
            measured=basis_of(instance, chosen),
        )

    return predict


def _ends(half: float) -> tuple[float, float]:
    return math.exp(-half), math.exp(half)
