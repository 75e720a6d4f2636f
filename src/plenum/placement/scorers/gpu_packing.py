"""gpu-packing: used GPUs before free ones, used nodes before free ones."""

from __future__ import annotations

import numpy as np

from plenum.graph.compiled import inner
from plenum.graph.state import tightest
from plenum.placement.scorers.parts import free_gpus, is_share


@inner
def score(nodes, state, shapes, s, n):
    """Three bands: a wholly free node (at most 33), free GPUs of a used node (33 to 50), a used GPU (50 to 100, fuller is better).

    Source: FGD's simulator, ``gpu_packing_score.go``; checked by tests/papers.
    """
    if shapes.gpus[s] == 0:
        return 0.0, -1
    share = is_share(shapes, s)
    pick = tightest(nodes, state, shapes, s, n, np.int64(0)) if share else -1
    free = free_gpus(nodes, state, n)
    if free == nodes.gpu_count[n]:
        return float(max(33 - free, free)), pick
    if not share:
        return float(max(50 - shapes.gpus[s], 33)), -1
    if state.gpu_free[n, pick] == 1000:
        return 49.0, pick
    return float(max(100 - (state.gpu_free[n, pick] * 100 // 1000) // 10, 50)), pick
