"""How long a serving plan takes: the question that NVIDIA's planner documents, and harder ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from time import process_time

from benchmarks.findings import Finding, below, p50, timed_ms
from plenum.planning.serving.plan import ServingPlan, plan_serving
from plenum.planning.serving.prediction import calibrated
from plenum.planning.serving.question import Question, Stock, steady_traffic
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.pools import Serving
from plenum.serving.report import ServingReport
from plenum.serving.workload import Slo

TARGET_S = 1.0
THEIRS_S = 18.0
"""Seconds of NVIDIA's aiconfigurator for the first question as published (18 to 20): a figure of the literature, not of this machine."""

ROUNDS = 5
REQUESTS = 2_000
SHELL = "plan serving --model Llama-3.1-70B --hardware H200 --gpus 32 --isl 4000 --osl 500 --ttft-p99 1s --tpot-p99 40ms -o json"


def bench() -> Iterator[Finding]:
    """Yield warm times of the search, of the search with simulation, and of the whole process."""
    asked = _question("H200:32")
    yield from _times("70B on 32 H200, searched", asked, simulate=False, theirs=True)
    yield from _times("70B on 32 H200, searched and simulated", asked, simulate=True, theirs=True)
    mixed = replace(_question("H200,H100,B200"), weights=("fp8", "bf16"), caches=("bf16", "fp8"))
    yield from _times(
        "20 requests/s on any of three GPUs, four formats, searched",
        replace(mixed, traffic=steady_traffic(20.0, 4000, 500)),
        simulate=False,
    )
    experts = replace(_question("GB200:72"), model=model_named("DeepSeek-V3"), weights=("fp8_block",))
    yield from _times("DeepSeek-V3 on 72 GB200, searched", experts, simulate=False)
    yield _process()


def _question(hardware: str) -> Question:
    stocks = []
    for part in hardware.split(","):
        name, _, count = part.partition(":")
        stocks.append(Stock(hardware=accelerator_named(name), count=int(count or 0)))
    return Question(
        model=model_named("Llama-3.1-70B"),
        stocks=tuple(stocks),
        traffic=steady_traffic(0.0, 4000, 500),
        slo=Slo(ttft_s=1.0, tpot_s=0.04),
        weights=("fp8", "bf16"),
    )


def _times(what: str, asked: Question, *, simulate: bool, theirs: bool = False) -> Iterator[Finding]:
    plans: list[ServingPlan] = []

    def plan() -> None:
        answer = plan_serving(asked, calibrated(asked.traffic), _simulated if simulate else None)
        assert isinstance(answer, ServingPlan), answer
        plans.append(answer)

    plan()  # compiles, or loads what was compiled
    before_s = process_time()
    taken_s = p50(timed_ms([plan] * ROUNDS)) / 1e3
    cpu_s = (process_time() - before_s) / ROUNDS
    best = plans[-1]
    found = f"{best.options} options, {best.tried:,} loads, {len(best.points):,} points; {best.recommended.rate_rps:.3g} requests/s"
    yield Finding(
        bench="planner",
        what=what,
        value=taken_s,
        unit="s",
        baseline=f"aiconfigurator, {THEIRS_S:g} to 20 s (literature)" if theirs else "",
        ratio=THEIRS_S / taken_s if theirs else None,
        target=below(TARGET_S, "s", taken_s),
        note=f"{cpu_s:.2f} CPU-s; {found}",
    )


def _simulated(serving: Serving, rate_rps: float) -> ServingReport:
    import numpy as np

    from plenum.serving.workload import requests_of
    from plenum.sim.serving.simulate import simulate

    arrivals = np.cumsum(np.random.default_rng(1).exponential(1.0 / rate_rps, REQUESTS))
    requests = requests_of(arrivals, np.full(REQUESTS, 4000), np.full(REQUESTS, 500))
    return simulate(requests, serving, seed=1).report()


def _process() -> Finding:
    command = [sys.executable, "-m", "plenum", *SHELL.split()]

    def run() -> None:
        subprocess.run(command, check=True, capture_output=True)

    run()
    taken_s = p50(timed_ms([run] * 3)) / 1e3
    return Finding(
        bench="planner",
        what="the same as a command, start of Python and simulation included",
        value=taken_s,
        unit="s",
        baseline=f"aiconfigurator, {THEIRS_S:g} to 20 s (literature)",
        ratio=THEIRS_S / taken_s,
    )
