"""Instances that go down and come up, and what becomes of those who were there."""

from __future__ import annotations

import math

from plenum.graph.compiled import inner, small
from plenum.sim.serving import fields as f
from plenum.sim.serving.batch import call, dequeue, first_waiting, parking, reroute, uncount
from plenum.sim.serving.events import LOADED, push, set_key
from plenum.sim.serving.flow import leave_source, refuse
from plenum.sim.serving.iteration import advance
from plenum.sim.serving.memory import count_occupied, forget_prefixes
from plenum.sim.serving.world import World


@small
def come_up(w: World, i: int, now_s: float) -> None:
    """An instance takes requests from now on: those that wait for any instance are routed anew."""
    w.ni[f.CONDITION, i] = f.UP
    w.ni[f.TRY, i] = 1
    call(w, i)
    if w.ni[f.ROLE, i] != f.PREFILL:
        _reroute_parked(w, i, f.DECODE_QUEUE, now_s)
    if w.ni[f.ROLE, i] == f.DECODE:
        return
    if w.clock[f.CENTRAL] == 0.0 or w.clock[f.REMOTE_ABOVE] >= 0.0:  # at one site, a central queue stays as it is
        for kind in (f.HERE_QUEUE, f.AWAY_QUEUE):
            _reroute_parked(w, i, kind, now_s)


@inner
def _reroute_parked(w: World, i: int, kind: int, now_s: float) -> None:
    """Route those anew who wait for any instance of a model."""
    q = parking(w, w.ni[f.MODEL, i], kind)
    r = first_waiting(w, q)
    while r >= 0:
        dequeue(w, q, r)
        reroute(w, r, now_s)
        r = first_waiting(w, q)


@inner
def fail(w: World, i: int, now_s: float) -> None:
    """An instance goes down: what it was doing is lost; its requests start over elsewhere, or are lost too."""
    if w.ni[f.CONDITION, i] == f.OFF or w.ni[f.CONDITION, i] == f.DOWN:
        return
    advance(w, i, now_s)
    count_occupied(w, i, now_s)
    w.ni[f.CONDITION, i] = f.DOWN
    w.nf[f.ON_S, i] += now_s - w.nf[f.ON_SINCE, i]
    _note_progress(w, i)
    _book_part(w, i, now_s)
    _forget(w, i)
    for r in range(w.ri.shape[0]):
        state = w.ri[r, f.STATE]
        if state == f.HELD and w.ri[r, f.AT] == i:
            w.ri[r, f.STATE] = f.DONE
        if f.WAITING <= state <= f.CROSSING and (w.ri[r, f.AT] == i or w.ri[r, f.SOURCE] == i):
            _displace(w, i, r, now_s)
        elif state == f.LOADING and w.ri[r, f.COPIED_FROM] == i:
            _copy_breaks_off(w, r, now_s)
    if w.clock[f.CENTRAL] == 1.0 and w.clock[f.REMOTE_ABOVE] >= 0.0 and w.ni[f.ROLE, i] != f.DECODE:
        _reroute_parked(w, i, w.ni[f.REMOTE, i], now_s)  # perhaps nobody is left at that site


@small
def _book_part(w: World, i: int, now_s: float) -> None:
    """Book the time and energy of the iteration that breaks off; its tokens never come."""
    if w.nf[f.END, i] == math.inf or w.nf[f.TAKES, i] <= 0.0:
        return
    part = min(max(1.0 - (w.nf[f.END, i] - now_s) / w.nf[f.TAKES, i], 0.0), 1.0)
    share = w.ni[f.NOW_PREFILL, i] / (w.ni[f.NOW_PREFILL, i] + w.ni[f.NOW_DECODE, i])
    w.nf[f.BUSY_PREFILL, i] += part * share * w.nf[f.TAKES, i]
    w.nf[f.BUSY_DECODE, i] += part * (1.0 - share) * w.nf[f.TAKES, i]
    w.nf[f.ENERGY, i] += part * w.nf[f.COSTS, i]


@small
def _copy_breaks_off(w: World, r: int, now_s: float) -> None:
    """The instance that a prefix was copied from is gone: what is not from there is kept, the rest is computed."""
    at = w.ri[r, f.AT]
    w.ri[r, f.FILLED] = w.ri[r, f.FOUND_HERE]
    w.ri[r, f.CACHED] = min(w.ri[r, f.CACHED], w.ri[r, f.FOUND_HERE])
    w.ri[r, f.COPIED_FROM] = -1
    uncount(w, at, r, w.ri[r, f.COUNTED] - (w.ri[r, f.TARGET] - w.ri[r, f.FILLED]))
    w.ri[r, f.EPOCH] += 1
    push(w, max(now_s, w.nf[f.HOST_LINK, at]), LOADED, r, w.ri[r, f.EPOCH])


