"""The way of a request through the service: arrival, routing, hand-over from prefill to decode, end."""

from __future__ import annotations

import math

from plenum.graph.compiled import inner, small
from plenum.serving import routing
from plenum.sim.serving import fields as f
from plenum.sim.serving.admit import fits
from plenum.sim.serving.batch import add_prefill, call, enqueue, join, let_go, parking, reroute, uncount
from plenum.sim.serving.choosing import ask, choose_instance, could_fit, measure_caches
from plenum.sim.serving.events import FOLLOW, RELEASE, push, set_key
from plenum.sim.serving.iteration import account, advance, count_gap, take_finished, take_prefilled
from plenum.sim.serving.judging import NEVER, NOW, judge
from plenum.sim.serving.memory import count_occupied, give_back, share_output, share_prompt
from plenum.sim.serving.world import World


@inner
def end_iteration(w: World, i: int) -> None:
    """End the present iteration of an instance, and see to those who are done with it."""
    now_s = w.nf[f.END, i]
    account(w, i, now_s)
    r = take_finished(w, i)
    while r >= 0:
        finish(w, i, r, now_s)
        r = take_finished(w, i)
    r = take_prefilled(w, i)
    while r >= 0:
        _prefilled(w, i, r, now_s)
        r = take_prefilled(w, i)
    w.nf[f.END, i] = math.inf
    set_key(w.keys, i, math.inf)
    call(w, i)


@inner
def arrive(w: World, r: int, now_s: float) -> None:
    """Take a request in: refuse it, put it off, or send it somewhere."""
    before = w.ri[r, f.AFTER]
    w.rf[r, f.READY] = now_s
    w.count[f.IN_SYSTEM] += 1
    if before >= 0 and w.ri[before, f.STATE] == f.REFUSED:
        refuse(w, r, f.PREDECESSOR, now_s)
    elif not could_fit(w, r):
        refuse(w, r, f.TOO_LONG, now_s)
    else:
        route(w, r, now_s, w.clock[f.ADMIT] == 1.0)


@inner
def route(w: World, r: int, now_s: float, judged: bool) -> None:
    """Send a request to an instance, or let it wait for one; where it is ``judged``, admission has its say first."""
    if w.ri[r, f.NEEDS] == f.PULLED:
        _hand_over(w, r, now_s)
        return
    w.ri[r, f.COPIED_FROM] = -1
    before = w.ri[r, f.AFTER]
    if before >= 0 and w.ri[before, f.STATE] == f.HELD:
        i = w.ri[before, f.AT]
        goes_on = w.ni[f.ROLE, i] != f.DECODE or w.ri[r, f.PROMPT] > w.ri[before, f.PROMPT]
        if w.ni[f.CONDITION, i] == f.UP and fits(w, i, r) and goes_on and w.ri[r, f.ASKED] == w.ni[f.MODEL, i]:
            w.ni[f.HITS, i] = 0
            _send(w, i, r)
            return
        push(w, now_s, RELEASE, before, w.ri[before, f.EPOCH])  # nobody comes for it any more
    i, full, kind = choose_instance(w, r, now_s)
    if judged:
        verdict = judge(w, i, r, full, now_s)
        if verdict == NEVER:
            refuse(w, r, f.QUEUE_FULL if full and i < 0 else f.NOT_ADMITTED, now_s)
        if verdict != NOW:
            return
    if i >= 0:
        _send(w, i, r)
        return
    if full and w.clock[f.CENTRAL] == 0.0:
        refuse(w, r, f.QUEUE_FULL, now_s)
        return
    w.ri[r, f.AT] = -1
    enqueue(w, parking(w, w.ri[r, f.ASKED], kind), r, False)
    if w.clock[f.CENTRAL] == 1.0:
        _call_keepers(w, r)


@small
def _call_keepers(w: World, r: int) -> None:
    """Let idle instances look for somebody who waits: what they keep for followers may be all that is in the way."""
    for i in range(w.ni.shape[1]):
        if w.ni[f.HOLDS, i] > 0 and w.ni[f.RUNNING, i] == 0 and w.ni[f.MODEL, i] == w.ri[r, f.ASKED]:
            w.ni[f.TRY, i] = 1
            call(w, i)


@small
def transferred(w: World, r: int, now_s: float) -> None:
    """The cache of a request has crossed: free it where it came from, and let the request decode."""
    leave_source(w, r, now_s)
    w.ri[r, f.PRIVATE], w.ri[r, f.OWNER] = w.ri[r, f.HERE], r
    w.ri[r, f.FILLED] = w.ri[r, f.TARGET]
    loaded(w, r)


@small
def loaded(w: World, r: int) -> None:
    """What a request waited for is there: its reserved place becomes one in the batch."""
    i = w.ri[r, f.AT]
    w.ni[f.RESERVED, i] -= 1
    w.ni[f.RUNNING, i] -= 1
    add_prefill(w, i, r)
    call(w, i)


