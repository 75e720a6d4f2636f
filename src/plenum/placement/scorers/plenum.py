"""plenum: place where the cluster loses least of what it can still be expected to take.

The worth of a node is s · U · min(φ_cpu(C/U), φ_mem(M/U)) + K, where

- U = Σ v(R_g) over its GPUs: v prices a residue by what its best filling with the sizes that tenants ask for spares elsewhere, at the
  dual prices of a cutting-stock linear programme over the frequencies of requests (:func:`gpu_prices`);
- φ(h) = E min(1, h/X): the share of that worth that h cores (bytes) a GPU can serve when requests ask for X. It keeps cores and
  memory in proportion to GPUs, and costs more on a node with little left to average over, which keeps few nodes open;
- s is a little above 1 for models that tenants ask for by name, and K a little for free GPUs that can still serve requests of several.

It depends on the state and the frequencies alone: no trace position, no horizon; whatever fits is placed. Constants are flat around
their values; what each part is worth on the published traces is in docs/decisions/0003-the-plenum-score.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import CPU_COLUMN, MEMORY_COLUMN, UNLIMITED, Cluster
from plenum.graph.compiled import inner, outer
from plenum.graph.state import gpu_takes
from plenum.model.fleet import CPU, GPU, MEMORY
from plenum.model.workload import Request
from plenum.placement.scorers.parts import give_whole, is_share, level_of, seen_before, take_whole

OVERLOAD = 1.3
"""Arrivals, over capacity, that residues are priced for: packing matters where too much is asked for. 1.15 to 2 give the same prices."""

SPREAD = 12.0
"""Requests a GPU's worth of cores is averaged over; the more, the nearer their mix is to its mean."""

KEEP_MILLI = 40.0
"""What a free GPU is worth on top where requests for several could use it, in milli-GPU, times their share of the demand."""

FILL = 0.05
"""Discount on residues that are already cut, so that among equals the fuller GPU is filled."""

SCARCE = 0.05
"""Premium on models that are asked for by name, times their share of the demand."""

MAX_SIZES = 48
"""Distinct share sizes that the linear programme tells apart; rarer ones count as the next larger."""

MAX_MERGED = 64
STEPS, MAX_SUPPLY = 4, 256
"""Grid of the φ tables: units of supply for each milli-GPU, and its end, where everything is served."""


class Worth(NamedTuple):
    """Tables of what is free is worth.

    ``value`` (1001,): milli-GPU that a residue of r will end up serving. ``cpu`` and ``memory`` (65, steps): φ for nodes with more
    and more requests to come. ``unit_bytes``: bytes of one unit of memory supply. ``node_class`` (N,) numbers nodes alike in model and
    capacity, ``scale`` (classes,) and ``group`` (classes, levels + 1, G + 1) are by class; ``level`` holds the ascending core
    demands of requests for several GPUs.
    """

    value: NDArray[np.float64]
    cpu: NDArray[np.float64]
    memory: NDArray[np.float64]
    unit_bytes: float
    node_class: NDArray[np.int64]
    scale: NDArray[np.float64]
    level: NDArray[np.int64]
    group: NDArray[np.float64]


class _Mix(NamedTuple):
    """The frequencies as columns: one row a request."""

    gpus: NDArray[np.int64]
    milli: NDArray[np.float64]
    cpu: NDArray[np.float64]
    memory: NDArray[np.float64]
    models: NDArray[np.int64]
    times: NDArray[np.float64]

    @property
    def demand(self) -> NDArray[np.float64]:
        return self.milli * self.times / GPU


