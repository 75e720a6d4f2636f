"""Spreads and tenants' caps as limits over domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import UNLIMITED
from plenum.graph.compiled import entry, inner
from plenum.graph.state import demand
from plenum.model.fleet import LEVEL
from plenum.model.view import Rows
from plenum.model.workload import Apart, Workload
from plenum.placement.policies import Cap

if TYPE_CHECKING:
    from plenum.placement.engine import Engine


class Limits(NamedTuple):
    """Limits on a gang beyond budgets: C rows, each over the domains of one level.

    ``label`` (C, N) is each node's domain (-1: the node cannot be used), ``left`` (C, D) what may still be taken in each,
    ``column`` (C,) the resource counted; -1 counts replicas.
    """

    label: NDArray[np.int32]
    left: NDArray[np.int64]
    column: NDArray[np.int32]


def no_limits(n: int) -> Limits:
    """Return limits that limit nothing."""
    return Limits(np.zeros((0, n), np.int32), np.zeros((0, 1), np.int64), np.zeros(0, np.int32))


@inner
def limits_allow(nodes, shapes, s, n, limits, taken):
    """Whether the limits have room for one more replica of shape s on node n; ``taken`` (C, D) counts what was taken since."""
    for c in range(limits.label.shape[0]):
        d = limits.label[c, n]
        if d < 0:
            return False
        need = np.int64(1) if limits.column[c] < 0 else demand(nodes, shapes, s, n, np.int64(limits.column[c]))
        if taken[c, d] + need > limits.left[c, d]:
            return False
    return True


@inner
def count_limits(nodes, shapes, s, n, replicas, limits, taken):
    """Count replicas of shape s on node n against the limits."""
    for c in range(limits.label.shape[0]):
        d = limits.label[c, n]
        if d >= 0:
            taken[c, d] += (
                replicas if limits.column[c] < 0 else replicas * demand(nodes, shapes, s, n, np.int64(limits.column[c]))
            )


def limits_of(engine: Engine, workload: Workload, aparts: tuple[Apart, ...], before: list[Rows]) -> Limits:
    """Return the limits on placing one more role of a workload.

    Parameters
    ----------
    aparts
        Spreads to keep; those of the whole workload count the roles placed before.
    before
        Rows of roles already bound, not yet recorded.
    """
    caps = engine.caps_of(workload.tenant)
    if not aparts and not caps:
        return no_limits(engine.cluster.n)
    widest = 1 + max(len(engine.cluster.level_domains[LEVEL[c.level]]) for c in (*aparts, *caps))
    label = np.empty((len(aparts) + len(caps), engine.cluster.n), np.int32)
    left = np.full((len(label), widest), UNLIMITED, np.int64)
    column = np.full(len(label), -1, np.int32)
    for i, apart in enumerate(aparts):
        label[i] = engine.cluster.level_domain[LEVEL[apart.level]]
        placed = np.concatenate([rows.node for rows in before]) if before and not apart.role else np.zeros(0, np.int32)
        left[i] = apart.max_per_domain - np.bincount(label[i][placed], minlength=widest)
    for i, cap in enumerate(caps, start=len(aparts)):
        domain = engine.cluster.level_domain[LEVEL[cap.level]]
        used = _cap_used(engine, cap, workload, before)
        # Nodes outside every domain of the level share one more that has no limit.
        label[i] = np.where(domain >= 0, domain, widest - 1)
        left[i, : len(used)] = cap.amount - used
        column[i] = engine.cluster.columns.index(cap.resource)
    return Limits(label, left, column)


def caps_allow(engine: Engine, workload: Workload, role: int, node: int, before: list[Rows]) -> bool:
    """Whether one more replica of a role on a node keeps the tenant's caps."""
    shape = engine.shapes.intern(workload.roles[role].request)
    for cap in engine.caps_of(workload.tenant):
        domain = engine.cluster.level_domain[LEVEL[cap.level], node]
        used = _cap_used(engine, cap, workload, before)
        if domain >= 0 and used[domain] + _demand(engine, cap, shape, node) > cap.amount:
            return False
    return True


def cap_usage(engine: Engine, cap: Cap, workload: Workload, rows: Rows) -> NDArray[np.int64]:
    """What some rows of a workload count against a cap in each domain of its level."""
    domain = engine.cluster.level_domain[LEVEL[cap.level]][rows.node]
    each = np.zeros(len(rows), np.int64)
    for i, (role, node) in enumerate(zip(rows.role.tolist(), rows.node.tolist(), strict=True)):
        each[i] = _demand(engine, cap, engine.shapes.intern(workload.roles[role].request), node)
    used = np.zeros(len(engine.cluster.level_domains[LEVEL[cap.level]]), np.int64)
    np.add.at(used, domain[domain >= 0], each[domain >= 0])
    return used


def _cap_used(engine: Engine, cap: Cap, workload: Workload, before: list[Rows]) -> NDArray[np.int64]:
    used = np.zeros(len(engine.cluster.level_domains[LEVEL[cap.level]]), np.int64)
    used += engine.cap_used.get((cap, workload.tenant), 0)
    for rows in before:
        used += cap_usage(engine, cap, workload, rows)
    return used


def _demand(engine: Engine, cap: Cap, shape: int, node: int) -> int:
    column = engine.cluster.columns.index(cap.resource)
    return int(_demand_of(engine.cluster.nodes, engine.shapes.arrays, shape, node, column))


@entry
def _demand_of(nodes, shapes, s, n, column):
    return demand(nodes, shapes, s, n, column)
