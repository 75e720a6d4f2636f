"""Replicas one at a time: every shape's score of every node, kept up to date by what changed since it was last asked for.

Every change of a node gets the next tick. A shape remembers the tick at which it was last scored; on its next request only
nodes changed since are scored again. Nodes stand in blocks with a tick and a best node each, so that a request reads one
entry a block and looks inside only where something changed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import entry, inner, outer, small
from plenum.graph.state import assign, fit_count, fits, move, shared_allow
from plenum.model.view import Rows
from plenum.placement.limits import count_limits, limits_allow
from plenum.placement.scorers import RANDOM, score_node, standing
from plenum.placement.scorers.random import draw

BLOCK = 64
"""Nodes that share one best entry; near the square root of a large fleet."""

MAX_PER_NODE = 4096
"""Replicas of one shape that a node is ever counted to hold."""

NOT = -np.inf
"""Score of a node that does not fit."""


class Scores(NamedTuple):
    """Cache of C slots over N nodes: ``score``, GPU ``pick``, replicas that fit (``fitting``), each block's ``best`` node, and
    the tick at which each slot was last brought up to date (-1: never), for scores and for counts."""

    score: NDArray[np.float64]
    pick: NDArray[np.int16]
    best: NDArray[np.int64]
    read: NDArray[np.int64]
    fitting: NDArray[np.int32]
    fitting_read: NDArray[np.int64]


class Ticks(NamedTuple):
    """When things last changed: ``now`` (1,) counts changes, ``node`` (N,), ``block`` (N / 64,).

    ``standing`` (N,) is what the scorer makes of each node as it is, worked out at tick ``stood`` (N,).
    """

    now: NDArray[np.int64]
    node: NDArray[np.int64]
    block: NDArray[np.int64]
    standing: NDArray[np.float64]
    stood: NDArray[np.int64]


class Placed(NamedTuple):
    """Outcome of a stream of K requests: the node of each (-1: none fits) and its devices as sets."""

    node: NDArray[np.int32]
    gpu_mask: NDArray[np.uint64]
    nic_mask: NDArray[np.uint64]
    mig_mask: NDArray[np.uint8]
    numa_mask: NDArray[np.uint8]


def new_scores(slots: int, n: int) -> Scores:
    """Return an empty cache."""
    return Scores(
        np.empty((slots, n)),
        np.empty((slots, n), np.int16),
        np.empty((slots, -(-n // BLOCK)), np.int64),
        np.full(slots, -1, np.int64),
        np.empty((slots, n), np.int32),
        np.full(slots, -1, np.int64),
    )


def new_ticks(n: int) -> Ticks:
    """Return ticks of a cluster of n nodes that never changed."""
    return Ticks(
        np.zeros(1, np.int64),
        np.zeros(n, np.int64),
        np.zeros(-(-n // BLOCK), np.int64),
        np.empty(n),
        np.full(n, -1, np.int64),
    )


def new_placed(k: int) -> Placed:
    """Return room for the outcome of k requests."""
    return Placed(
        np.full(k, -1, np.int32),
        np.zeros(k, np.uint64),
        np.zeros(k, np.uint64),
        np.zeros(k, np.uint8),
        np.zeros(k, np.uint8),
    )


def rows_of(placed: Placed, which: NDArray[np.integer], role: int = 0) -> Rows:
    """Return the chosen outcomes as rows of one role, ranked in order."""
    k = len(which)
    return Rows(
        workload=np.zeros(k, np.int32),
        role=np.full(k, role, np.int16),
        rank=np.arange(k, dtype=np.int32),
        node=placed.node[which],
        gpu_mask=placed.gpu_mask[which],
        nic_mask=placed.nic_mask[which],
        mig_mask=placed.mig_mask[which],
        numa_mask=placed.numa_mask[which],
    )


@small
def note(ticks, n):
    """Give the change of a node the next tick."""
    ticks.now[0] += 1
    ticks.node[n] = ticks.block[n // BLOCK] = ticks.now[0]


@entry
def note_many(ticks, nodes):
    """Note several changed nodes."""
    for i in range(nodes.shape[0]):
        note(ticks, nodes[i])


@small
def _rescore(scorer, nodes, state, shapes, s, slot, n, tables, scores, ticks):
    if not fits(nodes, state, shapes, s, n):
        scores.score[slot, n] = NOT
        return
    if ticks.stood[n] != ticks.node[n]:
        ticks.stood[n] = ticks.node[n]
        ticks.standing[n] = standing(scorer, nodes, state, n, tables)
    scores.score[slot, n], scores.pick[slot, n] = score_node(
        scorer, nodes, state, shapes, s, n, tables, ticks.standing[n]
    )


@small
def _beats(scores, slot, n, best, rank):
    """Whether node n comes before ``best`` (-1: nothing yet): higher score, then lower rank."""
    if best < 0:
        return True
    value, other = scores.score[slot, n], scores.score[slot, best]
    return value > other or (value == other and rank[n] < rank[best])


@small
def _best_of_block(scores, slot, block, rank):
    best = np.int64(-1)
    for n in range(block * BLOCK, min((block + 1) * BLOCK, scores.score.shape[1])):
        if scores.score[slot, n] != NOT and _beats(scores, slot, n, best, rank):
            best = n
    scores.best[slot, block] = best


@inner
def refresh(scorer, nodes, state, shapes, s, slot, tables, scores, ticks, rank):
    """Bring one slot's scores up to date."""
    since = scores.read[slot]
    scores.read[slot] = ticks.now[0]
    for block in range(ticks.block.shape[0]):
        if ticks.block[block] > since:
            for n in range(block * BLOCK, min((block + 1) * BLOCK, ticks.node.shape[0])):
                if ticks.node[n] > since:
                    _rescore(scorer, nodes, state, shapes, s, slot, n, tables, scores, ticks)
            _best_of_block(scores, slot, block, rank)


