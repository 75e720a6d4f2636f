"""Finds what is odd about a fleet that no builder can rule out: it is well formed, but can hardly be meant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plenum.graph.build import INNER_LEVELS, NUMA_LEVEL
from plenum.graph.occupancy import device_totals, node_budgets, node_totals, own_budgets
from plenum.model.fleet import AXIS, CPU, LEVEL, MEMORY, POWER, DeviceKind, Fleet, Health
from plenum.model.units import show

MAX_OVERSUBSCRIPTION = 8.0
"""Bandwidth below a switch tier over bandwidth above it, beyond which one suspects a slip of the pen."""

MAX_NAMES = 64
"""GPU models and traits are held as the bits of one word."""

UPLINK = "uplink_bps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong or odd.

    Parameters
    ----------
    severity
        ``error``: nothing, or not what was meant, can run there; ``warning``: it works, but look again.
    code
        Permanent name of the check.
    where
        ``axis.level:name`` of the first domain concerned; empty: the whole fleet.
    field
        Resource or property at fault.
    count
        Domains concerned; the sentence is about the first.
    """

    severity: Literal["error", "warning"]
    code: str
    where: str
    field: str
    sentence: str
    count: int = 1


def findings(fleet: Fleet) -> tuple[Finding, ...]:
    """Return what is wrong with a fleet, errors first; one finding for all domains that share a fault."""
    found = [finding for check in _CHECKS for finding in check(fleet)]
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def _first(
    fleet: Fleet, severity: Literal["error", "warning"], code: str, field: str, domains: NDArray, sentence: str
) -> Finding:
    return Finding(
        severity=severity,
        code=code,
        where=fleet.domain_path(int(domains[0])).replace(" ", ":", 1),
        field=field,
        sentence=sentence,
        count=len(domains),
    )


def _nothing_schedulable(fleet: Fleet) -> Iterator[Finding]:
    closed = (fleet.node_health != Health.HEALTHY) | fleet.node_cordoned
    if closed.all():
        sentence = "no node takes work: every one is cordoned or not healthy"
        yield Finding(severity="error", code="fleet.closed", where="", field="cordoned", sentence=sentence)


def _too_many_names(fleet: Fleet) -> Iterator[Finding]:
    for field, names in (("models", fleet.models), ("traits", fleet.traits)):
        if len(names) > MAX_NAMES:
            sentence = f"there are {len(names)} {field}; placement supports at most {MAX_NAMES}"
            yield Finding(severity="error", code="fleet.names", where="", field=field, sentence=sentence)


def _gpu_nodes(fleet: Fleet) -> Iterator[Finding]:
    devices = [np.bincount(fleet.device_node[fleet.device_kind == k], minlength=fleet.n_nodes) for k in DeviceKind]
    has_gpu = devices[DeviceKind.GPU] > 0
    for resource in (CPU, MEMORY):
        bare = np.flatnonzero(has_gpu & ~_provided(fleet, resource))
        if len(bare):
            sentence = f"the node has GPUs but no budget of {resource}, so that nothing that needs any can run on it"
            yield _first(fleet, "error", "node.budget", resource, fleet.node_domain[bare], sentence)
    alone = np.flatnonzero(has_gpu & (devices[DeviceKind.NIC] == 0))
    if len(alone) and fleet.n_nodes > 1:
        sentence = "the node has GPUs but no NIC, so that jobs of several nodes that ask for NICs never use it"
        yield _first(fleet, "warning", "node.nic", "nics", fleet.node_domain[alone], sentence)


def _provided(fleet: Fleet, resource: str) -> NDArray[np.bool_]:
    """(N,) whether the node or a domain above it has a budget of the resource above 0."""
    domain, capacity = own_budgets(fleet, resource)
    has = np.zeros(len(fleet.domain_name), bool)
    has[domain[capacity > 0]] = True
    # A parent stands before its children only level by level, so go down the levels.
    for level in np.unique(fleet.domain_level):
        here = np.flatnonzero((fleet.domain_level == level) & (fleet.domain_parent >= 0))
        has[here] |= has[fleet.domain_parent[here]]
    return np.logical_or.reduce([(home >= 0) & has[home] for home in fleet.node_home])


def _power(fleet: Fleet) -> Iterator[Finding]:
    gpus = np.bincount(fleet.device_node[fleet.device_kind == DeviceKind.GPU], minlength=fleet.n_nodes)
    draw = node_totals(fleet, gpus * fleet.node_gpu_power_w.astype(np.int64))
    domain, capacity = own_budgets(fleet, POWER)
    short = np.flatnonzero(capacity < draw[domain])
    for level in np.unique(fleet.domain_level[domain[short]]):
        at = short[fleet.domain_level[domain[short]] == level]
        first = int(domain[at[0]])
        sentence = (
            f"its GPUs draw {show(int(draw[first]), POWER)} when all are busy, but workloads may add only "
            f"{show(int(capacity[at[0]]), POWER)} there"
        )
        yield _first(fleet, "warning", "power.short", POWER, domain[at], sentence)


