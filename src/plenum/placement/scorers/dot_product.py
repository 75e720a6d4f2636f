"""dot-product: pack where what is free and what is asked for point least the same way."""

from __future__ import annotations

import numpy as np

from plenum.graph.cluster import CPU_COLUMN
from plenum.graph.compiled import inner
from plenum.graph.state import tightest
from plenum.placement.scorers.parts import FULL_CPU_MILLI, FULL_GPU_MILLI, free_milli, is_share


@inner
def score(nodes, state, shapes, s, n):
    """⌊100(1 − ½(cpu_free·cpu + gpu_free·gpu))⌋, each over the largest node's; free is before placing.

    The published variant packs: the larger the product, the lower the score (the opposite of Tetris).
    Source: FGD's simulator, ``dot_product_score.go`` with ``-dimext merge -norm max``; checked by tests/papers.
    """
    pick = tightest(nodes, state, shapes, s, n, np.int64(0)) if is_share(shapes, s) else -1
    dot = (state.free[n, CPU_COLUMN] / FULL_CPU_MILLI) * (shapes.need[s, CPU_COLUMN] / FULL_CPU_MILLI)
    dot += (free_milli(nodes, state, n) / FULL_GPU_MILLI) * (shapes.milli[s] * shapes.gpus[s] / FULL_GPU_MILLI)
    return float(int(100.0 * (1.0 - dot / 2.0))), pick
