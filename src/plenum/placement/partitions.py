"""Ways to cut a cluster into domains, laid out so that every domain is a run of consecutive positions.

A partition orders the nodes by the domains of its levels and, inside those, down the fabric; a group (one domain, or one
combination of domains where levels lie on several axes) and every sub-domain are then intervals, and a sum over one is a
difference of two prefix sums. Partitions depend on the fleet alone and are made once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import Cluster
from plenum.model.fleet import LEVEL, LEVELS, NODE_LEVEL

DOWN_THE_FABRIC = tuple(LEVEL[name] for name in ("fabric.pod", "fabric.spine", "fabric.leaf", "scaleup.nvlink"))
"""Order of neighbours: ranks close in this order are close in the network."""


class Partition(NamedTuple):
    """A cluster cut into K groups; P nodes are in one.

    Parameters
    ----------
    order
        (P,) node at each position.
    start
        (K + 1,) first position of each group.
    ends
        (rows, P) end of the run that holds each position, for each sub-level from the widest down to the single node.
    rows
        Level id of each row of ``ends``; the last is the node.
    group
        (N,) group of each node; -1: in none.
    """

    order: NDArray[np.int64]
    start: NDArray[np.int64]
    ends: NDArray[np.int64]
    rows: tuple[int, ...]
    group: NDArray[np.int32]


def reduced(levels: tuple[int, ...]) -> tuple[int, ...]:
    """Drop levels that a lower one on the same axis implies; sorted, so that equal sets are equal tuples."""
    lowest: dict[str, int] = {}
    for level in sorted(levels):
        lowest[LEVELS[level].split(".")[0]] = level
    return tuple(sorted(lowest.values()))


class Partitions:
    """The partitions of one cluster, made on first use."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._made: dict[tuple[tuple[int, ...], int], Partition] = {}

    def exists(self, level: int) -> bool:
        """Whether the fleet has domains of a level that hold whole nodes."""
        return bool((self._cluster.level_domain[level] >= 0).any())

    def of(self, levels: tuple[int, ...], inner: int = -1) -> Partition:
        """Return the partition by ``levels``; ``inner`` names a level that must be among its rows (-1: none)."""
        key = (reduced(levels), inner)
        if key not in self._made:
            self._made[key] = _partition(self._cluster, *key)
        return self._made[key]


def _partition(cluster: Cluster, levels: tuple[int, ...], inner: int) -> Partition:
    below = [inner] if inner >= 0 and inner not in (*levels, *DOWN_THE_FABRIC, NODE_LEVEL) else []
    below += [level for level in DOWN_THE_FABRIC if level not in levels and len(cluster.level_domains[level])]
    table = cluster.level_domain
    inside = np.flatnonzero((table[list(levels)] >= 0).all(axis=0))
    keys = [inside, *(table[level, inside] for level in reversed((*levels, *below)))]
    order = inside[np.lexsort(keys)]
    if levels:
        changes = (table[list(levels)][:, order[1:]] != table[list(levels)][:, order[:-1]]).any(axis=0)
    else:
        changes = np.zeros(max(len(order) - 1, 0), bool)
    start = np.flatnonzero(np.r_[True, changes, True])[: None if len(order) else 1]
    ends = np.empty((len(below) + 1, len(order)), np.int64)
    for row, level in enumerate(below):
        changes = changes | (table[level, order[1:]] != table[level, order[:-1]])
        bounds = np.flatnonzero(np.r_[True, changes, True])
        ends[row] = np.repeat(bounds[1:], np.diff(bounds)) if len(order) else 0
    ends[-1] = np.arange(1, len(order) + 1)
    group = np.full(cluster.n, -1, np.int32)
    group[order] = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return Partition(order.astype(np.int64), start.astype(np.int64), ends, (*below, NODE_LEVEL), group)
