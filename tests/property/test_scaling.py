"""Scaling holds still on constant load, whatever it is told."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serving_samples import pool_of, serving_of, steps_of

from plenum.serving import scaling
from plenum.serving.instance import EngineSettings
from plenum.serving.workload import Slo, requests_of
from plenum.sim.serving import Policies, Scaling, Simulation
from plenum.sim.serving import fields as f

LIMITS = st.builds(
    lambda least, more, tolerance, window_s, step: scaling.limits(
        least, least + more, tolerance=tolerance, window_s=window_s, max_step=step
    ),
    least=st.integers(0, 3),
    more=st.integers(1, 12),
    tolerance=st.sampled_from((0.0, 0.1, 0.3)),
    window_s=st.sampled_from((0.0, 30.0, 100.0)),
    step=st.integers(1, 5),
)


@given(LIMITS, st.integers(0, 15), st.floats(0.01, 30), st.floats(0.1, 100))
def test_constant_load_is_met_once_and_for_all(limit, start, wanted, rate_rps) -> None:
    history, current, seen = scaling.history_of(limit), min(start, limit.most), []
    for tick in range(150):
        current = scaling.desired(limit, history, 10.0 * tick, current, wanted, rate_rps, 0.0)
        seen.append(current)
    assert seen[-1] == seen[-60], "it settles"
    ups = sum(b > a for a, b in itertools.pairwise(seen))
    downs = sum(b < a for a, b in itertools.pairwise(seen))
    assert not (ups and downs), "and goes one way only"
    right = min(max(math.ceil(wanted - 1e-9), limit.least, 1), limit.most)
    assert right <= seen[-1] or wanted <= seen[-1] * (1 + limit.tolerance)
    assert seen[-1] <= max(right, math.ceil(wanted / (1 - limit.tolerance)) + 1)


@given(LIMITS, st.integers(1, 15), st.floats(0.1, 100), st.lists(st.floats(0, 40), min_size=1, max_size=40))
def test_no_signal_makes_it_oscillate_for_ever(limit, start, rate_rps, signals) -> None:
    """At a constant rate it turns from down to up at most ``most`` times, though what is wanted goes up and down for ever."""
    history, current, direction, turns = scaling.history_of(limit), min(start, limit.most), 0, 0
    for tick in range(1200):
        wanted = signals[tick // 12 % len(signals)]
        after = scaling.desired(limit, history, 10.0 * tick, current, wanted, rate_rps, 0.0)
        assert min(max(limit.least, 1), current) <= after <= limit.most
        assert abs(after - current) <= limit.max_step or current < limit.least
        if after != current:
            turns += after > current and direction < 0
            direction = 1 if after > current else -1
        current = after
    assert turns <= limit.most


@given(st.integers(2, 12), st.floats(0.3, 11.0))
def test_feedback_through_slower_replicas_does_not_make_it_oscillate(most, load) -> None:
    """Concurrency rises steeply as replicas get busy: the signal that a step down changes most."""
    limit = scaling.limits(1, most, window_s=30.0, max_step=2)
    history, current, seen = scaling.history_of(limit), 1, []
    for tick in range(600):
        busy = min(load / current, 0.98)
        concurrency = load / (1 - busy)
        wanted = scaling.wanted_for_load(current, concurrency, 2.0, busy, 0.9)
        current = scaling.desired(limit, history, 10.0 * tick, current, wanted, load, 0.0)
        seen.append(current)
    assert len(set(seen[300:])) == 1


@given(st.floats(0.01, 30), st.floats(0.01, 30), st.integers(1, 8), st.integers(1, 8), st.integers(1, 120))
def test_a_budget_is_shared_so_that_the_scarcer_pool_gets_most(prefill, decode, prefill_gpus, decode_gpus, budget):
    p, d = scaling.share_budget(prefill, decode, prefill_gpus, decode_gpus, budget)
    if budget < prefill_gpus + decode_gpus:
        assert (p, d) == (0, 0)
        return
    assert p * prefill_gpus + d * decode_gpus <= budget

    def served(a: int, b: int) -> float:
        return min(a / prefill, b / decode, 1.0)

    every = (
        served(a, b)
        for a in range(1, budget // prefill_gpus + 1)
        for b in range(1, (budget - a * prefill_gpus) // decode_gpus + 1)
    )
    assert served(p, d) >= max(every) - 1e-12


@settings(max_examples=12)
@given(st.floats(0.5, 9.0), st.integers(0, 2**31), st.integers(1, 6))
def test_by_promise_a_steady_stream_in_the_simulator_settles(rate_rps, seed, initial) -> None:
    """Poisson arrivals at one rate, whatever it is: the direction turns at most twice in 40 minutes, and the promise is kept."""
    rng = np.random.default_rng(seed)
    arrival_s = np.sort(rng.uniform(0, 2400.0, rng.poisson(rate_rps * 2400.0)))
    requests = requests_of(arrival_s, np.full(len(arrival_s), 60), np.full(len(arrival_s), 20))
    slow = steps_of(
        fixed_s=0.02, linear_weights_s=0.03, linear_token_s=1e-3, sequence_s=1e-3, decode_context_s=2e-5
    )  # one bears about two requests a second
    serving = serving_of(pool_of(EngineSettings(block_tokens=4), slow, 6, cache_tokens=8000))
    by = Scaling(by="slo", ttft_s=3.0, tpot_s=0.12, initial=initial, cold_start_s=20.0, drain_s=10.0)
    simulation = Simulation(requests, serving, Policies(scaling=by), seed=0)
    seen: list[int] = []
    while not simulation.advance(100):
        condition = simulation._world.ni[f.CONDITION]
        active = int(((condition == f.UP) | (condition == f.STARTING)).sum())
        if seen[-1:] != [active]:
            seen.append(active)
    steps = np.sign(np.diff(seen))
    assert (np.diff(steps) != 0).sum() <= 2, seen
    assert simulation.outcome().report(Slo(ttft_s=3.0, tpot_s=0.12), after_s=300.0).slo_attained > 0.98
