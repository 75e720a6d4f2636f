"""Letting waiting requests into a batch: prefixes found, blocks taken, caches fetched."""

from __future__ import annotations

import math

from plenum.graph.compiled import inner, small
from plenum.sim.serving import fields as f
from plenum.sim.serving.batch import (
    add_prefill,
    cache_bytes,
    could_make_room,
    dequeue,
    first_waiting,
    let_go,
    parking,
    preempt,
    reroute,
    swap,
    uncount,
)
from plenum.sim.serving.events import LOADED, TRANSFERRED, push
from plenum.sim.serving.memory import available, blocks_for, found, take, take_prefix
from plenum.sim.serving.world import World


@inner
def admit_one(w: World, i: int, now_s: float) -> int:
    """Let the next waiting request in, if there is one and room for it; returns it, or -1."""
    q = i
    r = first_waiting(w, i)
    central = w.clock[f.CENTRAL] == 1.0 and w.ni[f.CONDITION, i] == f.UP and w.ni[f.ROLE, i] != f.DECODE
    if central:  # whoever was preempted here goes first, but not before a higher class
        shared = parking(w, w.ni[f.MODEL, i], w.ni[f.REMOTE, i])
        other = first_waiting(w, shared)
        if other >= 0 and (r < 0 or w.ri[other, f.RANK] > w.ri[r, f.RANK]) and fits(w, i, other):
            q, r = shared, other
    if r < 0:
        return -1
    if _belongs_elsewhere(w, i, r):
        dequeue(w, q, r)
        uncount(w, i, r, w.ri[r, f.COUNTED])
        reroute(w, r, now_s)
        return r
    while w.ni[f.RUNNING, i] >= w.ni[f.MOST, i] or not _let_in(w, i, r, now_s):
        if w.clock[f.PREEMPT] == 1.0 and _worth_it(w, i, r) and preempt(w, i, w.ri[r, f.RANK]):
            continue
        if w.ni[f.RUNNING, i] == 0 and release_held(w, i, w.ri[r, f.AFTER], now_s):
            continue
        return -1
    dequeue(w, q, r)
    w.ri[r, f.AT] = i
    if w.rf[r, f.STARTED_AT] != w.rf[r, f.STARTED_AT]:  # NaN: not begun before
        w.rf[r, f.STARTED_AT] = now_s
        w.ri[r, f.CACHED] = w.ri[r, f.FILLED]
    return r


@inner
def fits(w: World, i: int, r: int) -> bool:
    """Whether an instance could ever serve a request alone."""
    if w.ni[f.ROLE, i] == f.PREFILL:
        return blocks_for(w, i, w.ri[r, f.TARGET]) <= w.ni[f.BLOCKS, i]
    prompt, more = w.ri[r, f.PROMPT], w.ri[r, f.LIMIT] - 1
    blocks = blocks_for(w, i, prompt + more)
    if (
        w.nf[f.ADVANCE, i] > 1.0 and w.clock[f.RESERVE] == 0.0
    ):  # drafts: blocks are taken before they are full, lest a step lack one
        steps = math.ceil(more / w.nf[f.ADVANCE, i])
        blocks = max(blocks, blocks_for(w, i, prompt) + math.ceil(steps / w.ni[f.PERIOD, i]) + 1)
    return blocks <= w.ni[f.BLOCKS, i]


@inner
def release_held(w: World, i: int, spared: int, now_s: float) -> bool:
    """Free the cache that was kept longest for a follower, one spared if possible; False if none is kept here."""
    oldest = -1
    if w.ni[f.HOLDS, i] == 0:
        return False
    for a in range(w.ri.shape[0]):
        if w.ri[a, f.STATE] == f.HELD and w.ri[a, f.AT] == i:
            if oldest < 0 or oldest == spared or (a != spared and w.rf[a, f.FINISHED] < w.rf[oldest, f.FINISHED]):
                oldest = a
    let_go(w, oldest, now_s)
    return True


