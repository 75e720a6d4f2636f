"""Predictor, planner and simulator say the same of the same instances under the same requests.

They run on the same coefficients; what may differ is the queue: formulas in the first two, every iteration in the third. Tolerances:
TPOT within 10 % up to 85 % of what the instances bear, TTFT within 20 %. Of runs as long as these, means of the simulator
themselves repeat to about 3 % (TPOT) and 6 % (TTFT) near saturation, and a fixed point about means lacks the waves of load above it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from plenum.planning.serving.layout import Layout, PoolChoice, compiled, figures_at
from plenum.planning.serving.load import load_of
from plenum.planning.serving.options import Option
from plenum.planning.serving.prediction import calibrated
from plenum.planning.serving.question import steady_traffic
from plenum.serving.calibration import calibrated_steps
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.formats import Precision
from plenum.serving.instance import EngineSettings, Instance, Parallelism, cache_capacity_tokens
from plenum.serving.pools import Pool, Serving
from plenum.serving.predict import Prediction, predict
from plenum.serving.queueing import TPOT, TTFT
from plenum.serving.workload import requests_of
from plenum.sim.serving import simulate

REQUESTS = 4000


def instance(model: str, hardware: str, weights: str = "fp8", chunk: int = 8192, **spread: int) -> Instance:
    return Instance(
        model=model_named(model),
        hardware=accelerator_named(hardware),
        precision=Precision(weights=weights, kv_cache="fp8"),
        parallelism=Parallelism(**spread),
        settings=EngineSettings(max_sequences=1024, max_batched_tokens=chunk),
    )


CASES = {
    "70B on two of two H200": (instance("Llama-3.1-70B", "H200", tp=2), 2, 4000, 500),
    "70B on four H100": (instance("Llama-3.1-70B", "H100", tp=4), 1, 2000, 300),
    "8B on one H100": (instance("Llama-3.1-8B", "H100"), 1, 1000, 200),
    "8B on four L40S": (instance("Llama-3.1-8B", "L40S"), 4, 2000, 300),
    "32B on two H200": (instance("Qwen3-32B", "H200", tp=2), 1, 1000, 1000),
    "experts on one B200": (instance("gpt-oss-120b", "B200", "mxfp4"), 1, 4000, 300),
    "experts of eight groups": (instance("DeepSeek-R1", "B200", dp=8, ep=8), 1, 3000, 500),
    "prompts in two chunks": (instance("Llama-3.1-8B", "H100", chunk=2048), 2, 4000, 200),
    "answers of one token": (instance("Llama-3.1-8B", "H100"), 1, 200, 1),
}


def predicted(case: str, rate_rps: float) -> Prediction:
    of, count, isl, osl = CASES[case]
    return predict(of, isl=isl, osl=osl, rate_rps=rate_rps, workers=count)


@cache
def most_rps(case: str) -> float:
    """Requests a second beyond which the predictor calls it saturated."""
    low, high = 0.0, 1000.0
    for _ in range(25):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if predicted(case, middle).saturated else (middle, high)
    return low


def simulated(case: str, rate_rps: float) -> tuple[float, float]:
    of, count, isl, osl = CASES[case]
    arrival_s = np.cumsum(np.random.default_rng(7).exponential(1 / rate_rps, REQUESTS))
    requests = requests_of(arrival_s, np.full(REQUESTS, isl), np.full(REQUESTS, osl))
    pool = Pool(instance=of, steps=calibrated_steps(of, isl=isl, osl=osl), count=count)
    report = simulate(requests, Serving(pools=(pool,)), seed=1).report(after_s=0.25 * arrival_s[-1])
    return report.tpot_s.mean, report.ttft_s.mean


@pytest.mark.parametrize("part", [0.2, 0.6, 0.85])
@pytest.mark.parametrize("case", CASES)
def test_predictor_and_simulator_agree(case: str, part: float) -> None:
    rate_rps = part * most_rps(case)
    found, (tpot_s, ttft_s) = predicted(case, rate_rps), simulated(case, rate_rps)
    if CASES[case][3] > 1:
        assert found.tpot_s == pytest.approx(tpot_s, rel=0.10)
        assert found.tpot_low_s < tpot_s < found.tpot_high_s
    assert found.ttft_s == pytest.approx(ttft_s, rel=0.20)
    assert found.ttft_low_s < ttft_s < found.ttft_high_s


@pytest.mark.parametrize("part", [0.2, 0.6, 0.85])
@pytest.mark.parametrize("case", CASES)
def test_predictor_and_planner_say_the_same(case: str, part: float) -> None:
    of, count, isl, osl = CASES[case]
    rate_rps, traffic = part * most_rps(case), steady_traffic(1.0, isl, osl)
    option = Option(
        instance=of, prediction=calibrated(traffic)(of), cache_tokens=cache_capacity_tokens(of, isl + 0.5 * osl)
    )
    chunk = of.settings.max_batched_tokens * of.parallelism.dp
    layout = Layout(pools=(PoolChoice(option=option, count=count, chunk=chunk),))
    total = figures_at(compiled(layout, isl), load_of(traffic), rate_rps).total
    found = predicted(case, rate_rps)
    assert (found.tpot_s if osl > 1 else 0.0, found.ttft_s) == pytest.approx((total[TPOT], total[TTFT]), rel=1e-6)
