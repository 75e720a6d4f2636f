"""gpu-clustering: keep like with like, shares with shares and k-GPU requests with k-GPU requests."""

from __future__ import annotations

import numpy as np

from plenum.graph.compiled import inner
from plenum.graph.state import KINDS, tightest
from plenum.placement.scorers.parts import FULL_GPU_MILLI, free_milli, is_share


@inner
def score(nodes, state, shapes, s, n):
    """Fill of the node (0 to 25) plus 75, 50, 25 or 0 for its kinds: only this one, this among others, none yet, only others.

    Source: FGD's simulator, ``gpu_clustering_score.go``; checked by tests/papers.
    """
    if shapes.gpus[s] == 0:
        return 0.0, -1
    share = is_share(shapes, s)
    pick = tightest(nodes, state, shapes, s, n, np.int64(0)) if share else -1
    kinds = 0
    for k in range(KINDS):
        if state.kinds[n, k] > 0:
            kinds += 1
    fill = 25 * (int(FULL_GPU_MILLI) - free_milli(nodes, state, n)) // int(FULL_GPU_MILLI)
    own = state.kinds[n, 0 if share else min(shapes.gpus[s], KINDS - 1)] > 0
    bonus = (75 if kinds == 1 else 50) if own else (25 if kinds == 0 else 0)
    return float(fill + bonus), pick
