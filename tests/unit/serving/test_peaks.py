from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from plenum.serving.calibration import Calibration, calibrated_steps, group_of, shipped
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import MODELS, model_named
from plenum.serving.formats import FORMATS, Precision
from plenum.serving.instance import EngineSettings, Instance, Parallelism, cache_capacity_tokens
from plenum.serving.peaks import BANDWIDTH_MOST, COMPUTE_MOST, bandwidth_use, compute_use
from plenum.serving.predict import predict
from plenum.serving.roofline import Efficiency, computed_in, work_of
from plenum.serving.steps import StepModel, chunk_pairs, chunk_pairs_window, step

MEASURED = sorted(key for key in shipped().efficiencies if "|" in key)
"""Engines and accelerators of the shipped calibration."""


def instances(engine: str, hardware: str) -> Iterator[Instance]:
    """Every catalogued model in every format of weights that fits on one to eight devices."""
    at = accelerator_named(hardware)
    for model in MODELS.values():
        for name in sorted(FORMATS):
            cache = "fp8" if FORMATS[name].bits <= 8 else "bf16"
            for tp in (1, 2, 4, 8):
                found = Instance(
                    model=model,
                    hardware=at,
                    precision=Precision(weights=name, kv_cache=cache),
                    parallelism=Parallelism(tp=tp),
                    settings=EngineSettings(engine=engine),
                )
                if computed_in(at, FORMATS[name]) and cache_capacity_tokens(found, 4096) > 4096:
                    yield found


def matrix_use(instance: Instance, steps: StepModel, tokens: float) -> float:
    """Part of peak FLOP/s of the matrices alone that one prompt of ``tokens`` reaches."""
    model, at = instance.model, instance.hardware
    peak = at.peak_flops[computed_in(at, FORMATS[instance.precision.weights])]
    flops = 2.0 * (model.active_parameters - model.hidden * model.vocab) * tokens
    near = chunk_pairs_window(0, tokens, steps["window"])
    seconds = step(steps.coefficients, tokens, chunk_pairs(0, tokens), near, 1.0, 0.0, 0.0, 0.0)[0]
    return flops / (peak * instance.devices * seconds)


def reading_use(instance: Instance, steps: StepModel, context: float) -> float:
    """Part of memory bandwidth that a single sequence's decoding reaches: the weights it visits, on every device."""
    model = instance.model
    values = model.active_parameters - model.hidden * model.vocab
    read = values * FORMATS[instance.precision.weights].bytes + model.hidden * model.vocab * 2.0
    near = min(context, steps["window"])
    seconds = step(steps.coefficients, 0.0, 0.0, 0.0, 0.0, 1.0, context, near)[0]
    return read / (instance.hardware.hbm_bps * instance.devices * seconds)


@pytest.mark.parametrize("key", MEASURED)
def test_no_shipped_instance_reaches_what_no_device_does(key):
    engine, hardware = key.split("|")
    seen = 0
    for instance in instances(engine, hardware):
        steps, work = calibrated_steps(instance), work_of(instance)
        named = f"{key} {instance.model.name} {instance.precision.weights} {instance.parallelism}"
        assert max(matrix_use(instance, steps, n) for n in (2048.0, 30_000.0)) <= 0.85, named
        assert reading_use(instance, steps, 1000.0) <= 0.95, named
        assert compute_use(steps.coefficients, work) <= COMPUTE_MOST + 1e-9, named
        assert bandwidth_use(steps.coefficients, work) <= BANDWIDTH_MOST + 1e-9, named
        seen += 1
    assert seen > 100


SMALL = Instance(model=model_named("Llama-3.1-8B"), hardware=accelerator_named("H100"))
PLAIN = replace(shipped(), efficiencies={"": Efficiency()}, offsets={})


def moved(tpot: float, ttft: float) -> Calibration:
    """A calibration that knows nothing but by how much times of the small instance differ from physics."""
    return replace(PLAIN, offsets={group_of(SMALL): (math.log(tpot), math.log(ttft))})


def test_a_residual_makes_no_work_faster_than_the_device():
    hurried = moved(0.25, 0.25)
    slow, quick = calibrated_steps(SMALL, PLAIN), calibrated_steps(SMALL, hurried)
    assert slow["prefill_scale"] == slow["decode_scale"] == 1.0
    assert compute_use(quick.coefficients, work_of(SMALL)) == pytest.approx(COMPUTE_MOST, abs=0.01)
    assert bandwidth_use(quick.coefficients, work_of(SMALL)) == pytest.approx(BANDWIDTH_MOST, abs=0.01)
    # What prefill cannot be faster by, the request's time outside iterations is.
    assert quick["request_s"] < slow["request_s"] * math.exp(-0.7)
    said = predict(SMALL, isl=8000, osl=200, concurrency=1, calibration=hurried)
    model, at = SMALL.model, SMALL.hardware
    flops = 2.0 * (model.active_parameters - model.hidden * model.vocab) * 8000
    assert said.ttft_s * at.peak_flops["bf16"] * 0.85 > flops
    assert said.tpot_s * at.hbm_bps * 0.95 > 2.0 * model.active_parameters


def test_a_residual_within_reach_is_kept_whole():
    steps = calibrated_steps(SMALL, moved(1.3, 1.5))
    assert (steps["decode_scale"], steps["prefill_scale"]) == pytest.approx((1.3, 1.5))
    assert steps["request_s"] == pytest.approx(Efficiency().request_s * 1.5)
