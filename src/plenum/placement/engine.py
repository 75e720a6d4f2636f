"""The engine: what is free in a view, kept up to date placement by placement.

:func:`plenum.placement.place` makes one, uses it and throws it away; a controller, a replay or ``explain`` keeps one. Either way
the decisions are the same: a property test holds the incremental state to a fresh one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plenum.fabric.collectives import Paths, paths_of
from plenum.graph.cluster import Cluster
from plenum.graph.shapes import Shapes
from plenum.graph.state import copy_state, empty_state, load_rows, state_of
from plenum.model.errors import FieldError, InvariantError
from plenum.model.fleet import LEVEL
from plenum.model.plan import Placement, Reason
from plenum.model.view import Rows, View
from plenum.model.workload import Request, Workload
from plenum.placement.gangs import place_workload
from plenum.placement.limits import Limits, cap_usage, no_limits
from plenum.placement.partitions import Partitions
from plenum.placement.policies import DEFAULT, Cap, Policy
from plenum.placement.scorers import RANDOM, SCORERS, Tables, learned
from plenum.placement.scorers.fgd import fragment_total
from plenum.placement.single import (
    Placed,
    Scores,
    Ticks,
    new_placed,
    new_scores,
    new_ticks,
    note_many,
    refresh_counts,
    rows_of,
    stream,
)

CACHE_CELLS = 24_000_000
"""Scores that the cache may hold over all shapes (14 bytes each); beyond, it starts over."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Step:
    """What a trial has to undo: workloads taken up (sign 1) or released (-1)."""

    held: list[tuple[Workload, Rows]]
    shape: NDArray[np.int32]
    rows: Rows
    sign: int