@inner
def finish(w: World, i: int, r: int, now_s: float) -> None:
    """A request is done: its cache is freed, or kept for the one that follows; its followers start after their pauses."""
    w.rf[r, f.FINISHED] = now_s
    w.ri[r, f.GENERATED] = w.ri[r, f.LIMIT]
    w.count[f.ANSWERED] += 1
    w.count[f.ANSWERED_TOKENS] += w.ri[r, f.LIMIT]
    _over(w)
    follower = w.ri[r, f.FOLLOWER]
    if w.ri[r, f.KEEPS] and follower >= 0:
        w.ri[r, f.STATE] = f.HELD
        w.ni[f.HOLDS, i] += 1
    else:
        share_output(w, i, r)
        give_back(w, i, r, w.ri[r, f.PRIVATE])
        w.ri[r, f.STATE] = f.DONE
    _announce(w, r, now_s)


@inner
def refuse(w: World, r: int, reason: int, now_s: float) -> None:
    """A request gets no answer, or none to its end; nor do those that follow it."""
    w.ri[r, f.STATE], w.ri[r, f.REASON] = f.REFUSED, reason
    w.ri[r, f.EPOCH] += 1
    w.rf[r, f.FINISHED] = now_s
    _over(w)
    before = w.ri[r, f.AFTER]
    if before >= 0 and w.ri[before, f.STATE] == f.HELD:
        push(w, now_s, RELEASE, before, w.ri[before, f.EPOCH])
    _announce(w, r, now_s)


@small
def release(w: World, a: int, now_s: float) -> None:
    """Free the cache that a request which is over had kept for its follower."""
    if w.ri[a, f.STATE] == f.HELD:
        i = w.ri[a, f.AT]
        advance(w, i, now_s)
        let_go(w, a, now_s)
        call(w, i)


@small
def _over(w: World) -> None:
    w.count[f.IN_SYSTEM] -= 1
    w.count[f.OVER] += 1


@inner
def _announce(w: World, r: int, now_s: float) -> None:
    k = w.ri[r, f.FOLLOWER]
    while k >= 0:
        start_s = now_s
        if w.ri[r, f.STATE] != f.REFUSED:
            start_s = max(now_s + w.rf[k, f.PAUSE], w.rf[k, f.ARRIVAL])
        push(w, start_s, FOLLOW, k, w.ri[k, f.EPOCH])
        k = w.ri[k, f.SIBLING]


@small
def _prefilled(w: World, i: int, r: int, now_s: float) -> None:
    """A prompt has been computed, and with it one more token has come out."""
    if w.ri[r, f.OWNER] == r:
        share_prompt(w, i, r)
    w.ri[r, f.GENERATED] += 1
    if w.rf[r, f.FIRST] != w.rf[r, f.FIRST]:  # NaN: the first one
        w.rf[r, f.FIRST] = now_s
    else:
        count_gap(w, i, now_s - w.rf[r, f.LAST])
    w.rf[r, f.LAST] = now_s
    if w.ri[r, f.GENERATED] >= w.ri[r, f.LIMIT]:
        finish(w, i, r, now_s)
    elif w.ni[f.ROLE, i] == f.PREFILL:
        w.ri[r, f.SOURCE], w.ri[r, f.NEEDS] = i, f.PULLED
        reroute(w, r, now_s)
    else:
        join(w, i, r)


@small
def _hand_over(w: World, r: int, now_s: float) -> None:
    """Send a prefilled request to a decode instance, which pulls its cache once there is room."""
    count = w.ni.shape[1]
    for i in range(count):
        w.eligible[i] = (
            w.ni[f.CONDITION, i] == f.UP
            and w.ni[f.ROLE, i] != f.PREFILL
            and w.ni[f.MODEL, i] == w.ri[r, f.ASKED]
            and fits(w, i, r)
        )
    policy = int(w.clock[f.DECODE_ROUTING])
    if policy == routing.KV_AWARE:
        measure_caches(w, now_s)
    w.ni[f.HITS, :] = 0
    turn = w.count[f.DECODE_TURN]
    w.count[f.DECODE_TURN] += 1
    i = ask(w, policy, r, turn)
    if i >= 0:
        _send(w, i, r)
    else:
        w.ri[r, f.AT] = -1
        enqueue(w, parking(w, w.ri[r, f.ASKED], f.DECODE_QUEUE), r, False)


@inner
def leave_source(w: World, r: int, now_s: float) -> None:
    """Free the cache of a request where it was prefilled; nothing is ever run ahead there."""
    source = w.ri[r, f.SOURCE]
    count_occupied(w, source, now_s)
    give_back(w, source, r, w.ri[r, f.PRIVATE])
    w.ni[f.TRY, source] = 1
    w.ri[r, f.SOURCE] = -1
    call(w, source)


@small
def _send(w: World, i: int, r: int) -> None:
    known = w.ni[f.HITS, i]
    enqueue(w, i, r, False)
    if w.ri[r, f.NEEDS] == f.NEW:
        uncount(w, i, r, min(known, w.ri[r, f.PROMPT] - 1))
    call(w, i)
