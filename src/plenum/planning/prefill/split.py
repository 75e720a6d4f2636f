"""Prefill as a service: how much of prefill to send to another site, and how to split the instances that stay.

Site A has instances that only prefill; site B prefills and decodes; a link joins them. Prompts longer than a threshold go to A. In
the steady state the rate of requests is the least of three: what A prefills over the share that goes there, what B prefills over the
rest, and what B decodes (Qin et al., "Prefill-as-a-Service", arXiv 2604.15039). Way in: :func:`plan_prefill`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError
from plenum.planning.lengths import Lengths
from plenum.serving.curves import Curve
from plenum.serving.steps import StepModel, step

Averaging = Literal["time", "length"]

MAX_INSTANCES = 100_000
MAX_SEQUENCES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillScenario:
    """Two sites, a link, and what is asked of them.

    Parameters
    ----------
    lengths
        Tokens to compute of each prompt, and so of what is sent.
    remote_instances, remote_prefill_s
        Instances of site A, and seconds in which one computes a prompt of so many tokens. 0 instances: there is no site A.
    local_instances, local_prefill_s
        Instances of site B, which prefill or decode, and their seconds.
    decode_tokens_per_s
        Tokens a second that one decoding instance gives, all sequences together, while each gets what is promised
        (see :func:`decode_rate`).
    output_tokens
        Mean tokens of an answer.
    cache_bytes
        Bytes of KV cache (and state) of a prompt of so many tokens.
    link_bytes_per_s
        From A to B.
    averaging
        ``time``: a cluster is as fast as the mean of the times of its prompts, which is what a queue sees. ``length``: as the time of a
        prompt of mean length, as the paper writes it; a little more where attention makes time convex.
    """

    lengths: Lengths
    remote_instances: int
    remote_prefill_s: Curve
    local_instances: int
    local_prefill_s: Curve
    decode_tokens_per_s: float
    output_tokens: float
    cache_bytes: Curve
    link_bytes_per_s: float
    averaging: Averaging = "time"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillPlan:
    """One split, and the terms of its steady state.

    Parameters
    ----------
    threshold_tokens
        Prompts longer than this go to site A; infinity: none, 0: all.
    prefill_instances, decode_instances
        Of site B.
    remote_share, remote_tokens, local_tokens
        Part of the requests that go to A; mean tokens of those, and of the others (0 where there are none).
    remote_rps, link_rps, local_rps, decode_rps
        What A prefills, what the link carries, and what B prefills, requests of their kind a second; what B decodes, all requests.
    rps
        Requests a second that the whole takes, at its limit.
    bounds
        What limits it: of ``remote prefill``, ``link``, ``local prefill`` and ``decode`` those within 1 % of the least, least first.
    egress_bytes_per_s
        Over the link at that rate.
    ttft_mean_s, ttft_p90_s
        Prefill and transfer where nothing waits.
    """

    threshold_tokens: float
    prefill_instances: int
    decode_instances: int
    remote_share: float
    remote_tokens: float
    local_tokens: float
    remote_rps: float
    link_rps: float
    local_rps: float
    decode_rps: float
    rps: float
    bounds: tuple[str, ...]
    egress_bytes_per_s: float
    ttft_mean_s: float
    ttft_p90_s: float

    @property
    def link_used_bytes_per_request(self) -> float:
        """Bytes over the link for a request, those that stay counted."""
        return self.egress_bytes_per_s / self.rps if self.rps else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillAnswer:
    """What :func:`plan_prefill` found.

    Parameters
    ----------
    best
        The split with the highest rate; of equal ones the one with the fewest prefill instances, then the threshold that leaves prefill
        most room.
    splits
        The best threshold for every number of local prefill instances that serves at all.
    threshold_tokens, rps
        (T,) the curve of the best split over all thresholds.
    """

    best: PrefillPlan
    splits: tuple[PrefillPlan, ...]
    threshold_tokens: NDArray[np.float64]
    rps: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Terms:
    """Of every threshold t (T = C + 1, the last one above all prompts): shares and mean times on either side."""

    threshold: NDArray[np.float64]
    remote_share: NDArray[np.float64]
    remote_tokens: NDArray[np.float64]
    local_tokens: NDArray[np.float64]
    remote_s: NDArray[np.float64]
    local_s: NDArray[np.float64]
    remote_bytes: NDArray[np.float64]


def plan_prefill(scenario: PrefillScenario) -> PrefillAnswer:
    """Find threshold and split of the highest rate: every split, every threshold that tells prompts apart.

    Raises
    ------
    FieldError
        Nothing can decode, or nothing can prefill.
    """
    _check(scenario)
    terms = _terms(scenario)
    splits = []
    for prefill in range(scenario.local_instances):
        at = _best_threshold(scenario, terms, prefill)
        if _rates(scenario, terms, prefill)[at] > 0:
            splits.append(_plan_at(scenario, terms, prefill, at))
    if not splits:
        raise FieldError("instances", "nothing can prefill: give site A instances, or site B two or more")
    best = max(splits, key=lambda plan: plan.rps)
    return PrefillAnswer(
        best=best,
        splits=tuple(splits),
        threshold_tokens=terms.threshold,
        rps=_rates(scenario, terms, best.prefill_instances),
    )


def plan_at(scenario: PrefillScenario, *, threshold_tokens: float, prefill_instances: int) -> PrefillPlan:
    """Return the steady state of a given split; the threshold is the nearest one at or above that tells prompts apart."""
    _check(scenario)
    if not 0 <= prefill_instances < scenario.local_instances:
        sentence = f"must leave one of {scenario.local_instances} instances to decode, not {prefill_instances}"
        raise FieldError("prefill_instances", sentence)
    terms = _terms(scenario)
    at = min(int(np.searchsorted(terms.threshold, threshold_tokens)), len(terms.threshold) - 1)
    return _plan_at(scenario, terms, prefill_instances, at)


def rates_over_thresholds(scenario: PrefillScenario, prefill_instances: int) -> NDArray[np.float64]:
    """Return the rate of a split at every threshold of :class:`PrefillAnswer`."""
    return _rates(scenario, _terms(scenario), prefill_instances)


def all_remote(scenario: PrefillScenario) -> PrefillPlan:
    """Return the naive way: every prompt goes to site A, all of site B decodes."""
    return plan_at(scenario, threshold_tokens=0.0, prefill_instances=0)


def all_local(scenario: PrefillScenario, local_instances: int) -> PrefillPlan:
    """Return the usual way: no site A, ``local_instances`` of site B's kind, split as is best."""
    return plan_prefill(replace(scenario, remote_instances=0, local_instances=local_instances)).best