def worth_tables(cluster: Cluster, frequencies: Sequence[tuple[Request, int]]) -> Worth:
    """Learn what is free is worth from how often each request was seen.

    Parameters
    ----------
    frequencies
        Requests and how often each was seen; none: one GPU with one core is all that is ever asked for.
    """
    mix = _mix(cluster.fleet.models, frequencies)
    wants, total = mix.gpus > 0, float(mix.demand.sum())
    share = wants & (mix.milli < GPU)
    size, where = np.unique(mix.milli[share].astype(np.int64), return_inverse=True)
    size, offered = _coarsened(size, np.bincount(where.reshape(-1), weights=mix.times[share], minlength=len(size)))
    value = gpu_prices(size, offered * OVERLOAD / total, float(mix.demand[wants & ~share].sum()) * OVERLOAD / total)
    value *= 1.0 - FILL * (1.0 - value / max(value[GPU], 1e-9))

    weight = mix.demand[wants] / total
    unit_bytes = max(float((mix.memory[wants] / mix.milli[wants] * weight).sum()) / 10.0, 1e-9)
    capacity = {name: cluster.capacity[:, cluster.columns.index(name)].astype(float) for name in (CPU, MEMORY)}
    cpu_asked = (1.0 + _overflow(mix, mix.cpu, capacity[CPU], cluster)) * mix.cpu[wants] / mix.milli[wants]
    memory_asked = (1.0 + _overflow(mix, mix.memory, capacity[MEMORY], cluster)) * mix.memory[wants] / mix.milli[wants]
    described = np.stack([cluster.nodes.model, capacity[CPU], capacity[MEMORY], cluster.nodes.gpu_count], axis=1)
    kinds, node_class = np.unique(described, axis=0, return_inverse=True)
    node_class = node_class.reshape(-1).astype(np.int64)
    gpus = np.bincount(node_class, weights=cluster.nodes.gpu_count)
    level, group = _group_worth(mix, kinds, gpus, total)
    return Worth(
        value=value,
        cpu=_share_served(cpu_asked, weight),
        memory=_share_served(memory_asked / unit_bytes, weight),
        unit_bytes=unit_bytes,
        node_class=node_class,
        scale=_scarcity(mix, kinds, gpus, total, len(cluster.fleet.models)),
        level=level,
        group=group,
    )


def _mix(models: Sequence[str], frequencies: Sequence[tuple[Request, int]]) -> _Mix:
    rows = [(r, times) for r, times in frequencies if times > 0]
    if not any(r.gpus for r, _ in rows):
        rows.append((Request(gpus=1, cpu_milli=1), 1))
    every = (1 << len(models)) - 1
    allowed = [sum(1 << i for i, m in enumerate(models) if r.accepts(m)) if r.gpu_models else every for r, _ in rows]
    return _Mix(
        gpus=np.array([r.gpus for r, _ in rows], np.int64),
        milli=np.array([r.total_gpu_milli for r, _ in rows], float),
        cpu=np.array([r.cpu_milli for r, _ in rows], float),
        memory=np.array([r.memory_bytes for r, _ in rows], float),
        models=np.array([a if r.gpus else every for a, (r, _) in zip(allowed, rows, strict=True)], np.int64),
        times=np.array([times for _, times in rows], float),
    )


