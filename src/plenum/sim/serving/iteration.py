"""One iteration of one instance: what goes into it, and what comes out of it."""

from __future__ import annotations

import math

from plenum.graph.compiled import inner, small
from plenum.serving.steps import AT as COEFFICIENT
from plenum.serving.steps import chunk_pairs, chunk_pairs_window, step
from plenum.sim.serving import fields as f
from plenum.sim.serving.admit import admit_one, release_held
from plenum.sim.serving.batch import first_waiting, join, leave, next_change, preempt, remove_prefill, uncount
from plenum.sim.serving.events import set_key
from plenum.sim.serving.memory import available, count_occupied, take
from plenum.sim.serving.world import World

_WINDOW, _STAGES = COEFFICIENT["window"], COEFFICIENT["stages"]
_SLACK = 1e-6
"""A sum of equal steps may round to a little less than their product: bounds stay below it by this part."""


@inner
def wake(w: World, i: int, now_s: float) -> None:
    """Let an instance look at what has changed: at once if it idles, else at the end of its present iteration."""
    if w.nf[f.END, i] == math.inf:
        begin(w, i, now_s)
        return
    advance(w, i, now_s)
    w.ni[f.QUIET, i] = 0
    set_key(w.keys, i, bound(w, i))


@small
def begin(w: World, i: int, now_s: float) -> None:
    """Put the next iteration of an instance together; it idles if there is nothing to do."""
    count_occupied(w, i, now_s)
    w.nf[f.END, i] = math.inf
    w.ni[f.QUIET, i] = 0
    if w.ni[f.CONDITION, i] == f.UP or w.ni[f.CONDITION, i] == f.DRAINING:
        tokens, decodes = _put_together(w, i, now_s)
        if tokens + decodes == 0 and w.ni[f.PREFILLS, i] > 0:  # somebody was swapped in who can decode at once
            tokens, decodes = _put_together(w, i, now_s)
        _run(w, i, now_s, tokens, decodes)
    set_key(w.keys, i, bound(w, i))


