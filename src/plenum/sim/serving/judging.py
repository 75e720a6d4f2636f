"""Whether a request is taken at all: what admission reads is predicted here; admission decides."""

from __future__ import annotations

import math

from plenum.graph.compiled import inner, small
from plenum.serving import admission, routing
from plenum.serving.steps import AT as COEFFICIENT
from plenum.serving.steps import chunk_pairs, chunk_pairs_window, step
from plenum.sim.serving import fields as f
from plenum.sim.serving.admit import fits
from plenum.sim.serving.batch import parking, reroute
from plenum.sim.serving.choosing import predict_ttft, wait_for_place
from plenum.sim.serving.events import RETRY, push
from plenum.sim.serving.iteration import advance
from plenum.sim.serving.world import World

_WINDOW, _REQUEST = COEFFICIENT["window"], COEFFICIENT["request_s"]

NOW, LATER, NEVER = range(3)
"""What becomes of a request."""


@inner
def judge(w: World, i: int, r: int, full: bool, now_s: float) -> int:
    """Ask admission about a request that would go to instance ``i``: it is served NOW, put off to LATER, or NEVER served.

    One that the cheaper model takes is put off to be routed again at the same time, as a request for that model.
    """
    asked = w.ri[r, f.ASKED]
    ttft_s, tpot_s, work_s = math.inf, math.inf, 0.0
    if i >= 0:
        ttft_s, tpot_s, work_s = _expected(w, i, r, w.ni[f.HITS, i], 0, now_s)
        if w.clock[f.ROUTING] == routing.MOONCAKE:  # the time that a copy takes is in it
            ttft_s = w.nf[f.PREDICTED, i] + w.steps[i, _REQUEST]
    else:
        likely, more = _likely(w, r, asked, now_s)
        if likely >= 0:
            ttft_s, tpot_s, work_s = _expected(w, likely, r, 0, more, now_s)
            if full and w.clock[f.CENTRAL] == 0.0:
                ttft_s = math.inf
    if w.ri[r, f.PUT_OFF] == 0:
        _press(w, asked, w.ri[r, f.RANK], work_s, now_s)
    pressure, above = _pressure(w, asked, w.ri[r, f.RANK])
    limit = w.clock[f.ADMIT_PRESSURE] + w.ri[r, f.RANK] * w.clock[f.ADMIT_CLASS]
    cheaper = int(w.clock[_per_model(w, asked) + w.count[f.MODELS]])
    other_ttft_s, other_tpot_s, other_work_s = math.inf, math.inf, 0.0
    if cheaper >= 0:
        other_ttft_s, other_tpot_s, other_work_s = _elsewhere(w, r, cheaper, limit, now_s)
    margin = w.clock[f.ADMIT_MARGIN]
    deferrable = w.ri[r, f.RANK] < w.clock[f.ADMIT_DEFERRABLE]
    waited_s = 0.0 if deferrable else now_s - w.rf[r, f.READY]
    verdict, why = admission.decide(
        ttft_s,
        ttft_s * margin,
        tpot_s,
        tpot_s * margin,
        w.clock[f.ADMIT_TTFT] - waited_s,
        w.clock[f.ADMIT_TPOT],
        pressure,
        above,
        limit,
        w.ri[r, f.LIMIT],
        int(w.clock[f.ADMIT_CAP]),
        other_ttft_s * margin,
        other_tpot_s * margin,
        deferrable,
    )
    if verdict == admission.DEFER and w.ri[r, f.PUT_OFF] >= w.clock[f.ADMIT_DEFER_MOST]:
        verdict = admission.SHED
    w.ri[r, f.VERDICT], w.ri[r, f.WHY] = verdict, why
    if verdict == admission.SHED:
        return NEVER
    if verdict == admission.DEFER:
        w.ri[r, f.PUT_OFF] += 1
        w.ri[r, f.STATE] = f.PENDING
        push(w, now_s + w.clock[f.ADMIT_DEFER], RETRY, r, w.ri[r, f.EPOCH])
        return LATER
    if verdict == admission.CHEAPER:
        _press(w, cheaper, w.ri[r, f.RANK], other_work_s, now_s)
        w.ri[r, f.ASKED] = cheaper
        reroute(w, r, now_s)
        return LATER
    if verdict == admission.CAP:
        w.ri[r, f.LIMIT] = min(w.ri[r, f.LIMIT], int(w.clock[f.ADMIT_CAP]))
    return NOW


