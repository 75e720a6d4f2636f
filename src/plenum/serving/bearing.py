"""How many requests a second one instance bears within a promise: what scaling by promises divides the load by.

Way in: :func:`bearable_rps`, for the lengths that are seen now. It is :func:`plenum.serving.steps.step` and two rules of thumb about
chance, not a simulation: quick enough to be asked every few seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from plenum.serving.steps import StepModel, chunk_pairs, chunk_pairs_window, step
from plenum.serving.workload import Slo

LATE = 0.01
"""Part of requests that may be late: the promise is of the 99th percentile."""

SPREAD = 2.33
"""Standard deviations of a Poisson number up to its 99th percentile."""

ROUNDS = 40
"""Halvings of a search."""

FULL = 0.95
"""Part of KV blocks, and of the time for prefill, that may be used on average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Mean tokens of the requests seen: of prompts, of what of them is not cached, and of outputs."""

    prompt: float
    fresh: float
    output: float


def bearable_rps(
    steps: StepModel,
    lengths: Lengths,
    slo: Slo,
    *,
    role: Literal["both", "prefill", "decode"],
    sequences: int,
    cache_tokens: float,
    advance: float = 1.0,
) -> float:
    """Return how many requests a second one instance serves within the promises; 0 where even one alone would be late.

    Parameters
    ----------
    steps, role
        Of the instance.
    lengths, slo
        What is asked, and what is promised for it.
    sequences, cache_tokens
        The most that a batch holds, and tokens that the KV cache does.
    advance
        Tokens that a sequence gains in a step: more than 1 where some are drafted.

    Notes
    -----
    A batch that is shared by many has about a Poisson number of members, so its mean stays :data:`SPREAD` standard deviations below what
    the promise allows; prompts wait for one another as in M/M/1. Whoever is done makes room for a prompt, which all the others meet.
    """
    prompt_s = _prompt_s(steps, lengths)
    queued = _most_prompts(prompt_s, slo.ttft_s - steps["request_s"]) if role != "decode" else math.inf
    if role == "prefill":
        return queued
    shared_s = prompt_s if role == "both" else 0.0
    most = min(float(sequences), FULL * cache_tokens / (lengths.prompt + 0.5 * lengths.output))

    def rate_of(batch: float) -> tuple[float, bool]:
        token_s = _token_s(steps, lengths, batch) / advance + shared_s * batch / lengths.output
        mean = _below(batch)
        rate = mean / (lengths.output * token_s)
        waits = slo.ttft_s - steps["request_s"] - token_s
        keeps = role != "both" or rate <= _most_prompts(prompt_s, waits)
        return rate, keeps and token_s <= slo.tpot_s

    if most < 1.0 or not rate_of(1.0)[1]:
        return 0.0
    low, high = 1.0, most
    if rate_of(high)[1]:
        return rate_of(high)[0]
    for _ in range(ROUNDS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if rate_of(middle)[1] else (low, middle)
    return rate_of(low)[0]


def _below(most: float) -> float:
    """Return the mean of a Poisson number that is above ``most`` in one case of a hundred."""
    root = 0.5 * (math.sqrt(SPREAD * SPREAD + 4.0 * most) - SPREAD)
    return root * root


def _prompt_s(steps: StepModel, lengths: Lengths) -> float:
    fresh, cached = max(lengths.fresh, 1.0), max(lengths.prompt - lengths.fresh, 0.0)
    pairs, narrow = chunk_pairs(cached, fresh), chunk_pairs_window(cached, fresh, steps["window"])
    return step(steps.coefficients, fresh, pairs, narrow, 1.0, 0.0, 0.0, 0.0)[0]


def _token_s(steps: StepModel, lengths: Lengths, batch: float) -> float:
    context = lengths.prompt + 0.5 * lengths.output
    narrow = min(context, steps["window"]) if steps["window"] > 0 else 0.0
    return step(steps.coefficients, 0.0, 0.0, 0.0, 0.0, batch, batch * context, batch * narrow)[0]


def _most_prompts(prompt_s: float, wait_s: float) -> float:
    """Return the rate of prompts of which one in a hundred waits so long that it comes later than ``wait_s``: M/M/1."""
    if wait_s == math.inf:
        return FULL / prompt_s
    if wait_s <= prompt_s:
        return 0.0
    low, high = 0.0, FULL
    for _ in range(ROUNDS):
        busy = 0.5 * (low + high)
        late_s = prompt_s * max(math.log(busy / LATE), 0.0) / (1.0 - busy)
        low, high = (busy, high) if late_s + prompt_s <= wait_s else (low, busy)
    return low / prompt_s