def _share_served(asked: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """φ_p(h) = E min(1, h / X_p), X_p = mean + (X - mean)/√p: p requests to come average out. (65, steps)."""
    return _share_table(asked.tobytes(), weight.tobytes())


@lru_cache(maxsize=8)
def _share_table(asked_bytes: bytes, weight_bytes: bytes) -> NDArray[np.float64]:
    """Kept between engines: one is made whenever a node comes or goes, and mostly for the same mix of requests."""
    asked, weight = np.frombuffer(asked_bytes), np.frombuffer(weight_bytes)
    mean = (asked * weight).sum()
    supply = np.arange(STEPS * MAX_SUPPLY + 2) / STEPS
    table = np.empty((MAX_MERGED + 1, len(supply)))
    for p in range(MAX_MERGED + 1):
        merged = np.maximum(mean + (asked - mean) / math.sqrt(max(p, 1)), 1e-9)
        table[p] = (np.minimum(1.0, supply[:, None] / merged[None]) * weight[None]).sum(axis=1)
    return table


def _overflow(mix: _Mix, asked: NDArray[np.float64], capacity: NDArray[np.float64], cluster: Cluster) -> float:
    """What requests without a GPU take beyond what nodes can spare, relative to what those with one ask for in all."""
    if (capacity >= UNLIMITED).any():
        return 0.0
    wants, gpus = mix.gpus > 0, cluster.nodes.gpu_count.astype(float)
    total = float(mix.demand.sum())
    per_gpu = float((asked * mix.times)[wants].sum()) / total
    extra = float((asked * mix.times)[~wants].sum()) * OVERLOAD * gpus.sum() / total
    spare = float(np.maximum(capacity - per_gpu * gpus, 0.0).sum())
    return max(0.0, extra - spare) / max(per_gpu * gpus.sum(), 1e-9)


def _group_worth(
    mix: _Mix, kinds: NDArray[Any], gpus: NDArray[Any], total: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    several = np.flatnonzero(mix.gpus > 1)
    level = np.unique(mix.cpu[several].astype(np.int64))
    most = int(kinds[:, 3].max(initial=0))
    group = np.zeros((len(kinds), len(level) + 1, most + 1))
    for i in several.tolist():
        number = int(mix.gpus[i])
        can = (
            (kinds[:, 1] >= mix.cpu[i])
            & (kinds[:, 2] >= mix.memory[i])
            & (kinds[:, 3] >= number)
            & _is_among(mix.models[i], kinds)
        )
        if can.any():
            share = min(1.0, mix.demand[i] / total * gpus.sum() / gpus[can].sum())
            at = int(np.searchsorted(level, mix.cpu[i])) + 1
            group[can, at:, number:] += KEEP_MILLI * share * np.arange(number, most + 1)
    return level, group


def _scarcity(mix: _Mix, kinds: NDArray[Any], gpus: NDArray[Any], total: float, n_models: int) -> NDArray[np.float64]:
    scale = np.ones(len(kinds))
    named = (mix.gpus > 0) & (mix.models != (1 << n_models) - 1)
    for models in np.unique(mix.models[named]).tolist():
        can = _is_among(models, kinds) & (gpus > 0)
        if can.any():
            demand = float(mix.demand[named & (mix.models == models)].sum()) / total
            scale[can] += SCARCE * min(1.0, demand * gpus.sum() / gpus[can].sum())
    return scale


def _is_among(models: int, kinds: NDArray[Any]) -> NDArray[np.bool_]:
    model = kinds[:, 0].astype(np.int64)
    return (model >= 0) & ((np.int64(models) >> np.maximum(model, 0)) & 1 > 0)


def _coarsened(size: NDArray[np.int64], offered: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if len(size) <= MAX_SIZES:
        return size, offered
    kept = np.union1d(np.argsort(-offered, kind="stable")[: MAX_SIZES - 1], [len(size) - 1])
    return size[kept], np.add.reduceat(offered, np.r_[0, kept[:-1] + 1])


def gpu_prices(size: NDArray[np.int64], offered: NDArray[np.float64], whole: float) -> NDArray[np.float64]:
    """Price residues by a cutting-stock linear programme, solved by column generation.

    One GPU's worth of cluster is cut into patterns of the share sizes, wasting least, when nothing that fits may be refused:
    until empty GPUs run out, at a fraction τ of the arrivals, all is accepted; after that only what fits the residues:
    minimise Σ waste_j·y_j subject to τ·n_i ≤ Σ a_ij·y_j ≤ n_i and Σ y_j + τ·whole = 1.

    Parameters
    ----------
    size
        (m,) share sizes in milli, ascending.
    offered
        (m,) arrivals of each size per GPU of the cluster.
    whole
        Whole GPUs asked for per GPU of the cluster.

    Returns
    -------
    NDArray
        (1001,) the best value of a residue at the dual prices, in milli.

    Notes
    -----
    Gilmore and Gomory, "A linear programming approach to the cutting-stock problem", Operations Research 9 (1961); the
    pattern of least reduced cost is an unbounded knapsack over 1,000 milli.
    """
    m = len(size)
    if m == 0:
        return np.where(np.arange(GPU + 1) == GPU, float(GPU), 0.0)
    rows = 2 * m + 1
    right = np.r_[np.zeros(m), offered, 1.0]
    unit = np.eye(rows)
    fixed = np.zeros((rows, rows))  # columns: accepted beyond tau, left over, tau
    fixed[:, :m] = unit[:, m : 2 * m] - unit[:, :m]
    fixed[:, m : 2 * m] = unit[:, m : 2 * m]
    fixed[:, 2 * m] = np.r_[-offered, offered, whole]
    basis = np.zeros((rows, rows))
    basis[:m, :m] = np.eye(m)
    basis[rows - 1, :m] = 1.0
    basis[:, m:] = fixed[:, m:]
    cost = np.r_[float(GPU) - size, np.zeros(m + 1)]
    value = np.zeros(GPU + 1)
    for _ in range(40 * rows):
        price = np.linalg.solve(basis.T, cost)
        value, pick = _knapsack(size, size + price[:m])
        reduced = -price @ fixed
        j = int(np.argmin(reduced))
        gain = GPU - value[GPU] - price[rows - 1]  # of the best pattern
        if min(gain, reduced[j]) > -1e-6:
            break
        column, waste = (_pattern(size, pick, rows)) if gain <= reduced[j] else (fixed[:, j], 0.0)
        level, step = np.linalg.solve(basis, right), np.linalg.solve(basis, column)
        moves = step > 1e-9
        ratio = np.where(moves, np.maximum(level, 0.0) / np.where(moves, step, 1.0), np.inf)
        leaving = int(np.argmin(ratio))
        basis[:, leaving] = column
        cost[leaving] = waste
    return value


def _pattern(size: NDArray[np.int64], pick: NDArray[np.int64], rows: int) -> tuple[NDArray[np.float64], float]:
    column, left, waste = np.zeros(rows), GPU, float(GPU)
    while left > 0:
        if pick[left] < 0:
            left -= 1
            continue
        column[pick[left]] += 1
        waste -= size[pick[left]]
        left -= size[pick[left]]
    column[rows - 1] = 1.0
    return column, float(waste)


@outer
def _knapsack(size, value):
    best = np.zeros(1001)
    pick = np.full(1001, -1)
    for r in range(1, 1001):
        best[r] = best[r - 1]
        for i in range(size.shape[0]):
            if size[i] <= r and best[r - size[i]] + value[i] > best[r] + 1e-9:
                best[r] = best[r - size[i]] + value[i]
                pick[r] = i
    return best, pick


@inner
def _served(table, supply, merged):
    """φ by bilinear interpolation."""
    x, y = min(supply, float(MAX_SUPPLY)) * STEPS, min(max(merged, 1.0), MAX_MERGED - 1e-9)
    i, j = int(x), int(y)
    low = table[j, i] + (x - i) * (table[j, i + 1] - table[j, i])
    high = table[j + 1, i] + (x - i) * (table[j + 1, i + 1] - table[j + 1, i])
    return low + (y - j) * (high - low)


@inner
def worth(nodes, state, tables, n, cpu_free, memory_free):
    """What is free on node n is worth, in milli-GPU, as if so many cores and bytes were free."""
    useful, free = 0.0, 0
    for g in range(nodes.gpu_count[n]):
        left = state.gpu_free[n, g]
        useful += tables.value[left]
        if left == 1000:
            free += 1
    if useful <= 0.0:
        return 0.0
    merged, kind = useful * SPREAD / 1000.0, tables.node_class[n]
    served = min(
        _served(tables.cpu, cpu_free / useful, merged),
        _served(tables.memory, memory_free / (useful * tables.unit_bytes), merged),
    )
    total = tables.scale[kind] * useful * served
    if free > 1:
        total += tables.group[kind, level_of(tables.level, cpu_free), free]
    return total


@inner
def score(nodes, state, shapes, s, n, tables, before):
    """Worth after placing minus worth before; for a share the best over GPUs, lowest index among equals."""
    cpu_left = state.free[n, CPU_COLUMN] - shapes.need[s, CPU_COLUMN]
    memory_left = state.free[n, MEMORY_COLUMN] - shapes.need[s, MEMORY_COLUMN]
    if not is_share(shapes, s):
        taken = take_whole(nodes, state, shapes, s, n)
        after = worth(nodes, state, tables, n, cpu_left, memory_left)
        give_whole(nodes, state, n, taken)
        return after - before, -1
    best, pick = -np.inf, -1
    for g in range(nodes.gpu_count[n]):
        free = state.gpu_free[n, g]
        if seen_before(state, n, g) or not gpu_takes(
            free, state.mig[n, g], shapes.milli[s], shapes.mig[s], shapes.mig_profile[s]
        ):
            continue
        state.gpu_free[n, g] = free - shapes.milli[s]
        after = worth(nodes, state, tables, n, cpu_left, memory_left)
        state.gpu_free[n, g] = free
        if after > best:
            best, pick = after, g
    return best - before, pick