@inner
def _expected(w: World, i: int, r: int, hits: int, more: int, now_s: float) -> tuple[float, float, float]:
    """Return the time to the first token and between tokens of a request at an instance, and the instance-seconds that it takes."""
    advance(w, i, now_s)
    ttft_s = predict_ttft(w, i, r, hits, more, now_s) + w.steps[i, _REQUEST]
    prompt, limit = w.ri[r, f.PROMPT], w.ri[r, f.LIMIT]
    narrow = chunk_pairs_window(0.0, prompt, w.steps[i, _WINDOW])
    alone_s, _ = step(w.steps[i], prompt, chunk_pairs(0.0, prompt), narrow, 1.0, 0.0, 0.0, 0.0)
    d, ahead = i, w.ni[f.QUEUED, i] + w.ni[f.PREFILLS, i] + 1 + more  # these decode too by then
    if w.ni[f.ROLE, i] == f.PREFILL:
        d = _decoder(w, r)
        if d < 0:
            return ttft_s, math.inf, alone_s
        advance(w, d, now_s)
        ahead = w.ni[f.QUEUED, d] + w.ni[f.PREFILLS, d] + w.ni[f.RESERVED, d] + 1
    decodes = w.ni[f.DECODES, d] + ahead
    context = w.nf[f.CONTEXT, d] + ahead * (prompt + 0.5 * limit)
    context_window = w.nf[f.CONTEXT_WINDOW, d] + ahead * min(prompt, w.steps[d, _WINDOW])
    tpot_s, _ = step(w.steps[d], 0.0, 0.0, 0.0, 0.0, decodes, context, context_window)
    tpot_s /= w.nf[f.ADVANCE, d]
    work_s = alone_s + (limit - 1) * tpot_s / decodes
    if d == i:  # whoever is done makes room for a prompt, which all the others meet
        tpot_s += decodes * alone_s / max(limit, 1)
    else:
        tpot_s += wait_for_place(w, d, r, 0, 0) / max(limit - 1, 1)
    return ttft_s, tpot_s, work_s


@inner
def _likely(w: World, r: int, model: int, now_s: float) -> tuple[int, int]:
    """Return the instance that would give the first token of a request soonest, and how many wait together before it, to each instance."""
    best, ready, least_s, waiting = -1, 0, math.inf, 0
    if w.clock[f.CENTRAL] == 1.0:
        for rank in range(w.ri[r, f.RANK], w.queue.shape[2]):
            k = w.queue[f.HEAD, parking(w, model, f.HERE_QUEUE), rank]
            while k >= 0:
                waiting += 1
                k = w.ri[k, f.NEXT]
    for i in range(w.ni.shape[1]):
        if w.ni[f.CONDITION, i] == f.UP and w.ni[f.ROLE, i] != f.DECODE and w.ni[f.MODEL, i] == model:
            ready += 1
            advance(w, i, now_s)
            ttft_s = predict_ttft(w, i, r, 0, 0, now_s) if fits(w, i, r) else math.inf
            if ttft_s < least_s:
                best, least_s = i, ttft_s
    return best, -(-waiting // max(ready, 1))


@inner
def _decoder(w: World, r: int) -> int:
    """Return the instance with the fewest requests of those that would decode one; -1: there is none."""
    best, least = -1, 0
    for i in range(w.ni.shape[1]):
        able = w.ni[f.CONDITION, i] == f.UP and w.ni[f.ROLE, i] != f.PREFILL and w.ni[f.MODEL, i] == w.ri[r, f.ASKED]
        load = w.ni[f.RUNNING, i] + w.ni[f.QUEUED, i]
        if able and (best < 0 or load < least) and fits(w, i, r):
            best, least = i, load
    return best


@inner
def _elsewhere(w: World, r: int, model: int, limit: float, now_s: float) -> tuple[float, float, float]:
    """Return what :func:`_expected` says of another model, its higher classes left their part of the token time; infinity: not there."""
    _, above = _pressure(w, model, w.ri[r, f.RANK])
    if above >= limit:
        return math.inf, math.inf, 0.0
    asked = w.ri[r, f.ASKED]
    w.ri[r, f.ASKED] = model
    ttft_s, tpot_s, work_s = math.inf, math.inf, 0.0
    i, more = _likely(w, r, model, now_s)
    if i >= 0:
        ttft_s, tpot_s, work_s = _expected(w, i, r, 0, more, now_s)
    w.ri[r, f.ASKED] = asked
    return ttft_s, tpot_s / (1.0 - above / limit), work_s


@small
def _per_model(w: World, model: int) -> int:
    """Return where it stands in the clocks when the pressures of a model were brought up to date."""
    return f.SETTINGS + w.count[f.MODELS] * w.count[f.CLASSES] + model


@inner
def _press(w: World, model: int, rank: int, work_s: float, now_s: float) -> None:
    """Count work that arrives for a model, and let what arrived before fade."""
    up = 0
    for i in range(w.ni.shape[1]):
        up += w.ni[f.CONDITION, i] == f.UP and w.ni[f.MODEL, i] == model
    at = _per_model(w, model)
    first = f.SETTINGS + model * w.count[f.CLASSES]
    for k in range(w.count[f.CLASSES]):
        before, elapsed_s = float(w.clock[first + k]), float(now_s - w.clock[at])
        w.clock[first + k] = admission.pressure_after(
            before, elapsed_s, work_s if k == rank else 0.0, float(up), float(w.clock[f.ADMIT_WINDOW])
        )
    w.clock[at] = now_s


@inner
def _pressure(w: World, model: int, rank: int) -> tuple[float, float]:
    """Return the pressure on a model of a class and those above it, and of those above it alone."""
    first = f.SETTINGS + model * w.count[f.CLASSES]
    above = 0.0
    for k in range(rank + 1, w.count[f.CLASSES]):
        above += float(w.clock[first + k])
    return float(w.clock[first + rank]) + above, above
