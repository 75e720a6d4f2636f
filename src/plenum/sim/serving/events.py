"""What happens next: a heap of timed events, and a tournament over the instances' next boundaries."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import inner, outer, small
from plenum.sim.serving import fields as f
from plenum.sim.serving.world import World

FOLLOW, TRANSFERRED, LOADED, FAILED, RECOVERED, STARTED, TICK, RETRY, REROUTE, RELEASE = range(10)
"""Kinds of events: a follower starts; a cache has crossed; a prefix is loaded; an instance is down, back, warm; scaling decides; a
request that was put off, or that lost its place, is routed; a cache that was kept for a follower is freed."""

_AT_S, _ORDER, _KIND, _SUBJECT, _EPOCH = range(5)


@outer
def push(w: World, at_s: float, kind: int, subject: int, epoch: int) -> None:
    """Add an event about a request or an instance; of equal times the earlier push comes first. A full heap stops the run.

    An event about a request no longer holds once the request has another epoch.
    """
    heap, k = w.heap, w.count[f.EVENTS]
    if k >= len(heap):
        w.count[f.STATUS] = f.OUT_OF_EVENTS
        return
    while k > 0:
        parent = (k - 1) // 2
        if heap[parent, _AT_S] <= at_s:
            break
        for column in range(5):
            heap[k, column] = heap[parent, column]
        k = parent
    heap[k, _AT_S], heap[k, _ORDER], heap[k, _KIND] = at_s, w.count[f.PUSHED], kind
    heap[k, _SUBJECT], heap[k, _EPOCH] = subject, epoch
    w.count[f.EVENTS] += 1
    w.count[f.PUSHED] += 1


@small
def next_event_s(w: World) -> float:
    """Return the time of the first event; infinity where there is none."""
    return w.heap[0, _AT_S] if w.count[f.EVENTS] > 0 else math.inf


@inner
def pop(w: World) -> tuple[int, int, int]:
    """Take the first event out: kind, subject, epoch."""
    heap = w.heap
    kind, subject, epoch = int(heap[0, _KIND]), int(heap[0, _SUBJECT]), int(heap[0, _EPOCH])
    last = w.count[f.EVENTS] - 1
    w.count[f.EVENTS] = last
    k = 0
    while 2 * k + 1 < last:
        child = 2 * k + 1
        if child + 1 < last and _before(heap, child + 1, child):
            child += 1
        if _before(heap, last, child):
            break
        for column in range(5):
            heap[k, column] = heap[child, column]
        k = child
    for column in range(5):
        heap[k, column] = heap[last, column]
    return kind, subject, epoch


@small
def _before(heap: NDArray[np.float64], a: int, b: int) -> bool:
    return heap[a, 0] < heap[b, 0] or (heap[a, 0] == heap[b, 0] and heap[a, 1] < heap[b, 1])


def new_tournament(count: int) -> NDArray[np.float64]:
    """Return a tournament over ``count`` keys, all infinite: (2 * leaves,), the least key of all at 1."""
    leaves = 1 << max(0, math.ceil(math.log2(max(count, 1))))
    return np.full(2 * leaves, np.inf)


@inner
def set_key(tree: NDArray[np.float64], index: int, key: float) -> None:
    """Change one key. O(log N)."""
    k = len(tree) // 2 + index
    tree[k] = key
    k //= 2
    while k >= 1:
        least = min(tree[2 * k], tree[2 * k + 1])
        if tree[k] == least:
            break
        tree[k] = least
        k //= 2


@inner
def first_key(tree: NDArray[np.float64]) -> int:
    """Return the index of the least key; of equals the lowest."""
    leaves = len(tree) // 2
    k = 1
    while k < leaves:
        k *= 2
        if tree[k] > tree[k + 1]:
            k += 1
    return k - leaves
