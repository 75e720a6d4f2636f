"""The simulator as a queue whose behaviour theory knows: M/M/1, M/G/1, M/D/1 and M/D/c.

Waits of a run are correlated, so that the standard error is taken from the means of batches of successive requests; the simulated mean
has to lie within four of them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.serving_samples import pool_of, serving_of, steps_of

from plenum.serving.instance import EngineSettings
from plenum.serving.workload import requests_of
from plenum.sim.serving import Policies, simulate

BATCHES = 40
ERRORS = 4.0


def waits(rate: float, output: np.ndarray, servers: int, seconds: float, seed: int) -> np.ndarray:
    """Serve Poisson arrivals one at a time on each server, at ``seconds`` a token, from one queue; returns the time each waits."""
    arrival = np.random.default_rng(seed).exponential(1 / rate, len(output)).cumsum()
    engine = EngineSettings(max_sequences=1, prefix_caching=False)
    pool = pool_of(engine, steps_of(only=1.0, fixed_s=seconds), servers, cache_tokens=100_000)
    requests = requests_of(arrival, np.ones(len(output), np.int32), output)
    outcome = simulate(requests, serving_of(pool), Policies(central_queue=True), seed=seed)
    np.testing.assert_allclose(outcome.area_s, (outcome.finish_s - outcome.ready_s).sum(), rtol=1e-9)
    return outcome.queue_s[len(output) // 20 :]  # the first twentieth fills an empty system


def assert_mean(found: np.ndarray, expected: float) -> None:
    means = np.array([batch.mean() for batch in np.array_split(found, BATCHES)])
    error = means.std(ddof=1) / math.sqrt(BATCHES)
    assert error < 0.1 * expected  # else the comparison says nothing
    assert found.mean() == pytest.approx(expected, abs=ERRORS * error)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_m_m_1_with_service_by_output_length(load):
    """Geometric lengths of 40 tokens at 25 ms: exponential service of 1 s but for the grain of a token, which Pollaczek and Khinchine
    take into account; M/M/1 itself is 1.3 % above that.
    """
    part = 1 / 40
    output = np.random.default_rng(1).geometric(part, 150_000)
    second_moment = (2 - part) / part**2 * 0.025**2
    wait = load * second_moment / (2 * (1 - load))
    assert wait == pytest.approx(load / (1 - load), rel=0.02)
    assert_mean(waits(load, output, 1, 0.025, 2), wait)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.9), (4, 0.8), (10, 0.9)])
def test_m_d_c(servers, load):
    expected = mean_wait_m_d_c(servers, load)
    if servers == 1:
        assert expected == pytest.approx(load / (2 * (1 - load)), rel=1e-6)
    assert_mean(waits(load * servers, np.ones(300_000, np.int32), servers, 1.0, 3), expected)


def mean_wait_m_d_c(servers: int, load: float) -> float:
    """Mean wait at service time 1: whoever is in service now is gone in 1, and who has come since is there (Crommelin 1932)."""
    rate, size = load * servers, 60 * servers + 300
    k = np.arange(size)
    arrivals = np.exp(k * math.log(rate) - rate - np.array([math.lgamma(n + 1) for n in k]))
    present = np.zeros(size)
    present[0] = 1.0
    for _ in range(4000):
        left = np.append(present[: servers + 1].sum(), present[servers + 1 :])
        present = np.convolve(left, arrivals)[:size]
    waiting = float((np.maximum(k - servers, 0) * present).sum())
    return waiting / rate


def test_deterministic_service_is_best_dealt_out_in_turn():
    """With equal service times, taking turns is as good as one queue, and so is joining the shortest; chance makes c queues M/D/1."""
    output = np.ones(100_000, np.int32)
    arrival = np.random.default_rng(5).exponential(1 / 3.2, len(output)).cumsum()
    engine = EngineSettings(max_sequences=1, prefix_caching=False)
    serving = serving_of(pool_of(engine, steps_of(only=1.0, fixed_s=1.0), 4, cache_tokens=100_000))
    requests = requests_of(arrival, output, output)

    def mean(policies: Policies) -> float:
        return float(simulate(requests, serving, policies, seed=0).queue_s.mean())

    together = mean(Policies(central_queue=True))
    assert mean(Policies(routing="round-robin")) == pytest.approx(together)
    assert mean(Policies(routing="least-loaded")) == pytest.approx(together)
    assert mean(Policies(routing="random")) == pytest.approx(0.8 / (2 * 0.2), rel=0.1)
