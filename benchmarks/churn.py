"""Gang policies on a living cluster: the same arrivals and departures under each picker, and without topology."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.busy_fleet import NODE, fleet_of, gang
from benchmarks.findings import Finding
from plenum.fabric.collectives import communication_cost
from plenum.graph.cluster import Cluster
from plenum.model import Kind, Reason, View, Workload
from plenum.model.fleet import LEVEL
from plenum.placement import Engine, Policy

NODES = 1_024
ARRIVALS = 4_000
LOAD = 0.9
"""Mean demand over capacity: some gangs must wait under any policy; here they are turned away and counted."""

SIZES = ((1, 0.30), (2, 0.20), (4, 0.18), (8, 0.14), (16, 0.10), (24, 0.04), (48, 0.03), (96, 0.01))
"""Nodes of a gang, share of the gangs. Leaves have 32 nodes."""

ONE_LEAF = 24
"""Gangs of up to so many nodes must stay in one leaf; larger ones in one spine group, in one leaf if that can be had."""

SEEDS = (1, 2, 3)
OURS, BLIND = "best-fit", "blind"
PICKERS = (OURS, "first-fit", "most-free", BLIND)


@dataclass(slots=True)
class Tally:
    """What became of the gangs under one policy."""

    started: int = 0
    kept: int = 0
    gpus: int = 0
    relative: list[float] = field(default_factory=list)
    leaves: list[float] = field(default_factory=list)


def bench() -> Iterator[Finding]:
    """Yield, for each measure, our picker's value with its ratio to each of the others."""
    fleet = fleet_of(NODES)
    cluster = Cluster.of(fleet)
    tallies = {name: Tally() for name in PICKERS}
    for seed in SEEDS:
        arrivals = _arrivals(seed)
        for name, tally in tallies.items():
            policy = Policy(name=name, picker=OURS if name == BLIND else name)
            engine = Engine(View(fleet=fleet), policy, cluster=cluster, frequencies=((NODE, 1),))
            _run(engine, arrivals, tally, blind=name == BLIND)
    total = ARRIVALS * len(SEEDS)
    gpus = sum(8 * w.replicas for seed in SEEDS for _, _, w in _arrivals(seed))
    measures = {
        "gangs started inside their required level, of all that came": lambda t: 100 * t.kept / total,
        "GPUs asked for that started inside the required level": lambda t: 100 * t.gpus / gpus,
        "communication of started gangs of several nodes, over the best place of an empty fleet": lambda t: float(
            np.mean(t.relative)
        ),
        "leaves that such a gang spans, over the fewest possible": lambda t: float(np.mean(t.leaves)),
    }
    for what, measure in measures.items():
        for name in PICKERS:
            value, base = measure(tallies[name]), measure(tallies[OURS])
            yield Finding(
                bench="gangs",
                what=f"{what}: {name}",
                value=value,
                unit="%" if "required level" in what else "x",
                baseline="" if name == OURS else f"ours, {OURS}: {base:.4g}",
                ratio=None if name == OURS else value / base,
                note=f"ours; {total:,} gangs on {NODES:,} nodes at load {LOAD:g}" if name == OURS else "",
            )


def _arrivals(seed: int) -> list[tuple[float, float, Workload]]:
    """(start, end, gang) in order of arrival: Poisson arrivals, exponential durations of mean 1."""
    rng = np.random.default_rng(seed)
    sizes, shares = (np.array(column) for column in zip(*SIZES, strict=True))
    rate = LOAD * NODES / float(sizes @ shares)
    at = np.cumsum(rng.exponential(1 / rate, ARRIVALS))
    end = at + rng.exponential(1.0, ARRIVALS)
    nodes = rng.choice(sizes, ARRIVALS, p=shares)
    found = []
    for i, n in enumerate(nodes.tolist()):
        required, preferred = ("fabric.leaf", "") if n <= ONE_LEAF else ("fabric.spine", "fabric.leaf")
        found.append((float(at[i]), float(end[i]), gang(f"gang-{i}", n, required, preferred)))
    return found


def _run(engine: Engine, arrivals: list[tuple[float, float, Workload]], tally: Tally, *, blind: bool) -> None:
    """Place each gang as it comes, once; those that do not start are gone."""
    running: list[tuple[float, str]] = []
    leaf = engine.cluster.level_domain[LEVEL["fabric.leaf"]]
    for at, end, wanted in arrivals:
        while running and running[0][0] <= at:
            engine.release(heapq.heappop(running)[1])
        asked = replace(wanted, kind=Kind.TASK, together=()) if blind else wanted
        outcome = engine.place(asked)
        if isinstance(outcome, Reason):
            continue
        node = outcome.rows.node
        if len(node) < wanted.replicas:  # replicas without a gang start one by one; a gang would not have
            engine.release(wanted.id)
            continue
        heapq.heappush(running, (end, wanted.id))
        required = engine.cluster.level_domain[LEVEL[wanted.together[0].level]]
        kept = len(np.unique(required[node])) == 1
        cost = communication_cost(engine.cluster, engine.paths_for(wanted), np.repeat(node, 8), wanted.parallelism)
        tally.started += 1
        tally.kept += kept
        tally.gpus += 8 * len(node) * kept
        if len(node) == 1:
            continue
        tally.relative.append(cost.relative)
        tally.leaves.append(len(np.unique(leaf[node])) / -(-len(node) // 32))