@outer
def refresh_counts(nodes, state, shapes, s, slot, scores, ticks):
    """Bring one slot's replica counts up to date."""
    since = scores.fitting_read[slot]
    scores.fitting_read[slot] = ticks.now[0]
    for block in range(ticks.block.shape[0]):
        if ticks.block[block] > since:
            for n in range(block * BLOCK, min((block + 1) * BLOCK, ticks.node.shape[0])):
                if ticks.node[n] > since:
                    scores.fitting[slot, n] = fit_count(nodes, state, shapes, s, n, MAX_PER_NODE)


@inner
def choose(nodes, state, shapes, s, slot, scores, rank, limits, taken):
    """The best node whose upper budgets and limits have room too; -1: none. The slot must be fresh."""
    best = np.int64(-1)
    for block in range(scores.best.shape[1]):
        n = scores.best[slot, block]
        if n >= 0 and _beats(scores, slot, n, best, rank):
            best = n
    if best < 0 or (
        shared_allow(nodes, state, shapes, s, best) and limits_allow(nodes, shapes, s, best, limits, taken)
    ):
        return best
    # The favourite is under a full budget: look at every node. Rare, and linear.
    best = np.int64(-1)
    for n in range(scores.score.shape[1]):
        if scores.score[slot, n] != NOT and _beats(scores, slot, n, best, rank):
            if shared_allow(nodes, state, shapes, s, n) and limits_allow(nodes, shapes, s, n, limits, taken):
                best = n
    return best


@entry
def stream(scorer, nodes, state, shapes, ids, slots, draws, tables, scores, ticks, rank, limits, taken, out):
    """Place one replica of each shape in ``ids``, in order, each with all before it in place; returns how many found a node.

    ``draws`` (K, 2) are uniform numbers for the random scorer; (0, 2) for the others. ``limits`` hold for all of them together;
    what they take is added to ``taken`` (C, D).
    """
    done = 0
    for i in range(ids.shape[0]):
        s, slot, pick = ids[i], slots[i], np.int64(-1)
        refresh(scorer, nodes, state, shapes, s, slot, tables, scores, ticks, rank)
        n = np.int64(-1)
        if scorer == RANDOM:
            n, pick = draw(nodes, state, shapes, s, scores.score, slot, draws[i, 0], draws[i, 1])
            if n >= 0 and not (
                shared_allow(nodes, state, shapes, s, n) and limits_allow(nodes, shapes, s, n, limits, taken)
            ):
                n, pick = np.int64(-1), np.int64(-1)
        if n < 0:
            n = choose(nodes, state, shapes, s, slot, scores, rank, limits, taken)
            if scorer != RANDOM and n >= 0:
                pick = scores.pick[slot, n]
        if n < 0:
            continue
        gpu_mask, nic_mask, mig_mask, numa = assign(nodes, state, shapes, s, n, pick)
        move(nodes, state, shapes, s, n, gpu_mask, nic_mask, mig_mask, numa, np.int64(1))
        count_limits(nodes, shapes, s, n, np.int64(1), limits, taken)
        note(ticks, n)
        out.node[i], out.gpu_mask[i], out.nic_mask[i] = n, gpu_mask, nic_mask
        out.mig_mask[i], out.numa_mask[i] = mig_mask, numa
        done += 1
    return done
