"""random: a node drawn uniformly among those that fit, then a GPU of it drawn uniformly among those that fit.

Source: FGD's simulator, ``random_score.go``. Its own stream cannot be rebuilt (a global unseeded generator), so ours is
another sample of the same distribution.
"""

from __future__ import annotations

from plenum.graph.compiled import inner
from plenum.graph.state import gpu_takes
from plenum.placement.scorers.parts import is_share


@inner
def draw(nodes, state, shapes, s, scores, slot, u_node, u_gpu):
    """Return (node, GPU for a share or -1) for two uniform numbers in [0, 1); node -1 where none fits."""
    feasible = 0
    for n in range(scores.shape[1]):
        if scores[slot, n] >= 0.0:
            feasible += 1
    if feasible == 0:
        return -1, -1
    left, node = int(u_node * feasible), -1
    for n in range(scores.shape[1]):
        if scores[slot, n] >= 0.0:
            if left == 0:
                node = n
                break
            left -= 1
    if not is_share(shapes, s):
        return node, -1
    options = 0
    for g in range(nodes.gpu_count[node]):
        if gpu_takes(
            state.gpu_free[node, g], state.mig[node, g], shapes.milli[s], shapes.mig[s], shapes.mig_profile[s]
        ):
            options += 1
    left = int(u_gpu * options)
    for g in range(nodes.gpu_count[node]):
        if gpu_takes(
            state.gpu_free[node, g], state.mig[node, g], shapes.milli[s], shapes.mig[s], shapes.mig_profile[s]
        ):
            if left == 0:
                return node, g
            left -= 1
    return node, -1
