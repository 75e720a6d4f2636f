"""The way of a request through the service: arrival, routing, hand-over from prefill to decode, end; and what failures do to it."""

from __future__ import annotations

import math

from plenum.serving import admission, routing
from plenum.serving.steps import AT as COEFFICIENT
from plenum.serving.steps import chunk_pairs, chunk_pairs_window, step
from plenum.sim.serving import fields as f
from plenum.sim.serving.admit import fits
from plenum.sim.serving.batch import add_prefill, call, dequeue, enqueue, first_waiting, join, let_go, uncount
from plenum.sim.serving.compiled import inner, small
from plenum.sim.serving.events import FOLLOW, RELEASE, REROUTE, RETRY, push, set_key
from plenum.sim.serving.iteration import account, advance, count_gap, take_finished, take_prefilled
from plenum.sim.serving.memory import (
    available,
    blocks_for,
    count_occupied,
    forget_prefixes,
    found,
    give_back,
    occupied,
    share_prompt,
)
from plenum.sim.serving.world import World

_WINDOW = COEFFICIENT["window"]


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
    elif not _could_fit(w, r):
        refuse(w, r, f.TOO_LONG, now_s)
    else:
        route(w, r, now_s, w.clock[f.ADMIT] == 1.0)


@inner
def route(w: World, r: int, now_s: float, judged: bool) -> None:
    """Send a request to an instance, or let it wait for one; where it is ``judged``, admission has its say first."""
    if w.ri[r, f.NEEDS] == f.PULLED:
        _hand_over(w, r, now_s)
        return
    before = w.ri[r, f.AFTER]
    if before >= 0 and w.ri[before, f.STATE] == f.HELD:
        i = w.ri[before, f.AT]
        if w.ni[f.CONDITION, i] == f.UP and fits(w, i, r):
            w.ni[f.HITS, i] = 0
            _send(w, i, r)
            return
    i, full = _choose(w, r, now_s)
    if judged and not _judge(w, i, r, now_s):
        return
    if i >= 0:
        _send(w, i, r)
        return
    if full and w.clock[f.CENTRAL] == 0.0:
        refuse(w, r, f.QUEUE_FULL, now_s)
        return
    w.ri[r, f.AT] = -1
    enqueue(w, _parking(w, w.ri[r, f.ASKED], False), r, False)


@small
def transferred(w: World, r: int, now_s: float) -> None:
    """The cache of a request has crossed: free it where it came from, and let the request decode."""
    _leave_source(w, r, now_s)
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
def come_up(w: World, i: int, now_s: float) -> None:
    """An instance takes requests from now on: those that wait for any instance are routed anew."""
    w.ni[f.CONDITION, i] = f.UP
    w.ni[f.TRY, i] = 1
    call(w, i)
    if w.clock[f.CENTRAL] == 1.0 and w.ni[f.ROLE, i] != f.DECODE:
        return
    q = _parking(w, w.ni[f.MODEL, i], w.ni[f.ROLE, i] == f.DECODE)
    r = first_waiting(w, q)
    while r >= 0:
        dequeue(w, q, r)
        _reroute(w, r, now_s)
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
    _forget(w, i)
    for r in range(w.ri.shape[0]):
        state = w.ri[r, f.STATE]
        if state == f.HELD and w.ri[r, f.AT] == i:
            w.ri[r, f.STATE] = f.DONE
        if f.WAITING <= state <= f.CROSSING and (w.ri[r, f.AT] == i or w.ri[r, f.SOURCE] == i):
            _displace(w, i, r, now_s)


@small
def _displace(w: World, i: int, r: int, now_s: float) -> None:
    """Free what a request that lost its place still holds elsewhere, and send it on its way again, or call it lost."""
    state, at, source = w.ri[r, f.STATE], w.ri[r, f.AT], w.ri[r, f.SOURCE]
    restart = w.clock[f.RESTART] == 1.0
    if at >= 0 and at != i:
        _leave_destination(w, r, state, now_s)
    elif at < 0 and state == f.WAITING:
        _unqueue(w, _parking(w, w.ri[r, f.ASKED], True), r)
    if source >= 0 and source != i and not restart:
        _leave_source(w, r, now_s)
    if source < 0 or source == i:  # its cache is gone
        w.ri[r, f.SOURCE], w.ri[r, f.NEEDS], w.ri[r, f.OWNER] = -1, f.NEW, r
        w.ri[r, f.PRIVATE], w.ri[r, f.SHARED], w.ri[r, f.FILLED] = 0, 0, 0
        w.ri[r, f.TARGET] = w.ri[r, f.PROMPT] + w.ri[r, f.GENERATED]
        w.ri[r, f.PREEMPTED] += restart
    w.ri[r, f.CHUNK], w.ri[r, f.COUNTED] = 0, 0
    if restart:
        _reroute(w, r, now_s)
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


