"""plenum: place where the cluster loses least of what it can still be expected to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plenum.graph.state import gpu_takes
from plenum.model.fleet import GPU
from plenum.model.workload import Request
from plenum.placement.scorers.parts import give_whole, is_share, level_of, seen_before, take_whole

OVERLOAD = 1.3
"""Arrivals, over capacity, that the prices are computed for: a cluster worth packing is one that is asked for too much."""

SPREAD = 4.0
"""Requests that share a GPU's worth of cores, on average; the more, the nearer their mix is to the mean."""

MAX_SIZES = 48
"""Distinct share sizes that the linear programme tells apart; rarer ones count as the next larger."""

MAX_MERGED = 32
STEPS_PER_CORE, MAX_CORES = 4, 256


class Worth(NamedTuple):
    """Tables of what is free is worth.

    ``value`` (1001,): milli-GPU that a residue of r will end up serving. ``served`` (33, steps): share of it that h cores a
    GPU can serve, for nodes of more and more GPUs. ``level`` and ``group`` (models, levels + 1, G + 1): worth of keeping f
    GPUs free together for requests of several.
    """

    value: NDArray[np.float64]
    served: NDArray[np.float64]
    level: NDArray[np.int64]
    group: NDArray[np.float64]


def worth_tables(models: Sequence[str], frequencies: Sequence[tuple[Request, int]], max_gpus: int) -> Worth:
    """Learn what residues are worth from how often each request was seen.

    Parameters
    ----------
    models
        GPU models of the fleet.
    frequencies
        Requests and how often each was seen.
    max_gpus
        GPUs of the largest node.
    """
    requests = [(r, times) for r, times in frequencies if r.gpus and times > 0]
    if not requests:
        requests = [(Request(gpus=1, cpu_milli=1), 1)]
    gpus = np.array([r.gpus for r, _ in requests])
    milli = np.array([r.total_gpu_milli for r, _ in requests], float)
    cores = np.array([r.cpu_milli for r, _ in requests], float)
    count = np.array([times for _, times in requests], float)
    share = np.array([r.gpu_milli < GPU for r, _ in requests])
    total = (milli * count).sum() / GPU
    size, where = np.unique(milli[share].astype(np.int64), return_inverse=True)
    offered = np.bincount(where, weights=count[share], minlength=len(size)) if len(size) else np.zeros(0)
    size, offered = _coarsened(size, offered)
    whole = (gpus * count)[~share].sum()
    value, marginal = gpu_prices(size, offered * OVERLOAD / total, whole * OVERLOAD / total)

    cores_per_gpu, weight = cores / milli, milli * count / (milli * count).sum()
    mean = (cores_per_gpu * weight).sum()
    supply = np.arange(STEPS_PER_CORE * MAX_CORES + 2) / STEPS_PER_CORE
    served = np.empty((MAX_MERGED + 1, len(supply)))
    for p in range(MAX_MERGED + 1):
        asked = np.maximum(mean + (cores_per_gpu - mean) / math.sqrt(max(p, 1)), 1e-9)
        served[p] = (np.minimum(1.0, supply[:, None] / asked[None]) * weight[None]).sum(axis=1)

    several = [(r, times) for r, times in requests if r.gpus > 1]
    level = np.unique(np.array([r.cpu_milli for r, _ in several], np.int64))
    group = np.zeros((max(len(models), 1), len(level) + 1, max_gpus + 1))
    for r, times in several:
        at = int(np.searchsorted(level, r.cpu_milli)) + 1
        for m, model in enumerate(models):
            if not r.gpu_models or model in r.gpu_models:
                for free in range(r.gpus, max_gpus + 1):
                    group[m, at:, free] += marginal * r.gpus * times / total * free
    return Worth(value, served, level, group)


def _coarsened(size: NDArray[np.int64], offered: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if len(size) <= MAX_SIZES:
        return size, offered
    kept = np.union1d(np.argsort(-offered, kind="stable")[: MAX_SIZES - 1], [len(size) - 1])
    return size[kept], np.add.reduceat(offered, np.r_[0, kept[:-1] + 1])


def gpu_prices(
    size: NDArray[np.int64], offered: NDArray[np.float64], whole: float
) -> tuple[NDArray[np.float64], float]:
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
    value
        (1001,) the best value of a residue at the dual prices, in milli.
    marginal
        Waste of the marginal GPU, in milli.

    Notes
    -----
    Gilmore and Gomory, "A linear programming approach to the cutting-stock problem", Operations Research 9 (1961); the
    pattern of least reduced cost is an unbounded knapsack over 1,000 milli.
    """
    m = len(size)
    if m == 0:
        return np.where(np.arange(GPU + 1) == GPU, float(GPU), 0.0), 0.0
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
    value, marginal = np.zeros(GPU + 1), 0.0
    for _ in range(40 * rows):
        price = np.linalg.solve(basis.T, cost)
        value, pick = _knapsack(size, size + price[:m])
        marginal = float(price[rows - 1])
        reduced = -price @ fixed
        j = int(np.argmin(reduced))
        gain = GPU - value[GPU] - marginal
        if min(gain, reduced[j]) > -1e-6:
            break
        column, waste = (_pattern(size, pick, rows)) if gain <= reduced[j] else (fixed[:, j], 0.0)
        level, step = np.linalg.solve(basis, right), np.linalg.solve(basis, column)
        moves = step > 1e-9
        ratio = np.where(moves, np.maximum(level, 0.0) / np.where(moves, step, 1.0), np.inf)
        leaving = int(np.argmin(ratio))
        basis[:, leaving] = column
        cost[leaving] = waste
    return value, marginal


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
    return column, waste


@njit(cache=True)
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


@njit(cache=True, forceinline=True)
def worth(nodes, state, tables, n, cpu_free):
    """What is free on node n is worth, in milli-GPU, as if ``cpu_free`` cores were free."""
    useful, free = 0.0, 0
    for g in range(nodes.gpu_count[n]):
        left = state.gpu_free[n, g]
        useful += tables.value[left]
        if left == 1000:
            free += 1
    if useful <= 0.0:
        return 0.0
    at = min(cpu_free / useful, float(MAX_CORES)) * STEPS_PER_CORE
    i = int(at)
    merged = min(max(useful * SPREAD / 1000.0, 1.0), MAX_MERGED - 1e-9)
    j = int(merged)
    low = tables.served[j, i] + (at - i) * (tables.served[j, i + 1] - tables.served[j, i])
    high = tables.served[j + 1, i] + (at - i) * (tables.served[j + 1, i + 1] - tables.served[j + 1, i])
    total = useful * (low + (merged - j) * (high - low))
    if free > 1:
        total += tables.group[nodes.model[n], level_of(tables.level, cpu_free), free]
    return total


@njit(cache=True, forceinline=True)
def score(nodes, state, shapes, s, n, cpu, tables):
    """Worth after placing minus worth before; for a share the best over GPUs, lowest index among equals."""
    left = state.free[n, cpu] - shapes.need[s, cpu]
    before = worth(nodes, state, tables, n, state.free[n, cpu])
    if not is_share(shapes, s):
        taken = take_whole(nodes, state, shapes, s, n)
        after = worth(nodes, state, tables, n, left)
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
        after = worth(nodes, state, tables, n, left)
        state.gpu_free[n, g] = free
        if after > best:
            best, pick = after, g
    return best - before, pick
