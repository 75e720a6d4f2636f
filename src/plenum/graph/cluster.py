"""The fixed arrays of a fleet: what solvers read in their inner loops, compiled once a fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError
from plenum.model.fleet import AXES, AXIS, CPU, GPU_MILLI, LEVEL, LEVELS, MEMORY, PODS, POWER, DeviceKind, Fleet, Health

FIXED_COLUMNS = (CPU, MEMORY, POWER, GPU_MILLI, PODS)
"""Resources that every cluster counts, in the first columns; any others follow by name."""

CPU_COLUMN, MEMORY_COLUMN, POWER_COLUMN, GPU_COLUMN = range(4)

UNLIMITED = 2**62
"""Free amount of a resource that the node itself does not limit."""

NUMA_LEVEL = LEVEL["place.numa"]


class Nodes(NamedTuple):
    """Fixed per-node arrays, in the shape that compiled loops take them (N nodes, G GPUs, K NICs, Q NUMA nodes).

    ``gpu_ok`` and the set ``nic_ok`` say which devices are healthy; ``gpu_numa``, ``gpu_pcie``, ``nic_numa`` and ``nic_pcie`` are -1
    where unknown; ``shared`` (N, B) lists the shared budgets above each node, padded with -1.
    """

    gpu_count: NDArray[np.int32]
    gpu_ok: NDArray[np.bool_]
    gpu_numa: NDArray[np.int32]
    gpu_pcie: NDArray[np.int32]
    nic_ok: NDArray[np.uint64]
    nic_numa: NDArray[np.int32]
    nic_pcie: NDArray[np.int32]
    model: NDArray[np.int32]
    power_w: NDArray[np.int64]
    shared: NDArray[np.int32]
    shared_capacity: NDArray[np.int64]
    shared_column: NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cluster:
    """A fleet, compiled.

    Parameters
    ----------
    columns
        R resource names; column r of every demand and free array, :data:`FIXED_COLUMNS` first.
    capacity
        (N, R) int64, the node's own budget; :data:`UNLIMITED` where only a domain above limits it, 0 where nobody provides it.
        Pods, watts and milli-GPU need no provider: without a budget they are not limited.
    gpu_ok, nic_ok
        (N, G) and (N, K) bool: there and healthy.
    numa_cpu_milli
        (N, Q) int64; 0 where there is no such NUMA node.
    level_domain
        (L, N) int32: which domain of each level holds the node, counted within the level; -1: none.
    level_domains
        For each level, the fleet's domain indices in that count.
    shared_domain
        (S,) the domain of each shared budget.
    gpu_model_bits, trait_bits
        (N,) uint64 sets over ``fleet.models`` and ``fleet.traits``.
    hbm_bytes
        (N,) int64, least HBM of the node's GPUs.
    """

    fleet: Fleet
    columns: tuple[str, ...]
    nodes: Nodes
    capacity: NDArray[np.int64]
    gpu_ok: NDArray[np.bool_]
    nic_ok: NDArray[np.bool_]
    numa_cpu_milli: NDArray[np.int64]
    level_domain: NDArray[np.int32]
    level_domains: tuple[NDArray[np.int64], ...]
    shared_domain: NDArray[np.int32]
    gpu_model_bits: NDArray[np.uint64]
    trait_bits: NDArray[np.uint64]
    hbm_bytes: NDArray[np.int64]
    schedulable: NDArray[np.bool_]

    @property
    def n(self) -> int:
        """N."""
        return len(self.schedulable)

    @staticmethod
    def of(fleet: Fleet) -> Cluster:
        """Compile a fleet; O(domains + devices + budgets)."""
        if len(fleet.models) > 64 or len(fleet.traits) > 64:
            raise FieldError(
                "fleet",
                f"at most 64 GPU models and 64 traits are supported, not {len(fleet.models)} and {len(fleet.traits)}",
            )
        columns = (*FIXED_COLUMNS, *(r for r in fleet.resources if r not in FIXED_COLUMNS))
        ancestor = _ancestors(fleet)
        level_domain, level_domains = _levels(fleet, ancestor)
        gpu = fleet.device_kind == DeviceKind.GPU
        nic = fleet.device_kind == DeviceKind.NIC
        capacity, shared = _budgets(fleet, columns, level_domain, level_domains)
        model_bits = np.zeros(fleet.n_nodes, np.uint64)
        np.bitwise_or.at(model_bits, fleet.device_node[gpu], np.uint64(1) << fleet.device_model[gpu].astype(np.uint64))
        hbm = np.full(fleet.n_nodes, UNLIMITED, np.int64)
        np.minimum.at(hbm, fleet.device_node[gpu], fleet.device_capacity[gpu])
        model = np.full(fleet.n_nodes, -1, np.int32)
        model[fleet.device_node[gpu][::-1]] = fleet.device_model[gpu][::-1]
        bits = np.zeros(fleet.n_nodes, np.uint64)
        for t in range(len(fleet.traits)):
            bits |= fleet.node_traits[:, t].astype(np.uint64) << np.uint64(t)
        numa, pcie = _inner_places(fleet)
        gpu_ok, (gpu_numa, gpu_pcie) = _dense(fleet, gpu, numa, pcie)
        nic_ok, (nic_numa, nic_pcie) = _dense(fleet, nic, numa, pcie)
        nodes = Nodes(
            gpu_count=np.bincount(fleet.device_node[gpu], minlength=fleet.n_nodes).astype(np.int32),
            gpu_ok=gpu_ok,
            gpu_numa=gpu_numa,
            gpu_pcie=gpu_pcie,
            nic_ok=(nic_ok * (np.uint64(1) << np.arange(nic_ok.shape[1], dtype=np.uint64))).sum(
                axis=1, dtype=np.uint64
            ),
            nic_numa=nic_numa,
            nic_pcie=nic_pcie,
            model=model,
            power_w=fleet.node_gpu_power_w.astype(np.int64),
            shared=shared.of_node,
            shared_capacity=shared.capacity,
            shared_column=shared.column,
        )
        return Cluster(
            fleet=fleet,
            columns=columns,
            nodes=nodes,
            capacity=capacity,
            gpu_ok=gpu_ok,
            nic_ok=nic_ok,
            numa_cpu_milli=_numa_cpu(fleet, numa),
            level_domain=level_domain,
            level_domains=level_domains,
            shared_domain=shared.domain,
            gpu_model_bits=model_bits,
            trait_bits=bits,
            hbm_bytes=hbm,
            schedulable=(fleet.node_health == Health.HEALTHY) & ~fleet.node_cordoned,
        )


class _Shared(NamedTuple):
    of_node: NDArray[np.int32]
    capacity: NDArray[np.int64]
    column: NDArray[np.int32]
    domain: NDArray[np.int32]


def _ancestors(fleet: Fleet) -> NDArray[np.int32]:
    """(L, M) the ancestor-or-self of each domain at each level; -1: none. Parents stand before children."""
    m = len(fleet.domain_name)
    table = np.full((len(LEVELS), m), -1, np.int32)
    # Level by level from the top: every parent of a level's domains is finished by then.
    for level in range(len(LEVELS)):
        here = np.flatnonzero(fleet.domain_level == level)
        parents = fleet.domain_parent[here]
        inner = here[parents >= 0]
        table[:, inner] = table[:, fleet.domain_parent[inner]]
        table[level, here] = here
    return table


def _levels(fleet: Fleet, ancestor: NDArray[np.int32]) -> tuple[NDArray[np.int32], tuple[NDArray[np.int64], ...]]:
    domains = tuple(fleet.domains_at(level) for level in range(len(LEVELS)))
    local = np.full(len(fleet.domain_name) + 1, -1, np.int32)
    for here in domains:
        local[here] = np.arange(len(here), dtype=np.int32)
    table = np.full((len(LEVELS), fleet.n_nodes), -1, np.int32)
    for a, axis in enumerate(AXES):
        home = fleet.node_home[a]
        for name in axis.levels:
            level = LEVEL[f"{axis.name}.{name}"]
            table[level] = np.where(home >= 0, local[ancestor[level, home]], -1)
    return table, domains


def _budgets(
    fleet: Fleet,
    columns: tuple[str, ...],
    level_domain: NDArray[np.int32],
    level_domains: tuple[NDArray[np.int64], ...],
) -> tuple[NDArray[np.int64], _Shared]:
    """Split budgets into the nodes' own (N, R) and those that several nodes share."""
    n = fleet.n_nodes
    capacity = np.zeros((n, len(columns)), np.int64)
    for free_unless_limited in (PODS, POWER, GPU_MILLI):
        capacity[:, columns.index(free_unless_limited)] = UNLIMITED
    column_of = np.array([columns.index(r) for r in fleet.resources], np.int32)
    level = fleet.domain_level[fleet.budget_domain]
    above = ~np.isin(level, (LEVEL["place.node"], NUMA_LEVEL, LEVEL["place.pcie"]))
    local = np.full(len(fleet.domain_name), -1, np.int64)
    for here in level_domains:
        local[here] = np.arange(len(here))
    lists: list[tuple[NDArray[np.int64], int]] = []
    shared = np.flatnonzero(above)
    for s, b in enumerate(shared):
        inside = np.flatnonzero(level_domain[level[b]] == local[fleet.budget_domain[b]])
        column = column_of[fleet.budget_resource[b]]
        capacity[inside, column] = UNLIMITED
        lists.append((inside, s))
    node_of = np.full(len(fleet.domain_name), -1, np.int64)
    node_of[fleet.node_domain] = np.arange(n)
    own = np.flatnonzero(level == LEVEL["place.node"])
    capacity[node_of[fleet.budget_domain[own]], column_of[fleet.budget_resource[own]]] = fleet.budget_capacity[own]
    counts = np.zeros(n, np.int64)
    for inside, _ in lists:
        counts[inside] += 1
    of_node = np.full((n, int(counts.max(initial=0))), -1, np.int32)
    counts[:] = 0
    for inside, s in lists:
        of_node[inside, counts[inside]] = s
        counts[inside] += 1
    return capacity, _Shared(
        of_node,
        fleet.budget_capacity[shared].astype(np.int64),
        column_of[fleet.budget_resource[shared]].astype(np.int32) if len(shared) else np.zeros(0, np.int32),
        fleet.budget_domain[shared].astype(np.int32),
    )