def gains(scenario: PrefillScenario) -> dict[str, float]:
    """Return by what factor the best rate rises if there were a little more of each thing, split anew each time."""
    base = plan_prefill(scenario).best.rps
    more = {
        "one more remote instance": replace(scenario, remote_instances=scenario.remote_instances + 1),
        "one more local instance": replace(scenario, local_instances=scenario.local_instances + 1),
        "a link twice as fast": replace(scenario, link_bytes_per_s=2 * scenario.link_bytes_per_s),
        "decoding 10 % faster": replace(scenario, decode_tokens_per_s=1.1 * scenario.decode_tokens_per_s),
    }
    return {what: plan_prefill(changed).best.rps / base for what, changed in more.items()}


def decode_rate(
    steps: StepModel, *, context_tokens: float, tokens_per_s: float, cache_tokens: float, most_sequences: int = 1024
) -> tuple[int, float]:
    """Return how many sequences an instance decodes while each gets ``tokens_per_s``, and the tokens a second of all.

    Parameters
    ----------
    context_tokens
        Mean context of a sequence while it decodes.
    cache_tokens
        Tokens of KV cache that the instance holds.

    Returns
    -------
    tuple of int, float
        0 sequences where not even one is fast enough.
    """

    def seconds(batch: int) -> float:
        context = batch * context_tokens
        window = min(context_tokens, steps["window"] or context_tokens) * batch
        return step(steps.coefficients, 0.0, 0.0, 0.0, 0.0, float(batch), context, window)[0]

    most = min(most_sequences, MAX_SEQUENCES, int(cache_tokens // max(context_tokens, 1.0)))
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if seconds(middle) * tokens_per_s <= 1 else (low, middle - 1)
    return low, low / seconds(low) if low else 0.0


def waiting_s(servers: int, rate_rps: float, mean_s: float, variation: float) -> float:
    """Return the mean wait of Poisson arrivals for one of several equal servers; infinity at or above their limit.

    M/G/c after Allen and Cunneen: that of M/M/c (Erlang C) times (1 + variation²) / 2, which is exact for one server.

    Parameters
    ----------
    variation
        Standard deviation of service times over their mean.
    """
    load = rate_rps * mean_s
    if load >= servers:
        return math.inf
    if load <= 0:
        return 0.0
    blocked = 1.0  # Erlang B by its recursion, from no servers on
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    waits = blocked / (1 - load / servers * (1 - blocked))
    return waits * mean_s / (servers - load) * (1 + variation**2) / 2


def queueing_s(scenario: PrefillScenario, plan: PrefillPlan, rate_rps: float) -> float:
    """Return the mean wait for prefill of all requests at ``rate_rps``; infinity at or above what the plan takes."""
    long = scenario.lengths.tokens > plan.threshold_tokens
    total = 0.0
    for part, curve, servers in (
        (long, scenario.remote_prefill_s, scenario.remote_instances),
        (~long, scenario.local_prefill_s, plan.prefill_instances),
    ):
        weight = scenario.lengths.share[part]
        share = float(weight.sum())
        if share <= 0:
            continue
        seconds = curve(scenario.lengths.tokens[part])
        mean = float(seconds @ weight) / share
        spread = math.sqrt(max(float((seconds - mean) ** 2 @ weight) / share, 0.0))
        total += share * waiting_s(servers, rate_rps * share, mean, spread / mean if mean else 0.0)
    return total


def _check(scenario: PrefillScenario) -> None:
    for name, least in (("remote_instances", 0), ("local_instances", 1)):
        count = getattr(scenario, name)
        if not least <= count <= MAX_INSTANCES:
            raise FieldError(name, f"must be {least} to {MAX_INSTANCES:,}, not {count}")
    for name in ("decode_tokens_per_s", "output_tokens", "link_bytes_per_s"):
        if not getattr(scenario, name) > 0:
            raise FieldError(name, f"must be above 0, not {getattr(scenario, name):g}")


def _terms(scenario: PrefillScenario) -> _Terms:
    lengths = scenario.lengths
    share = _above(lengths.share)
    tokens = _above(lengths.share * lengths.tokens)
    remote_tokens = _ratio(tokens, share)
    local_tokens = _ratio(tokens[0] - tokens, 1 - share)
    if scenario.averaging == "length":
        remote_s = scenario.remote_prefill_s(remote_tokens)
        local_s = scenario.local_prefill_s(local_tokens)
        remote_bytes = scenario.cache_bytes(remote_tokens)
    else:
        seconds = _above(lengths.share * scenario.local_prefill_s(lengths.tokens))
        remote_s = _ratio(_above(lengths.share * scenario.remote_prefill_s(lengths.tokens)), share)
        local_s = _ratio(seconds[0] - seconds, 1 - share)
        remote_bytes = _ratio(_above(lengths.share * scenario.cache_bytes(lengths.tokens)), share)
    return _Terms(
        threshold=np.concatenate([[0.0], lengths.edge[1:], [math.inf]]),
        remote_share=share,
        remote_tokens=remote_tokens,
        local_tokens=local_tokens,
        remote_s=remote_s,
        local_s=local_s,
        remote_bytes=remote_bytes,
    )


def _above(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of each cell and those after it, and 0 for the threshold above all."""
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)


def _ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(over, under, out=np.zeros_like(over), where=under > 1e-12)


def _rate(have: float, needed: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return requests a second of all kinds that ``have`` is enough for; infinity where no request needs any."""
    return np.divide(have, needed, out=np.full_like(needed, np.inf), where=(share > 1e-12) & (needed > 0))


def _limits(
    scenario: PrefillScenario, terms: _Terms, prefill: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Return requests a second, of all kinds, that each of remote prefill, link, local prefill and decode would take."""
    here, away = 1 - terms.remote_share, terms.remote_share
    remote = _rate(scenario.remote_instances, terms.remote_s * away, away)
    link = _rate(scenario.link_bytes_per_s, terms.remote_bytes * away, away)
    local = _rate(prefill, terms.local_s * here, here)
    decode = (scenario.local_instances - prefill) * scenario.decode_tokens_per_s / scenario.output_tokens
    return remote, link, local, decode


def _rates(scenario: PrefillScenario, terms: _Terms, prefill: int) -> NDArray[np.float64]:
    remote, link, local, decode = _limits(scenario, terms, prefill)
    return np.minimum(np.minimum(remote, link), np.minimum(local, decode))


def _best_threshold(scenario: PrefillScenario, terms: _Terms, prefill: int) -> int:
    """Return the index of the threshold of the highest rate; where decode binds over many, the one that leaves prefill most room."""
    remote, link, local, decode = _limits(scenario, terms, prefill)
    others = np.minimum(np.minimum(remote, link), local)
    rates = np.minimum(others, decode)
    return int(np.argmax(np.where(rates >= rates.max(), others, -1.0)))


def _plan_at(scenario: PrefillScenario, terms: _Terms, prefill: int, at: int) -> PrefillPlan:
    remote, link, local, decode = _limits(scenario, terms, prefill)
    limits = {
        "remote prefill": float(remote[at]),
        "link": float(link[at]),
        "local prefill": float(local[at]),
        "decode": decode,
    }
    rps = min(limits.values())
    bounds = tuple(sorted((name for name in limits if limits[name] <= 1.01 * rps), key=lambda name: limits[name]))
    away = float(terms.remote_share[at])
    mean, p90 = _unloaded(scenario, float(terms.threshold[at]))
    return PrefillPlan(
        threshold_tokens=float(terms.threshold[at]),
        prefill_instances=prefill,
        decode_instances=scenario.local_instances - prefill,
        remote_share=away,
        remote_tokens=float(terms.remote_tokens[at]),
        local_tokens=float(terms.local_tokens[at]),
        remote_rps=limits["remote prefill"] * away if away else 0.0,
        link_rps=limits["link"] * away if away else math.inf,
        local_rps=limits["local prefill"] * (1 - away) if away < 1 else 0.0,
        decode_rps=decode,
        rps=rps,
        bounds=bounds,
        egress_bytes_per_s=rps * away * float(terms.remote_bytes[at]),
        ttft_mean_s=mean,
        ttft_p90_s=p90,
    )


def _unloaded(scenario: PrefillScenario, threshold: float) -> tuple[float, float]:
    """Return mean and 90th percentile of prefill and transfer with nothing in the way."""
    tokens, share = scenario.lengths.tokens, scenario.lengths.share
    away = scenario.remote_prefill_s(tokens) + scenario.cache_bytes(tokens) / scenario.link_bytes_per_s
    # A cell begins above its edge: a prompt of a cell is longer than the threshold if the cell begins at or above it.
    seconds = np.where(scenario.lengths.edge >= threshold, away, scenario.local_prefill_s(tokens))
    order = np.argsort(seconds)
    at = int(np.searchsorted(np.cumsum(share[order]), 0.9))
    return float(seconds @ share), float(seconds[order][min(at, len(order) - 1)])