@small
def _belongs_elsewhere(w: World, i: int, r: int) -> bool:
    """Whether a prompt came to an instance that only decodes for a cache that is no longer kept there."""
    if w.ni[f.ROLE, i] != f.DECODE or w.ri[r, f.NEEDS] != f.NEW or w.ri[r, f.GENERATED] > 0:
        return False
    before = w.ri[r, f.AFTER]
    return before < 0 or w.ri[before, f.STATE] != f.HELD or w.ri[before, f.AT] != i


@small
def _worth_it(w: World, i: int, r: int) -> bool:
    """Whether preempting lower classes would let a request in; what is cached of its prompt needs no more room than what is not."""
    return could_make_room(w, i, r, blocks_for(w, i, _wanted(w, i, r)))


@small
def _let_in(w: World, i: int, r: int, now_s: float) -> bool:
    if w.ri[r, f.NEEDS] == f.PULLED:
        return _pull(w, i, r, now_s)
    if w.ri[r, f.NEEDS] == f.SWAPPED:
        return _swap_in(w, i, r)
    before = w.ri[r, f.AFTER]
    if before >= 0 and w.ri[before, f.STATE] == f.HELD and w.ri[before, f.AT] == i:
        if w.ri[r, f.PROMPT] > w.ri[before, f.PROMPT]:
            return _take_over(w, i, r, before)
        let_go(w, before, now_s)
    return _start(w, i, r, now_s)


@small
def _wanted(w: World, i: int, r: int) -> int:
    """Return the tokens that must fit before a request is let in."""
    if w.clock[f.RESERVE] == 1.0 and w.ni[f.ROLE, i] != f.PREFILL:
        return w.ri[r, f.TARGET] + max(w.ri[r, f.LIMIT] - w.ri[r, f.GENERATED] - 1, 0)
    return w.ri[r, f.TARGET]


@small
def _start(w: World, i: int, r: int, now_s: float) -> bool:
    hbm, dram, nvme = 0, 0, 0
    copied, source = 0, w.ri[r, f.COPIED_FROM]
    if w.ni[f.CACHES_PREFIXES, i] == 1:
        hbm, dram, nvme = found(w, i, r)
        if source >= 0 and source != i:  # what has been evicted there, or lost, is computed
            theirs = found(w, source, r)
            copied = max(theirs[0] + theirs[1] + theirs[2] - hbm - dram - nvme, 0)
    blocks = hbm + dram + nvme + copied
    shared = blocks * w.count[f.PREFIX_BLOCK]
    private = blocks_for(w, i, _wanted(w, i, r) - shared)
    if not take_prefix(w, i, r, blocks, private):
        return False
    w.ri[r, f.FILLED] = shared
    w.ri[r, f.FOUND_HERE] = shared - copied * w.count[f.PREFIX_BLOCK]
    uncount(w, i, r, w.ri[r, f.COUNTED] - (w.ri[r, f.TARGET] - shared))
    ready_s = now_s
    load_s = _bytes_of(w, i, dram) / w.nf[f.HOST_BPS, i] + _bytes_of(w, i, nvme) / w.clock[f.NVME_BPS]
    if load_s > 0.0:
        ready_s = max(now_s, w.nf[f.HOST_LINK, i]) + load_s
        w.nf[f.HOST_LINK, i] = ready_s
    if copied > 0:
        ready_s = max(ready_s, _cross(w, source, i, _bytes_of(w, i, copied), now_s, now_s) + w.clock[f.LATENCY])
    ready_s = _all_there(w, i, r, ready_s)
    if ready_s > now_s or dram + nvme + copied > 0:
        _expect(w, i, r, f.LOADING, ready_s, LOADED)
    else:
        add_prefill(w, i, r)
    return True


@small
def _bytes_of(w: World, i: int, blocks: int) -> float:
    """Return the bytes of cache of so many blocks of one prefix; windows and states are in it once."""
    return cache_bytes(w, i, blocks * w.count[f.PREFIX_BLOCK]) if blocks > 0 else 0.0


