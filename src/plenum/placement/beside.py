"""One more replica of a workload that runs already: its constraints count what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plenum.graph.cluster import UNLIMITED
from plenum.model.fleet import LEVEL
from plenum.model.plan import Placement, Reason
from plenum.model.view import Rows
from plenum.model.workload import Apart, Workload
from plenum.placement.limits import Limits, limits_of
from plenum.placement.single import rows_of

if TYPE_CHECKING:
    from plenum.placement.engine import Engine


def place_beside(engine: Engine, replica: Workload, others: Rows) -> Placement | Reason:
    """Place a replica and record it, or change nothing and say why not.

    Parameters
    ----------
    replica
        A workload of one role and one replica, with the constraints of the whole; or a gang, all nodes of one replica.
    others
        Rows of its siblings, recorded in the engine already.
    """
    if replica.gang:
        outcome = engine.place(replica)
        return (
            outcome
            if isinstance(outcome, Placement)
            else _refused(replica, f" for its {replica.replicas} nodes together now")
        )
    shape = engine.shape_ids([replica.roles[0].request])
    wishes = sorted((a for a in replica.apart if not a.required), key=lambda a: -a.weight)
    required = tuple(a for a in replica.apart if a.required)
    for kept in range(len(wishes), -1, -1):
        placed = engine.place_stream(shape, _limits(engine, replica, (*required, *wishes[:kept]), others))
        if placed.node[0] >= 0:
            rows = rows_of(placed, np.zeros(1, np.int64))
            engine.keep(replica, rows)
            given_up = tuple(f"preferred apart across {a.level} given up" for a in wishes[kept:])
            return Placement(workload=replica, rows=rows, degraded=given_up)
    return _refused(replica, " for it beside the replicas that run" if len(others) else " for it now")


def _refused(replica: Workload, what: str) -> Reason:
    return Reason(
        workload=replica.id,
        code="wait.capacity",
        constraint="",
        sentence=f"{replica.id} waits: no place has room{what}.",
    )


def _limits(engine: Engine, replica: Workload, aparts: tuple[Apart, ...], others: Rows) -> Limits:
    """The tenant's caps, the spreads counted over the siblings, and the domains that the siblings are in."""
    caps = limits_of(engine, replica, (), [])
    required = [t for t in replica.together if t.required]
    c, extra = len(caps.label), len(aparts) + len(required)
    levels = [LEVEL[a.level] for a in aparts] + [LEVEL[t.level] for t in required]
    widest = max([caps.left.shape[1], *(1 + len(engine.cluster.level_domains[at]) for at in levels)])
    label = np.zeros((c + extra, engine.cluster.n), np.int32)
    left = np.full((c + extra, widest), UNLIMITED, np.int64)
    label[:c], left[:c, : caps.left.shape[1]] = caps.label, caps.left
    column = np.concatenate([caps.column, np.full(extra, -1, np.int32)])
    for i, apart in enumerate(aparts, start=c):
        label[i] = engine.cluster.level_domain[LEVEL[apart.level]]
        there = label[i][others.node]
        left[i] = apart.max_per_domain - np.bincount(there[there >= 0], minlength=widest)
    for i, together in enumerate(required, start=c + len(aparts)):
        domain = engine.cluster.level_domain[LEVEL[together.level]]
        inside = np.isin(domain, domain[others.node]) if len(others) else domain >= 0
        label[i] = np.where(inside, domain, -1)
    return Limits(label, left, column)
