"""The planner's predictions: coefficients and intervals as calibration has them."""

from __future__ import annotations

import math

import numpy as np

from plenum.planning.serving.options import Prediction, Predictor
from plenum.planning.serving.question import Traffic
from plenum.serving.calibration import Calibration, calibrated_steps, group_of, shipped
from plenum.serving.instance import Instance
from plenum.serving.predict import corrections

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
            steps=calibrated_steps(instance, chosen, isl=traffic.prompt_tokens),
            ttft=_ends(float(ttft.half[0])),
            tpot=_ends(float(tpot.half[0])),
            measured=_measured(instance, chosen),
        )

    return predict


def _ends(half: float) -> tuple[float, float]:
    return math.exp(-half), math.exp(half)


def _measured(instance: Instance, calibration: Calibration) -> str:
    """Say what a prediction rests on."""
    engine, hardware = instance.settings.engine, instance.hardware.name
    if group_of(instance) in calibration.offsets:
        return f"{calibration.name}: {instance.model.name} in {instance.precision.weights} was measured on {hardware} under {engine}"
    if f"{engine}|{hardware}" in calibration.efficiencies:
        return f"{calibration.name}: other models were measured on {hardware} under {engine}, this one was not"
    if engine in calibration.efficiencies:
        return f"{calibration.name}: {engine} was measured, but not on {hardware}"
    return f"data sheets: {engine} on {hardware} was not measured"