def _inner_places(fleet: Fleet) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(M,) the NUMA number of each domain within its node, and a PCIe switch's number within its node; -1: not inside one."""
    numa = np.full(len(fleet.domain_name), -1, np.int32)
    pcie = np.full(len(fleet.domain_name), -1, np.int32)
    for level, table in ((NUMA_LEVEL, numa), (LEVEL["place.pcie"], pcie)):
        here = fleet.domains_at(level)
        parents = fleet.domain_parent[here]
        if level == LEVEL["place.pcie"]:
            under_numa = (parents >= 0) & (fleet.domain_level[parents] == NUMA_LEVEL)
            numa[here] = np.where(under_numa, numa[parents], -1)
            parents = np.where(under_numa, fleet.domain_parent[parents], parents)
        order = np.lexsort((here, parents))
        sorted_parents = parents[order]
        first = np.r_[True, sorted_parents[1:] != sorted_parents[:-1]] if len(here) else np.zeros(0, bool)
        start = np.flatnonzero(first)
        within = np.arange(len(here)) - np.repeat(start, np.diff(np.r_[start, len(here)]))
        table[here[order]] = within
    return numa, pcie


def _dense(
    fleet: Fleet, which: NDArray[np.bool_], *tables: NDArray[np.int32]
) -> tuple[NDArray[np.bool_], tuple[NDArray[np.int32], ...]]:
    """Lay devices of one kind out as (N, most per node), with a table looked up by each device's place."""
    at, index = fleet.device_node[which], fleet.device_index[which]
    shape = (fleet.n_nodes, int(index.max(initial=-1)) + 1)
    ok = np.zeros(shape, bool)
    ok[at, index] = fleet.device_health[which] == Health.HEALTHY
    place = fleet.device_domain[AXIS["place"]][which]
    dense = tuple(np.full(shape, -1, np.int32) for _ in tables)
    for out, table in zip(dense, tables, strict=True):
        out[at, index] = np.where(place >= 0, table[place], -1)
    return ok, dense


def _numa_cpu(fleet: Fleet, numa: NDArray[np.int32]) -> NDArray[np.int64]:
    here = fleet.domains_at(NUMA_LEVEL)
    node_of = np.full(len(fleet.domain_name), -1, np.int64)
    node_of[fleet.node_domain] = np.arange(fleet.n_nodes)
    amount = np.zeros(len(fleet.domain_name), np.int64)
    cpu = fleet.budget_resource == fleet.resources.index(CPU)
    amount[fleet.budget_domain[cpu]] = fleet.budget_capacity[cpu]
    table = np.zeros((fleet.n_nodes, int(numa[here].max(initial=-1)) + 1), np.int64)
    table[node_of[fleet.domain_parent[here]], numa[here]] = amount[here]
    return table
