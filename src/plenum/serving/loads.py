"""What one deployment does under a steady load, from its step coefficients: compiled, one call for each configuration.

Closed loop: ``concurrency`` requests are in flight, each followed by the next at once; solved as a closed queueing network (prefill,
then decode) by fixed-point iteration of Schweitzer's approximate mean value analysis. Open loop: requests come at random at a rate, and
:mod:`plenum.serving.queueing` says what becomes of them, as it does for the planner.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import entry, inner, outer, small
from plenum.serving.queueing import (
    BOTH,
    BUSY,
    DECODE,
    FIGURES,
    PREFILL,
    PROMPT_BUSY,
    TPOT,
    TTFT,
    WAIT,
    WATTS,
    Load,
    pool_under,
)
from plenum.serving.steps import AT, chunk_pairs, chunk_pairs_window, step

ROUNDS = 60
"""Rounds of fixed-point iteration at most."""

SETTLED = 1e-5
"""Relative change of time and throughput from one round to the next below which iteration ends."""

LOAD_FIELDS = (
    "concurrency",  # requests in flight; NaN: open loop
    "rate_rps",  # requests a second; NaN: closed loop
    "isl",  # tokens of a prompt
    "osl",  # tokens of an answer, at least 1
    "cached",  # prompt tokens whose cache is found
    "workers",  # instances that decode (and prefill, where aggregated)
    "prefill_workers",  # instances that prefill only; 0: aggregated
    "transfer_s",  # moving one prompt's cache to where it decodes
    "chunk_tokens",  # tokens of one iteration at most
    "mixed",  # 1: prefill shares iterations with decode
    "sequences",  # that one worker decodes at once at most
    "cache_tokens",  # tokens of cache of one worker
    "tokens_per_step",  # mean tokens that a decoding sequence advances in one iteration
    "together",  # 1: `concurrency` prompts are prefilled together, then decode together, and nothing else comes
    "request_s",
    "queueing",
    "burst",
)
"""Columns of the loads that :func:`solve` takes."""

AT_LOAD = {name: index for index, name in enumerate(LOAD_FIELDS)}

OUT_FIELDS = (
    "ttft_s",
    "tpot_s",
    "rps",  # requests a second of the whole deployment
    "batch",  # mean sequences that one worker decodes
    "prefill_busy",  # part of the time that prefill takes on the workers that do it
    "wait_s",  # part of ttft_s spent waiting
    "watts",  # of the whole deployment
    "saturated",  # 1: more comes than can be served, or cache does not hold what is in flight
    "prompt_s",  # prefill of one prompt alone
    "step_s",  # one decode iteration without prefill
    "prompt_w",  # watts of the deployment while it prefills
    "decode_w",  # while it decodes
)
"""Columns that :func:`solve` returns."""

AT_OUT = {name: index for index, name in enumerate(OUT_FIELDS)}

_C, _RATE, _ISL, _OSL, _CACHED = (AT_LOAD[n] for n in ("concurrency", "rate_rps", "isl", "osl", "cached"))
_W, _P, _TRANSFER = AT_LOAD["workers"], AT_LOAD["prefill_workers"], AT_LOAD["transfer_s"]
_CHUNK, _MIXED, _SEQ, _CACHE = (AT_LOAD[n] for n in ("chunk_tokens", "mixed", "sequences", "cache_tokens"))
_TOGETHER = AT_LOAD["together"]
_ADVANCE = AT_LOAD["tokens_per_step"]
_REQUEST, _QUEUEING, _BURST = (AT_LOAD[n] for n in ("request_s", "queueing", "burst"))
_WINDOW, _GROUPS, _IDLE = AT["window"], AT["groups"], AT["idle_w"]


@outer
def solve(decode: NDArray[np.float64], prefill: NDArray[np.float64], loads: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predict n loads.

    Parameters
    ----------
    decode, prefill
        (n, len(FIELDS)): coefficients of the workers, and of those that prefill (the same where aggregated).
    loads
        (n, len(LOAD_FIELDS)).

    Returns
    -------
    NDArray
        (n, len(OUT_FIELDS)).
    """
    out = np.zeros((len(loads), len(OUT_FIELDS)))
    for i in range(len(loads)):
        if loads[i, _TOGETHER] > 0.5:
            _static(decode[i], loads[i], out[i])
        elif loads[i, _P] > 0.0 and loads[i, _C] > 0.0:
            _disaggregated(decode[i], prefill[i], loads[i], out[i])
        elif loads[i, _P] > 0.0:
            _disaggregated_open(decode[i], prefill[i], loads[i], out[i])
        elif not loads[i, _C] > 0.0:
            _aggregated_open(decode[i], loads[i], out[i])
        else:
            _aggregated(decode[i], loads[i], out[i])
    return out


