"""Spreads and tenants' caps as limits over domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import UNLIMITED
from plenum.graph.state import demand
from plenum.model.fleet import LEVEL
from plenum.model.view import Rows
from plenum.model.workload import Apart, Workload
from plenum.placement.packing import Limits, no_limits
from plenum.placement.policies import Cap

if TYPE_CHECKING:
    from plenum.placement.engine import Engine


Held = list[tuple[Workload, Rows]]


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
        used = cap_usage(engine, cap, workload.tenant, [(workload, rows) for rows in before])
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
        used = cap_usage(engine, cap, workload.tenant, [(workload, rows) for rows in before])
        if domain >= 0 and used[domain] + _demand(engine, cap, shape, node) > cap.amount:
            return False
    return True


def cap_usage(engine: Engine, cap: Cap, tenant: str, more: Held) -> NDArray[np.int64]:
    """What a tenant holds of the cap's resource in each domain of its level, ``more`` included."""
    domain = engine.cluster.level_domain[LEVEL[cap.level]]
    used = np.zeros(len(engine.cluster.level_domains[LEVEL[cap.level]]), np.int64)
    for workload, rows in (*(h for h in engine.running.values() if h[0].tenant == tenant), *more):
        for role, node in zip(rows.role.tolist(), rows.node.tolist(), strict=True):
            if domain[node] >= 0:
                shape = engine.shapes.intern(workload.roles[role].request)
                used[domain[node]] += _demand(engine, cap, shape, node)
    return used


def _demand(engine: Engine, cap: Cap, shape: int, node: int) -> int:
    return int(
        demand(engine.cluster.nodes, engine.shapes.arrays, shape, node, engine.cluster.columns.index(cap.resource))
    )