class Engine:
    """Places workloads on one cluster, one after another.

    Parameters
    ----------
    view
        Where to start from; never changed.
    rng
        Only the ``random`` scorer draws from it.
    node_rank
        (N,) distinct numbers; equal scores go to the lowest. Default: node order.
    frequencies
        How often each request is seen, which ``fgd`` and ``plenum`` learn from. Default: what the view runs.
    """

    def __init__(
        self,
        view: View,
        policy: Policy = DEFAULT,
        rng: np.random.Generator | None = None,
        *,
        node_rank: NDArray[np.integer] | None = None,
        frequencies: Sequence[tuple[Request, int]] | None = None,
        cluster: Cluster | None = None,
    ) -> None:
        self.cluster = cluster or Cluster.of(view.fleet)
        self.partitions = Partitions(self.cluster)
        for cap in policy.caps:
            if cap.resource not in self.cluster.columns:
                known = ", ".join(self.cluster.columns)
                raise FieldError("caps.resource", f"this fleet has no {cap.resource}; its resources are {known}")
            if not self.partitions.exists(LEVEL[cap.level]):
                raise FieldError("caps.level", f"this fleet has no {cap.level} that holds whole nodes")
        self.policy = policy
        self.rng = rng or np.random.default_rng(0)
        self.shapes = Shapes(self.cluster)
        self.rank = np.arange(self.cluster.n) if node_rank is None else np.asarray(node_rank, np.int64)
        self.running: dict[str, tuple[Workload, Rows]] = {}
        self._position = view.position
        self._paths: dict[tuple[int, ...], Paths] = {}
        self.cap_used: dict[tuple[Cap, str], NDArray[np.int64]] = {}
        self._journal: list[_Step] | None = None
        self._emptied: Engine | None = None
        self._on_node: dict[int, dict[str, None]] | None = {}
        self._scorer = SCORERS[policy.scorer]
        role_shapes = [[self.shapes.intern(role.request) for role in w.roles] for w in view.running]
        of_row = [role_shapes[w][r] for w, r in zip(view.rows.workload.tolist(), view.rows.role.tolist(), strict=True)]
        self.state = state_of(self.cluster, view, self.shapes.arrays, np.array(of_row, np.int32))
        order = np.argsort(view.rows.workload, kind="stable")
        ends = np.searchsorted(view.rows.workload[order], np.arange(len(view.running) + 1))
        for i, workload in enumerate(view.running):
            self._remember(workload, view.rows[order[ends[i] : ends[i + 1]]])
        if frequencies is None:
            frequencies = frequencies_of(view.running)
        self.tables: Tables = learned(self.cluster, frequencies)
        self._slots = max(16, min(CACHE_CELLS // self.cluster.n, 4096))
        self._slot_of: dict[int, int] = {}
        self.scores = new_scores(16, self.cluster.n)
        self.ticks = new_ticks(self.cluster.n)

    # -- single replicas ---------------------------------------------------------------------------

    def shape_ids(self, requests: Iterable[Request]) -> NDArray[np.int32]:
        """Intern requests; equal ones get the same id."""
        return np.array([self.shapes.intern(r) for r in requests], np.int32)

    def place_stream(self, shape: NDArray[np.int32], limits: Limits | None = None) -> Placed:
        """Place one replica of each shape, in order, each with all before it in place; nothing is recorded as running.

        Parameters
        ----------
        shape
            (K,) ids from :meth:`shape_ids`.
        limits
            Spreads and caps that hold for all of them together.

        Returns
        -------
        Placed
            Node and devices of each; node -1 where none had room.
        """
        ids = np.ascontiguousarray(shape, np.int64)
        parts = [self._place_part(part, limits) for part in self._parts(ids)]
        if len(parts) == 1:
            return parts[0]
        return Placed._make(np.concatenate(columns) for columns in zip(*parts, strict=True))

    def _parts(self, ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut a stream so that the cache has a slot for every shape of each part."""
        if len(np.unique(ids)) <= self._slots:
            return [ids]
        return [ids[i : i + self._slots] for i in range(0, len(ids), self._slots)]

    def _place_part(self, ids: NDArray[np.int64], limits: Limits | None) -> Placed:
        draws = self.rng.random((len(ids), 2)) if self._scorer == RANDOM else np.empty((0, 2))
        out = new_placed(len(ids))
        unique, where = np.unique(ids, return_inverse=True)
        slot = np.array(self.slots(unique.tolist()), np.int64)[where.reshape(-1)]
        limits = limits or no_limits(self.cluster.n)
        stream(
            self._scorer, self.cluster.nodes, self.state, self.shapes.arrays, ids, slot, draws,
            self.tables, self.scores, self.ticks, self.rank, limits, np.zeros(limits.left.shape, np.int64), out,
        )  # fmt: skip
        return out

    def release_stream(self, shape: NDArray[np.int32], placed: Placed) -> None:
        """Give back replicas placed by :meth:`place_stream`; ``shape`` and ``placed`` row by row, node -1 skipped."""
        which = np.flatnonzero(placed.node >= 0)
        rows = rows_of(placed, which)
        self._load(np.ascontiguousarray(shape, np.int32)[which], rows, -1)

    # -- workloads ---------------------------------------------------------------------------------

    def place(self, workload: Workload) -> Placement | Reason:
        """Place one workload and record it as running, or say in short why not (see scheduling.explain for the long answer)."""
        if workload.id in self.running:
            raise FieldError("metadata.name", f"{workload.id} runs already; choose another name")
        return place_workload(self, workload)

    def record(self, workload: Workload, rows: Rows) -> None:
        """Take rows that :meth:`place` would have chosen, for example those that a driver reports."""
        self._load(self._row_shapes(workload, rows), rows, 1)
        self.keep(workload, rows)

    def keep(self, workload: Workload, rows: Rows) -> None:
        """Record rows as running that are bound already."""
        self._remember(workload, rows)
        if self._journal is not None:
            self._journal.append(
                _Step(held=[(workload, rows)], shape=self._row_shapes(workload, rows), rows=rows, sign=1)
            )

    def release(self, *workload_ids: str) -> None:
        """Give back everything that some workloads hold.

        Raises
        ------
        InvariantError
            One of them is not running; nothing is released then.
        """
        unknown = [name for name in workload_ids if name not in self.running]
        if unknown:
            raise InvariantError(f"{unknown[0]} is not running")
        if not workload_ids:
            return
        gone = [self.running[name] for name in dict.fromkeys(workload_ids)]
        for workload, rows in gone:
            self._forget(workload, rows)
        shape = np.concatenate([self._row_shapes(workload, rows) for workload, rows in gone])
        joined = Rows.joined([rows for _, rows in gone])
        self._load(shape, joined, -1)
        if self._journal is not None:
            self._journal.append(_Step(held=gone, shape=shape, rows=joined, sign=-1))

    def on_node(self, node: int) -> tuple[str, ...]:
        """Return the ids of the workloads on a node; not kept by forks."""
        if self._on_node is None:
            raise InvariantError("a fork does not know what runs on a node; ask the engine it was forked from")
        return tuple(self._on_node.get(node, ()))

    def view(self) -> View:
        """Return what runs now as a view."""
        items = list(self.running.values())
        rows = Rows.joined([r.owned_by(i) for i, (_, r) in enumerate(items)])
        return View(fleet=self.cluster.fleet, running=tuple(w for w, _ in items), rows=rows, position=self._position)

    def fork(self, *, empty: bool = False, cluster: Cluster | None = None) -> Engine:
        """Return an independent engine with the same policy and learned tables, to try things on.

        Parameters
        ----------
        empty
            Start from the fleet with nothing on it.
        cluster
            The same fleet with other nodes schedulable.
        """
        other = copy(self)
        other.rng, other._journal, other._on_node = np.random.default_rng(0), None, None
        if cluster is not None:
            other.cluster, other.shapes, other._paths, other._emptied = cluster, Shapes(cluster), {}, None
        other.running = {} if empty else dict(self.running)
        other.cap_used = {} if empty else dict(self.cap_used)
        other.state = empty_state(other.cluster) if empty else copy_state(self.state)
        if empty or cluster is not None:
            other._slot_of = {}
            other.scores = new_scores(16, other.cluster.n)
            other.ticks = new_ticks(other.cluster.n)
        else:  # what is cached holds for the copy too, until the two part
            other._slot_of = dict(self._slot_of)
            other.scores = Scores._make(a.copy() for a in self.scores)
            other.ticks = Ticks._make(a.copy() for a in self.ticks)
        return other

    def emptied(self) -> Engine:
        """Return an engine on the same fleet with nothing on it; one and the same each time, so leave it as you find it."""
        if self._emptied is None:
            self._emptied = self.fork(empty=True)
        return self._emptied

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Undo, at the end of the block, every placement and release made in it.

        What was released and is back stands last among ``running``.
        """
        outer, self._journal = self._journal, []
        try:
            yield
        finally:
            for step in reversed(self._journal):
                for workload, rows in step.held:
                    (self._forget if step.sign > 0 else self._remember)(workload, rows)
                self._load(step.shape, step.rows, -step.sign)
            self._journal = outer

    # -- figures -----------------------------------------------------------------------------------

    @property
    def free_gpu_milli(self) -> int:
        """Milli-GPU that nobody holds, on healthy GPUs."""
        return int(self.state.gpu_total[0])

    def fragmented_gpu_milli(self) -> float:
        """Free milli-GPU that the typical mix cannot use, FGD's F summed over nodes."""
        return float(fragment_total(self.cluster.nodes, self.state, self.tables.fragments))

    # -- for the solvers of this room --------------------------------------------------------------

    def paths_for(self, workload: Workload) -> Paths:
        """Return the bandwidths among the nodes that a workload's GPU roles may use."""
        shapes = tuple(sorted(self.shapes.intern(role.request) for role in workload.roles if role.request.gpus))
        if shapes not in self._paths:
            self._paths[shapes] = paths_of(
                self.cluster, np.atleast_1d(self.shapes.arrays.allowed[list(shapes)].any(axis=0))
            )
        return self._paths[shapes]

    def caps_of(self, tenant: str) -> tuple[Cap, ...]:
        """Return the policy's caps that bind a tenant."""
        return tuple(c for c in self.policy.caps if c.tenant in ("", tenant))

    def unbind(self, workload: Workload, rows: Rows) -> None:
        """Give back rows that were bound but not recorded."""
        self._load(self._row_shapes(workload, rows), rows, -1)

    def counts(self, shape: int, limit: int) -> NDArray[np.int32]:
        """(N,) replicas of a shape that each node can take, at most ``limit``; budgets above the nodes aside."""
        (slot,) = self.slots([shape])
        refresh_counts(
            self.cluster.nodes,
            self.state,
            self.shapes.arrays,
            shape,
            slot,
            self.scores,
            self.ticks,
        )
        return np.minimum(self.scores.fitting[slot], limit)

    def slots(self, shapes: Sequence[int]) -> list[int]:
        """Return the cache slots of some distinct shapes, making room if need be; valid until the next call."""
        missing = [s for s in shapes if s not in self._slot_of]
        if len(self._slot_of) + len(missing) > self._slots:
            self._slot_of.clear()
            self.scores.read[:] = -1
            self.scores.fitting_read[:] = -1
            missing = list(shapes)
        room = len(self.scores.read)
        while room < len(self._slot_of) + len(missing):
            room = min(2 * room, self._slots)
        if room > len(self.scores.read):
            bigger = new_scores(room, self.cluster.n)
            for new, old in zip(bigger, self.scores, strict=True):
                new[: len(old)] = old
            self.scores = bigger
        for s in missing:
            self._slot_of[s] = len(self._slot_of)
        return [self._slot_of[s] for s in shapes]

    def changed(self, nodes: NDArray[np.integer]) -> None:
        """Note that nodes changed outside this class's own methods."""
        note_many(self.ticks, np.ascontiguousarray(nodes, np.int64))

    def _remember(self, workload: Workload, rows: Rows) -> None:
        self.running[workload.id] = (workload, rows)
        self._count_caps(workload, rows, 1)
        if self._on_node is not None:
            for node in rows.node.tolist():
                self._on_node.setdefault(node, {})[workload.id] = None

    def _count_caps(self, workload: Workload, rows: Rows, sign: int) -> None:
        for cap in self.caps_of(workload.tenant):
            used = self.cap_used.get((cap, workload.tenant), 0)
            self.cap_used[cap, workload.tenant] = used + sign * cap_usage(self, cap, workload, rows)

    def _forget(self, workload: Workload, rows: Rows) -> None:
        del self.running[workload.id]
        self._count_caps(workload, rows, -1)
        if self._on_node is not None:
            for node in rows.node.tolist():
                self._on_node[node].pop(workload.id, None)

    def _row_shapes(self, workload: Workload, rows: Rows) -> NDArray[np.int32]:
        ids = np.array([self.shapes.intern(role.request) for role in workload.roles], np.int32)
        return ids[rows.role]

    def _load(self, shape: NDArray[np.int32], rows: Rows, sign: int) -> None:
        load_rows(self.cluster, self.state, self.shapes.arrays, shape, rows, sign)
        self.changed(rows.node)


def frequencies_of(workloads: Iterable[Workload]) -> tuple[tuple[Request, int], ...]:
    """Count replicas by request, in order of first appearance."""
    count: dict[Request, int] = {}
    for workload in workloads:
        for role in workload.roles:
            count[role.request] = count.get(role.request, 0) + role.replicas * role.nodes
    return tuple(count.items())
