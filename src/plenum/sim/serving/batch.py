"""Who is in an instance's batch: joining, leaving, queues by class, and who has to make room."""

from __future__ import annotations

import math

from plenum.graph.compiled import inner, small
from plenum.serving.steps import AT as COEFFICIENT
from plenum.sim.serving import fields as f
from plenum.sim.serving.events import REROUTE, push
from plenum.sim.serving.memory import available, count_occupied, give_back
from plenum.sim.serving.world import World

_WINDOW = COEFFICIENT["window"]


@inner
def enqueue(w: World, q: int, r: int, front: bool) -> None:
    """Put a request into a queue: of instance ``q``, or of those who wait for any instance of a model."""
    rank = w.ri[r, f.RANK]
    w.ri[r, f.STATE] = f.WAITING
    if front:
        w.ri[r, f.NEXT] = w.queue[f.HEAD, q, rank]
        w.queue[f.HEAD, q, rank] = r
        if w.queue[f.TAIL, q, rank] < 0:
            w.queue[f.TAIL, q, rank] = r
    else:
        w.ri[r, f.NEXT] = -1
        if w.queue[f.TAIL, q, rank] < 0:
            w.queue[f.HEAD, q, rank] = r
        else:
            w.ri[w.queue[f.TAIL, q, rank], f.NEXT] = r
        w.queue[f.TAIL, q, rank] = r
    if q < w.ni.shape[1]:
        w.ri[r, f.AT] = q
        w.ni[f.QUEUED, q] += 1
        w.ri[r, f.COUNTED] = w.ri[r, f.TARGET] - w.ri[r, f.FILLED] if w.ri[r, f.NEEDS] == f.NEW else 0
        w.ni[f.BACKLOG, q] += w.ri[r, f.COUNTED]
        w.ni[f.TRY, q] = 1


@small
def call(w: World, i: int) -> None:
    """Ask an instance to look at what has changed, once the present event is over."""
    if w.ni[f.CALLED, i] == 0:
        w.ni[f.CALLED, i] = 1
        w.ni[f.CALLS, w.count[f.CALLED_NOW]] = i
        w.count[f.CALLED_NOW] += 1


@small
def first_waiting(w: World, q: int) -> int:
    """Return the request whose turn it is; -1: the queue is empty."""
    for rank in range(w.queue.shape[2] - 1, -1, -1):
        if w.queue[f.HEAD, q, rank] >= 0:
            return w.queue[f.HEAD, q, rank]
    return -1