@small
def _all_there(w: World, i: int, r: int, ready_s: float) -> float:
    """Return when a prefix is all there: what this request fetches, and what others do who found the same before it."""
    if w.due.shape[0] == 0:
        return ready_s
    start, last_s = w.ri[r, f.IDS_FROM], ready_s
    for k in range(start, start + w.ri[r, f.SHARED]):
        block = w.block[k]
        if w.due[i, block] == math.inf:
            w.due[i, block] = ready_s
        last_s = max(last_s, w.due[i, block])
    return last_s


@small
def _take_over(w: World, i: int, r: int, before: int) -> bool:
    """Go on in the cache that the request before was allowed to keep."""
    shared = w.ri[before, f.SHARED]
    kept = w.ri[before, f.PRIVATE]
    private = blocks_for(w, i, _wanted(w, i, r) - shared * w.count[f.PREFIX_BLOCK])
    if private - kept > available(w, i):
        return False
    filled = w.ri[before, f.PROMPT] + w.ri[before, f.LIMIT] - 1
    take(w, i, private - kept)
    w.ri[r, f.PRIVATE], w.ri[r, f.SHARED], w.ri[r, f.OWNER] = private, shared, w.ri[before, f.OWNER]
    w.ri[before, f.PRIVATE], w.ri[before, f.SHARED] = 0, 0
    w.ri[before, f.STATE] = f.DONE
    w.ni[f.HOLDS, i] -= 1
    w.ri[r, f.FILLED] = min(filled, w.ri[r, f.TARGET] - 1)
    uncount(w, i, r, w.ri[r, f.COUNTED] - (w.ri[r, f.TARGET] - w.ri[r, f.FILLED]))
    add_prefill(w, i, r)
    return True


@small
def _swap_in(w: World, i: int, r: int) -> bool:
    private = blocks_for(w, i, _wanted(w, i, r))
    if private > available(w, i):
        return False
    take(w, i, private)
    w.ri[r, f.PRIVATE], w.ri[r, f.SHARED], w.ri[r, f.OWNER] = private, 0, r
    swap(w, i, w.ri[r, f.TARGET])
    add_prefill(w, i, r)
    return True


@small
def _pull(w: World, i: int, r: int, now_s: float) -> bool:
    """Reserve blocks and let the cache come from where the prompt was prefilled."""
    private = blocks_for(w, i, _wanted(w, i, r))
    if private > available(w, i):
        return False
    take(w, i, private)
    w.ri[r, f.HERE] = private
    source = w.ri[r, f.SOURCE]
    size = cache_bytes(w, source, w.ri[r, f.TARGET])
    early_s = w.clock[f.OVERLAP] * (w.rf[r, f.FIRST] - w.rf[r, f.STARTED_AT])
    end_s = _cross(w, source, i, size, now_s - early_s, now_s)
    _expect(w, i, r, f.CROSSING, end_s + w.clock[f.LATENCY], TRANSFERRED)
    w.rf[r, f.CROSSING_S] += end_s + w.clock[f.LATENCY] - now_s
    return True


@inner
def _cross(w: World, source: int, i: int, size: float, from_s: float, now_s: float) -> float:
    """Return when so many bytes have crossed from one instance to another: one after another on the links of both, and of sites."""
    begin_s = max(from_s, w.nf[f.LINK_OUT, source], w.nf[f.LINK_IN, i])
    end_s = begin_s + size / w.clock[f.LINK_BPS]
    w.nf[f.LINK_OUT, source] = end_s  # what waits for the link between sites holds up nobody else at either end
    w.nf[f.LINK_IN, i] = end_s
    a, b = w.ni[f.SITE, source], w.ni[f.SITE, i]
    if a != b:
        link = f.SITE_LINKS + a * f.SITES + b
        w.clock[link] = max(begin_s, w.clock[link]) + size / w.clock[f.SITE_BPS]
        end_s = max(end_s, w.clock[link])
    return max(end_s, now_s)


@small
def _expect(w: World, i: int, r: int, state: int, at_s: float, kind: int) -> None:
    """Keep a place in the batch for a request whose cache is on its way."""
    w.ri[r, f.STATE] = state
    w.ni[f.RESERVED, i] += 1
    w.ni[f.RUNNING, i] += 1
    push(w, at_s, kind, r, w.ri[r, f.EPOCH])
