"""Latency on 100,000 GPUs, 85 % full: single GPUs, gangs, and why something cannot fit; and growth from 1,000 nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.busy_fleet import SMALL, BusyFleet, gang, task
from benchmarks.findings import Finding, below, p50, p99, timed_ms
from plenum.model import Apart, Kind, Reason, Request, Role, Workload
from plenum.scheduling import explain

NODES = (1_000, 12_500)
NODES_PER_LEAF = 32
SINGLES, GANGS, REFUSALS, WARM_UP = 3_000, 200, 20, 5
SINGLE_TARGET_MS, GANG_TARGET_MS, REFUSAL_TARGET_MS, GROWTH_TARGET = 1.0, 10.0, 50.0, 3.0

GANG_LEVELS = (
    (1, "fabric.spine", "fabric.leaf"),
    (8, "fabric.spine", "fabric.leaf"),
    (64, "fabric.pod", "fabric.spine"),
    (128, "fabric.pod", "fabric.spine"),
    (512, "fabric.pod", "fabric.spine"),
)
"""Nodes of eight GPUs, required level, preferred level."""

REFUSED = (
    ("32 nodes in one leaf", gang("in-one-leaf", 32, required="fabric.leaf")),
    ("512 nodes in one spine group", gang("in-one-spine", 512, required="fabric.spine")),
    ("64 nodes in one leaf of 32", gang("too-large", 64, required="fabric.leaf")),
    ("a node of 16 GPUs", task("too-wide", Request(gpus=16))),
)


def bench() -> Iterator[Finding]:
    """Yield latencies on the large fleet, each with its ratio to the small one."""
    small, large = (_latencies(nodes) for nodes in NODES)
    for what, taken in large.items():
        target = GANG_TARGET_MS if what.startswith("gang") else SINGLE_TARGET_MS
        if what.startswith("refusal"):
            target = REFUSAL_TARGET_MS
        for name, of in (("p50", p50), ("p99", p99)):
            baseline = of(small[what]) if what in small else None
            yield Finding(
                bench=f"{NODES[-1]:,} nodes",
                what=f"{what}, {name}",
                value=of(taken),
                unit="ms",
                baseline=f"the same on {NODES[0]:,} nodes: {baseline:.3g} ms" if baseline else "",
                ratio=of(taken) / baseline if baseline else None,
                target=below(target, "ms", of(taken)) if name == "p99" else None,
            )
    for kind in ("single", "gang", "refusal"):
        both = [what for what in large if what.startswith(kind) and what in small]
        growth = [p50(large[what]) / p50(small[what]) for what in both]
        mean = float(np.exp(np.mean(np.log(growth))))
        yield Finding(
            bench="growth",
            what=f"{kind}: cost at {NODES[1]:,} nodes over cost at {NODES[0]:,}",
            value=mean,
            unit="x",
            note=f"geometric mean of the medians of {len(both)}",
            target=below(GROWTH_TARGET, "x", mean),
        )


def _latencies(nodes: int) -> dict[str, np.ndarray]:
    """Milliseconds of each decision by what was decided; kinds that do not fit a fleet of this size are left out."""
    busy = BusyFleet.of(nodes)
    requests = [request for _, request in SMALL if request.gpus == 1]
    taken: dict[str, np.ndarray | None] = {}
    taken["single GPU or share"] = _placements(busy, SINGLES, lambda i: task("timed", requests[i % len(requests)]))
    for size, required, preferred in GANG_LEVELS:
        what = f"gang of {8 * size:,} GPUs, {required} required, {preferred} preferred"
        wanted = gang("timed", size, required, preferred)
        taken[what] = _placements(busy, GANGS, lambda _, w=wanted: w)
    busy.engine.place(_agents(nodes // NODES_PER_LEAF))
    for what, workload in REFUSED:
        taken[f"refusal with its explanation: {what}"] = _refusals(busy, workload)
    return {what: result for what, result in taken.items() if result is not None}


def _agents(leaves: int) -> Workload:
    """A share of a GPU under every leaf switch that has one to give: no leaf is wholly free any more."""
    request = Request(gpus=1, gpu_milli=250, cpu_milli=2_000)
    return Workload(
        name="agents",
        kind=Kind.ENDPOINT,
        roles=(Role(replicas=leaves, request=request),),
        apart=(Apart(level="fabric.leaf"),),
    )


def _placements(busy: BusyFleet, times: int, workload: Callable[[int], Workload]) -> np.ndarray | None:
    """(times,) ms of placing a workload while others come and go; None where it does not always fit."""
    placed: list[bool] = []

    def decisions() -> Iterator[Callable[[], object]]:
        for i in range(WARM_UP + times):
            busy.churn()
            wanted = workload(i)
            yield lambda w=wanted: placed.append(not isinstance(busy.engine.place(w), Reason))
            if placed[-1]:
                busy.engine.release(wanted.id)

    taken = timed_ms(decisions())
    return taken[WARM_UP:] if all(placed) else None


def _refusals(busy: BusyFleet, workload: Workload) -> np.ndarray | None:
    """(REFUSALS,) ms of finding that a workload cannot start, and why; None where it can."""
    refused: list[bool] = []

    def refuse() -> None:
        refused.append(isinstance(busy.engine.place(workload), Reason))
        if refused[-1]:
            explain(busy.engine, workload)

    def decisions() -> Iterator[Callable[[], object]]:
        for _ in range(WARM_UP + REFUSALS):
            busy.churn()
            yield refuse
            if not refused[-1]:
                busy.engine.release(workload.id)

    taken = timed_ms(decisions())
    return taken[WARM_UP:] if all(refused) else None
