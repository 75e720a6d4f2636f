"""best-fit: the node that would be left with the least, cores and GPUs counting half each."""

from __future__ import annotations

import numpy as np

from plenum.graph.cluster import CPU_COLUMN
from plenum.graph.compiled import inner
from plenum.graph.state import tightest
from plenum.placement.scorers.parts import FULL_CPU_MILLI, FULL_GPU_MILLI, free_milli, is_share


@inner
def score(nodes, state, shapes, s, n):
    """⌊100(1 − ½Δcpu/128 − ½Δgpu/8)⌋, Δ what stays free on the node; the tightest GPU.

    Source: FGD's simulator, hkust-adsl/kubernetes-scheduler-simulator, ``best_fit_score.go``; checked by tests/papers.
    """
    pick = tightest(nodes, state, shapes, s, n, np.int64(0)) if is_share(shapes, s) else -1
    part = (state.free[n, CPU_COLUMN] - shapes.need[s, CPU_COLUMN]) / FULL_CPU_MILLI * 0.5
    part += (free_milli(nodes, state, n) - shapes.milli[s] * shapes.gpus[s]) / FULL_GPU_MILLI * 0.5
    return float(int((1.0 - part) * 100.0)), pick
