"""Routing and disaggregation on production traces: hit rates and latencies of every policy, and what pools apart serve more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import numpy as np

from benchmarks.findings import Finding, at_least
from plenum.adapters.traces import azure, mooncake
from plenum.adapters.traces.folder import find_data
from plenum.cli.serving_cluster import Described, instance_of, serving_of
from plenum.serving.pools import Serving
from plenum.serving.routing import MOONCAKE, POLICIES
from plenum.serving.workload import Requests
from plenum.sim.serving import Outcome, Policies, simulate
from plenum.sim.serving.slices import first, scaled

REPLICAS, HOST_BYTES = 8, 10**12
LOADS = (1.0, 1.3)
GLOBAL_OVER_LOCAL = 2.36
"""Hits of a cache that all share over those of local ones, at most: Mooncake, FAST 2025."""

MACHINES, REQUESTS = 10, 6_000
PERCENTILES = (50, 90, 99)
LIMITS = ((2.0, 3.0, 6.0), (1.25, 1.5, 5.0), (1.25, 1.5, 5.0))
"""TTFT, time between tokens, end to end, over a request alone on a DGX-A100: Splitwise, table 6."""

SPLITWISE_AA = 2.15
"""Splitwise, section 6.2: times the throughput of as many A100 machines that do both."""


def bench() -> Iterator[Finding]:
    """Yield nothing where the traces are absent."""
    data = find_data(None, os.environ)
    if data is None or not (data / mooncake.CONVERSATION).is_file():
        return
    yield from _routing(mooncake.read_conversation(data))
    yield from _apart(first(azure.read_conversation(data), REQUESTS))


def _routing(trace: Requests) -> Iterator[Finding]:
    instance = instance_of(Described(model="llama-3.1-70b", hardware="H100", tp=4))
    isl, osl = _mean_lengths(trace)
    serving = serving_of(instance, replicas=REPLICAS, prefill=0, decode=0, dram_bytes=HOST_BYTES, isl=isl, osl=osl)
    most = _most_found(trace)
    for load in LOADS:
        requests = scaled(trace, load)
        bench_name = f"mooncake {load:g}x, {REPLICAS} x Llama-3.1-70B on 4 H100"
        runs: dict[str, Outcome] = {}
        for name, policy in POLICIES.items():
            if policy == MOONCAKE:  # without transfers between instances it is predicted-latency
                continue
            simulate(first(requests, 1), serving, seed=0)  # compiles, or loads what was compiled
            start = perf_counter()
            runs[name] = simulate(requests, serving, Policies(routing=name), seed=0)
            yield Finding(
                bench=bench_name,
                what=f"{load:g}x, {name}: simulated",
                value=len(requests) / (perf_counter() - start),
                unit="requests/s",
            )
        hits = {name: _hit_rate(run) for name, run in runs.items()}
        for name, run in runs.items():
            against = (
                at_least(GLOBAL_OVER_LOCAL, "x random", hits[name] / hits["random"]) if name == "prefix-aware" else None
            )
            yield Finding(
                bench=bench_name,
                what=f"{load:g}x, {name}: prompt tokens found",
                value=100 * hits[name],
                unit="%",
                baseline=f"random: {100 * hits['random']:.1f} %",
                ratio=hits[name] / hits["random"],
                target=against,
                note=f"at most {100 * most:.1f} % can be found",
            )
            for what, value in (("mean", np.mean), ("p99", lambda v: np.percentile(v, 99))):
                yield Finding(
                    bench=bench_name,
                    what=f"{load:g}x, {name}: TTFT {what}",
                    value=float(value(run.ttft_s)),
                    unit="s",
                    baseline=f"random: {value(runs['random'].ttft_s):.2f} s",
                    ratio=float(value(run.ttft_s) / value(runs["random"].ttft_s)),
                )


def _apart(trace: Requests) -> Iterator[Finding]:
    for hardware in ("A100", "H100"):
        reference = _figures(_served(trace, "A100", np.arange(len(trace)) * 1000.0, 1, 0, 0))
        together = _throughput(trace, hardware, reference, MACHINES, 0, 0)
        for prefill in range(5, MACHINES):
            rate = _throughput(trace, hardware, reference, 0, prefill, MACHINES - prefill)
            yield Finding(
                bench=f"azure-conv lengths, Llama-2-70B on {MACHINES} DGX-{hardware}",
                what=f"DGX-{hardware}, {prefill} prefill + {MACHINES - prefill} decode: most that keeps nine limits",
                value=rate,
                unit="requests/s",
                baseline=f"{MACHINES} that do both: {together:.1f}",
                ratio=rate / together,
                note=f"the paper's best split of A100s: {SPLITWISE_AA}x" if hardware == "A100" else "",
            )


def _throughput(
    trace: Requests, hardware: str, reference: list[np.ndarray], both: int, prefill: int, decode: int
) -> float:
    """Most Poisson arrivals a second at which all limits hold, to 3 %."""
    gaps = np.random.default_rng(1).exponential(1.0, len(trace)).cumsum()
    low, high = 0.5, 400.0
    while high / low > 1.03:
        rate = (low * high) ** 0.5
        seen = _figures(_served(trace, hardware, gaps / rate, both, prefill, decode))
        kept = all(
            (np.nanpercentile(figure / alone, PERCENTILES) <= limits).all()
            for figure, alone, limits in zip(seen, reference, LIMITS, strict=True)
        )
        low, high = (rate, high) if kept else (low, rate)
    return low


def _served(trace: Requests, hardware: str, arrival_s: np.ndarray, both: int, prefill: int, decode: int) -> Outcome:
    instance = instance_of(Described(model="llama-2-70b", hardware=hardware, tp=8, chunk=2048))
    isl, osl = _mean_lengths(trace)
    pools: Serving = serving_of(instance, replicas=both, prefill=prefill, decode=decode, isl=isl, osl=osl)
    link = replace(pools, transfer_bps={"A100": 25e9, "H100": 50e9}[hardware])
    policies = Policies(transfer_overlap=0.9, transfer_latency_s=8e-3)
    return simulate(replace(trace, arrival_s=arrival_s), link, policies, seed=0)


def _mean_lengths(trace: Requests) -> tuple[float, float]:
    """Return tokens of prompts and outputs, about which corrections are taken, as ``simulate serving`` does."""
    return float(trace.prompt_tokens.mean()), float(trace.output_tokens.mean())


def _figures(run: Outcome) -> list[np.ndarray]:
    return [run.ttft_s, run.tpot_s, run.e2e_s]


def _hit_rate(run: Outcome) -> float:
    return float(run.cached_tokens.sum() / run.requests.prompt_tokens.sum(dtype=np.int64))


def _most_found(requests: Requests) -> float:
    """Part of the prompt tokens that a cache without limit finds."""
    seen: set[int] = set()
    hits = 0
    for start, stop in zip(requests.block_offset[:-1], requests.block_offset[1:], strict=True):
        ids = requests.block_id[start:stop].tolist()
        hits += next((k for k, block in enumerate(ids) if block not in seen), len(ids))
        seen.update(ids)
    return hits * requests.block_tokens / int(requests.prompt_tokens.sum(dtype=np.int64))
