"""What a simulated cloud is made of: small fleets, tenants, and the jobs that its clients think of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from plenum.graph.build import Device, FleetBuilder
from plenum.model.fleet import DeviceKind, Fleet
from plenum.model.process import Process, Simulated
from plenum.model.workload import Apart, Kind, Request, Role, Together, Workload
from plenum.sim.chaos.schedule import Schedule

GPUS = 4
CPU_MILLI, MEMORY_BYTES = 16_000, 64 * 2**30
GPU_POWER_W = 700
TENANTS = ("red", "blue")
NAMES_OF_JOBS = 6
MAX_NODES = 3
"""Of one fleet."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One fleet as text and in words: what its manifest is, and what its nodes and racks have.

    Parameters
    ----------
    racks
        Node to its rack.
    rack_power_w
        Of each rack; 0: no budget.
    """

    name: str
    nodes: tuple[str, ...]
    racks: dict[str, str]
    rack_power_w: int

    @property
    def manifest(self) -> str:
        """The text that stands for it; :func:`read_fleet` reads it."""
        return f"{self.name} {len(self.nodes)} {self.rack_power_w}"


def plot(name: str, nodes: int, rack_power_w: int) -> Plot:
    """Return a fleet of a few nodes, two a rack."""
    names = tuple(f"{name}-n{i}" for i in range(nodes))
    return Plot(name, names, {n: f"{name}-r{i // 2}" for i, n in enumerate(names)}, rack_power_w)


@lru_cache(maxsize=256)
def read_fleet(manifest: str) -> Fleet:
    """Build the fleet that a plot's text stands for."""
    name, nodes, rack_power_w = manifest.split()
    described = plot(name, int(nodes), int(rack_power_w))
    b = FleetBuilder(name)
    for rack in dict.fromkeys(described.racks.values()):
        b.domain("place.rack", rack, parent=None)
        b.domain("power.rack", rack, parent=None)
        if described.rack_power_w:
            b.budget(f"power.rack:{rack}", "power_w", described.rack_power_w)
    for node, rack in described.racks.items():
        b.domain("scaleup.nvlink", node, parent=None)
        b.node(
            node,
            domains={
                "place": f"place.rack:{rack}",
                "power": f"power.rack:{rack}",
                "scaleup": f"scaleup.nvlink:{node}",
            },
            budgets={"cpu_milli": CPU_MILLI, "memory_bytes": MEMORY_BYTES},
            devices=[Device(kind=DeviceKind.GPU, model="H100", capacity=80 * 2**30) for _ in range(GPUS)],
            gpu_power_w=GPU_POWER_W,
        )
    return b.build()


def any_job(s: Schedule) -> tuple[Workload, Process, dict[str, Any]]:
    """Draw a job: a gang, an elastic gang, a task or an endpoint, of any tenant, by one of few names."""
    kind = (Kind.TRAINING_JOB, Kind.TRAINING_JOB, Kind.TASK, Kind.ENDPOINT)[s.below(4)]
    roles, together, apart = {Kind.TRAINING_JOB: _gang, Kind.TASK: _task, Kind.ENDPOINT: _endpoint}[kind](s)
    workload = Workload(
        # A name goes with a kind, as a job cannot change its kind.
        name=f"{kind.value.lower()}-{s.below(NAMES_OF_JOBS)}",
        kind=kind,
        tenant=TENANTS[s.below(len(TENANTS))],
        priority=s.below(3),
        roles=roles,
        together=together,
        apart=apart,
    )
    process = _process(s, kind)
    return workload, process, {"roles": str(roles), "process": str(process), "priority": workload.priority}


_Parts = tuple[tuple[Role, ...], tuple[Together, ...], tuple[Apart, ...]]


def _gang(s: Schedule) -> _Parts:
    replicas = 2 + s.below(5)
    least = 1 + s.below(replicas) if s.chance(0.3) else 0
    roles = (Role(replicas=replicas, min_replicas=least, request=_request(s, (1, 1, 2, 4))),)
    if s.chance(0.2):
        roles = (*roles, Role(name="chief", request=_request(s, (0, 1))))
    together = (Together(level="place.rack", required=s.chance(0.3)),) if s.chance(0.4) else ()
    apart = (Apart(level="place.node", max_per_domain=1 + s.below(2), required=s.chance(0.5)),) if s.chance(0.2) else ()
    return roles, together, apart


def _task(s: Schedule) -> _Parts:
    roles = (Role(replicas=1 + s.below(4), request=_request(s, (0, 1, 1, 2))),)
    return (*roles, Role(name="side", request=_request(s, (0, 1)))) if s.chance(0.15) else roles, (), ()


def _endpoint(s: Schedule) -> _Parts:
    apart = (Apart(level=("place.node", "place.rack")[s.below(2)], required=True),) if s.chance(0.6) else ()
    return (Role(replicas=1 + s.below(3), request=_request(s, (1, 1, 1, 2))),), (), apart


def _request(s: Schedule, gpus: tuple[int, ...]) -> Request:
    """Draw one of few requests, as the scores are learned anew for each that was not seen before, which takes long."""
    n = gpus[s.below(len(gpus))]
    share = (250, 700)[s.below(2)] if n == 1 and s.chance(0.4) else 1000
    return Request(gpus=n, gpu_milli=share, cpu_milli=3000, memory_bytes=4 * 2**30)


def _process(s: Schedule, kind: Kind) -> Process:
    endless = kind is Kind.ENDPOINT or s.chance(0.15)
    return Process(
        simulated=Simulated(
            duration_s=0.0 if endless else 3.0 + s.about(25.0),
            start_s=s.about(2.0) if s.chance(0.5) else 0.0,
            exit_code=1 if s.chance(0.1) else 0,
        ),
        grace_s=(0.5, 4.0, 10.0, 30.0)[s.below(4)],
        timeout_s=20.0 if s.chance(0.1) and kind is not Kind.ENDPOINT else 0.0,  # else it would never settle
        restarts=s.below(4),
        backoff_s=0.5 + s.between(0.0, 2.0),
    )
