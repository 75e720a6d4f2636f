"""How full each domain of each tree is: capacities and use added up from devices and nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plenum.model.fleet import AXES, AXIS, CPU, GPU, LEVEL, MEMORY, POWER, DeviceKind, Fleet, Health
from plenum.model.view import View


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Occupancy:
    """Totals of each of M domains, over what it holds on its own axis; all (M,) int64.

    Parameters
    ----------
    closed
        Nodes that take no new work: cordoned, degraded or down.
    gpus_bad
        GPUs that are degraded or down themselves.
    cpu_milli, memory_bytes, power_w
        The domain's own budget where it has one, else the budgets of its nodes.
    """

    nodes: NDArray[np.int64]
    closed: NDArray[np.int64]
    gpus: NDArray[np.int64]
    gpus_bad: NDArray[np.int64]
    gpu_used_milli: NDArray[np.int64]
    cpu_milli: NDArray[np.int64]
    cpu_used_milli: NDArray[np.int64]
    memory_bytes: NDArray[np.int64]
    memory_used_bytes: NDArray[np.int64]
    power_w: NDArray[np.int64]
    power_used_w: NDArray[np.int64]


def occupancy(view: View) -> Occupancy:
    """Add up what every domain holds and what of it is in use; O(domains + devices + rows)."""
    fleet = view.fleet
    gpu = fleet.device_kind == DeviceKind.GPU
    closed = (fleet.node_health != Health.HEALTHY) | fleet.node_cordoned
    used_milli, cpu, memory, power = _used(view)
    return Occupancy(
        nodes=node_totals(fleet, np.ones(fleet.n_nodes, np.int64)),
        closed=node_totals(fleet, closed.astype(np.int64)),
        gpus=device_totals(fleet, gpu.astype(np.int64)),
        gpus_bad=device_totals(fleet, (gpu & (fleet.device_health != Health.HEALTHY)).astype(np.int64)),
        gpu_used_milli=device_totals(fleet, used_milli),
        cpu_milli=_capacity(fleet, CPU),
        cpu_used_milli=node_totals(fleet, cpu),
        memory_bytes=_capacity(fleet, MEMORY),
        memory_used_bytes=node_totals(fleet, memory),
        power_w=_capacity(fleet, POWER),
        power_used_w=node_totals(fleet, power),
    )


def node_totals(fleet: Fleet, amount: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) sum of an amount (N,) over the nodes that each domain holds as a whole."""
    totals = np.zeros(len(fleet.domain_name), np.int64)
    for home in fleet.node_home:
        here = home >= 0
        np.add.at(totals, home[here], amount[here])
    return _summed_up(fleet, totals)


def device_totals(fleet: Fleet, amount: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M,) sum of an amount (D,) over the devices that each domain holds."""
    totals = np.zeros(len(fleet.domain_name), np.int64)
    for home in fleet.device_domain:
        here = home >= 0
        np.add.at(totals, home[here], amount[here])
    return _summed_up(fleet, totals)


def own_budgets(fleet: Fleet, resource: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the domains that have a budget of a resource, and the budgets."""
    if resource not in fleet.resources:
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    which = fleet.budget_resource == fleet.resources.index(resource)
    return fleet.budget_domain[which], fleet.budget_capacity[which]


def node_budgets(fleet: Fleet, resource: str) -> NDArray[np.int64]:
    """(N,) each node's own budget of a resource; 0 where it has none."""
    amount = np.zeros(len(fleet.domain_name), np.int64)
    domain, capacity = own_budgets(fleet, resource)
    amount[domain] = capacity
    return amount[fleet.node_domain]


def children_of(fleet: Fleet, axis: str) -> tuple[list[int], dict[int, list[int]]]:
    """Return the tops of an axis' trees and the domains under each domain."""
    levels = [LEVEL[f"{axis}.{level}"] for level in AXES[AXIS[axis]].levels]
    here = np.flatnonzero(np.isin(fleet.domain_level, levels)).tolist()
    tops: list[int] = []
    below: dict[int, list[int]] = {}
    parents = fleet.domain_parent.tolist()
    for domain in here:
        (tops if parents[domain] < 0 else below.setdefault(parents[domain], [])).append(domain)
    return tops, below


def _summed_up(fleet: Fleet, totals: NDArray[np.int64]) -> NDArray[np.int64]:
    # Bottom level first: what a domain holds is complete before it is added to the one above.
    for level in np.unique(fleet.domain_level)[::-1]:
        here = np.flatnonzero((fleet.domain_level == level) & (fleet.domain_parent >= 0))
        np.add.at(totals, fleet.domain_parent[here], totals[here])
    return totals


def _capacity(fleet: Fleet, resource: str) -> NDArray[np.int64]:
    totals = node_totals(fleet, node_budgets(fleet, resource))
    domain, capacity = own_budgets(fleet, resource)
    totals[domain] = capacity
    return totals


def _used(view: View) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return milli-GPU by device (D,), and milli-cores, bytes and watts by node (N,)."""
    fleet, rows = view.fleet, view.rows
    by_device = np.zeros(len(fleet.device_node), np.int64)
    by_node = np.zeros((3, fleet.n_nodes), np.int64)
    if not len(rows):
        return by_device, by_node[0], by_node[1], by_node[2]
    requests = [(i, j, role.request) for i, w in enumerate(view.running) for j, role in enumerate(w.roles)]
    number = {(i, j): k for k, (i, j, _) in enumerate(requests)}
    which = np.array([number[key] for key in zip(rows.workload.tolist(), rows.role.tolist(), strict=True)])
    milli = np.array([r.gpu_milli for *_, r in requests], np.int64)[which]
    gpus = np.array([r.total_gpu_milli for *_, r in requests], np.int64)[which]
    watts = np.array([dict(r.extra).get(POWER, -1) for *_, r in requests], np.int64)[which]
    np.add.at(by_node[0], rows.node, np.array([r.cpu_milli for *_, r in requests], np.int64)[which])
    np.add.at(by_node[1], rows.node, np.array([r.memory_bytes for *_, r in requests], np.int64)[which])
    busy_w = -(-fleet.node_gpu_power_w[rows.node].astype(np.int64) * gpus // GPU)
    np.add.at(by_node[2], rows.node, np.where(watts >= 0, watts, busy_w))
    # GPUs stand first among a node's devices, so that GPU i is i places after the first.
    first = np.searchsorted(fleet.device_node, rows.node)
    for i in range(int(rows.gpu_mask.max()).bit_length()):
        holds = (rows.gpu_mask >> np.uint64(i)) & np.uint64(1) == 1
        np.add.at(by_device, first[holds] + i, milli[holds])
    return by_device, by_node[0], by_node[1], by_node[2]