def _oversubscription(fleet: Fleet) -> Iterator[Finding]:
    nic = fleet.device_kind == DeviceKind.NIC
    below = device_totals(fleet, np.where(nic, fleet.device_capacity, 0))
    domain, capacity = own_budgets(fleet, UPLINK)
    cut = domain[(capacity == 0) & (below[domain] > 0)]
    if len(cut):
        yield _first(fleet, "error", "fabric.cut", UPLINK, cut, "it has no uplink: nothing in it reaches the rest")
    ratio = below[domain] / np.maximum(capacity, 1)
    steep = np.flatnonzero((ratio > MAX_OVERSUBSCRIPTION) & (capacity > 0))
    if len(steep):
        sentence = f"it is oversubscribed {ratio[steep[0]]:.3g} to 1, which is more than {MAX_OVERSUBSCRIPTION:g}"
        yield _first(fleet, "warning", "fabric.oversubscribed", UPLINK, domain[steep], sentence)


def _empty(fleet: Fleet) -> Iterator[Finding]:
    held = node_totals(fleet, np.ones(fleet.n_nodes, np.int64))
    held += device_totals(fleet, np.ones(len(fleet.device_node), np.int64))
    empty = np.flatnonzero((held == 0) & ~np.isin(fleet.domain_level, INNER_LEVELS))
    if len(empty):
        yield _first(fleet, "warning", "domain.empty", "", empty, "there is nothing in it")


def _numa(fleet: Fleet) -> Iterator[Finding]:
    domain, capacity = own_budgets(fleet, CPU)
    inside = fleet.domain_level[domain] == NUMA_LEVEL
    total = np.zeros(len(fleet.domain_name), np.int64)
    np.add.at(total, fleet.domain_parent[domain[inside]], capacity[inside])
    cores, have = node_budgets(fleet, CPU), total[fleet.node_domain]
    odd = np.flatnonzero((have > 0) & (have != cores))
    if len(odd):
        first = odd[0]
        sentence = (
            f"its NUMA nodes have {show(int(have[first]), CPU)} cores together, the node {show(int(cores[first]), CPU)}"
        )
        yield _first(fleet, "warning", "numa.cores", CPU, fleet.node_domain[odd], sentence)


def _mixed_models(fleet: Fleet) -> Iterator[Finding]:
    gpu = fleet.device_kind == DeviceKind.GPU
    home, model = fleet.device_domain[AXIS["scaleup"]][gpu], fleet.device_model[gpu]
    pairs = np.unique(np.stack([home, model])[:, home >= 0], axis=1)
    domains, counts = np.unique(pairs[0], return_counts=True)
    mixed = domains[counts > 1]
    if len(mixed):
        names = ", ".join(fleet.models[m] or "unnamed" for m in pairs[1][pairs[0] == mixed[0]])
        yield _first(fleet, "warning", "nvlink.mixed", "model", mixed, f"it joins GPUs of several models: {names}")


def _lonely_leaves(fleet: Fleet) -> Iterator[Finding]:
    leaves = fleet.domains_at(LEVEL["fabric.leaf"])
    nodes = node_totals(fleet, np.ones(fleet.n_nodes, np.int64))
    lonely = leaves[nodes[leaves] == 1]
    if len(lonely) and fleet.n_nodes > 1:
        yield _first(fleet, "warning", "leaf.lonely", "", lonely, "it is a leaf of one node, which brings nothing near")


def _left_out(fleet: Fleet) -> Iterator[Finding]:
    for axis in ("place", "fabric", "power"):
        home = fleet.node_home[AXIS[axis]]
        if axis == "place":
            home = fleet.domain_parent[fleet.node_domain]
        out = np.flatnonzero(home < 0)
        if 0 < len(out) < fleet.n_nodes:
            sentence = f"the node is in no domain on the axis {axis}, and {fleet.n_nodes - len(out):,} others are"
            yield _first(fleet, "warning", "node.left-out", axis, fleet.node_domain[out], sentence)


_CHECKS = (
    _nothing_schedulable,
    _too_many_names,
    _gpu_nodes,
    _power,
    _oversubscription,
    _empty,
    _numa,
    _mixed_models,
    _lonely_leaves,
    _left_out,
)
