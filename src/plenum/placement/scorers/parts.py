"""What several scorers read off a node."""

from __future__ import annotations

from plenum.graph.compiled import inner, small

FULL_CPU_MILLI, FULL_GPU_MILLI = 128_000.0, 8_000.0
"""The largest node of the published simulator: constants there, not maxima of the fleet at hand."""


@small
def is_share(shapes, s):
    """Whether shape s takes part of one GPU: a share or a MIG instance."""
    return shapes.gpus[s] == 1 and (shapes.milli[s] < 1000 or shapes.mig[s] > 0)


@small
def free_milli(nodes, state, n):
    """Free milli-GPU of node n."""
    total = 0
    for g in range(nodes.gpu_count[n]):
        total += state.gpu_free[n, g]
    return total


@small
def free_gpus(nodes, state, n):
    """Wholly free GPUs of node n."""
    count = 0
    for g in range(nodes.gpu_count[n]):
        if state.gpu_free[n, g] == 1000:
            count += 1
    return count


@inner
def level_of(levels, amount):
    """How many of the ascending levels are at most ``amount``."""
    low, high = 0, levels.shape[0]
    while low < high:
        middle = (low + high) >> 1
        if levels[middle] <= amount:
            low = middle + 1
        else:
            high = middle
    return low


@small
def seen_before(state, n, g):
    """Whether an earlier GPU of the node is as free as GPU g (and so scores the same)."""
    for h in range(g):
        if state.gpu_free[n, h] == state.gpu_free[n, g] and state.mig[n, h] == state.mig[n, g]:
            return True
    return False


@small
def take_whole(nodes, state, shapes, s, n):
    """Take the lowest wholly free GPUs for a trial; returns them as bits for :func:`give_whole`."""
    left, taken = shapes.gpus[s], 0
    for g in range(nodes.gpu_count[n]):
        if left > 0 and state.gpu_free[n, g] == 1000:
            state.gpu_free[n, g] = 0
            taken |= 1 << g
            left -= 1
    return taken


@small
def give_whole(nodes, state, n, taken):
    """Undo :func:`take_whole`."""
    for g in range(nodes.gpu_count[n]):
        if taken >> g & 1:
            state.gpu_free[n, g] = 1000
