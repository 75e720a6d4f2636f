"""What is learned of replicas stays a number, whatever is measured for however long."""

import math
import random

import pytest

from plenum.gateway.forecast import MIX_EVERY, Forecast
from plenum.gateway.foresight import foresee
from plenum.model.endpoint import Endpoint
from plenum.serving.calibration import UNCALIBRATED


@pytest.mark.parametrize("seed", range(4))
def test_measurements_that_hardly_differ_spoil_nothing(seed):
    """Thousands of equal prompts leave directions that nothing is measured along, where rounding grows."""
    rng, forecast = random.Random(seed), Forecast()
    for number in range(20_000):
        features = (
            3.0 if number % 3 else 2.0,
            0.0,
            rng.choice([0.0, 3.0, 30.0]),
            0.0,
            rng.choice([0.0, 1.0, 5.0, 31.0]),
        )
        forecast.learn_ttft(features, rng.expovariate(100.0) + 1e-4)
    assert math.isfinite(forecast.ttft_errors.high)
    assert 1e-4 < forecast.ttft_s(3.0, 0.0, 3.0, 0.0, 1.0) < 0.2


@pytest.mark.parametrize("seed", range(2))
def test_an_even_load_for_hours_is_known_as_well_as_at_first(seed):
    """Neither number of requests nor time varies, and a few stragglers come between."""
    rng, forecast = random.Random(seed), Forecast()
    for _ in range(20_000):
        late = rng.uniform(1.0, 20.0) if rng.random() < 0.1 else math.exp(rng.gauss(0.0, 0.02))
        forecast.learn_tpot(float(rng.choice((9, 10, 10, 11, 12))), 0.0052 * late)
    assert forecast.tpot_s(10.0) == pytest.approx(0.0052, rel=0.1)


def test_an_answer_that_came_in_one_piece_outweighs_no_others():
    """Its tokens are next to no time apart, which says nothing of its replica."""
    rng, forecast = random.Random(0), Forecast()
    for number in range(400):
        running = float(rng.randint(1, 8))
        forecast.learn_tpot(running, (0.02 + 0.001 * running) * rng.uniform(0.9, 1.1))
        if number == 200:
            forecast.learn_tpot(running, 0.0)
            assert forecast.tpot_s(4.0) == pytest.approx(0.024, rel=0.3)
    assert forecast.tpot_s(4.0) == pytest.approx(0.024, rel=0.15)
    assert forecast.tpot_errors.high < 1.5
    for _ in range(60):
        forecast.learn_tpot(4.0, 0.0005)
    assert forecast.tpot_s(4.0) == pytest.approx(0.0005, rel=0.1), "one that became faster is known soon"


def test_what_is_measured_of_a_replica_is_what_is_predicted():
    rng, forecast = random.Random(3), Forecast()
    for _ in range(3_000):
        running, tokens = float(rng.randint(1, 30)), float(rng.randint(10, 4_000))
        noise = rng.uniform(0.9, 1.1)
        forecast.learn_tpot(running, (0.03 + 0.002 * running) * noise)
        forecast.learn_ttft((tokens, 0.0, 0.0, 0.0, running), (0.05 + 0.3 * tokens / 1_000 + 0.003 * running) * noise)
    assert forecast.tpot_s(20.0) == pytest.approx(0.07, rel=0.1)
    assert forecast.ttft_s(2_000.0, 0.0, 0.0, 0.0, 10.0) == pytest.approx(0.68, rel=0.1)


def test_the_performance_model_is_taken_for_the_lengths_that_are_seen_and_for_ones_own_measurements():
    spec = Endpoint(name="m", model="x", engine="emulated", timing_model="llama-3.1-8b", timing_hardware="H100")
    shipped, own = foresee(spec), foresee(spec, UNCALIBRATED)
    assert own.tpot_s(8.0) != shipped.tpot_s(8.0)
    before = own.tpot_s(8.0)
    for _ in range(MIX_EVERY):
        own.learn_mix(16_000, 200)
    assert own.tpot_s(8.0) > before, "longer contexts take longer to read"
    after = own.tpot_s(8.0)
    for _ in range(3 * MIX_EVERY):
        own.learn_mix(17_000, 200)
    assert own.tpot_s(8.0) == after, "what hardly differs is no reason to take it anew"
