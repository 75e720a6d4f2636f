"""What is learned of replicas stays a number, whatever is measured for however long."""

import math
import random

import pytest

from plenum.gateway.forecast import Forecast


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
