"""fgd: Fragmentation Gradient Descent, least growth of what the typical mix cannot use.

Source: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
USENIX ATC 2023; integer score and quirks from its simulator, ``fgd_score.go`` and ``frag.go``; checked by tests/papers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import CPU_COLUMN
from plenum.graph.compiled import entry, inner, small
from plenum.graph.state import gpu_takes
from plenum.model.workload import Request
from plenum.placement.scorers.parts import give_whole, is_share, level_of, seen_before, take_whole

COVERAGE = 0.95
"""Share of requests that the typical mix M covers, most frequent shapes first."""


class Fragments(NamedTuple):
    """F_n(M) as tables, exact in integers (frequencies are counts that sum to ``total``).

    With C the count of one-GPU shapes of M with milli ≤ r whose cores fit, and W that of k-GPU shapes with k ≤ f,
    total·F_n = total·ΣR_g − Σ R_g·C[model, cpu level, R_g] − 1000·f·W[model, cpu level, f], f the free GPUs: a handful
    of look-ups where the definition tests every shape on every GPU.
    """

    level: NDArray[np.int64]
    one: NDArray[np.int64]
    many: NDArray[np.int64]
    total: int


def fragments(models: Sequence[str], frequencies: Sequence[tuple[Request, int]], max_gpus: int) -> Fragments:
    """Tabulate F over the typical mix.

    Parameters
    ----------
    models
        GPU models of the fleet.
    frequencies
        Requests and how often each was seen.
    max_gpus
        GPUs of the largest node.

    Notes
    -----
    Equally frequent shapes: the larger (cpu, milli, number, models) comes first, as published.
    """
    count: dict[tuple[int, int, int, int], int] = {}
    everything = (1 << len(models)) - 1
    for request, times in frequencies:
        allowed = sum(1 << i for i, m in enumerate(models) if request.accepts(m)) if request.gpu_models else everything
        key = (request.cpu_milli, request.gpu_milli if request.gpus else 0, request.gpus, allowed)
        count[key] = count.get(key, 0) + times
    order = sorted(count, key=lambda key: (count[key], key), reverse=True)
    need, total, typical = COVERAGE * sum(count.values()), 0, []
    for key in order:
        if total >= need:
            break
        typical.append(key)
        total += count[key]
    level = np.array(sorted({key[0] for key in typical}), np.int64)
    one = np.zeros((len(models), len(level) + 1, 1001), np.int64)
    many = np.zeros((len(models), len(level) + 1, max_gpus + 1), np.int64)
    for key in typical:
        cpu_milli, milli, gpus, allowed = key
        at = int(np.searchsorted(level, cpu_milli)) + 1
        for m in range(len(models)):
            if gpus == 1 and allowed >> m & 1:
                one[m, at:, milli:] += count[key]
            elif gpus > 1 and allowed >> m & 1:
                many[m, at:, gpus:] += count[key]
    return Fragments(level, one, many, max(total, 1))


@inner
def fragment(nodes, state, tables, n, cpu_free):
    """total·F_n(M) in milli-GPU, as if ``cpu_free`` cores were free."""
    level = level_of(tables.level, cpu_free)
    model = nodes.model[n]
    total, usable, free = 0, 0, 0
    for g in range(nodes.gpu_count[n]):
        left = state.gpu_free[n, g]
        total += left
        usable += left * tables.one[model, level, left]
        if left == 1000:
            free += 1
    return tables.total * total - usable - 1000 * free * tables.many[model, level, free]


@entry
def fragment_total(nodes, state, tables):
    """F summed over all nodes, in milli-GPU."""
    total = 0.0
    for n in range(state.free.shape[0]):
        total += fragment(nodes, state, tables, n, state.free[n, CPU_COLUMN]) / tables.total
    return total


@small
def _quantised(drop):
    return int(100.0 * (1.0 / (1.0 + math.exp(-drop / 1000.0))))


@inner
def score(nodes, state, shapes, s, n, tables, before):
    """⌊100·sigmoid((F_before − F_after)/1000)⌋; for a share the best over GPUs, lowest index among equals.

    The integer is part of the policy: with exact reals the published gain shrinks by a point.
    """
    left = state.free[n, CPU_COLUMN] - shapes.need[s, CPU_COLUMN]
    if not is_share(shapes, s):
        taken = take_whole(nodes, state, shapes, s, n)
        after = fragment(nodes, state, tables, n, left)
        give_whole(nodes, state, n, taken)
        return float(_quantised((before - after) / tables.total)), -1
    best, pick = -1, -1
    for g in range(nodes.gpu_count[n]):
        free = state.gpu_free[n, g]
        if seen_before(state, n, g) or not gpu_takes(
            free, state.mig[n, g], shapes.milli[s], shapes.mig[s], shapes.mig_profile[s]
        ):
            continue
        state.gpu_free[n, g] = free - shapes.milli[s]
        after = fragment(nodes, state, tables, n, left)
        state.gpu_free[n, g] = free
        value = _quantised((before - after) / tables.total)
        if value > best:
            best, pick = value, g
    return float(best), pick
