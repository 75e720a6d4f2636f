"""Questions for tests of the planner; coefficients are those of the roofline, so that no calibration moves the answers."""

from __future__ import annotations

from typing import Any

from plenum.planning.serving.options import Prediction
from plenum.planning.serving.question import Question, Stock, steady_traffic
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.instance import Instance
from plenum.serving.roofline import compile_steps
from plenum.serving.workload import Slo


def predict(instance: Instance) -> Prediction:
    return Prediction(steps=compile_steps(instance), ttft=(0.7, 1.5), tpot=(0.8, 1.25), measured="nothing")


def question(
    hardware: str = "H200:32",
    *,
    model: str = "Llama-3.1-70B",
    rps: float = 0.0,
    isl: float = 4000,
    osl: float = 500,
    ttft_s: float = 1.0,
    tpot_s: float = 0.04,
    weights: tuple[str, ...] = ("fp8",),
    **others: Any,
) -> Question:
    stocks = []
    for part in hardware.split(","):
        name, _, count = part.partition(":")
        stocks.append(Stock(hardware=accelerator_named(name), count=int(count or 0)))
    return Question(
        model=model_named(model),
        stocks=tuple(stocks),
        traffic=steady_traffic(rps, isl, osl),
        slo=Slo(ttft_s=ttft_s, tpot_s=tpot_s),
        weights=weights,
        **others,
    )