@entry
def prompt_time(c: NDArray[np.float64], prompts: float, isl: float, cached: float, chunk: float) -> tuple[float, float]:
    """Seconds and joules of prefilling ``prompts`` equal prompts together with nothing else running."""
    new = max(isl - cached, 1.0)
    iterations = max(1.0, prompts * new / max(chunk * c[_GROUPS], 1.0))
    pairs = prompts * chunk_pairs(cached, new) / iterations
    window = prompts * chunk_pairs_window(cached, new, c[_WINDOW]) / iterations
    seconds, joules = step(c, prompts * new / iterations, pairs, window, prompts, 0.0, 0.0, 0.0)
    return seconds * iterations, joules * iterations


@inner
def _decode_step(c: NDArray[np.float64], batch: float, isl: float, osl: float) -> tuple[float, float]:
    context = isl + 0.5 * osl
    window = min(context, c[_WINDOW]) if c[_WINDOW] > 0.0 else 0.0
    return step(c, 0.0, 0.0, 0.0, 0.0, batch, batch * context, batch * window)


@inner
def _added_by_prompt(c: NDArray[np.float64], load: NDArray[np.float64], batch: float) -> float:
    """Seconds that one prompt adds to the iterations of ``batch`` decoding sequences."""
    isl, osl, cached, chunk = load[_ISL], load[_OSL], load[_CACHED], load[_CHUNK]
    if load[_MIXED] < 0.5:
        return prompt_time(c, 1.0, isl, cached, chunk)[0]
    new = max(isl - cached, 1.0)
    part = min(1.0, max(chunk - batch, 64.0) / new)
    context = isl + 0.5 * osl
    window = min(context, c[_WINDOW]) if c[_WINDOW] > 0.0 else 0.0
    pairs, narrow = chunk_pairs(cached, new) * part, chunk_pairs_window(cached, new, c[_WINDOW]) * part
    mixed = step(c, new * part, pairs, narrow, 1.0, batch, batch * context, batch * window)[0]
    alone = step(c, 0.0, 0.0, 0.0, 0.0, batch, batch * context, batch * window)[0]
    return (mixed - alone) / part


