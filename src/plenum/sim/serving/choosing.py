"""Which instance a request goes to: what routing reads is measured here; routing decides."""

from __future__ import annotations

import math

from plenum.graph.compiled import inner, small
from plenum.serving import offload, routing
from plenum.serving.steps import AT as COEFFICIENT
from plenum.serving.steps import chunk_pairs, chunk_pairs_window, step
from plenum.sim.serving import fields as f
from plenum.sim.serving.admit import fits
from plenum.sim.serving.batch import cache_bytes, first_waiting, parking
from plenum.sim.serving.iteration import advance, fill_s
from plenum.sim.serving.memory import available, blocks_for, found, occupied
from plenum.sim.serving.world import World

_WINDOW = COEFFICIENT["window"]


@small
def choose_instance(w: World, r: int, now_s: float) -> tuple[int, bool, int]:
    """Return the instance to prefill a request, -1 if there is none; whether only full queues stood against it; where to wait."""
    policy = int(w.clock[f.ROUTING])
    remote_above = w.clock[f.REMOTE_ABOVE]
    full = False
    kind, source = f.HERE_QUEUE, -1
    for i in range(w.ni.shape[1]):
        w.eligible[i] = (
            w.ni[f.CONDITION, i] == f.UP
            and w.ni[f.ROLE, i] != f.DECODE
            and w.ni[f.MODEL, i] == w.ri[r, f.ASKED]
            and fits(w, i, r)
        )
        if w.eligible[i] and w.clock[f.MOST_QUEUED] >= 0.0:
            places = (
                w.ni[f.MOST, i] - w.ni[f.RUNNING, i] if w.nf[f.END, i] == math.inf else 0
            )  # it lets them in at once
            if w.ni[f.QUEUED, i] >= w.clock[f.MOST_QUEUED] + places:
                full = True
                w.eligible[i] = False
    if (
        policy in (routing.PREFIX_AWARE, routing.KV_AWARE, routing.PREDICTED_LATENCY, routing.MOONCAKE)
        or remote_above >= 0.0
    ):
        measure_caches(w, now_s)
        _find(w, r)
    else:
        w.ni[f.HITS, :] = 0
    if remote_above >= 0.0:
        kind, source = _choose_site(w, r, now_s)
    if policy in (routing.PREDICTED_LATENCY, routing.MOONCAKE):
        for i in range(w.ni.shape[1]):
            w.nf[f.PREDICTED, i] = predict_ttft(w, i, r, w.ni[f.HITS, i], 0, now_s) if w.eligible[i] else math.inf
    if w.clock[f.CENTRAL] == 1.0:
        _only_with_room(w, r)
        if first_waiting(w, parking(w, w.ri[r, f.ASKED], kind)) >= 0:  # nobody overtakes
            w.eligible[:] = False
    turn = w.count[f.TURN]
    w.count[f.TURN] += 1
    i = -1
    if policy == routing.MOONCAKE:
        _predict_fetched(w, r, now_s)
        i, source, _ = routing.choose_with_transfer(
            w.eligible, w.ni[f.HITS], w.nf[f.PREDICTED], w.nf[f.FETCHED], math.inf, turn
        )
        if source >= 0:
            w.nf[f.PREDICTED, i] = w.nf[f.FETCHED, i]
    else:
        i = ask(w, policy, r, turn)
    if i >= 0 and source >= 0 and w.ni[f.HITS, source] > w.ni[f.HITS, i]:
        w.ri[r, f.COPIED_FROM] = source
        w.ni[f.HITS, i] = w.ni[f.HITS, source]
    return i, full, kind


@small
def could_fit(w: World, r: int) -> bool:
    """Whether there are instances, up or not, that could prefill and decode a request."""
    prefills, decodes = False, False
    for i in range(w.ni.shape[1]):
        if w.ni[f.MODEL, i] == w.ri[r, f.ASKED] and fits(w, i, r):
            prefills = prefills or w.ni[f.ROLE, i] != f.DECODE
            decodes = decodes or w.ni[f.ROLE, i] != f.PREFILL
    return prefills and decodes


@small
def ask(w: World, policy: int, r: int, turn: int) -> int:
    """Let routing choose among the eligible instances, by what was measured; -1: there is none."""
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


@small
def _predict_fetched(w: World, r: int, now_s: float) -> None:
    """Predict the time to the first token where the longest prefix is copied first: the links' queues and its bytes, then the rest."""
    most, source = 0, -1
    for i in range(w.ni.shape[1]):
        w.nf[f.FETCHED, i] = math.inf
        if w.eligible[i] and w.ni[f.HITS, i] > most:
            most, source = w.ni[f.HITS, i], i
    if source < 0:
        return
    for i in range(w.ni.shape[1]):
        if w.eligible[i] and most > routing.BALANCING * w.ni[f.HITS, i] and w.ni[f.CACHES_PREFIXES, i] == 1:
            a, b = w.ni[f.SITE, source], w.ni[f.SITE, i]
            size = cache_bytes(w, i, most - w.ni[f.HITS, i])
            busy_s, bps = max(w.nf[f.LINK_OUT, source], w.nf[f.LINK_IN, i]), w.clock[f.LINK_BPS]
            if a != b:
                busy_s, bps = max(busy_s, w.clock[f.SITE_LINKS + a * f.SITES + b]), min(bps, w.clock[f.SITE_BPS])
            copy_s = max(busy_s - now_s, 0.0) + size / bps + w.clock[f.LATENCY]
            w.nf[f.FETCHED, i] = predict_ttft(w, i, r, most, 0, now_s) + copy_s


