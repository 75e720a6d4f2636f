"""Replays of random small traces on the real engine: nothing is lost, and the same seed gives the same run."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.graph.build import Device, FleetBuilder
from plenum.model import DeviceKind, Request, View
from plenum.placement import POLICIES, Engine
from plenum.sim.arrivals import replay_arrivals
from plenum.sim.jobs import replay_jobs, request_frequencies
from plenum.sim.trace import Arrivals, ArrivalTrace, JobTrace

shares = st.builds(
    Request, gpus=st.just(1), gpu_milli=st.integers(1, 1000), cpu_milli=st.sampled_from((0, 4_000, 16_000))
)
wholes = st.builds(Request, gpus=st.integers(0, 9), cpu_milli=st.sampled_from((0, 4_000, 16_000)))
pod_lists = st.lists(shares | wholes, min_size=1, max_size=12)
policies = st.sampled_from(sorted(POLICIES))


def small_fleet(gpus: tuple[int, ...] = (8, 4, 2, 1)):
    builder = FleetBuilder("small")
    for i, count in enumerate(gpus):
        devices = [Device(kind=DeviceKind.GPU, model="T4")] * count
        builder.node(f"n{i}", budgets={"cpu_milli": 32_000, "memory_bytes": 2**40, "pods": 30}, devices=devices)
    return builder.build()


FLEET = small_fleet()


@settings(max_examples=60, deadline=None)
@given(pods=pod_lists, policy=policies, seed=st.integers(0, 2**32 - 1), samples=st.integers(1, 20))
def test_arrivals_are_conserved_and_repeat(pods, policy, seed, samples) -> None:
    rng = np.random.default_rng(seed)
    arrivals = Arrivals(order=rng.integers(0, len(pods), 40), node_rank=rng.permutation(FLEET.n_nodes))
    trace = ArrivalTrace.of_pods("random", FLEET, pods, {seed: arrivals})

    def run(points: int):
        engine = Engine(
            View(fleet=FLEET),
            POLICIES[policy],
            np.random.default_rng(seed),
            node_rank=arrivals.node_rank,
            frequencies=trace.frequencies,
        )
        return replay_arrivals(trace, arrivals, engine, samples=points), engine.free_gpu_milli

    replay, free = run(samples)
    again, _ = run(1)
    asked = np.array([pods[i].total_gpu_milli for i in arrivals.order])
    failed = asked[replay.node < 0].sum()
    assert replay.allocated_gpu_milli[-1] == asked.sum() - failed == replay.capacity_gpu_milli - free
    assert replay.failed_count == np.count_nonzero(replay.node < 0)
    assert (np.diff(replay.allocated_gpu_milli) >= 0).all()
    assert (replay.fragmented_gpu_milli <= replay.capacity_gpu_milli - replay.allocated_gpu_milli + 1e-6).all()
    assert np.array_equal(replay.node, again.node)


@settings(max_examples=40, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=25),
    policy=policies,
    discipline=st.sampled_from(("fifo", "backfill")),
)
def test_every_job_starts_once_or_never_and_gives_all_back(jobs, policy, discipline) -> None:
    submit_s, duration_s, gpus = (np.array(column) for column in zip(*sorted(jobs), strict=True))
    trace = JobTrace(
        name="random",
        submit_s=submit_s.astype(float),
        duration_s=duration_s.astype(float),
        gpus=gpus.astype(np.int32),
        tenant=("t",) * len(jobs),
        priority=np.zeros(len(jobs), np.int32),
    )

    def run():
        engine = Engine(View(fleet=FLEET), POLICIES[policy], frequencies=request_frequencies(trace, 8))
        return replay_jobs(trace, engine, gpus_per_node=8, discipline=discipline, patience_s=10), engine

    replay, engine = run()
    again, _ = run()
    started = ~np.isnan(replay.start_s)
    # A replica has eight GPUs or fewer; sixteen or more cannot be had: there is one node of eight.
    assert started[gpus <= 8].all()
    assert not started[gpus >= 16].any()
    assert (replay.start_s[started] >= submit_s[started]).all()
    assert engine.free_gpu_milli == 1000 * FLEET.n_gpus
    assert not engine.running
    assert replay.busy_gpu_milli.max() <= 1000 * FLEET.n_gpus
    held = float(replay.busy_gpu_milli[:-1] @ np.diff(replay.time_s))
    assert held == 1000.0 * float((duration_s * gpus)[started].sum())
    assert np.array_equal(replay.start_s, again.start_s, equal_nan=True)
