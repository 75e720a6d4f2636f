"""The books in plain Python: who takes what of which domain and device, added up the slow and obvious way.

The checker and the exact solver read these instead of the compiled state, so that a mistake in one shows against the other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from plenum.model.fleet import (
    AXIS,
    CPU,
    GPU,
    GPU_MILLI,
    LEVEL,
    MEMORY,
    PODS,
    POWER,
    DeviceKind,
    Fleet,
    Health,
)
from plenum.model.view import View
from plenum.model.workload import Request

NEEDS_NO_PROVIDER = (PODS, POWER, GPU_MILLI)
"""Resources that are unlimited where no budget speaks of them; any other is then absent."""

_NUMA, _PCIE = LEVEL["place.numa"], LEVEL["place.pcie"]


@dataclass(frozen=True, slots=True)
class Slot:
    """A GPU's or NIC's seat in its node.

    Parameters
    ----------
    numa
        Number of its NUMA node within the node; None where unknown.
    switch
        The fleet's domain index of its PCIe switch; None where unknown.
    """

    healthy: bool
    model: str
    capacity: int
    numa: int | None
    switch: int | None


@dataclass(slots=True)
class GpuUse:
    """What is taken of one GPU: ``plain_milli`` by shares and whole requests, ``mig_masks`` by MIG instances."""

    plain_milli: int = 0
    mig_masks: list[int] = field(default_factory=list)

    @property
    def mig_mask(self) -> int:
        """Memory eighths taken by MIG instances."""
        taken = 0
        for mask in self.mig_masks:
            taken |= mask
        return taken

    def faults(self) -> list[str]:
        """Return what is wrong with it, as ends of a sentence."""
        found = []
        if self.plain_milli > GPU:
            found.append(f"is oversubscribed: {self.plain_milli} of {GPU} milli")
        if self.plain_milli and self.mig_masks:
            found.append("is shared and partitioned at once")
        if sum(mask.bit_count() for mask in self.mig_masks) > self.mig_mask.bit_count():
            found.append("has overlapping MIG instances")
        return found


class Ledger:
    """What a fleet has and what is taken of it; N nodes.

    Attributes
    ----------
    chain
        For each node, every domain that holds it, on every axis, itself included.
    budget
        (domain, resource) to amount; ``used`` likewise.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.chain = [_chain(fleet, node) for node in range(fleet.n_nodes)]
        names = fleet.resources
        self.budget = {
            (int(domain), names[resource]): int(amount)
            for domain, resource, amount in zip(
                fleet.budget_domain, fleet.budget_resource, fleet.budget_capacity, strict=True
            )
        }
        self.numa_domains: list[list[int]] = [[] for _ in range(fleet.n_nodes)]
        node_of = {int(domain): node for node, domain in enumerate(fleet.node_domain)}
        for domain in fleet.domains_at(_NUMA):
            self.numa_domains[node_of[int(fleet.domain_parent[domain])]].append(int(domain))
        self.gpus = self._slots(DeviceKind.GPU)
        self.nics = self._slots(DeviceKind.NIC)
        self.used: dict[tuple[int, str], int] = defaultdict(int)
        self.numa_held: dict[int, int] = defaultdict(int)
        self.gpu_use: dict[tuple[int, int], GpuUse] = defaultdict(GpuUse)
        self.nic_use: dict[tuple[int, int], int] = defaultdict(int)

    @staticmethod
    def of(view: View) -> Ledger:
        """Return the books of a view."""
        ledger = Ledger(view.fleet)
        rows = view.rows
        for i in range(len(rows)):
            request = view.running[rows.workload[i]].roles[rows.role[i]].request
            ledger.take(
                request,
                int(rows.node[i]),
                gpu_mask=int(rows.gpu_mask[i]),
                nic_mask=int(rows.nic_mask[i]),
                mig_mask=int(rows.mig_mask[i]),
                numa_mask=int(rows.numa_mask[i]),
            )
        return ledger

    def take(self, request: Request, node: int, *, gpu_mask: int, nic_mask: int, mig_mask: int, numa_mask: int) -> None:
        """Book one replica; nothing is refused here."""
        for resource, amount in amounts(request, self.fleet, node).items():
            for domain in self.chain[node]:
                self.used[domain, resource] += amount
        for g in members(gpu_mask):
            if mig_mask:
                self.gpu_use[node, g].mig_masks.append(mig_mask)
            else:
                self.gpu_use[node, g].plain_milli += request.gpu_milli
        for k in members(nic_mask):
            self.nic_use[node, k] += 1
        held = members(numa_mask)
        for q in held:
            if q < len(self.numa_domains[node]):
                self.numa_held[self.numa_domains[node][q]] += share_of_cores(request, len(held))

    def provided(self, node: int, resource: str) -> bool:
        """Tell whether anything above a node has a budget of a resource, or none is needed."""
        return resource in NEEDS_NO_PROVIDER or any((d, resource) in self.budget for d in self.chain[node])

    def may_host(self, request: Request, node: int) -> str:
        """Return why a node can never take a request as things are with its health and kind; empty: it can."""
        fleet = self.fleet
        if fleet.node_health[node] != Health.HEALTHY:
            return "is not healthy"
        if fleet.node_cordoned[node]:
            return "is cordoned"
        have = {trait for trait, has in zip(fleet.traits, fleet.node_traits[node], strict=True) if has}
        if not have >= set(request.traits):
            return f"lacks the trait {min(set(request.traits) - have)}"
        if request.mig and "mig" in fleet.traits and "mig" not in have:
            return "has GPUs without MIG"
        if request.gpus:
            gpus = self.gpus[node].values()
            models = {gpu.model for gpu in gpus}
            if not all(map(request.accepts, models)):
                return f"has GPUs of another model than {', '.join(request.gpu_models)}"
            if any(gpu.capacity < request.hbm_bytes for gpu in gpus):
                return "has GPUs with too little HBM"
        for resource, amount in amounts(request, fleet, node).items():
            if amount and not self.provided(node, resource):
                return f"has no {resource}"
        return ""

    def domain_at(self, node: int, level: str) -> int | None:
        """Return the domain of a level that holds a node."""
        at = LEVEL[level]
        return next((d for d in self.chain[node] if self.fleet.domain_level[d] == at), None)

    def _slots(self, kind: DeviceKind) -> list[dict[int, Slot]]:
        fleet = self.fleet
        place = fleet.device_domain[AXIS["place"]]
        table: list[dict[int, Slot]] = [{} for _ in range(fleet.n_nodes)]
        for d in np.flatnonzero(fleet.device_kind == kind):
            node = int(fleet.device_node[d])
            home = int(place[d])
            switch = home if fleet.domain_level[home] == _PCIE else None
            above = int(fleet.domain_parent[home]) if switch is not None else home
            numa = self.numa_domains[node].index(above) if above in self.numa_domains[node] else None
            table[node][int(fleet.device_index[d])] = Slot(
                healthy=fleet.device_health[d] == Health.HEALTHY,
                model=fleet.models[fleet.device_model[d]],
                capacity=int(fleet.device_capacity[d]),
                numa=numa,
                switch=switch,
            )
        return table


def amounts(request: Request, fleet: Fleet, node: int) -> dict[str, int]:
    """Return what one replica takes of each resource on a node; ``extra`` overrides what would follow from the rest."""
    return {
        CPU: request.cpu_milli,
        MEMORY: request.memory_bytes,
        PODS: 1,
        GPU_MILLI: request.total_gpu_milli,
        POWER: -(-request.total_gpu_milli * int(fleet.node_gpu_power_w[node]) // GPU),
        **dict(request.extra),
    }


def share_of_cores(request: Request, numa_nodes: int) -> int:
    """Return the cores that an aligned replica holds on each NUMA node of its set, in thousandths, rounded up."""
    return -(-dict(request.extra).get(CPU, request.cpu_milli) // numa_nodes)


def members(mask: int) -> list[int]:
    """Return the members of a set held as bits, ascending."""
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def _chain(fleet: Fleet, node: int) -> tuple[int, ...]:
    chain = []
    for home in fleet.node_home[:, node]:
        domain = int(home)
        while domain >= 0:
            chain.append(domain)
            domain = int(fleet.domain_parent[domain])
    return tuple(chain)