@small
def parking(w: World, model: int, kind: int) -> int:
    """Return the queue of those who wait for any instance of a model; ``kind`` is one of :data:`plenum.sim.serving.fields.QUEUES`."""
    instances = w.ni.shape[1]
    return instances + model + kind * ((w.queue.shape[1] - instances) // f.QUEUES)


@small
def dequeue(w: World, q: int, r: int) -> None:
    """Take out the first request of its class."""
    rank = w.ri[r, f.RANK]
    w.queue[f.HEAD, q, rank] = w.ri[r, f.NEXT]
    if w.queue[f.HEAD, q, rank] < 0:
        w.queue[f.TAIL, q, rank] = -1
    if q < w.ni.shape[1]:
        w.ni[f.QUEUED, q] -= 1


@small
def uncount(w: World, i: int, r: int, tokens: int) -> None:
    """Take tokens that need no more computing off an instance's backlog."""
    tokens = min(tokens, w.ri[r, f.COUNTED])
    w.ri[r, f.COUNTED] -= tokens
    w.ni[f.BACKLOG, i] -= tokens


@inner
def join(w: World, i: int, r: int) -> None:
    """Let a request whose cache is filled decode from the next iteration on."""
    steps, filled = w.ni[f.STEPS, i], w.ri[r, f.TARGET]
    if (
        w.ni[f.DECODES, i] == 0
    ):  # blocks may have been granted for a step before which all who would have taken it were preempted
        w.ni[f.GRANTED, i] = steps
    advance, window = w.nf[f.ADVANCE, i], w.steps[i, _WINDOW]
    w.ri[r, f.STATE], w.ri[r, f.JOINED] = f.DECODING, steps
    w.ri[r, f.UNTIL] = steps + math.ceil((w.ri[r, f.LIMIT] - w.ri[r, f.GENERATED]) / advance - 1e-9)
    w.ri[r, f.GROWN], w.ri[r, f.CROSSED] = f.NEVER, -1
    w.nf[f.CONTEXT, i] += filled
    w.nf[f.CONTEXT_WINDOW, i] += min(filled, window)
    if filled < window:
        w.ni[f.GROWING, i] += 1
        w.ri[r, f.GROWN] = steps + math.ceil((window - filled) / advance)
    if w.clock[f.RESERVE] == 0.0:
        block, period = w.ni[f.BLOCK, i], w.ni[f.PERIOD, i]
        spare = w.ri[r, f.PRIVATE] * block - (filled - w.ri[r, f.SHARED] * w.count[f.PREFIX_BLOCK])
        w.ri[r, f.CROSSED] = steps + min(1 + math.floor(spare / advance), period)
        w.tally[i, f.BINS + w.ri[r, f.CROSSED] % period] += 1
    w.batch[f.IN_DECODE, i, w.ni[f.DECODES, i]] = r
    w.ni[f.DECODES, i] += 1
    w.ni[f.RUNNING, i] += 1
    w.ni[f.FRESH, i] += 1
    w.ni[f.CHANGE, i] = min(w.ni[f.CHANGE, i], w.ri[r, f.UNTIL], w.ri[r, f.GROWN])


@small
def held_blocks(w: World, i: int, r: int) -> int:
    """Return the private KV blocks of a decoding request, those that it took since it joined included."""
    first, steps = w.ri[r, f.CROSSED], w.ni[f.GRANTED, i]
    if first < 0 or steps < first:
        return w.ri[r, f.PRIVATE]
    return w.ri[r, f.PRIVATE] + (steps - first) // w.ni[f.PERIOD, i] + 1


@inner
def leave(w: World, i: int, place: int) -> int:
    """Take the request at one place of the decode batch out, its blocks still held; returns it."""
    r = w.batch[f.IN_DECODE, i, place]
    last = w.ni[f.DECODES, i] - 1
    w.batch[f.IN_DECODE, i, place] = w.batch[f.IN_DECODE, i, last]
    w.ni[f.DECODES, i] = last
    w.ni[f.RUNNING, i] -= 1
    done = w.ni[f.STEPS, i] - w.ri[r, f.JOINED]
    advance, window = w.nf[f.ADVANCE, i], w.steps[i, _WINDOW]
    w.ri[r, f.PRIVATE] = held_blocks(w, i, r)
    if w.ri[r, f.CROSSED] >= 0:
        w.tally[i, f.BINS + w.ri[r, f.CROSSED] % w.ni[f.PERIOD, i]] -= 1
    context = w.ri[r, f.TARGET] + done * advance
    w.nf[f.CONTEXT, i] -= context
    w.nf[f.CONTEXT_WINDOW, i] -= min(context, window)
    if w.ri[r, f.GROWN] > w.ni[f.STEPS, i] and w.ri[r, f.GROWN] != f.NEVER:
        w.ni[f.GROWING, i] -= 1
    if done > 0:
        w.rf[r, f.LAST] = w.nf[f.LAST_DECODE, i]
    else:
        w.ni[f.FRESH, i] -= 1
    w.ri[r, f.GENERATED] = min(w.ri[r, f.LIMIT], w.ri[r, f.GENERATED] + math.floor(done * advance + 1e-9))
    if last == 0:  # no rounding is carried over
        w.nf[f.CONTEXT, i], w.nf[f.CONTEXT_WINDOW, i] = 0.0, 0.0
    return r


@inner
def next_change(w: World, i: int) -> None:
    """Find the step at which the next sequence ends or fills its window."""
    change = f.NEVER
    for k in range(w.ni[f.DECODES, i]):
        r = w.batch[f.IN_DECODE, i, k]
        change = min(change, w.ri[r, f.UNTIL])
        if w.ri[r, f.GROWN] > w.ni[f.STEPS, i]:
            change = min(change, w.ri[r, f.GROWN])
    w.ni[f.CHANGE, i] = change


@inner
def remove_prefill(w: World, i: int, place: int) -> int:
    """Take the request at one place of the prefills out; the order of the others stays."""
    r = w.batch[f.IN_PREFILL, i, place]
    for k in range(place, w.ni[f.PREFILLS, i] - 1):
        w.batch[f.IN_PREFILL, i, k] = w.batch[f.IN_PREFILL, i, k + 1]
    w.ni[f.PREFILLS, i] -= 1
    w.ni[f.RUNNING, i] -= 1
    return r


@inner
def add_prefill(w: World, i: int, r: int) -> None:
    """Put a request behind the other prefills, before lower classes where it may take their places.

    One that has nothing left to compute decodes from the next iteration on.
    """
    w.ri[r, f.STATE], w.ri[r, f.CHUNK] = f.PREFILLING, 0
    place = w.ni[f.PREFILLS, i]
    while place > 0 and w.clock[f.PREEMPT] == 1.0 and _ranks_below(w, w.batch[f.IN_PREFILL, i, place - 1], r):
        w.batch[f.IN_PREFILL, i, place] = w.batch[f.IN_PREFILL, i, place - 1]
        place -= 1
    w.batch[f.IN_PREFILL, i, place] = r
    w.ni[f.PREFILLS, i] += 1
    w.ni[f.RUNNING, i] += 1


@inner
def preempt(w: World, i: int, below: int) -> bool:
    """Send the running request of the lowest class, the latest of these, back to its queue; False if none is of a class below."""
    victim, place, decodes = -1, -1, False
    for k in range(w.ni[f.DECODES, i]):
        r = w.batch[f.IN_DECODE, i, k]
        if w.ri[r, f.RANK] < below and (victim < 0 or _yields(w, r, victim)):
            victim, place, decodes = r, k, True
    for k in range(w.ni[f.PREFILLS, i]):
        r = w.batch[f.IN_PREFILL, i, k]
        if w.ri[r, f.RANK] < below and (victim < 0 or _yields(w, r, victim)):
            victim, place, decodes = r, k, False
    if victim < 0:
        return False
    swapped = decodes and w.clock[f.SWAP] == 1.0
    if decodes:
        leave(w, i, place)
        next_change(w, i)
    else:
        remove_prefill(w, i, place)
        uncount(w, i, victim, w.ri[victim, f.COUNTED])
    give_back(w, i, victim, w.ri[victim, f.PRIVATE])
    w.ri[victim, f.NEEDS] = f.SWAPPED if swapped else f.NEW
    w.ri[victim, f.TARGET] = filled_by(w, victim, swapped)
    w.ri[victim, f.FILLED] = w.ri[victim, f.TARGET] if swapped else 0
    w.ri[victim, f.PREEMPTED] += 1
    if swapped:
        swap(w, i, w.ri[victim, f.TARGET])
    enqueue(w, i, victim, True)
    return True


@small
def filled_by(w: World, r: int, kept: bool) -> int:
    """Return the tokens of cache that a request has (the latest one is not in it yet), or has to compute to go on."""
    generated = w.ri[r, f.GENERATED]
    return w.ri[r, f.PROMPT] + (generated - 1 if kept and generated > 0 else generated)


@small
def swap(w: World, i: int, tokens: int) -> None:
    """Let the next iteration wait until the cache of so many tokens has crossed between the instance and its host."""
    w.nf[f.STALL, i] += cache_bytes(w, i, tokens) / w.nf[f.HOST_BPS, i]


@small
def cache_bytes(w: World, i: int, tokens: int) -> float:
    """Return the bytes of cache of one sequence of so many tokens."""
    window = w.steps[i, _WINDOW]
    narrow = min(float(tokens), window) if window > 0.0 else 0.0
    return tokens * w.nf[f.BYTES, i] + narrow * w.nf[f.BYTES_WINDOW, i] + w.nf[f.BYTES_STATE, i]


@small
def _ranks_below(w: World, r: int, other: int) -> bool:
    return w.ri[r, f.RANK] < w.ri[other, f.RANK]


@inner
def could_make_room(w: World, i: int, r: int, blocks: int) -> bool:
    """Whether so many blocks and a place would be free for a request if all of lower classes went: else none of them need go."""
    places, free = 0, available(w, i)
    for k in range(w.ni[f.DECODES, i]):
        other = w.batch[f.IN_DECODE, i, k]
        if w.ri[other, f.RANK] < w.ri[r, f.RANK]:
            places += 1
            free += held_blocks(w, i, other) + w.ri[other, f.SHARED] * w.ni[f.COST, i]
    for k in range(w.ni[f.PREFILLS, i]):
        other = w.batch[f.IN_PREFILL, i, k]
        if w.ri[other, f.RANK] < w.ri[r, f.RANK]:
            places += 1
            free += w.ri[other, f.PRIVATE] + w.ri[other, f.SHARED] * w.ni[f.COST, i]
    return blocks <= free and w.ni[f.RUNNING, i] - places < w.ni[f.MOST, i]


@inner
def _yields(w: World, r: int, other: int) -> bool:
    """Whether one request makes room rather than another: lower class, later arrival, higher number."""
    if w.ri[r, f.RANK] != w.ri[other, f.RANK]:
        return w.ri[r, f.RANK] < w.ri[other, f.RANK]
    if w.rf[r, f.READY] != w.rf[other, f.READY]:
        return w.rf[r, f.READY] > w.rf[other, f.READY]
    return r > other


@small
def reroute(w: World, r: int, now_s: float) -> None:
    """Let a request be routed next, at the same time."""
    w.ri[r, f.STATE], w.ri[r, f.AT] = f.PENDING, -1
    w.ri[r, f.EPOCH] += 1
    push(w, now_s, REROUTE, r, w.ri[r, f.EPOCH])


@inner
def let_go(w: World, a: int, now_s: float) -> None:
    """Free the cache that a request which is over had kept for its follower."""
    if w.ri[a, f.STATE] != f.HELD:
        return
    i = w.ri[a, f.AT]
    count_occupied(w, i, now_s)
    give_back(w, i, a, w.ri[a, f.PRIVATE])
    w.ri[a, f.STATE] = f.DONE
    w.ni[f.HOLDS, i] -= 1
    w.ni[f.TRY, i] = 1
