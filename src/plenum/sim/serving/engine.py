"""The event loop: whatever happens next, an instance's boundary, an event or an arrival, in this order where they coincide."""

from __future__ import annotations

import math

from plenum.graph.compiled import outer, small
from plenum.sim.serving import fields as f
from plenum.sim.serving.events import (
    FAILED,
    FOLLOW,
    LOADED,
    RECOVERED,
    RELEASE,
    REROUTE,
    RETRY,
    STARTED,
    TICK,
    TRANSFERRED,
    first_key,
    next_event_s,
    pop,
    set_key,
)
from plenum.sim.serving.failing import come_up, fail
from plenum.sim.serving.flow import arrive, end_iteration, loaded, release, route, transferred
from plenum.sim.serving.iteration import advance, bound, wake
from plenum.sim.serving.world import World

_ROUNDING_S = 1e-6
"""Clocks of instances are sums of many steps: times that should be equal may differ by this much."""


@outer
def run(w: World, work: int) -> int:
    """Simulate until so many iterations and events have passed, or something needs the caller; returns why it stopped."""
    stop = w.count[f.WORK] + work
    leaves = len(w.keys) // 2
    while w.count[f.WORK] < stop:
        if w.count[f.OVER] == w.ri.shape[0]:
            return f.ALL_OVER
        i = first_key(w.keys)
        key_s, event_s = w.keys[leaves + i], next_event_s(w)
        arrived = w.count[f.ARRIVED]
        arrival_s = w.rf[w.order[arrived], f.ARRIVAL] if arrived < len(w.order) else math.inf
        now_s = min(key_s, event_s, arrival_s)
        if w.count[f.CALLED_NOW] > 0 and now_s > w.clock[f.NOW]:  # all that happens at one time is seen at once
            _wake_called(w)
            continue
        if now_s == math.inf:
            return f.ALL_OVER
        if not _tick(w, now_s):
            return f.BACKWARDS
        w.count[f.WORK] += 1
        if key_s == now_s:
            advance(w, i, now_s)
            if w.nf[f.END, i] <= now_s:
                end_iteration(w, i)
            else:
                set_key(w.keys, i, bound(w, i))
        elif event_s == now_s:
            if _happen(w, now_s):
                return f.TICKED
        else:
            w.count[f.ARRIVED] += 1
            arrive(w, w.order[arrived], now_s)  # pyright: ignore[reportArgumentType]
        if w.count[f.STATUS] != f.RAN:
            return w.count[f.STATUS]
    return f.RAN


@small
def _wake_called(w: World) -> None:
    """Let those look who were called, in this order."""
    for k in range(w.count[f.CALLED_NOW]):
        called = w.ni[f.CALLS, k]
        w.ni[f.CALLED, called] = 0
        wake(w, called, w.clock[f.NOW])
    w.count[f.CALLED_NOW] = 0


@small
def _tick(w: World, now_s: float) -> bool:
    """Move the clock, adding to the integral of requests in the system; False if it would run backwards."""
    if now_s < w.clock[f.NOW] - _ROUNDING_S:
        return False
    w.clock[f.AREA] += w.count[f.IN_SYSTEM] * (now_s - w.clock[f.NOW])
    w.clock[f.NOW] = now_s
    return True


@small
def _happen(w: World, now_s: float) -> bool:
    """Take the next event; whether it is for the caller."""
    kind, subject, epoch = pop(w)
    if kind == TICK:
        return True
    if kind == FAILED:
        fail(w, subject, now_s)
    elif kind == RECOVERED:
        if w.ni[f.CONDITION, subject] == f.DOWN:
            w.nf[f.ON_SINCE, subject] = now_s
            w.nf[f.COUNTED_TO, subject] = now_s
            come_up(w, subject, now_s)
    elif kind == STARTED:
        if w.ni[f.CONDITION, subject] == f.STARTING and w.nf[f.WARM_AT, subject] <= now_s:
            come_up(w, subject, now_s)
    elif w.ri[subject, f.EPOCH] != epoch:
        return False
    elif kind == FOLLOW:
        arrive(w, subject, now_s)
    elif kind in (RETRY, REROUTE):
        route(w, subject, now_s, kind == RETRY)
    elif kind == TRANSFERRED:
        transferred(w, subject, now_s)
    elif kind == LOADED:
        loaded(w, subject)
    elif kind == RELEASE:
        release(w, subject, now_s)
    return False
