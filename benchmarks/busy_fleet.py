"""A large fleet with a mixed load that has lived for a while: 85 % full, holes everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import yaml

from plenum.adapters.manifests.fleet import parse_fleet
from plenum.model import Fleet, Kind, Parallelism, Reason, Request, Role, Together, View, Workload
from plenum.placement import DEFAULT, Engine, Policy

MANIFEST = Path(__file__).parents[1] / "examples" / "fleet-100k.yaml"
SPINES_PER_POD = 13
"""Two pods over 12,500 nodes, so that one pod can hold a gang of 512 nodes while 85 % of the fleet is taken."""

GIB = 2**30
NODE = Request(gpus=8, cpu_milli=64_000, memory_bytes=512 * GIB, nics=8)
SMALL = (
    (0.30, Request(gpus=1, cpu_milli=8_000, memory_bytes=64 * GIB)),
    (0.15, Request(gpus=1, gpu_milli=500, cpu_milli=4_000, memory_bytes=32 * GIB)),
    (0.15, Request(gpus=1, gpu_milli=250, cpu_milli=2_000, memory_bytes=16 * GIB)),
    (0.15, Request(gpus=2, cpu_milli=16_000, memory_bytes=128 * GIB)),
    (0.15, Request(gpus=4, cpu_milli=32_000, memory_bytes=256 * GIB)),
    (0.10, Request(cpu_milli=4_000, memory_bytes=16 * GIB)),
)
"""Tasks of one replica: share of the tasks, request."""

GANG_NODES = ((1, 0.5), (2, 0.2), (4, 0.12), (8, 0.1), (16, 0.05), (32, 0.03))
"""Nodes of a background gang, and its share of the gangs."""

GANG_SHARE = 0.12
"""Share of arrivals that are gangs; they hold about 60 % of the GPUs."""


def fleet_of(nodes: int) -> Fleet:
    """Return the example fleet with another number of nodes and larger pods, nothing broken or cordoned."""
    manifest = yaml.safe_load(MANIFEST.read_text())
    group = manifest["spec"]["groups"][0]
    group["nodes"] = nodes
    group["fabric"]["spinesPerPod"] = SPINES_PER_POD
    for part in ("overrides", "pools"):
        manifest["spec"].pop(part, None)
    return parse_fleet(yaml.safe_dump(manifest))


def gang(name: str, nodes: int, required: str = "", preferred: str = "") -> Workload:
    """Return a training job on whole nodes."""
    together = tuple(Together(level=level, required=level == required) for level in (required, preferred) if level)
    return Workload(
        name=name,
        kind=Kind.TRAINING_JOB,
        roles=(Role(replicas=nodes, request=NODE),),
        together=together,
        parallelism=Parallelism(tp=8, dp=nodes),
    )


def task(name: str, request: Request) -> Workload:
    return Workload(name=name, roles=(Role(request=request),))


@dataclass(slots=True)
class BusyFleet:
    """An engine over a fleet, kept at its load by arrivals and departures from one seed."""

    engine: Engine
    rng: np.random.Generator
    names: count
    small: list[str]

    @staticmethod
    def of(nodes: int, full: float = 0.85, policy: Policy = DEFAULT) -> BusyFleet:
        """Fill a fleet to the brim, let random workloads end, and fill it up to ``full`` again."""
        mix = (*((request, round(1000 * share)) for share, request in SMALL), (NODE, 150))
        fleet = fleet_of(nodes)
        busy = BusyFleet(Engine(View(fleet=fleet), policy, frequencies=mix), np.random.default_rng(7), count(), [])
        capacity = 1000 * fleet.n_gpus
        for until in (0.95, full):
            while 1 - busy.engine.free_gpu_milli / capacity < until:
                busy.arrive(gangs=True)
            if until > full:
                busy.depart_to(full - 0.05, capacity)
        return busy

    def arrive(self, *, gangs: bool = False) -> None:
        """Place one more workload, if it fits."""
        name = f"background-{next(self.names)}"
        if gangs and self.rng.random() < GANG_SHARE:
            sizes, shares = zip(*GANG_NODES, strict=True)
            workload = gang(name, int(self.rng.choice(sizes, p=shares)), preferred="fabric.leaf")
        else:
            workload = task(name, SMALL[self.rng.choice(len(SMALL), p=[share for share, _ in SMALL])][1])
        if not isinstance(self.engine.place(workload), Reason) and not workload.gang:
            self.small.append(workload.id)

    def depart_to(self, full: float, capacity: int) -> None:
        """End random workloads until so much of the fleet is held."""
        for name in self.rng.permutation(np.array(list(self.engine.running))).tolist():
            if 1 - self.engine.free_gpu_milli / capacity <= full:
                break
            self.engine.release(name)
        self.small = [name for name in self.small if name in self.engine.running]

    def churn(self) -> None:
        """One small workload ends and another starts: what is cached must be looked at again."""
        at = int(self.rng.integers(len(self.small)))
        self.small[at], self.small[-1] = self.small[-1], self.small[at]
        self.engine.release(self.small.pop())
        self.arrive()
