"""The books of a simulated service, kept a second time: every sum in its state counted afresh from the requests."""

from __future__ import annotations

from collections import Counter

import numpy as np

from plenum.serving import prefix
from plenum.sim.serving import Simulation
from plenum.sim.serving import fields as f
from plenum.sim.serving.world import World

RUNNING = (f.LOADING, f.PREFILLING, f.DECODING, f.CROSSING)
IN_SYSTEM = (f.WAITING, f.PENDING, *RUNNING)


def world_of(simulation: Simulation) -> World:
    return simulation._world


def check(w: World) -> None:
    """Compare what the state says with what its requests add up to."""
    state = w.ri[:, f.STATE]
    over = np.isin(state, (f.HELD, f.DONE, f.REFUSED))
    assert w.count[f.OVER] == over.sum()
    assert w.count[f.IN_SYSTEM] == np.isin(state, IN_SYSTEM).sum()
    queued = _queues(w)
    for i in range(w.ni.shape[1]):
        _check_batch(w, i)
        _check_blocks(w, i)
        _check_cache(w, i)
        here = w.ri[:, f.AT] == i
        assert sorted(queued[i]) == np.flatnonzero(here & (state == f.WAITING)).tolist()
        assert w.ni[f.QUEUED, i] == len(queued[i])
        assert w.ni[f.HOLDS, i] == (here & (state == f.HELD)).sum()
        counted = here & np.isin(state, (f.WAITING, f.LOADING, f.PREFILLING, f.DECODING, f.CROSSING))
        assert w.ni[f.BACKLOG, i] == w.ri[counted, f.COUNTED].sum()
        assert (w.ri[counted, f.COUNTED] >= 0).all()
        if w.ni[f.CONDITION, i] in (f.OFF, f.DOWN):
            assert w.ni[f.USED, i] == w.ni[f.PINNED, i] == w.ni[f.RUNNING, i] == w.ni[f.QUEUED, i] == 0
    waiting = sum(len(rows) for rows in queued)
    assert waiting == (state == f.WAITING).sum(), "everybody who waits is in one queue"


def _queues(w: World) -> list[list[int]]:
    rows = []
    for q in range(w.queue.shape[1]):
        seen = []
        for rank in range(w.queue.shape[2]):
            r, last = int(w.queue[f.HEAD, q, rank]), -1
            while r >= 0:
                assert w.ri[r, f.STATE] == f.WAITING
                assert w.ri[r, f.RANK] == rank
                seen.append(r)
                last, r = r, int(w.ri[r, f.NEXT])
                assert len(seen) <= len(w.ri), "a queue that bites its tail"
            assert w.queue[f.TAIL, q, rank] == last
        assert len(set(seen)) == len(seen)
        rows.append(seen)
    return rows


def _check_batch(w: World, i: int) -> None:
    state, here = w.ri[:, f.STATE], w.ri[:, f.AT] == i
    decodes = w.batch[f.IN_DECODE, i, : w.ni[f.DECODES, i]]
    prefills = w.batch[f.IN_PREFILL, i, : w.ni[f.PREFILLS, i]]
    assert sorted(decodes.tolist()) == np.flatnonzero(here & (state == f.DECODING)).tolist()
    assert sorted(prefills.tolist()) == np.flatnonzero(here & (state == f.PREFILLING)).tolist()
    assert w.ni[f.RESERVED, i] == (here & np.isin(state, (f.LOADING, f.CROSSING))).sum()
    assert w.ni[f.RUNNING, i] == w.ni[f.DECODES, i] + w.ni[f.PREFILLS, i] + w.ni[f.RESERVED, i]
    assert w.ni[f.RUNNING, i] <= w.ni[f.MOST, i]
    if w.nf[f.END, i] < np.inf:
        running = w.ri[prefills]
        assert w.ni[f.NOW_PREFILL, i] == running[:, f.CHUNK].sum(), "tokens are booked that nobody computes"
        assert (running[:, f.FILLED] + running[:, f.CHUNK] <= running[:, f.TARGET]).all()
        if w.ni[f.MIXED, i] and w.ni[f.NOW_PREFILL, i]:
            dealt = w.ni[f.NOW_PREFILL, i] + w.ni[f.NOW_DECODE, i]
            assert dealt <= max(w.ni[f.BUDGET, i], w.ni[f.NOW_DECODE, i] + 1)
    filled = w.ri[decodes, f.TARGET] + (w.ni[f.STEPS, i] - w.ri[decodes, f.JOINED]) * w.nf[f.ADVANCE, i]
    np.testing.assert_allclose(w.nf[f.CONTEXT, i], filled.sum(), rtol=1e-9, atol=1e-6)


def _private(w: World, i: int, r: int) -> int:
    """KV blocks that a request has to itself, those it took since it joined included."""
    first, steps = w.ri[r, f.CROSSED], w.ni[f.GRANTED, i]
    grown = 0
    if w.ri[r, f.STATE] == f.DECODING and 0 <= first <= steps:
        grown = (steps - first) // w.ni[f.PERIOD, i] + 1
    return int(w.ri[r, f.PRIVATE] + grown)


def _holders(w: World, i: int) -> list[tuple[int, int]]:
    """Return who holds blocks of an instance, and how many private ones."""
    found = []
    for r in range(len(w.ri)):
        state, at, source = (int(w.ri[r, k]) for k in (f.STATE, f.AT, f.SOURCE))
        if source == i:
            assert state in (f.PENDING, f.WAITING, f.CROSSING)
            found.append((r, int(w.ri[r, f.PRIVATE])))
        elif at == i and state == f.CROSSING:
            found.append((-1, int(w.ri[r, f.HERE])))
        elif at == i and state in (f.LOADING, f.PREFILLING, f.DECODING, f.HELD):
            found.append((r, _private(w, i, r)))
    return found


def _check_blocks(w: World, i: int) -> None:
    holders = _holders(w, i)
    assert w.ni[f.USED, i] == sum(blocks for _, blocks in holders)
    assert all(blocks >= 0 for _, blocks in holders)
    pins: Counter[int] = Counter()
    for r, _ in holders:
        if r >= 0:
            start = w.ri[w.ri[r, f.OWNER], f.IDS_FROM]
            pins.update(w.block[start : start + w.ri[r, f.SHARED]].tolist())
    assert w.ni[f.PINNED, i] == len(pins)
    if w.links.shape[2]:
        held = np.flatnonzero(w.links[2, i])
        assert {int(b): int(w.links[2, i, b]) for b in held} == dict(pins)
        assert (w.tier[i, held] == prefix.HBM).all(), "what is held is in memory"
    cached = w.sums[0, i, prefix.HBM] * w.ni[f.COST, i]
    assert w.ni[f.USED, i] + cached <= w.ni[f.BLOCKS, i]
    assert w.ni[f.PEAK, i] <= w.ni[f.BLOCKS, i]


def _check_cache(w: World, i: int) -> None:
    for tier in (prefix.HBM, prefix.DRAM, prefix.NVME):
        inside = set(np.flatnonzero(w.tier[i] == tier).tolist())
        assert w.sums[0, i, tier] == len(inside)
        if tier != prefix.HBM:
            assert len(inside) <= w.sums[1, i, tier]
        free = {b for b in inside if not w.links[2, i, b]}
        linked, block = [], int(w.ends[0, i, tier])
        while block >= 0:
            linked.append(block)
            assert len(linked) <= len(inside)
            block = int(w.links[1, i, block])
        assert set(linked) == free, "the list of what may be evicted is whole"
