"""Compiled parts of gang placement: how much each domain holds, and which of its nodes a gang takes."""

from __future__ import annotations

import numpy as np

from plenum.graph.compiled import entry, inner, outer, small
from plenum.graph.state import assign, demand, move
from plenum.placement.limits import count_limits
from plenum.placement.single import note


@outer
def first_that_holds(nodes, state, shapes, s, order, start, count, limits, candidates, size, block, block_ends, per):
    """The first candidate group that holds ``size`` replicas with budgets and limits kept; -1: none.

    Writes what each position of that group can take into ``per`` (P,). Within a group positions are served in order. Where the limits
    form a tree the total is exact whatever the order (the feasible counts are a laminar matroid); where they cross it is a
    lower bound. With ``block`` > 0 only whole blocks inside the intervals of ``block_ends`` count.
    """
    shared_taken = np.zeros(nodes.shared_capacity.shape[0], np.int64)
    limit_taken = np.zeros(limits.left.shape, np.int64)
    bound = nodes.shared.shape[1] > 0 or limits.label.shape[0] > 0
    for c in range(candidates.shape[0]):
        first, last = start[candidates[c]], start[candidates[c] + 1]
        total, in_block = np.int64(0), np.int64(0)
        for i in range(first, last):
            per[i] = count[order[i]]
            if bound and per[i] > 0:
                per[i] = _room(nodes, state, shapes, s, order[i], per[i], limits, shared_taken, limit_taken)
                _count_taken(nodes, shapes, s, order[i], per[i], limits, shared_taken, limit_taken)
            total += per[i]
            in_block += per[i]
            if block > 0 and (i + 1 == last or i + 1 == block_ends[i]):
                # What makes no whole block is given back, so that it does not eat the budgets of the next.
                spare, j = in_block % block, i
                total -= spare
                while spare > 0:
                    back = min(spare, per[j])
                    per[j] -= back
                    if bound and back > 0:
                        _count_taken(nodes, shapes, s, order[j], -back, limits, shared_taken, limit_taken)
                    spare -= back
                    j -= 1
                in_block = np.int64(0)
        if total >= size:
            return candidates[c]
        for i in range(first, last):
            if bound and per[i] > 0:
                _count_taken(nodes, shapes, s, order[i], -per[i], limits, shared_taken, limit_taken)
            per[i] = 0
    return -1


@small
def _room(nodes, state, shapes, s, n, room, limits, shared_taken, limit_taken):
    for k in range(nodes.shared.shape[1]):
        b = nodes.shared[n, k]
        if b < 0:
            break
        need = demand(nodes, shapes, s, n, np.int64(nodes.shared_column[b]))
        if need > 0:
            room = min(room, (nodes.shared_capacity[b] - state.shared_used[b] - shared_taken[b]) // need)
    for c in range(limits.label.shape[0]):
        d = limits.label[c, n]
        if d < 0:
            return np.int64(0)
        need = np.int64(1) if limits.column[c] < 0 else demand(nodes, shapes, s, n, np.int64(limits.column[c]))
        if need > 0:
            room = min(room, (limits.left[c, d] - limit_taken[c, d]) // need)
    return max(room, np.int64(0))


@inner
def _count_taken(nodes, shapes, s, n, replicas, limits, shared_taken, limit_taken):
    for k in range(nodes.shared.shape[1]):
        b = nodes.shared[n, k]
        if b < 0:
            break
        shared_taken[b] += replicas * demand(nodes, shapes, s, n, np.int64(nodes.shared_column[b]))
    count_limits(nodes, shapes, s, n, replicas, limits, limit_taken)


@outer
def pack(ends, row, last_row, start, end, per, need, take):
    """Take ``need`` replicas from the positions [start, end), from as few sub-domains as can be, level by level.

    At each level: the tightest child that holds all that is left, if there is one; else the largest child whole, and again.
    Rows ``row`` … ``last_row`` of ``ends`` are the levels; children of the last are filled as units, their replicas written
    to the position where each starts. Returns what could not be placed (0: all was).

    Notes
    -----
    O(children log children) a level. Fewest domains first is the rule of topology-aware schedulers (Kueue's and KAI's); best fit for
    the remainder keeps large domains whole.
    """
    starts = np.empty(end - start, np.int64)
    held = np.empty(end - start, np.int64)
    while need > 0 and row <= last_row:
        m, i = 0, start
        while i < end:
            stop = min(ends[row, i], end)
            total = np.int64(0)
            for j in range(i, stop):
                total += per[j]
            starts[m], held[m] = i, total
            m += 1
            i = stop
        order = np.argsort(-held[:m], kind="mergesort")
        first = 0
        while first < m and held[order[first]] < need:
            if held[order[first]] == 0:
                return need
            _take_all(ends, row, last_row, starts[order[first]], end, per, take)
            need -= held[order[first]]
            first += 1
        if need == 0:
            return np.int64(0)
        if first == m:
            return need
        child = order[first]
        for j in range(first, m):
            if held[order[j]] < need:
                break
            if held[order[j]] < held[child]:
                child = order[j]
        if row == last_row:
            take[starts[child]] = need
            return np.int64(0)
        start, end = starts[child], min(ends[row, starts[child]], end)
        row += 1
    return need


@small
def _take_all(ends, row, last_row, start, limit, per, take):
    i, stop = start, min(ends[row, start], limit)
    while i < stop:
        end = min(ends[last_row, i], stop)
        for j in range(i, end):
            take[i] += per[j]
        i = end


@outer
def pack_blocks(ends, block_row, start, end, per, need, block, take):
    """:func:`pack` in whole blocks: first blocks into intervals of row ``block_row``, then replicas inside each."""
    units = np.zeros(per.shape[0], np.int64)
    blocks = np.zeros(per.shape[0], np.int64)
    i = start
    while i < end:
        stop = min(ends[block_row, i], end)
        total = np.int64(0)
        for j in range(i, stop):
            total += per[j]
        units[i] = total // block
        i = stop
    short = pack(ends, np.int64(0), block_row, start, end, units, need // block, blocks)
    if short > 0:
        return short * block
    for i in range(start, end):
        if blocks[i] > 0:
            stop = min(ends[block_row, i], end)
            if block_row + 1 == ends.shape[0]:
                take[i] = blocks[i] * block
            else:
                short += pack(ends, block_row + 1, ends.shape[0] - 1, i, stop, per, blocks[i] * block, take)
    return short


@entry
def bind(nodes, state, shapes, s, order, take, ticks, out, at):
    """Give devices to the replicas taken at each position, in order; writes rows from ``at`` on; returns the row after the last."""
    for i in range(order.shape[0]):
        for _ in range(take[i]):
            n = order[i]
            gpu_mask, nic_mask, mig_mask, numa = assign(nodes, state, shapes, s, n, np.int64(-1))
            move(nodes, state, shapes, s, n, gpu_mask, nic_mask, mig_mask, numa, np.int64(1))
            out.node[at], out.gpu_mask[at], out.nic_mask[at] = n, gpu_mask, nic_mask
            out.mig_mask[at], out.numa_mask[at] = mig_mask, numa
            at += 1
        if take[i] > 0:
            note(ticks, order[i])
    return at
