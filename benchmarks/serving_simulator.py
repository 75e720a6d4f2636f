"""Speed of the serving simulator on a production hour, and how close it comes to queueing theory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from time import process_time

import numpy as np

from benchmarks.findings import Finding, Target, at_least, below
from plenum.adapters.traces import azure
from plenum.adapters.traces.folder import find_data
from plenum.serving.calibration import calibrated_steps
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.instance import EngineSettings, Instance, Parallelism
from plenum.serving.pools import Pool, Serving
from plenum.serving.roofline import compile_steps
from plenum.serving.steps import AT, StepModel
from plenum.serving.workload import Requests, requests_of
from plenum.sim.serving import Outcome, Policies, simulate
from plenum.sim.serving.slices import first, scaled

MACHINES = 40
SPLITS = {"all do both": (MACHINES, 0, 0), "25 prefill, 15 decode": (0, 25, 15)}

SPLITWISE_SIM = (145.0, 310.0)
"""Requests per CPU-second of splitwise-sim (github.com/Mutinifni/splitwise-sim, a discrete-event simulator in Python) on this kind of
cluster and trace, slowest and fastest run."""

TIMES_AS_FAST = 100.0
MOST_S = 2.0
REPEATS = 5
ERRORS = 4.0
QUEUED = 200_000


def bench() -> Iterator[Finding]:
    """Yield only the queues where the trace is absent."""
    data = find_data(None, os.environ)
    if data is not None and (data / azure.CONVERSATION).is_file():
        yield from _hour(azure.read_conversation(data))
    yield from _queues()


def _hour(trace: Requests) -> Iterator[Finding]:
    instance = Instance(
        model=model_named("Llama-2-70B"),
        hardware=accelerator_named("H100"),
        parallelism=Parallelism(tp=8),
        settings=EngineSettings(max_batched_tokens=2048),
    )
    steps = calibrated_steps(instance)
    for load in (1.0, 10.0):
        requests = scaled(trace, load)
        for name, counts in SPLITS.items():
            pools = tuple(
                Pool(instance=instance, steps=steps, count=count, role=role)
                for role, count in zip(("both", "prefill", "decode"), counts, strict=True)
                if count
            )
            taken, outcome = _timed(requests, Serving(pools=pools, transfer_bps=50e9))
            report = outcome.report()
            iterations = outcome.instances.iterations.sum() / 1e6
            seen = f"TTFT p99 {report.ttft_s.p99:.2f} s, TPOT p99 {1e3 * report.tpot_s.p99:.0f} ms"
            note = (
                f"one core, best of {REPEATS}; {iterations:.1f} M iterations; {seen}, {report.energy_j / 3.6e6:.0f} kWh"
            )
            title = f"{len(requests):,} requests of the Azure hour at {load:g}x, {MACHINES} DGX-H100, {name}"
            speed = len(requests) / taken
            slowest, fastest = (speed / published for published in SPLITWISE_SIM)
            yield Finding(
                bench="serving",
                what=title,
                value=taken,
                unit="CPU-s",
                target=below(MOST_S, "s", taken) if load == 1.0 else None,
                note=note,
            )
            yield Finding(
                bench="serving",
                what="its speed",
                value=speed,
                unit="requests/CPU-s",
                baseline=f"splitwise-sim, {SPLITWISE_SIM[0]:g} to {SPLITWISE_SIM[1]:g}",
                ratio=fastest,
                target=at_least(TIMES_AS_FAST, "x its fastest", fastest) if load == 1.0 else None,
                note=f"{slowest:.0f} to {fastest:.0f} times as fast",
            )


def _timed(requests: Requests, serving: Serving) -> tuple[float, Outcome]:
    simulate(first(requests, 1), serving, seed=0)  # compiles, or loads what was compiled
    best, outcome = math.inf, None
    for _ in range(REPEATS):
        start = process_time()
        outcome = simulate(requests, serving, seed=0)
        best = min(best, process_time() - start)
    assert outcome is not None
    return best, outcome


def _queues() -> Iterator[Finding]:
    rng = np.random.default_rng(3)
    lengths = rng.geometric(1 / 40, QUEUED)
    second_moment = (2 - 1 / 40) * 40**2 * 0.025**2
    yield _queue("M/M/1 at 0.8 (by output length)", lengths, 0.8, 1, 0.025, 0.8 * second_moment / (2 * 0.2))
    yield _queue("M/D/1 at 0.9", np.ones(QUEUED, np.int32), 0.9, 1, 1.0, 0.9 / (2 * 0.1))


def _queue(name: str, output: np.ndarray, load: float, servers: int, token_s: float, expected_s: float) -> Finding:
    arrival = np.random.default_rng(5).exponential(1 / (load * servers), len(output)).cumsum()
    outcome = simulate(requests_of(arrival, np.ones_like(output), output), _server(servers, token_s), _TOGETHER, seed=0)
    waits = outcome.queue_s[len(output) // 20 :]
    means = np.array([batch.mean() for batch in np.array_split(waits, 40)])
    error = float(means.std(ddof=1) / math.sqrt(len(means)))
    off = abs(float(waits.mean()) - expected_s)
    return Finding(
        bench="serving",
        what=f"{name}: mean wait",
        value=float(waits.mean()),
        unit="s",
        baseline=f"theory: {expected_s:.4g} s",
        ratio=float(waits.mean()) / expected_s,
        target=Target(words=f"within {ERRORS:g} standard errors", met=off <= ERRORS * error),
        note=f"standard error {error:.2g} s",
    )


_TOGETHER = Policies(central_queue=True)


def _server(servers: int, token_s: float) -> Serving:
    """Servers that take one request at a time, and ``token_s`` for each of its tokens."""
    instance = Instance(
        model=model_named("Llama-3.1-8B"),
        hardware=accelerator_named("H100"),
        settings=EngineSettings(max_sequences=1, prefix_caching=False),
    )
    only_fixed = np.zeros_like(compile_steps(instance).coefficients)
    only_fixed[[AT[name] for name in ("stages", "prefill_scale", "decode_scale", "groups", "decode_width")]] = 1.0
    only_fixed[AT["fixed_s"]] = token_s
    return Serving(pools=(Pool(instance=instance, steps=StepModel(coefficients=only_fixed), count=servers),))
