"""How a pool of equal instances does under Poisson traffic: queueing on top of the iterations of :mod:`plenum.serving.steps`.

Analytic and therefore fast: thousands of pools and rates a second. What is left to chance between requests
is approximated; the simulator has the last word.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from plenum.planning.serving.question import Traffic
from plenum.serving.steps import AT, chunk_pairs, chunk_pairs_window, step

BOTH, PREFILL, DECODE = 0, 1, 2
"""Roles of a pool, as the compiled code knows them."""

ROLES = {"both": BOTH, "prefill": PREFILL, "decode": DECODE}

TTFT, TTFT_TAIL, TPOT, TPOT_TAIL, E2E, E2E_TAIL, BATCH, CACHE, PROMPT_BUSY, BUSY, STEP, CHUNK_STEP, WATTS = range(13)
"""What stands where in a row of :func:`pool_under`; seconds, sequences of one instance, tokens of one instance, shares, watts."""

FIGURES = 13

CACHE_Z = 3.0
"""Standard deviations of the batch that the KV cache must hold before preemption is called unlikely."""

_WINDOW, _CAP_W, _REQUEST = AT["window"], AT["cap_w"], AT["request_s"]

MAX_FIXED_POINT = 60
MAX_BISECTION = 14
"""2^-14 of the largest rate that compute could bear: finer than the model is."""


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


def load_of(traffic: Traffic, percentile: float = 99.0) -> Load:
    """Return what the compiled code reads of the traffic and of the percentile that tails are asked for."""
    found = min(traffic.found_tokens, traffic.prompt_tokens - 1.0)
    return Load(
        computed=traffic.prompt_tokens - found,
        found=found,
        computed_tail=max(traffic.prompt_tail - found, 1.0),
        output=traffic.output_tokens,
        output_tail=traffic.output_tail,
        spread2=traffic.prompt_spread**2,
        burst2=traffic.burst2,
        beyond=1.0 - percentile / 100.0,
        deviations=NormalDist().inv_cdf(percentile / 100.0),
    )


@njit(cache=True)
def pool_under(
    c: NDArray[np.float64],
    role: int,
    servers: float,
    rate: float,
    load: Load,
    chunk: float,
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
        Tokens of one iteration at most.

    Notes
    -----
    Decode: an iteration gives each of the B running sequences a token, and B = rate x output x iteration (Little). Prompts stretch
    iterations: where they take a share q of the time, each decode iteration takes 1 / (1 - q) as long on average. Waiting is that of
    M/G/c with the tail of an exponential (Erlang C; Whitt 1993), which is exact for M/M/c and near for the rest.
    """
    own = rate / servers
    out[:] = 0.0
    steps_of_answer = max(load.output - 1.0, 0.0)
    if role == PREFILL:
        seconds, joules, _ = _prompt(c, load.computed, load.found, chunk, 0.0, 0.0)
        longest, _, _ = _prompt(c, load.computed_tail, load.found, chunk, 0.0, 0.0)
        shared = _shared_service(c, load, chunk, seconds)
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
        return True
    context = load.computed + load.found + 0.5 * load.output
    window = c[_WINDOW]
    seen = min(context, window) if window > 0.0 else 0.0
    batch, iteration, plain, joules = 1.0, 0.0, 0.0, 0.0
    extra, extra_joules, share, pieces = 0.0, 0.0, 0.0, 1.0
    settled = False
    for _ in range(MAX_FIXED_POINT):
        plain, joules = step(c, 0.0, 0.0, 0.0, 0.0, batch, batch * context, batch * seen)
        if role == BOTH:
            if chunk - batch < 0.125 * chunk:
                return False
            mixed, mixed_joules, pieces = _prompt(c, load.computed, load.found, chunk - batch, batch, context)
            extra, extra_joules = mixed - pieces * plain, mixed_joules - pieces * joules
            share = own * extra
            if share >= 0.98:
                return False
        iteration = plain / (1.0 - share)
        grown = own * steps_of_answer * iteration + 1.0
        if grown > 1e5:
            return False
        if abs(grown - batch) < 1e-4 * batch:
            settled = True
            batch = grown
            break
        batch = grown
    if not settled:
        return False
    deviation = np.sqrt(batch)
    more, _ = step(c, 0.0, 0.0, 0.0, 0.0, batch + deviation, (batch + deviation) * context, (batch + deviation) * seen)
    stretched = (more - plain) / (1.0 - share)
    answer = max(steps_of_answer, 1.0)
    met = own * answer * iteration  # prompts of others that one answer meets
    hurt = extra * np.sqrt(met * (1.0 + load.spread2)) / answer
    running = min(1.0, own * steps_of_answer * iteration)  # chance that anything decodes
    out[TPOT] = iteration
    out[TPOT_TAIL] = iteration + load.deviations * np.sqrt((0.8 * stretched) ** 2 + hurt**2)
    out[BATCH] = batch
    out[CACHE] = (batch + CACHE_Z * deviation) * context
    out[STEP] = plain
    out[BUSY] = min(1.0, share + running)
    out[WATTS] = min(joules / plain * running * (1.0 - share) + own * extra_joules, c[_CAP_W])
    if role == DECODE:
        return True
    alone = pieces * plain + extra
    shared = extra + plain * load.computed / (chunk - batch)
    busy = own * shared
    if busy >= 0.98:
        return False
    mean, tail = waiting(servers, busy, alone, load.spread2, load.burst2, load.beyond)
    longest, _, _ = _prompt(c, load.computed_tail, load.found, chunk - batch, batch, context)
    residual = 0.5 * plain * running
    out[TTFT] = alone + mean + residual + c[_REQUEST]
    out[TTFT_TAIL] = _tail_of(alone, longest, tail + 2.0 * residual) + c[_REQUEST]
    out[CACHE] += load.computed_tail + load.found
    out[PROMPT_BUSY] = busy
    out[CHUNK_STEP] = alone
    return True


@njit(cache=True)
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


@njit(cache=True)
def _tail_of(typical: float, longest: float, wait: float) -> float:
    """Own length and waiting seldom are extreme together."""
    return typical + np.sqrt(max(longest - typical, 0.0) ** 2 + wait**2)


@njit(cache=True)
def _prompt(
    c: NDArray[np.float64], computed: float, found: float, room: float, batch: float, context: float
) -> tuple[float, float, float]:
    """Seconds, joules and iterations of one prompt beside ``batch`` sequences that decode."""
    window = c[_WINDOW]
    seen = min(context, window) if window > 0.0 else 0.0
    pieces = np.ceil(computed / room)
    pairs = chunk_pairs(found, computed) / pieces
    narrow = chunk_pairs_window(found, computed, window) / pieces
    seconds, joules = step(c, computed / pieces, pairs, narrow, 1.0, batch, batch * context, batch * seen)
    return pieces * seconds, pieces * joules, pieces


@njit(cache=True)
def _shared_service(c: NDArray[np.float64], load: Load, chunk: float, alone: float) -> float:
    """Seconds a prompt where as many share an iteration as fit: what counts under load."""
    together = np.floor(chunk / load.computed)
    if together < 2.0:
        return alone
    pairs = together * chunk_pairs(load.found, load.computed)
    narrow = together * chunk_pairs_window(load.found, load.computed, c[_WINDOW])
    seconds, _ = step(c, together * load.computed, pairs, narrow, together, 0.0, 0.0, 0.0)
    return min(seconds / together, alone)