@inner
def measure_caches(w: World, now_s: float) -> None:
    """Bring every instance up to now, and see how full its cache is."""
    for i in range(w.ni.shape[1]):
        advance(w, i, now_s)
        w.nf[f.FULL, i] = occupied(w, i) / w.ni[f.BLOCKS, i]


@inner
def predict_ttft(w: World, i: int, r: int, hits: int, more: int, now_s: float) -> float:
    """Return when the first token would come: the rest of the present iteration, then the backlog and this prompt, in full iterations.

    ``more`` prompts like this one come before it, besides those in the instance's own queue.
    """
    c = w.steps[i]
    new = max(w.ri[r, f.TARGET] - hits, 1)
    backlog = w.ni[f.BACKLOG, i] + more * w.ri[r, f.TARGET]
    waiting = w.ni[f.QUEUED, i] + w.ni[f.PREFILLS, i] + more
    pairs = chunk_pairs(hits, new)
    pairs_window = chunk_pairs_window(hits, new, c[_WINDOW])
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
    rest_s = w.nf[f.END, i] - now_s
    if rest_s == math.inf:
        rest_s = fill_s(w, i, each_s, 1, 0)
    return max(rest_s, 0.0) + iterations * each_s + wait_for_place(w, i, r, hits, more)


@inner
def wait_for_place(w: World, i: int, r: int, hits: int, more: int) -> float:
    """Return how long the batch will have no place, or no blocks, for one more: each lasts as long as answers did so far."""
    most = w.ni[f.MOST, i]
    if blocks_for(w, i, w.ri[r, f.TARGET] - hits) > available(w, i):
        most = max(min(most, w.ni[f.RUNNING, i]), 1)
    ahead = w.ni[f.QUEUED, i] + w.ni[f.RUNNING, i] + more + 1 - most
    if ahead <= 0 or w.ni[f.ROLE, i] == f.PREFILL:
        return 0.0
    tokens = w.ri[r, f.LIMIT] if w.count[f.ANSWERED] == 0 else w.count[f.ANSWERED_TOKENS] / w.count[f.ANSWERED]
    step_s, _ = step(
        w.steps[i], 0.0, 0.0, 0.0, 0.0, max(w.ni[f.DECODES, i], 1), w.nf[f.CONTEXT, i], w.nf[f.CONTEXT_WINDOW, i]
    )
    return ahead * tokens / w.nf[f.ADVANCE, i] * step_s / most


@small
def _find(w: World, r: int) -> None:
    """Look for the prompt of a request in every cache."""
    for i in range(w.ni.shape[1]):
        w.ni[f.HITS, i] = 0
        if w.ni[f.CACHES_PREFIXES, i] == 1 and w.ni[f.ROLE, i] != f.DECODE:
            hbm, dram, nvme = found(w, i, r)
            w.ni[f.HITS, i] = (hbm + dram + nvme) * w.count[f.PREFIX_BLOCK]


@small
def _choose_site(w: World, r: int, now_s: float) -> tuple[int, int]:
    """Leave only instances at sites that decode, or only at those that do not; returns their queue, and from where to copy a prefix."""
    near, far, local, remote, source = 0, 0, False, False, -1
    for i in range(w.ni.shape[1]):
        if w.eligible[i] and w.ni[f.HITS, i] > max(near, far):
            source = i
        if w.eligible[i] and w.ni[f.REMOTE, i] == 0:
            near = max(near, w.ni[f.HITS, i])
            local = True
        elif w.eligible[i]:
            clear = True
            link = f.SITE_LINKS + w.ni[f.SITE, i] * f.SITES
            for b in range(f.SITES):
                clear = clear and w.clock[link + b] - now_s <= w.clock[f.REMOTE_BACKLOG]
            w.eligible[i] = clear
            far = max(far, w.ni[f.HITS, i])
            remote = remote or clear
    ample = w.clock[f.REMOTE_COPIES] == 1.0
    site, copied, _ = offload.place_prefill(w.ri[r, f.TARGET], near, far, w.clock[f.REMOTE_ABOVE], ample)
    away = remote and (site == offload.REMOTE or not local)
    for i in range(w.ni.shape[1]):
        w.eligible[i] = w.eligible[i] and (w.ni[f.REMOTE, i] == 1) == away
    return f.AWAY_QUEUE if away else f.HERE_QUEUE, source if copied > 0 else -1


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