@small
def _reroute(w: World, r: int, now_s: float) -> None:
    w.ri[r, f.STATE], w.ri[r, f.AT] = f.PENDING, -1
    w.ri[r, f.EPOCH] += 1
    push(w, now_s, REROUTE, r, w.ri[r, f.EPOCH])


@small
def _parking(w: World, model: int, decode: bool) -> int:
    """Return the queue of those who wait for any instance of a model."""
    instances = w.ni.shape[1]
    return instances + model + ((w.queue.shape[1] - instances) // 2 if decode else 0)


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
    set_key(w.keys, i, math.inf)


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
        _reroute(w, r, now_s)
    else:
        join(w, i, r)


@small
def _hand_over(w: World, r: int, now_s: float) -> None:
    """Send a prefilled request to a decode instance, which pulls its cache once there is room."""
    count = w.ni.shape[1]
    for i in range(count):
        w.eligible[i] = (
            w.ni[f.CONDITION, i] == f.UP
            and w.ni[f.ROLE, i] == f.DECODE
            and w.ni[f.MODEL, i] == w.ri[r, f.ASKED]
            and fits(w, i, r)
        )
    policy = int(w.clock[f.DECODE_ROUTING])
    if policy == routing.KV_AWARE:
        _measure_cache(w, now_s)
    w.ni[f.HITS, :] = 0
    turn = w.count[f.DECODE_TURN]
    w.count[f.DECODE_TURN] += 1
    i = _ask(w, policy, r, turn)
    if i >= 0:
        _send(w, i, r)
    else:
        w.ri[r, f.AT] = -1
        enqueue(w, _parking(w, w.ri[r, f.ASKED], True), r, False)


@inner
def _leave_source(w: World, r: int, now_s: float) -> None:
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


@small
def _could_fit(w: World, r: int) -> bool:
    """Whether there are instances, up or not, that could prefill and decode a request."""
    prefills, decodes = False, False
    for i in range(w.ni.shape[1]):
        if w.ni[f.MODEL, i] == w.ri[r, f.ASKED] and fits(w, i, r):
            prefills = prefills or w.ni[f.ROLE, i] != f.DECODE
            decodes = decodes or w.ni[f.ROLE, i] != f.PREFILL
    return prefills and decodes


@small
def _choose(w: World, r: int, now_s: float) -> tuple[int, bool]:
    """Return the instance to prefill a request, -1 if there is none, and whether only full queues stood against it."""
    policy = int(w.clock[f.ROUTING])
    remote_above = w.clock[f.REMOTE_ABOVE]
    full = False
    for i in range(w.ni.shape[1]):
        w.eligible[i] = (
            w.ni[f.CONDITION, i] == f.UP
            and w.ni[f.ROLE, i] != f.DECODE
            and w.ni[f.MODEL, i] == w.ri[r, f.ASKED]
            and fits(w, i, r)
        )
        if w.eligible[i] and w.clock[f.MOST_QUEUED] >= 0.0 and w.ni[f.QUEUED, i] >= w.clock[f.MOST_QUEUED]:
            full = full or w.nf[f.END, i] != math.inf
            w.eligible[i] = w.nf[f.END, i] == math.inf
    if (
        policy in (routing.PREFIX_AWARE, routing.KV_AWARE, routing.PREDICTED_LATENCY, routing.MOONCAKE)
        or remote_above >= 0.0
    ):
        _measure_cache(w, now_s)
        _find(w, r)
    else:
        w.ni[f.HITS, :] = 0
    if remote_above >= 0.0:
        _choose_site(w, r, now_s)
    if policy in (routing.PREDICTED_LATENCY, routing.MOONCAKE):
        for i in range(w.ni.shape[1]):
            w.nf[f.PREDICTED, i] = predict_ttft(w, i, r, now_s) if w.eligible[i] else math.inf
    if w.clock[f.CENTRAL] == 1.0:
        _only_with_room(w, r)
        if first_waiting(w, _parking(w, w.ri[r, f.ASKED], False)) >= 0:  # nobody overtakes
            w.eligible[:] = False
    turn = w.count[f.TURN]
    w.count[f.TURN] += 1
    return _ask(w, policy, r, turn), full


@small
def _ask(w: World, policy: int, r: int, turn: int) -> int:
    return routing.choose(
        policy,
        w.eligible,
        w.ni[f.QUEUED],
        w.ni[f.BACKLOG],
        w.ni[f.RUNNING],
        w.nf[f.FULL],
        w.ni[f.HITS],
        w.nf[f.PREDICTED],
        w.ri[r, f.PROMPT],
        w.ri[r, f.SESSION],
        turn,
    )


@inner
def _measure_cache(w: World, now_s: float) -> None:
    """Bring every instance up to now, and see how full its cache is."""
    for i in range(w.ni.shape[1]):
        advance(w, i, now_s)
        w.nf[f.FULL, i] = occupied(w, i) / w.ni[f.BLOCKS, i]


@small
def _find(w: World, r: int) -> None:
    """Look for the prompt of a request in every cache."""
    for i in range(w.ni.shape[1]):
        w.ni[f.HITS, i] = 0
        if w.ni[f.CACHES_PREFIXES, i] == 1 and w.ni[f.ROLE, i] != f.DECODE:
            hbm, dram, nvme = found(w, i, r)
            w.ni[f.HITS, i] = (hbm + dram + nvme) * w.count[f.PREFIX_BLOCK]


@small
def _choose_site(w: World, r: int, now_s: float) -> None:
    """Leave only instances at sites that decode, or only at those that do not, by the tokens that would have to be computed."""
    best, local, remote = 0, False, False
    for i in range(w.ni.shape[1]):
        if w.eligible[i] and w.ni[f.REMOTE, i] == 0:
            best = max(best, w.ni[f.HITS, i])
            local = True
        elif w.eligible[i]:
            clear = True
            link = f.SITE_LINKS + w.ni[f.SITE, i] * f.SITES
            for b in range(f.SITES):
                clear = clear and w.clock[link + b] - now_s <= w.clock[f.REMOTE_BACKLOG]
            w.eligible[i] = clear
            remote = remote or clear
    away = remote and (w.ri[r, f.TARGET] - best > w.clock[f.REMOTE_ABOVE] or not local)
    for i in range(w.ni.shape[1]):
        w.eligible[i] = w.eligible[i] and (w.ni[f.REMOTE, i] == 1) == away


@small
def _only_with_room(w: World, r: int) -> None:
    """Leave only instances that could begin with a request at once."""
    for i in range(w.ni.shape[1]):
        w.eligible[i] = (
            w.eligible[i]
            and w.ni[f.QUEUED, i] == 0
            and w.ni[f.RUNNING, i] < w.ni[f.MOST, i]
            and blocks_for(w, i, w.ri[r, f.TARGET]) <= available(w, i)
        )


@inner
def predict_ttft(w: World, i: int, r: int, now_s: float) -> float:
    """Return when the first token would come: the rest of the present iteration, then the backlog and this prompt, in full iterations."""
    c = w.steps[i]
    new = max(w.ri[r, f.TARGET] - w.ni[f.HITS, i], 1)
    backlog = w.ni[f.BACKLOG, i]
    waiting = w.ni[f.QUEUED, i] + w.ni[f.PREFILLS, i]
    pairs = chunk_pairs(w.ni[f.HITS, i], new)
    pairs_window = chunk_pairs_window(w.ni[f.HITS, i], new, c[_WINDOW])
    if waiting > 0:
        pairs += waiting * chunk_pairs(0.0, backlog / waiting)
        pairs_window += waiting * chunk_pairs_window(0.0, backlog / waiting, c[_WINDOW])
    iterations = max(1.0, math.ceil((backlog + new) / w.ni[f.BUDGET, i]))
    decodes = w.ni[f.DECODES, i] if w.ni[f.MIXED, i] == 1 else 0
    share = 1.0 / iterations
    each_s, _ = step(
        c,
        (backlog + new) * share,
        pairs * share,
        pairs_window * share,
        min(waiting + 1.0, max((waiting + 1.0) * share, 1.0)),
        decodes,
        w.nf[f.CONTEXT, i] if decodes > 0 else 0.0,
        w.nf[f.CONTEXT_WINDOW, i] if decodes > 0 else 0.0,
    )
    rest_s = w.nf[f.END, i] - now_s if w.nf[f.END, i] < math.inf else 0.0
    return max(rest_s, 0.0) + iterations * each_s + _wait_for_place(w, i, r)


@inner
def _wait_for_place(w: World, i: int, r: int) -> float:
    """Return how long the batch will have no place, or no blocks, for one more: each lasts as long as answers did so far."""
    most = w.ni[f.MOST, i]
    if blocks_for(w, i, w.ri[r, f.TARGET] - w.ni[f.HITS, i]) > available(w, i):
        most = max(min(most, w.ni[f.RUNNING, i]), 1)
    ahead = w.ni[f.QUEUED, i] + w.ni[f.RUNNING, i] + 1 - most
    if ahead <= 0 or w.ni[f.ROLE, i] == f.PREFILL:
        return 0.0
    tokens = w.ri[r, f.LIMIT] if w.count[f.ANSWERED] == 0 else w.count[f.ANSWERED_TOKENS] / w.count[f.ANSWERED]
    step_s, _ = step(
        w.steps[i], 0.0, 0.0, 0.0, 0.0, max(w.ni[f.DECODES, i], 1), w.nf[f.CONTEXT, i], w.nf[f.CONTEXT_WINDOW, i]
    )
    return ahead * tokens / w.nf[f.ADVANCE, i] * step_s / most


@small
def _judge(w: World, i: int, r: int, now_s: float) -> bool:
    """Ask admission about a request that would go to instance ``i``; False where it is refused or put off."""
    ttft_s, tpot_s, work_s = math.inf, math.inf, 0.0
    up = 0
    for k in range(w.ni.shape[1]):
        up += w.ni[f.CONDITION, k] == f.UP and w.ni[f.MODEL, k] == w.ri[r, f.ASKED]
    if i >= 0:
        ttft_s = predict_ttft(w, i, r, now_s)
        prompt, decodes = w.ri[r, f.PROMPT], w.ni[f.DECODES, i] + 1
        context = w.nf[f.CONTEXT, i] + prompt + 0.5 * w.ri[r, f.LIMIT]
        window = w.steps[i, _WINDOW]
        narrow = w.nf[f.CONTEXT_WINDOW, i] + min(prompt, window)
        tpot_s, _ = step(w.steps[i], 0.0, 0.0, 0.0, 0.0, decodes, context, narrow)
        tpot_s /= w.nf[f.ADVANCE, i]
        alone_s, _ = step(
            w.steps[i], prompt, chunk_pairs(0.0, prompt), chunk_pairs_window(0.0, prompt, window), 1.0, 0.0, 0.0, 0.0
        )
        work_s = alone_s + (w.ri[r, f.LIMIT] - 1) * tpot_s / decodes
    if w.ri[r, f.PUT_OFF] == 0:
        elapsed_s = now_s - w.clock[f.PRESSURE_AT]
        w.clock[f.PRESSURE] = admission.pressure_after(
            w.clock[f.PRESSURE], elapsed_s, work_s, float(up), w.clock[f.ADMIT_WINDOW]
        )
        w.clock[f.PRESSURE_AT] = now_s
    waited_s = now_s - w.rf[r, f.READY]
    margin = w.clock[f.ADMIT_MARGIN]
    deferrable = w.ri[r, f.RANK] < w.clock[f.ADMIT_DEFERRABLE]
    verdict, _ = admission.decide(
        ttft_s,
        ttft_s * margin,
        tpot_s,
        tpot_s * margin,
        w.clock[f.ADMIT_TTFT] - (0.0 if deferrable else waited_s),
        w.clock[f.ADMIT_TPOT],
        w.clock[f.PRESSURE],
        w.clock[f.ADMIT_PRESSURE] + w.ri[r, f.RANK] * w.clock[f.ADMIT_CLASS],
        w.ri[r, f.LIMIT],
        int(w.clock[f.ADMIT_CAP]),
        math.inf,
        math.inf,
        deferrable,
    )
    if verdict == admission.DEFER and w.ri[r, f.PUT_OFF] < w.clock[f.ADMIT_DEFER_MOST]:
        w.ri[r, f.PUT_OFF] += 1
        w.ri[r, f.STATE] = f.PENDING
        push(w, now_s + w.clock[f.ADMIT_DEFER], RETRY, r, w.ri[r, f.EPOCH])
        return False
    if verdict in (admission.DEFER, admission.SHED):
        refuse(w, r, f.NOT_ADMITTED, now_s)
        return False
    if verdict == admission.CAP:
        w.ri[r, f.LIMIT] = min(w.ri[r, f.LIMIT], int(w.clock[f.ADMIT_CAP]))
    return True
