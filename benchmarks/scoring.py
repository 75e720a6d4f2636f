"""Scoring speed on a production trace: the engine against FGD written down plainly, one core each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.findings import Finding, at_least
from benchmarks.plain_fgd import PlainFgd
from plenum.adapters.imports.openb import read_fleet
from plenum.adapters.traces.folder import find_data
from plenum.adapters.traces.openb import NODE_LIST, read_trace
from plenum.model import View
from plenum.placement import Engine, policy_named
from plenum.sim.synthetic import synthetic_trace
from plenum.sim.trace import ArrivalTrace

SEED = 42
PLAIN_PODS = 400
"""Prefix of the trace that the plain version places: enough for a stable rate, seconds rather than an hour."""

TARGET_PER_S = 20_000
REPEATS = 3


def bench() -> Iterator[Finding]:
    """Yield decisions a second of the plain version, fgd and plenum."""
    trace = _trace()
    arrivals = trace.arrivals[SEED]
    shape = trace.request_of[arrivals.order]
    plain = PlainFgd(trace, arrivals)
    start = time.perf_counter()
    by_definition = [plain.place(trace.requests[s]) for s in shape[:PLAIN_PODS].tolist()]
    plain_per_s = PLAIN_PODS / (time.perf_counter() - start)
    name = f"plain NumPy FGD, first {PLAIN_PODS} pods of {trace.name}"
    yield Finding(bench="scoring", what=name, value=plain_per_s, unit="decisions/s", note="the baseline")
    for policy in ("fgd", "plenum"):
        engine, ids = _fresh(trace, policy)
        first = engine.place_stream(ids[shape[:PLAIN_PODS]])  # compiled, or loaded, before the clock starts
        rates = []
        for _ in range(REPEATS):
            engine, ids = _fresh(trace, policy)
            start = time.perf_counter()
            engine.place_stream(ids[shape])
            rates.append(len(shape) / (time.perf_counter() - start))
        note = f"best of {REPEATS} runs of {len(shape):,} pods"
        if policy == "fgd":
            same = int(np.sum(first.node == by_definition))
            note += f"; {same} of the plain version's {PLAIN_PODS} decisions are the same"
        yield Finding(
            bench="scoring",
            what=f"{policy}, {trace.name}",
            value=max(rates),
            unit="decisions/s",
            baseline=name,
            ratio=max(rates) / plain_per_s,
            note=note,
            target=at_least(TARGET_PER_S, "decisions/s", max(rates)),
        )


def _fresh(trace: ArrivalTrace, policy: str) -> tuple[Engine, Any]:
    engine = Engine(
        View(fleet=trace.fleet),
        policy_named(policy),
        node_rank=trace.arrivals[SEED].node_rank,
        frequencies=trace.frequencies,
    )
    return engine, engine.shape_ids(trace.requests)


def _trace() -> ArrivalTrace:
    data = find_data(None, os.environ)
    if data is None:
        return synthetic_trace([SEED])
    return read_trace(data, "default", read_fleet(data / "openb" / NODE_LIST), [SEED])