@small
def _displace(w: World, i: int, r: int, now_s: float) -> None:
    """Free what a request that lost its place still holds elsewhere, and send it on its way again, or call it lost."""
    state, at, source = w.ri[r, f.STATE], w.ri[r, f.AT], w.ri[r, f.SOURCE]
    restart = w.clock[f.RESTART] == 1.0
    if at >= 0 and at != i:
        _leave_destination(w, r, state, now_s)
    elif at < 0 and state == f.WAITING:
        _unqueue(w, parking(w, w.ri[r, f.ASKED], f.DECODE_QUEUE), r)
    if source >= 0 and source != i and not restart:
        leave_source(w, r, now_s)
    if source < 0 or source == i:  # its cache is gone
        w.ri[r, f.SOURCE], w.ri[r, f.NEEDS], w.ri[r, f.OWNER] = -1, f.NEW, r
        w.ri[r, f.PRIVATE], w.ri[r, f.SHARED], w.ri[r, f.FILLED] = 0, 0, 0
        w.ri[r, f.TARGET] = w.ri[r, f.PROMPT] + w.ri[r, f.GENERATED]
        w.ri[r, f.PREEMPTED] += restart
    w.ri[r, f.CHUNK], w.ri[r, f.COUNTED] = 0, 0
    if restart:
        reroute(w, r, now_s)
    else:
        refuse(w, r, f.LOST, now_s)


@small
def _leave_destination(w: World, r: int, state: int, now_s: float) -> None:
    """Give up the place, or the turn, that a request has at a decode instance."""
    at = w.ri[r, f.AT]
    if state == f.WAITING:
        _unqueue(w, at, r)
    elif state == f.CROSSING:
        advance(w, at, now_s)
        count_occupied(w, at, now_s)
        w.ni[f.USED, at] -= w.ri[r, f.HERE]
        w.ni[f.RESERVED, at] -= 1
        w.ni[f.RUNNING, at] -= 1
        w.ni[f.TRY, at] = 1
    call(w, at)


@inner
def _unqueue(w: World, q: int, r: int) -> None:
    """Take a request out of the middle of a queue."""
    rank = w.ri[r, f.RANK]
    if w.queue[f.HEAD, q, rank] != r:
        k = w.queue[f.HEAD, q, rank]
        while w.ri[k, f.NEXT] != r:
            k = w.ri[k, f.NEXT]
        w.ri[k, f.NEXT] = w.ri[r, f.NEXT]
        if w.queue[f.TAIL, q, rank] == r:
            w.queue[f.TAIL, q, rank] = k
        if q < w.ni.shape[1]:
            w.ni[f.QUEUED, q] -= 1
    else:
        dequeue(w, q, r)


@small
def _note_progress(w: World, i: int) -> None:
    """Write down what decoding requests have put out by now."""
    for k in range(w.ni[f.DECODES, i]):
        r = w.batch[f.IN_DECODE, i, k]
        done = w.ni[f.STEPS, i] - w.ri[r, f.JOINED]
        w.ri[r, f.GENERATED] = min(
            w.ri[r, f.LIMIT], w.ri[r, f.GENERATED] + math.floor(done * w.nf[f.ADVANCE, i] + 1e-9)
        )
        if done > 0:
            w.rf[r, f.LAST] = w.nf[f.LAST_DECODE, i]


@small
def _forget(w: World, i: int) -> None:
    """Empty an instance: batch, queues, cache."""
    for field in (
        f.USED,
        f.PINNED,
        f.PREFILLS,
        f.DECODES,
        f.RESERVED,
        f.RUNNING,
        f.QUEUED,
        f.BACKLOG,
        f.HOLDS,
        f.GROWING,
        f.FRESH,
        f.TRY,
        f.QUIET,
    ):
        w.ni[field, i] = 0
    w.ni[f.CHANGE, i], w.ni[f.GRANTED, i] = f.NEVER, w.ni[f.STEPS, i]
    w.nf[f.END, i], w.nf[f.STALL, i] = math.inf, 0.0
    w.nf[f.CONTEXT, i], w.nf[f.CONTEXT_WINDOW, i] = 0.0, 0.0
    w.tally[i, f.BINS :] = 0
    w.queue[f.HEAD, i, :] = -1
    w.queue[f.TAIL, i, :] = -1
    forget_prefixes(w, i)
    if w.due.shape[0] > 0:
        w.due[i, :] = 0.0
    set_key(w.keys, i, math.inf)
