"""A complete search for small cases, where the greedy gang search may miss a placement that exists.

Greedy is exact for one role under limits that form a tree. It can miss where several roles share nodes or limits cross axes;
there, and only on small clusters, every assignment is tried before saying no.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plenum.graph.compiled import entry
from plenum.graph.state import assign, fits, move, shared_allow
from plenum.model.fleet import LEVEL
from plenum.model.view import Rows
from plenum.model.workload import Together, Workload
from plenum.placement.limits import caps_allow

if TYPE_CHECKING:
    from plenum.placement.engine import Engine

MAX_NODES, MAX_REPLICAS, MAX_STEPS = 64, 32, 20_000
"""Limits of the search; beyond them the greedy answer stands."""

Taken = tuple[int, int, int, int, int, int, int]
"""role, rank, node, GPU set, NIC set, MIG eighths, NUMA set."""


def place_completely(engine: Engine, workload: Workload, sizes: tuple[int, ...]) -> Rows | None:
    """Bind a gang by backtracking over (role, rank, node), required constraints only; None, nothing changed, if there is no way."""
    if engine.cluster.n > MAX_NODES or sum(sizes) > MAX_REPLICAS:
        return None
    order = sorted(range(len(sizes)), key=lambda r: (-workload.roles[r].request.total_gpu_milli, r))
    todo = [(r, k) for r in order for k in range(sizes[r])]
    search = _Search(engine, workload)
    if not search.descend(todo, 0):
        return None
    rows = _rows(sorted(search.taken))
    engine.changed(rows.node)
    return rows


def _rows(taken: list[Taken]) -> Rows:
    columns = list(zip(*taken, strict=True)) or [()] * 7
    return Rows(
        workload=np.zeros(len(taken), np.int32),
        role=np.array(columns[0], np.int16),
        rank=np.array(columns[1], np.int32),
        node=np.array(columns[2], np.int32),
        gpu_mask=np.array(columns[3], np.uint64),
        nic_mask=np.array(columns[4], np.uint64),
        mig_mask=np.array(columns[5], np.uint8),
        numa_mask=np.array(columns[6], np.uint8),
    )


@entry
def _has_room(nodes, state, shapes, s, n):
    return fits(nodes, state, shapes, s, n) and shared_allow(nodes, state, shapes, s, n)


@entry
def _take(nodes, state, shapes, s, n):
    gpu_mask, nic_mask, mig_mask, numa = assign(nodes, state, shapes, s, n, np.int64(-1))
    move(nodes, state, shapes, s, n, gpu_mask, nic_mask, mig_mask, numa, np.int64(1))
    return gpu_mask, nic_mask, mig_mask, numa


@entry
def _give_back(nodes, state, shapes, s, n, gpu_mask, nic_mask, mig_mask, numa):
    move(nodes, state, shapes, s, n, gpu_mask, nic_mask, mig_mask, numa, np.int64(-1))


class _Search:
    def __init__(self, engine: Engine, workload: Workload) -> None:
        self._engine, self._workload = engine, workload
        self._shape = [engine.shapes.intern(role.request) for role in workload.roles]
        self._steps = 0
        self.taken: list[Taken] = []

    def descend(self, todo: list[tuple[int, int]], at: int) -> bool:
        """Place ``todo[at:]``; on success ``taken`` holds them and the state has them."""
        if at == len(todo):
            return True
        role, rank = todo[at]
        # Replicas of a role are alike unless blocks tell them apart: placing them in node order skips mirror images.
        alike = at > 0 and todo[at - 1][0] == role and not any(t.required and t.block for t in self._workload.together)
        first = self.taken[-1][2] if alike else 0
        nodes, state, shapes = self._engine.cluster.nodes, self._engine.state, self._engine.shapes.arrays
        for n in range(first, self._engine.cluster.n):
            self._steps += 1
            if self._steps > MAX_STEPS:
                return False
            s = self._shape[role]
            if not (_has_room(nodes, state, shapes, s, n) and self._allowed(role, rank, n)):
                continue
            gpu_mask, nic_mask, mig_mask, numa = _take(nodes, state, shapes, s, n)
            self.taken.append((role, rank, n, int(gpu_mask), int(nic_mask), mig_mask, numa))
            if self.descend(todo, at + 1):
                return True
            self.taken.pop()
            _give_back(nodes, state, shapes, s, n, np.uint64(gpu_mask), np.uint64(nic_mask), mig_mask, numa)
        return False

    def _allowed(self, role: int, rank: int, n: int) -> bool:
        return all(
            self._together_holds(t, role, rank, n) for t in self._workload.together if t.required
        ) and self._limits_hold(role, n)

    def _together_holds(self, together: Together, role: int, rank: int, n: int) -> bool:
        name = self._workload.roles[role].name
        if together.role not in ("", name):
            return True
        domain = self._engine.cluster.level_domain[LEVEL[together.level]]
        mates = (
            t[2]
            for t in self.taken
            if together.role in ("", self._workload.roles[t[0]].name)
            and (not together.block or (t[0] == role and t[1] // together.block == rank // together.block))
        )
        return domain[n] >= 0 and all(domain[mate] == domain[n] for mate in mates)

    def _limits_hold(self, role: int, n: int) -> bool:
        aparts = tuple(
            a for a in self._workload.apart if a.required and a.role in ("", self._workload.roles[role].name)
        )
        for apart in aparts:
            domain = self._engine.cluster.level_domain[LEVEL[apart.level]]
            here = sum(
                1
                for t in self.taken
                if apart.role in ("", self._workload.roles[t[0]].name) and domain[t[2]] == domain[n]
            )
            if domain[n] < 0 or here >= apart.max_per_domain:
                return False
        return caps_allow(self._engine, self._workload, role, n, [_rows(self.taken)])
