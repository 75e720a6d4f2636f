"""How equal instances do under requests that come at random: queueing on top of the iterations of :mod:`plenum.serving.steps`.

Analytic and therefore fast: thousands of pools and rates a second. The predictor and the planner both ask here, with the coefficients
that the simulator runs on, so that the three can only differ by what is approximated here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import entry, inner
from plenum.serving.steps import AT, chunk_pairs, chunk_pairs_window, step

BOTH, PREFILL, DECODE = 0, 1, 2
"""Roles of a pool, as the compiled code knows them."""

TTFT, TTFT_TAIL, TPOT, TPOT_TAIL, E2E, E2E_TAIL, BATCH, CACHE, PROMPT_BUSY, BUSY, STEP, CHUNK_STEP, WATTS, WAIT = range(
    14
)
"""What stands where in a row of :func:`pool_under`; seconds, sequences of one instance, tokens of one instance, shares, watts."""

FIGURES = 14

CACHE_Z = 3.0
"""Standard deviations of the batch that the KV cache must hold before preemption is called unlikely."""

MAX_FIXED_POINT = 100
SETTLED, NEAR = 1e-4, 1e-2
"""Relative change of the batch below which it is called settled: soon, and where whole pieces of prompts make it swing."""

MAX_GATHERING = 20
"""Rounds after which prompts of one iteration are as many as they are: whole pieces may keep them from settling."""

MAX_BATCH = 1e5

SPARED, MET = 1.3, 2.8
"""Prompts of others that an answer is spared, or meets besides, for each share of the time that prompts take; see :func:`_spared`."""

_WINDOW, _CAP_W, _REQUEST, _GROUPS = AT["window"], AT["cap_w"], AT["request_s"], AT["groups"]


class Load(NamedTuple):
    """Means and tails of the traffic, as plain numbers for the compiled code."""

    computed: float
    """Prompt tokens to compute, found prefixes left out."""
    found: float
    """Prompt tokens found in a prefix cache."""
    computed_tail: float
    output: float
    output_tail: float
    spread2: float
    """Square of the coefficient of variation of ``computed``."""
    burst2: float
    """The same of the times between arrivals; 1: Poisson."""
    beyond: float
    """Part of requests that the tail leaves out: 0.01 for the 99th percentile."""
    deviations: float
    """Where that percentile of a normal distribution lies above its mean, in standard deviations."""


@entry
def pool_under(
    c: NDArray[np.float64],
    role: int,
    servers: float,
    rate: float,
    load: Load,
    chunk: float,
    advance: float,
    mixed: bool,
    out: NDArray[np.float64],
) -> bool:
    """Fill ``out`` (FIGURES,) with what ``servers`` instances do under ``rate`` requests a second in all; False: the queue grows for ever.

    Parameters
    ----------
    c
        Coefficients of one instance; see :data:`plenum.serving.steps.FIELDS`.
    role
        :data:`BOTH`, :data:`PREFILL` or :data:`DECODE`.
    chunk
        Tokens of one iteration at most, over all attention groups.
    advance
        Mean tokens that a sequence advances in one iteration: 1, or more where tokens are drafted.
    mixed
        Prefill shares iterations with decode.

    Notes
    -----
    Decode is a processor-sharing queue whose service slows down with the sequences in it: an iteration gives each of the B that run a
    token. By the arrival theorem a sequence sees the average of the others and itself, B - 1 = rate x answer x iteration(B), which is
    exact where iterations are linear in B. Prompts stretch iterations: where they take a share q of the time, each takes 1 / (1 - q) as
    long on average. Prompts that come during one iteration go into the next together (a gated queue, :func:`_gate`), so that the more
    come the more share what an iteration costs anyway. Waiting before a prompt begins is that of M/G/c with the tail of an exponential
    (Erlang C; Whitt 1993), which is exact for M/M/c and near for the rest.
    """
    own = rate / servers
    out[:] = 0.0
    answer = max(load.output - 1.0, 0.0) / advance
    if role == PREFILL:
        return _prefill_only(c, servers, own, load, chunk, out)
    context = load.computed + load.found + 0.5 * load.output
    seen = min(context, c[_WINDOW]) if c[_WINDOW] > 0.0 else 0.0
    batch, before, grown_before = 1.0, 0.0, 0.0
    plain, joules, extra, extra_joules, share, pieces, together = 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0
    iteration, settled = 0.0, False
    for k in range(MAX_FIXED_POINT):
        met_before = together
        plain, joules = step(c, 0.0, 0.0, 0.0, 0.0, batch, batch * context, batch * seen)
        if role == BOTH:
            room = chunk - batch if mixed else chunk
            if room < 0.125 * chunk:
                return False
            together = min(together, max(room / load.computed, 1.0))  # of one iteration as it is now
            beside = batch if mixed else 0.0
            whole, whole_joules, pieces = _prompts(c, together, load.computed, load.found, room, beside, context)
            spared, spared_joules = (pieces * plain, pieces * joules) if mixed else (0.0, 0.0)
            extra, extra_joules = (whole - spared) / together, (whole_joules - spared_joules) / together
            share = own * extra
            if share < 1.0:
                together = _gate(own, plain, extra, max(room / load.computed, 1.0), answer > 0.0)[1]
        if share >= 0.99:
            return False
        spared_s = _spared(servers, share) * extra / max(answer, 1.0)
        iteration = max((plain - spared_s) / (1.0 - share), plain)
        # With others and itself; requests that are sent to the least loaded of many hardly fluctuate.
        grown = max(own * answer * iteration + min(1.0, 2.0 / servers), 1.0)
        if grown > MAX_BATCH:
            return False
        gathered = k >= MAX_GATHERING or abs(together - met_before) < 0.01 * together
        if gathered and abs(grown - batch) < (SETTLED if k < 0.5 * MAX_FIXED_POINT else NEAR) * batch:
            settled, batch = True, grown
            break
        slope = (grown - grown_before) / (batch - before) if before > 0.0 and batch != before else 0.0
        before, grown_before = batch, grown
        # Newton's step along the secant: near saturation plain iteration takes for ever.
        batch += (grown - batch) / (1.0 - min(max(slope, 0.0), 0.9))
    if not settled:
        return False
    deviation = np.sqrt(batch)
    more, _ = step(c, 0.0, 0.0, 0.0, 0.0, batch + deviation, (batch + deviation) * context, (batch + deviation) * seen)
    stretched = (more - plain) / (1.0 - share)
    tokens = max(load.output - 1.0, 1.0)
    met = own * max(answer, 1.0) * iteration  # prompts of others that one answer meets
    hurt = extra * np.sqrt(met * (1.0 + load.spread2)) / tokens
    running = min(1.0, own * answer * iteration)  # chance that anything decodes
    out[TPOT] = iteration / advance
    out[TPOT_TAIL] = out[TPOT] + load.deviations * np.sqrt((0.8 * stretched / advance) ** 2 + hurt**2)
    out[BATCH] = batch
    out[CACHE] = (batch + CACHE_Z * deviation) * context
    out[STEP] = plain
    out[BUSY] = min(1.0, share + running)
    out[WATTS] = min(joules / plain * running * (1.0 - share) + own * extra_joules, c[_CAP_W])
    if role == DECODE:
        return True
    return _first_token(c, servers, own, load, chunk, mixed, batch, plain, running, extra, context, out)


@inner
def _spared(servers: float, share: float) -> float:
    """Return how many fewer prompts of others an answer meets than come while it runs; negative: more. Fitted to the simulator.

    One instance alone: those who came while a prompt was computed wait behind it, so that its answer begins among more prompts than
    there are on average. Many instances, each request sent to the least loaded: it goes where few answers run. Both matter only where
    a prompt takes a good part of the time of an answer.
    """
    return share * (SPARED * min(1.0, 2.0 * (1.0 - share)) - MET / servers)


@inner
def _first_token(
    c: NDArray[np.float64],
    servers: float,
    own: float,
    load: Load,
    chunk: float,
    mixed: bool,
    batch: float,
    plain: float,
    running: float,
    extra: float,
    context: float,
    out: NDArray[np.float64],
) -> bool:
    """Fill in what concerns the first token, of instances that decode too."""
    room, beside = (chunk - batch, batch) if mixed else (chunk, 0.0)
    alone, _, pieces = _prompts(c, 1.0, load.computed, load.found, room, beside, context)
    longest, _, _ = _prompts(c, 1.0, load.computed_tail, load.found, room, beside, context)
    # An iteration cannot begin before the one that runs ends, and those who come meanwhile go into it too.
    begun = plain * running
    answers = load.output > 1.0
    rest, _, met = _gate(own, begun if answers else plain, extra, 1e9, answers)
    service = extra + plain * load.computed / room if mixed else extra
    busy = own * service
    if busy >= 0.99:
        return False
    eased = busy if servers > 1.5 else 1.0  # whoever sends requests avoids those instances that are at a prompt
    mean, _ = waiting(1.0, busy, alone if pieces > 1.0 else service, load.spread2, load.burst2, load.beyond)
    _, tail = waiting(servers, busy, alone if pieces > 1.0 else service, load.spread2, load.burst2, load.beyond)
    if pieces <= 1.0:
        beside_others = min(met, max(room / load.computed, 1.0))
        longer = _prompts(c, beside_others, load.computed, load.found, room, beside, context)[0] - alone
        mean = max(mean, rest - 0.5 * begun + longer)
    wait = 0.5 * begun + eased * mean
    out[TTFT] = alone + wait + c[_REQUEST]
    out[TTFT_TAIL] = (
        alone + np.sqrt(max(longest - alone, 0.0) ** 2 + max(tail + 2.0 * 0.5 * begun, wait) ** 2) + c[_REQUEST]
    )
    out[CACHE] += load.computed_tail + load.found
    out[PROMPT_BUSY] = busy
    out[CHUNK_STEP] = alone
    out[WAIT] = wait
    return True


@inner
def _gate(own: float, plain: float, extra: float, most: float, answers: bool) -> tuple[float, float, float]:
    """Return of a gated queue the mean rest of the iteration that an arrival finds, prompts of an iteration that has any, and of its own.

    An iteration takes ``plain`` and ``extra`` for each prompt that came during the one before it, Poisson at ``own`` a second. Where there
    are ``answers``, one without prompts follows if none came; else the instance idles until one does.
    """
    together, rest = 1.0, 0.5 * plain
    for _ in range(12):
        full = plain + together * extra
        none = np.exp(-own * full)
        square = (
            full * full + together * extra * extra
        )  # prompts that came are Poisson about what the iteration before it took
        if answers and plain > 0.0:
            none /= 1.0 - np.exp(-own * plain) + none
            mean = none * plain + (1.0 - none) * full
            rest = 0.5 * (none * plain * plain + (1.0 - none) * square) / mean
            fresh = own * mean / max(1.0 - none, 1e-12)
        else:
            rest = 0.5 * square / (full + none / own)
            fresh = own * full + none
        fresh = min(max(fresh, 1.0), most)
        if abs(fresh - together) < 1e-3 * together:
            together = fresh
            break
        together = fresh
    return rest, together, 1.0 + own * 2.0 * rest


@inner
def _prefill_only(
    c: NDArray[np.float64], servers: float, own: float, load: Load, chunk: float, out: NDArray[np.float64]
) -> bool:
    """Fill in what instances do that compute prompts and nothing else."""
    seconds, joules, _ = _prompts(c, 1.0, load.computed, load.found, chunk, 0.0, 0.0)
    longest, _, _ = _prompts(c, 1.0, load.computed_tail, load.found, chunk, 0.0, 0.0)
    together = max(np.floor(chunk / load.computed), 1.0)
    shared = min(_prompts(c, together, load.computed, load.found, chunk, 0.0, 0.0)[0] / together, seconds)
    busy = own * shared
    if busy >= 0.999:
        return False
    mean, tail = waiting(servers, busy, seconds, load.spread2, load.burst2, load.beyond)
    out[TTFT] = seconds + mean + c[_REQUEST]
    out[TTFT_TAIL] = _tail_of(seconds, longest, tail) + c[_REQUEST]
    out[BATCH] = own * (seconds + mean)
    out[CACHE] = out[BATCH] * (load.computed + load.found) + 2.0 * load.computed_tail
    out[PROMPT_BUSY] = busy
    out[BUSY] = busy
    out[CHUNK_STEP] = seconds
    out[WATTS] = own * joules
    out[WAIT] = mean
    return True


@entry
def waiting(
    servers: float, busy: float, service: float, spread2: float, burst2: float, beyond: float
) -> tuple[float, float]:
    """Mean wait before ``servers`` servers, each busy for a share ``busy`` of the time, and what a part ``beyond`` waits longer than."""
    offered = servers * busy
    blocked = 1.0
    for n in range(1, int(servers) + 1):
        blocked = offered * blocked / (n + offered * blocked)
    chance = blocked / (1.0 - busy * (1.0 - blocked))  # Erlang C
    each = service * 0.5 * (burst2 + spread2) / (servers * (1.0 - busy))
    return chance * each, each * np.log(chance / beyond) if chance > beyond else 0.0


@inner
def _tail_of(typical: float, longest: float, wait: float) -> float:
    """Own length and waiting seldom are extreme together."""
    return typical + np.sqrt(max(longest - typical, 0.0) ** 2 + wait**2)


@inner
def _prompts(
    c: NDArray[np.float64], prompts: float, computed: float, found: float, room: float, batch: float, context: float
) -> tuple[float, float, float]:
    """Seconds, joules and iterations of ``prompts`` equal prompts beside ``batch`` sequences that decode."""
    window = c[_WINDOW]
    seen = min(context, window) if window > 0.0 else 0.0
    pieces = np.ceil(prompts * computed / room * (1.0 - 1e-9))
    pairs = prompts * chunk_pairs(found, computed) / pieces
    narrow = prompts * chunk_pairs_window(found, computed, window) / pieces
    each = max(prompts / pieces, 1.0)
    seconds, joules = step(c, prompts * computed / pieces, pairs, narrow, each, batch, batch * context, batch * seen)
    return pieces * seconds, pieces * joules, pieces