@inner
def bound(w: World, i: int) -> float:
    """Return a time before which nothing can be seen to change about an instance.

    While only decode runs, iterations do not become shorter: contexts grow.
    """
    end_s = w.nf[f.END, i]
    if w.ni[f.QUIET, i] == 0:
        return end_s
    steps = w.ni[f.CHANGE, i] - w.ni[f.STEPS, i]
    if w.clock[f.RESERVE] == 0.0:  # each sequence takes at most a block a period
        steps = min(steps, w.ni[f.PERIOD, i] * (available(w, i) // w.ni[f.DECODES, i]) + 1)
    return end_s + (steps - 1) * w.nf[f.TAKES, i] * (1.0 - _SLACK)


@inner
def advance(w: World, i: int, until_s: float) -> None:
    """Run iterations of nothing but decode that end by ``until_s``, up to the first after which something changes.

    Notes
    -----
    Every iteration is computed by itself; only what goes into it is carried over in registers. This is where the time goes.
    """
    end_s = w.nf[f.END, i]
    if w.ni[f.QUIET, i] == 0 or end_s > until_s:
        return
    c = w.steps[i]
    change, steps, period = w.ni[f.CHANGE, i], w.ni[f.STEPS, i], w.ni[f.PERIOD, i]
    sequences = w.ni[f.DECODES, i]
    more = sequences * w.nf[f.ADVANCE, i]
    more_window = w.ni[f.GROWING, i] * w.nf[f.ADVANCE, i]
    context, context_window = w.nf[f.CONTEXT, i], w.nf[f.CONTEXT_WINDOW, i]
    takes_s, joules = w.nf[f.TAKES, i], w.nf[f.COSTS, i]
    busy_s, energy, last_s = w.nf[f.BUSY_DECODE, i], w.nf[f.ENERGY, i], w.nf[f.LAST_DECODE, i]
    gap_sum, low_s, high_s, place = w.nf[f.ITL_SUM, i], w.nf[f.BIN_FROM, i], w.nf[f.BIN_TO, i], w.ni[f.BIN, i]
    free, before = available(w, i), steps
    turn = (steps + 2) % period
    while end_s <= until_s and steps + 1 < change:
        need = w.tally[i, f.BINS + turn]
        if need > free:
            break
        turn = turn + 1 if turn + 1 < period else 0
        steps += 1
        busy_s += takes_s
        energy += joules
        gap_s = end_s - last_s
        last_s = end_s
        gap_sum += sequences * gap_s
        if gap_s < low_s or gap_s >= high_s:
            place, low_s, high_s = _bin(gap_s)
        w.tally[i, place] += sequences
        context += more
        context_window += more_window
        if need > 0:
            free -= need
            count_occupied(w, i, end_s)
            take(w, i, need)
        takes_s, joules = step(c, 0.0, 0.0, 0.0, 0.0, sequences, context + more, context_window + more_window)
        end_s += takes_s
    done = steps - before
    w.ni[f.STEPS, i] = steps
    w.ni[f.GRANTED, i] = steps + 1
    w.ni[f.DECODE_TOKENS, i] += done * sequences
    w.ni[f.ITERATIONS, i] += done
    w.count[f.WORK] += done
    w.nf[f.CONTEXT, i], w.nf[f.CONTEXT_WINDOW, i] = context, context_window
    w.nf[f.END, i], w.nf[f.TAKES, i], w.nf[f.COSTS, i] = end_s, takes_s, joules
    w.nf[f.BUSY_DECODE, i], w.nf[f.ENERGY, i], w.nf[f.LAST_DECODE, i] = busy_s, energy, last_s
    w.nf[f.ITL_SUM, i], w.nf[f.BIN_FROM, i], w.nf[f.BIN_TO, i], w.ni[f.BIN, i] = gap_sum, low_s, high_s, place


@small
def fill_s(w: World, i: int, takes_s: float, tokens: int, decodes: int) -> float:
    """Return what an iteration takes longer that finds the pipeline empty: the last of its micro-batches enters after the others.

    One that follows another at once enters while that one leaves.
    """
    stages = w.steps[i, _STAGES]
    parts = stages if tokens > 0 else min(stages, float(decodes))
    return takes_s * (parts - 1.0) / stages


@small
def account(w: World, i: int, now_s: float) -> None:
    """Book the iteration that ends now: time, energy, tokens, gaps; contexts and prefills grow."""
    count_occupied(w, i, now_s)
    w.nf[f.ENDED, i] = now_s
    prefill, decode = w.ni[f.NOW_PREFILL, i], w.ni[f.NOW_DECODE, i]
    w.count[f.WORK] += 1
    w.ni[f.ITERATIONS, i] += 1
    w.ni[f.PREFILL_TOKENS, i] += prefill
    w.ni[f.DECODE_TOKENS, i] += decode
    share = prefill / (prefill + decode)
    w.nf[f.BUSY_PREFILL, i] += share * w.nf[f.TAKES, i]
    w.nf[f.BUSY_DECODE, i] += (1.0 - share) * w.nf[f.TAKES, i]
    w.nf[f.ENERGY, i] += w.nf[f.COSTS, i]
    if decode > 0:
        _count_gaps(w, i, now_s)
        w.ni[f.STEPS, i] += 1
        w.nf[f.CONTEXT, i] += decode * w.nf[f.ADVANCE, i]
        w.nf[f.CONTEXT_WINDOW, i] += w.ni[f.GROWING, i] * w.nf[f.ADVANCE, i]
    if prefill > 0:
        for k in range(w.ni[f.PREFILLS, i]):
            r = w.batch[f.IN_PREFILL, i, k]
            w.ri[r, f.FILLED] += w.ri[r, f.CHUNK]
            uncount(w, i, r, w.ri[r, f.CHUNK])


@inner
def take_finished(w: World, i: int) -> int:
    """Take the first sequence that has come to its end out of the batch; -1: there is none. Contexts that fill the window stop growing."""
    if w.ni[f.STEPS, i] < w.ni[f.CHANGE, i]:
        return -1
    steps = w.ni[f.STEPS, i]
    for k in range(w.ni[f.DECODES, i]):
        r = w.batch[f.IN_DECODE, i, k]
        if w.ri[r, f.GROWN] == steps:
            w.ni[f.GROWING, i] -= 1
            w.ri[r, f.GROWN] = 0
    first, place = -1, -1
    for k in range(w.ni[f.DECODES, i]):
        r = w.batch[f.IN_DECODE, i, k]
        if w.ri[r, f.UNTIL] <= steps and (first < 0 or r < first):
            first, place = r, k
    if first < 0:
        next_change(w, i)
        return -1
    w.ni[f.TRY, i] = 1
    return leave(w, i, place)


@small
def take_prefilled(w: World, i: int) -> int:
    """Take a request whose prompt has just been computed out of the prefills; -1: there is none."""
    for k in range(w.ni[f.PREFILLS, i]):
        r = w.batch[f.IN_PREFILL, i, k]
        if w.ri[r, f.CHUNK] > 0 and w.ri[r, f.FILLED] == w.ri[r, f.TARGET]:
            w.ni[f.TRY, i] = 1
            w.ri[r, f.CHUNK] = 0
            return remove_prefill(w, i, k)
    return -1


@inner
def count_gap(w: World, i: int, gap_s: float) -> None:
    """Count one gap between two tokens."""
    place, _, _ = _bin(gap_s)
    w.tally[i, place] += 1
    w.nf[f.ITL_SUM, i] += gap_s


@inner
def _bin(gap_s: float) -> tuple[int, float, float]:
    """Return the bin of a gap, and from where to where it reaches."""
    place = 0
    if gap_s > f.BIN_LEAST_S:
        place = min(int(math.log(gap_s / f.BIN_LEAST_S) * f.BINS_PER_E), f.BINS - 1)
    low_s = f.BIN_LEAST_S * math.exp(place / f.BINS_PER_E) * (1.0 + 1e-9)
    high_s = f.BIN_LEAST_S * math.exp((place + 1) / f.BINS_PER_E) * (1.0 - 1e-9)
    return place, low_s, high_s


@small
def _count_gaps(w: World, i: int, now_s: float) -> None:
    """Count the gaps before the tokens of this iteration; those that joined since the last one waited since their own last token."""
    sequences = w.ni[f.NOW_DECODE, i]
    last_s = w.nf[f.LAST_DECODE, i]
    w.nf[f.LAST_DECODE, i] = now_s
    if w.ni[f.FRESH, i] > 0:
        for k in range(sequences):
            r = w.batch[f.IN_DECODE, i, k]
            count_gap(w, i, now_s - (w.rf[r, f.LAST] if w.ri[r, f.JOINED] == w.ni[f.STEPS, i] else last_s))
        w.ni[f.FRESH, i] = 0
        return
    gap_s = now_s - last_s
    if gap_s < w.nf[f.BIN_FROM, i] or gap_s >= w.nf[f.BIN_TO, i]:
        w.ni[f.BIN, i], w.nf[f.BIN_FROM, i], w.nf[f.BIN_TO, i] = _bin(gap_s)
    w.tally[i, w.ni[f.BIN, i]] += sequences
    w.nf[f.ITL_SUM, i] += sequences * gap_s


@inner
def _put_together(w: World, i: int, now_s: float) -> tuple[int, int]:
    """Return the prefill tokens and the decoding sequences of the next iteration."""
    _join_filled(w, i)
    if w.ni[f.MIXED, i] == 1:
        crowded = _grow(w, i, now_s)
        tokens = _fill(w, i, now_s, crowded)
        return tokens, w.ni[f.DECODES, i]
    tokens = _fill(w, i, now_s, False)
    if tokens == 0:
        crowded = _grow(w, i, now_s)
        if crowded and w.ni[f.DECODES, i] == 0:
            tokens = _fill(w, i, now_s, False)
    return tokens, w.ni[f.DECODES, i] if tokens == 0 else 0


@small
def _join_filled(w: World, i: int) -> None:
    """Let those decode whose cache has come from elsewhere."""
    k = 0
    while k < w.ni[f.PREFILLS, i]:
        r = w.batch[f.IN_PREFILL, i, k]
        if w.ri[r, f.FILLED] == w.ri[r, f.TARGET]:
            remove_prefill(w, i, k)
            join(w, i, r)
        else:
            k += 1


@inner
def _grow(w: World, i: int, now_s: float) -> bool:
    """Take the blocks that the next decode step needs, making room for them; whether anybody had to go."""
    crowded = False
    while w.ni[f.DECODES, i] > 0:
        need = w.tally[i, f.BINS + (w.ni[f.STEPS, i] + 1) % w.ni[f.PERIOD, i]]
        if need <= available(w, i):
            take(w, i, need)
            w.ni[f.GRANTED, i] = w.ni[f.STEPS, i] + 1
            break
        if release_held(w, i, -1, now_s):
            continue
        crowded = preempt(w, i, f.NEVER)
    return crowded


@inner
def _fill(w: World, i: int, now_s: float, crowded: bool) -> int:
    """Deal the tokens of the iteration out to prefills, and let waiting requests in while there are any left; returns the tokens dealt."""
    mixed = w.ni[f.MIXED, i] == 1
    budget = w.ni[f.BUDGET, i]
    if mixed:
        budget = max(budget - w.ni[f.DECODES, i], 1)
    dealt, k = 0, 0
    crowded = crowded and w.ni[f.RUNNING, i] > 0
    while True:
        while k < w.ni[f.PREFILLS, i]:
            r = w.batch[f.IN_PREFILL, i, k]
            chunk = w.ri[r, f.TARGET] - w.ri[r, f.FILLED]
            if mixed:
                chunk = min(chunk, budget - dealt)
            elif dealt > 0 and chunk > budget - dealt:
                chunk = 0  # prompts are whole; only the first may exceed the budget
            w.ri[r, f.CHUNK] = chunk
            dealt += chunk
            k += 1
        if crowded or w.ni[f.TRY, i] == 0 or (dealt >= budget and not _may_overtake(w, i)):
            break
        places = w.ni[f.PREFILLS, i]
        if admit_one(w, i, now_s) < 0:
            w.ni[f.TRY, i] = 0
            break
        if (
            w.clock[f.PREEMPT] == 1.0 or w.ni[f.PREFILLS, i] < places
        ):  # it may have taken the place of others: deal anew
            dealt, k = 0, 0
    return dealt


@small
def _may_overtake(w: World, i: int) -> bool:
    """Whether somebody waits who ranks above the last of the prefills and may take tokens from it."""
    r, last = first_waiting(w, i), w.ni[f.PREFILLS, i] - 1
    if w.clock[f.PREEMPT] == 0.0 or r < 0 or last < 0:
        return False
    return w.ri[r, f.RANK] > w.ri[w.batch[f.IN_PREFILL, i, last], f.RANK]


@small
def _run(w: World, i: int, now_s: float, tokens: int, decodes: int) -> None:
    """Compute how long the iteration takes, and let it run."""
    w.ni[f.NOW_PREFILL, i], w.ni[f.NOW_DECODE, i] = tokens, decodes
    if tokens + decodes == 0:
        return
    pairs, pairs_window, prefills = 0.0, 0.0, 0
    window = w.steps[i, _WINDOW]
    if tokens > 0:
        for k in range(w.ni[f.PREFILLS, i]):
            r = w.batch[f.IN_PREFILL, i, k]
            chunk = w.ri[r, f.CHUNK]
            if chunk > 0:
                prefills += 1
                pairs += chunk_pairs(w.ri[r, f.FILLED], chunk)
                pairs_window += chunk_pairs_window(w.ri[r, f.FILLED], chunk, window)
    context, context_window = 0.0, 0.0
    if decodes > 0:
        context = w.nf[f.CONTEXT, i] + decodes * w.nf[f.ADVANCE, i]
        context_window = w.nf[f.CONTEXT_WINDOW, i] + w.ni[f.GROWING, i] * w.nf[f.ADVANCE, i]
    takes_s, joules = step(w.steps[i], tokens, pairs, pairs_window, prefills, decodes, context, context_window)
    w.nf[f.COSTS, i] = joules
    w.nf[f.TAKES, i] = takes_s
    w.nf[f.END, i] = now_s + w.nf[f.STALL, i] + takes_s
    if now_s > w.nf[f.ENDED, i]:
        w.nf[f.END, i] += fill_s(w, i, takes_s, tokens, decodes)
    w.nf[f.STALL, i] = 0.0
    waits = w.ni[f.TRY, i] == 1 and first_waiting(w, i) >= 0
    calm = w.ni[f.PREFILLS, i] == 0 and w.ni[f.FRESH, i] == 0 and not waits
    w.ni[f.QUIET, i] = 1 if calm and decodes > 0 else 0