@inner
def _static(c: NDArray[np.float64], load: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """One batch from its prompts to its last tokens: what kernel benchmarks and offline jobs measure."""
    workers, osl = max(load[_W], 1.0), max(load[_OSL], 1.0)
    batch = max(load[_C] / workers, 1.0)
    prompt_s, prompt_j = prompt_time(c, batch, load[_ISL], load[_CACHED], 1e12)
    step_s, joules = _decode_step(c, batch, load[_ISL], osl)
    steps = (osl - 1.0) / load[_ADVANCE]
    whole = prompt_s + steps * step_s
    watts = (prompt_j + steps * joules) / whole * workers
    tpot = steps * step_s / max(osl - 1.0, 1.0) if steps > 0.0 else step_s
    full = 1.0 if batch * (load[_ISL] + osl) > load[_CACHE] else 0.0
    busy = prompt_s / whole
    _write(out, prompt_s, tpot, batch / whole * workers, batch, busy, 0.0, watts, full, prompt_s, step_s)
    out[10], out[11] = prompt_j / prompt_s * workers, joules / step_s * workers


@inner
def _aggregated(c: NDArray[np.float64], load: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Closed loop of instances that prefill and decode."""
    workers = max(load[_W], 1.0)
    isl, osl = load[_ISL], max(load[_OSL], 1.0)
    room = max(1.0, min(load[_SEQ], load[_CACHE] / (isl + 0.5 * osl)))
    inflight = max(load[_C] / workers, 1.0)
    active = min(inflight, room)
    steps = (osl - 1.0) / load[_ADVANCE]
    prompt_s, prompt_j = prompt_time(c, 1.0, isl, load[_CACHED], load[_CHUNK])
    batch, rps, service, queue_s, step_s = max(active * 0.7, 1.0), 0.0, prompt_s, 0.0, 0.0
    added, joules, ttft, decode_s = prompt_s, 0.0, prompt_s, 0.0
    before_s, before_rps, before_batch = 0.0, 0.0, 0.0
    for _ in range(ROUNDS):
        settled = abs(ttft - before_s) <= SETTLED * ttft and abs(rps - before_rps) <= SETTLED * rps
        if settled and abs(batch - before_batch) <= SETTLED * batch:
            break
        before_s, before_rps, before_batch = ttft, rps, batch
        step_s, joules = _decode_step(c, max(batch, 1e-3), isl, osl)
        # A data-parallel instance prefills as many prompts at once as it has groups, if there are so many.
        together = min(max(rps * ttft, 1.0), c[_GROUPS])
        added = _added_by_prompt(c, load, batch)
        if together > 1.0:
            added *= prompt_time(c, together, isl, load[_CACHED], load[_CHUNK])[0] / (together * prompt_s)
        service = max(prompt_s, added)
        iteration = step_s + batch / max(steps, 1.0) * added if steps > 0.0 else step_s
        decode_s = steps * iteration
        waiting = rps * (service + queue_s) * (inflight - 1.0) / inflight
        queue_s = 0.5 * (queue_s + load[_QUEUEING] * added * max(min(waiting, active), 0.0))
        first = service + queue_s + 0.5 * min(inflight - 1.0, 1.0) * iteration
        first += load[_BURST] * 0.5 * (active - 1.0) * added
        ttft = first + load[_REQUEST]
        fresh = active / (ttft + decode_s)
        rps = min(fresh if rps == 0.0 else 0.5 * (rps + fresh), 1.0 / added)
        batch = min(max(rps * decode_s, 0.0), active)
    wait, saturated = queue_s, 0.0
    tpot = decode_s / max(osl - 1.0, 1.0)
    if inflight > active:
        extra = (inflight - active) / rps
        ttft, wait, saturated = ttft + extra, wait + extra, 1.0
    busy = min(rps * added, 1.0)
    watts = busy * prompt_j / prompt_s + (1.0 - busy) * _decode_watts(c, batch, step_s, joules)
    _write(out, ttft, tpot, rps * workers, batch, busy, wait, watts * workers, saturated, prompt_s, step_s)
    out[10] = prompt_j / prompt_s * workers
    out[11] = _decode_watts(c, batch, step_s, joules) * workers


@inner
def _traffic(load: NDArray[np.float64]) -> Load:
    """Requests of one length that come at random; no tail is asked for."""
    cached = min(load[_CACHED], load[_ISL] - 1.0)
    new, osl = max(load[_ISL] - cached, 1.0), max(load[_OSL], 1.0)
    return Load(new, cached, new, osl, osl, 0.0, 1.0, 0.5, 0.0)


@small
def _aggregated_open(c: NDArray[np.float64], load: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """Open loop of instances that prefill and decode."""
    workers, isl, osl = max(load[_W], 1.0), load[_ISL], max(load[_OSL], 1.0)
    room = max(1.0, min(load[_SEQ], load[_CACHE] / (isl + 0.5 * osl)))
    prompt_s, prompt_j = prompt_time(c, 1.0, isl, load[_CACHED], load[_CHUNK])
    rate, mixed = load[_RATE], load[_MIXED] > 0.5
    found = np.zeros(FIGURES)
    steady = pool_under(c, BOTH, workers, rate, _traffic(load), load[_CHUNK] * c[_GROUPS], load[_ADVANCE], mixed, found)
    batch = rate / workers * (osl - 1.0) * found[TPOT]
    if steady and batch <= room:
        step_s, joules = _decode_step(c, max(batch, 1e-3), isl, osl)
        watts = found[WATTS] + (1.0 - min(found[BUSY], 1.0)) * c[_IDLE]
        busy, tpot = found[PROMPT_BUSY], found[TPOT] if osl > 1.0 else step_s
        _write(out, found[TTFT], tpot, rate, batch, busy, found[WAIT], watts * workers, 0.0, prompt_s, step_s)
    else:  # as many run as there is room for, one prompt for each answer that ends
        step_s, joules = _decode_step(c, room, isl, osl)
        added = _added_by_prompt(c, load, room)
        decode_s = (osl - 1.0) / load[_ADVANCE] * step_s + room * added
        rps = min(room / (decode_s + prompt_s), rate / workers)
        busy = min(rps * added, 1.0)
        watts = busy * prompt_j / prompt_s + (1.0 - busy) * joules / step_s
        tpot, batch = decode_s / max(osl - 1.0, 1.0), room
        _write(out, math.inf, tpot, rps * workers, room, busy, math.inf, watts * workers, 1.0, prompt_s, step_s)
    out[10] = prompt_j / prompt_s * workers
    out[11] = _decode_watts(c, batch, step_s, joules) * workers


@small
def _disaggregated_open(
    c: NDArray[np.float64], p: NDArray[np.float64], load: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """Open loop of instances that prefill and of others that decode: the second token waits until the cache has arrived."""
    workers, servers = max(load[_W], 1.0), load[_P]
    isl, osl, rate = load[_ISL], max(load[_OSL], 1.0), load[_RATE]
    room = max(1.0, min(load[_SEQ], load[_CACHE] / (isl + 0.5 * osl)))
    prompt_s, prompt_j = prompt_time(p, 1.0, isl, load[_CACHED], load[_CHUNK])
    first, then, traffic = np.zeros(FIGURES), np.zeros(FIGURES), _traffic(load)
    ready = pool_under(p, PREFILL, servers, rate, traffic, load[_CHUNK] * p[_GROUPS], 1.0, True, first)
    steady = pool_under(c, DECODE, workers, rate, traffic, load[_CHUNK] * c[_GROUPS], load[_ADVANCE], True, then)
    batch = rate / workers * (osl - 1.0) * then[TPOT]
    if ready and steady and batch <= room:
        tpot = then[TPOT] + load[_TRANSFER] / max(osl - 1.0, 1.0)
        watts = servers * (first[WATTS] + (1.0 - min(first[BUSY], 1.0)) * p[_IDLE])
        watts += workers * (then[WATTS] + (1.0 - min(then[BUSY], 1.0)) * c[_IDLE])
        step_s, joules = _decode_step(c, max(batch, 1e-3), isl, osl)
        tpot = tpot if osl > 1.0 else step_s
        _write(out, first[TTFT], tpot, rate, batch, first[PROMPT_BUSY], first[WAIT], watts, 0.0, prompt_s, step_s)
    else:
        batch = min(batch, room) if steady else room
        step_s, joules = _decode_step(c, max(batch, 1e-3), isl, osl)
        decode_s = (osl - 1.0) / load[_ADVANCE] * step_s
        rps = min(servers / prompt_s, min(room * workers / max(decode_s, 1e-9), rate))
        busy = min(rps * prompt_s / servers, 1.0)
        watts = servers * (busy * prompt_j / prompt_s + (1.0 - busy) * p[_IDLE])
        watts += workers * _decode_watts(c, batch, step_s, joules)
        tpot = decode_s / max(osl - 1.0, 1.0)
        _write(out, math.inf, tpot, rps, batch, busy, math.inf, watts, 1.0, prompt_s, step_s)
    out[10] = prompt_j / prompt_s * servers
    out[11] = _decode_watts(c, batch, step_s, joules) * workers


@inner
def _decode_watts(c: NDArray[np.float64], batch: float, step_s: float, joules: float) -> float:
    if step_s <= 0.0:
        return c[_IDLE]
    share = min(batch, 1.0)  # fewer than one sequence on average: idle the rest of the time
    return share * joules / step_s + (1.0 - share) * c[_IDLE]


@inner
def _disaggregated(
    c: NDArray[np.float64], p: NDArray[np.float64], load: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """Closed loop of instances that prefill and of others that decode."""
    workers, servers = max(load[_W], 1.0), load[_P]
    isl, osl = load[_ISL], max(load[_OSL], 1.0)
    room = max(1.0, min(load[_SEQ], load[_CACHE] / (isl + 0.5 * osl)))
    inflight = max(load[_C], 1.0)
    steps = (osl - 1.0) / load[_ADVANCE]
    prompt_s, prompt_j = prompt_time(p, 1.0, isl, load[_CACHED], load[_CHUNK])
    batch, rps, queue_s, ttft, step_s, joules = max(inflight / workers * 0.7, 1.0), 0.0, 0.0, prompt_s, 0.0, 0.0
    each, decode_s = prompt_s, 0.0
    before_s, before_rps, before_batch = 0.0, 0.0, 0.0
    for _ in range(ROUNDS):
        settled = abs(ttft - before_s) <= SETTLED * ttft and abs(rps - before_rps) <= SETTLED * rps
        if settled and abs(batch - before_batch) <= SETTLED * batch:
            break
        before_s, before_rps, before_batch = ttft, rps, batch
        step_s, joules = _decode_step(c, max(batch, 1e-3), isl, osl)
        decode_s = steps * step_s
        together = min(max(rps * (queue_s + prompt_s) / servers, 1.0), p[_GROUPS])
        batch_s = prompt_time(p, together, isl, load[_CACHED], load[_CHUNK])[0]
        each = batch_s / together
        waiting = rps * (prompt_s + queue_s) * (inflight - 1.0) / inflight
        queue_s = 0.5 * (queue_s + load[_QUEUEING] * each / servers * max(min(waiting, inflight), 0.0))
        first = batch_s + queue_s + load[_BURST] * 0.5 * max(inflight / servers - 1.0, 0.0) * each
        ttft = first + load[_TRANSFER] + load[_REQUEST]
        fresh = inflight / (ttft + decode_s)
        rps = min(fresh if rps == 0.0 else 0.5 * (rps + fresh), servers / each, room * workers / max(decode_s, 1e-9))
        batch = 0.5 * (batch + min(rps * decode_s / workers, room))
    tpot = decode_s / max(osl - 1.0, 1.0)
    # What is in flight and does not decode waits for prefill or for a place: Little's law.
    full = max(inflight / rps - decode_s - ttft, 0.0)
    # A closed loop whose prefill is the narrow place is not saturated: all the rest waits there, as in any queue.
    late = 1.0 if full > 0.0 and batch >= 0.999 * room else 0.0
    busy = min(rps * each / servers, 1.0)
    watts = servers * (busy * prompt_j / prompt_s + (1.0 - busy) * p[_IDLE])
    watts += workers * _decode_watts(c, batch, step_s, joules)
    _write(out, ttft + full, tpot, rps, batch, busy, queue_s + full, watts, late, prompt_s, step_s)
    out[10] = prompt_j / prompt_s * servers
    out[11] = _decode_watts(c, batch, step_s, joules) * workers


@inner
def _write(
    out: NDArray[np.float64],
    ttft: float,
    tpot: float,
    rps: float,
    batch: float,
    busy: float,
    wait: float,
    watts: float,
    saturated: float,
    prompt_s: float,
    step_s: float,
) -> None:
    out[0], out[1], out[2], out[3], out[4] = ttft, tpot, rps, batch, busy
    out[5], out[6], out[7], out[8], out[9] = wait, watts, saturated, prompt_s, step_s
