"""Splitting prefill between sites: against brute force, against queues worked event by event, and what follows from the equations."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.model.errors import FieldError
from plenum.planning.lengths import Lengths, lognormal_lengths, measured_lengths
from plenum.planning.prefill.check import carrier, serving_of
from plenum.planning.prefill.split import (
    PrefillScenario,
    all_local,
    all_remote,
    decode_rate,
    gains,
    plan_at,
    plan_prefill,
    queueing_s,
    waiting_s,
)
from plenum.planning.published import PREFILL_PRESETS
from plenum.serving.curves import Quadratic, decode_steps

PAPER = PREFILL_PRESETS["prfaas-paper"].scenario()


def small(lengths: Lengths, remote: int, local: int, link: float = 1e9) -> PrefillScenario:
    return PrefillScenario(
        lengths=lengths,
        remote_instances=remote,
        remote_prefill_s=Quadratic(fixed=0.2, linear=1e-4, square=1e-8),
        local_instances=local,
        local_prefill_s=Quadratic(fixed=0.05, linear=6e-4),
        decode_tokens_per_s=500.0,
        output_tokens=100.0,
        cache_bytes=Quadratic(fixed=1e6, linear=1e4),
        link_bytes_per_s=link,
    )


def brute_force(scenario: PrefillScenario, tokens: list[int]) -> float:
    """Try every split and every threshold between two lengths, and add everything up anew each time."""
    best = 0.0
    for prefill in range(scenario.local_instances):
        decode = (scenario.local_instances - prefill) * scenario.decode_tokens_per_s / scenario.output_tokens
        for threshold in [0, *sorted(set(tokens))]:
            away = np.array([n for n in tokens if n > threshold], np.float64)
            here = np.array([n for n in tokens if n <= threshold], np.float64)
            needs = [
                (scenario.remote_instances, float(scenario.remote_prefill_s(away).sum())),
                (scenario.link_bytes_per_s, float(scenario.cache_bytes(away).sum())),
                (prefill, float(scenario.local_prefill_s(here).sum())),
            ]
            rates = [have * len(tokens) / need for have, need in needs if need > 0]
            best = max(best, min([decode, *rates]))
    return best


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(1, 50_000), min_size=1, max_size=12),
    st.integers(0, 4),
    st.integers(1, 5),
    st.sampled_from([1e6, 1e8, 1e12]),
)
def test_nothing_is_better(tokens: list[int], remote: int, local: int, link: float) -> None:
    scenario = small(measured_lengths(tokens), remote, local, link)
    expected = brute_force(scenario, tokens)
    if expected <= 0:
        with pytest.raises(FieldError, match="nothing can prefill"):
            plan_prefill(scenario)
        return
    best = plan_prefill(scenario).best
    assert best.rps == pytest.approx(expected)
    assert best.bounds
    assert best.prefill_instances + best.decode_instances == local
    # The plan is what its threshold says it is.
    away = [n for n in tokens if n > best.threshold_tokens]
    assert best.remote_share == pytest.approx(len(away) / len(tokens))
    again = plan_at(scenario, threshold_tokens=best.threshold_tokens, prefill_instances=best.prefill_instances)
    assert again == best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 6), st.integers(2, 8), st.floats(1e7, 1e11))
def test_more_is_never_worse(remote: int, local: int, link: float) -> None:
    scenario = replace(PAPER, remote_instances=remote, local_instances=local, link_bytes_per_s=link)
    assert all(factor >= 1 - 1e-9 for factor in gains(scenario).values())
    best = plan_prefill(scenario).best
    if remote:
        assert best.rps >= all_remote(scenario).rps - 1e-9
    assert best.rps >= all_local(scenario, local).rps - 1e-9
    assert best.egress_bytes_per_s <= link * (1 + 1e-9)


def test_slow_link_keeps_prefill_here() -> None:
    shares = []
    for gbps in (0.1, 3, 5, 10, 100):
        best = plan_prefill(replace(PAPER, link_bytes_per_s=gbps * 1e9 / 8)).best
        shares.append(best.remote_share)
        assert ("link" in best.bounds) == (gbps in (3, 5, 10))
    assert shares == sorted(shares)
    assert shares[0] < 0.1


def saturated(scenario: PrefillScenario, threshold: float, prefill: int, tokens: np.ndarray, rate: float) -> float:
    """Requests a second that three stations with first come, first served finish, event by event."""
    rng = np.random.default_rng(0)
    away = tokens > threshold
    seconds = np.where(away, scenario.remote_prefill_s(tokens), scenario.local_prefill_s(tokens))
    crossing = scenario.cache_bytes(tokens) / scenario.link_bytes_per_s
    slots = round((scenario.local_instances - prefill) * scenario.decode_tokens_per_s / 40)
    free = {True: [0.0] * scenario.remote_instances, False: [0.0] * prefill}
    decode, link, arrival = [0.0] * slots, 0.0, 0.0
    ready = []
    for n in range(len(tokens)):
        arrival += rng.exponential(1 / rate)
        done = max(arrival, heapq.heappop(free[bool(away[n])])) + seconds[n]
        heapq.heappush(free[bool(away[n])], done)
        ready.append((done, n))
    there = []
    for done, n in sorted(ready):
        link = max(done, link) + crossing[n] if away[n] else link
        there.append(link if away[n] else done)
    finish = []
    for done in sorted(there):
        finish.append(max(done, heapq.heappop(decode)) + scenario.output_tokens / 40)
        heapq.heappush(decode, finish[-1])
    finish.sort()
    first, last = len(finish) // 5, 4 * len(finish) // 5
    return (last - first) / (finish[last] - finish[first])


@pytest.mark.parametrize("link_gbps", [100.0, 5.0])
def test_queues_agree(link_gbps: float) -> None:
    """An oracle of its own, in forty lines: offered more than the equations allow, it serves what they say, within 3 %."""
    scenario = replace(PAPER, link_bytes_per_s=link_gbps * 1e9 / 8)
    best = plan_prefill(scenario).best
    tokens = scenario.lengths.sample(8000, np.random.default_rng(3)).astype(float)
    served = saturated(scenario, best.threshold_tokens, best.prefill_instances, tokens, 1.3 * best.rps)
    assert served == pytest.approx(best.rps, rel=0.03)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.9), (4, 0.8)])
def test_waiting_is_erlangs(servers: int, load: float) -> None:
    """M/M/1: load / (1 - load) services; M/M/c: Erlang C by its sum."""
    offered = servers * load
    total = sum(offered**k / math.factorial(k) for k in range(servers))
    last = offered**servers / math.factorial(servers) / (1 - load)
    expected = last / (total + last) / (servers * (1 - load))
    assert waiting_s(servers, offered, 1.0, 1.0) == pytest.approx(expected)
    assert waiting_s(servers, offered, 1.0, 0.0) == pytest.approx(expected / 2)


def test_waiting_has_no_end_at_the_limit() -> None:
    best = plan_prefill(PAPER).best
    assert queueing_s(PAPER, best, best.rps * 1.01) == math.inf
    assert queueing_s(PAPER, best, 0.0) == 0.0
    waits = [queueing_s(PAPER, best, part * best.rps) for part in (0.2, 0.5, 0.8, 0.95)]
    assert waits == sorted(waits)


def test_decode_rate() -> None:
    steps = decode_steps(fixed_s=0.02, sequence_s=1e-4, context_token_s=1e-8)
    sequences, rate = decode_rate(steps, context_tokens=10_000, tokens_per_s=40, cache_tokens=1e6)
    assert sequences == 25  # 0.02 + 25 x (0.0001 + 0.0001) = 0.025 s
    assert rate == pytest.approx(1000)
    assert decode_rate(steps, context_tokens=10_000, tokens_per_s=40, cache_tokens=50_000)[0] == 5
    assert decode_rate(steps, context_tokens=10_000, tokens_per_s=51, cache_tokens=1e6) == (0, 0.0)


@settings(max_examples=40, deadline=None)
@given(st.floats(2, 12), st.floats(0.1, 3), st.integers(1, 500), st.integers(1000, 10**6))
def test_lognormal(mu: float, sigma: float, shortest: int, longest: int) -> None:
    try:
        lengths = lognormal_lengths(mu, sigma, shortest, longest)
    except FieldError:  # next to nothing of it lies there
        return
    assert lengths.share.sum() == pytest.approx(1)
    assert shortest <= lengths.tokens[0] <= lengths.tokens[-1] <= longest
    assert (np.diff(lengths.tokens) >= 0).all()
    assert shortest <= lengths.quantile(0.1) <= lengths.quantile(0.9) <= longest


def test_lognormal_against_a_sample() -> None:
    drawn = np.exp(np.random.default_rng(1).normal(9.9, 1.0, 400_000))
    drawn = drawn[(drawn >= 128) & (drawn <= 128_000)]
    lengths = lognormal_lengths(9.9, 1.0, 128, 128_000)
    assert lengths.mean == pytest.approx(drawn.mean(), rel=0.01)
    assert lengths.quantile(0.9) == pytest.approx(np.quantile(drawn, 0.9), rel=0.01)
    assert lengths.sample(100_000, np.random.default_rng(2)).mean() == pytest.approx(lengths.mean, rel=0.02)


def test_carrier_weighs_what_was_measured() -> None:
    model = carrier(PAPER.cache_bytes)  # pyright: ignore[reportArgumentType]
    for tokens in (1000, 32_000, 128_000):
        assert model.cache_values(tokens) * 2 == pytest.approx(float(PAPER.cache_bytes(np.array(tokens))), rel=0.01)
    plan = plan_prefill(PAPER).best
    pools = serving_of(PAPER, plan, tokens_per_s=40.0).pools
    assert [(pool.count, pool.role, pool.site) for pool in pools] == [
        (4, "prefill", "remote"),
        (3, "prefill", "local"),
        (5, "decode", "local"),
    ]
    assert pools[2].instance.settings.max_sequences == 20


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"remote_instances": -1}, "must be 0 to"),
        ({"local_instances": 0}, "must be 1 to"),
        ({"link_bytes_per_s": 0.0}, "above 0"),
        ({"remote_instances": 0, "local_instances": 1}, "nothing can prefill"),
    ],
)
def test_what_cannot_be_meant(change: dict, words: str) -> None:
    with pytest.raises(FieldError, match=words):
        plan_prefill(replace(PAPER, **change))


def test_a_split_leaves_something_to_decode() -> None:
    with pytest.raises(FieldError, match="leave one of 8"):
        plan_at(PAPER, threshold_tokens=1.0, prefill_instances=8)
    with pytest.raises(FieldError, match="at least one prompt"):
        measured_lengths([])
    with pytest.raises(FieldError, match="sigma above 0"):
        lognormal_lengths(9.9, 0.0, 1, 10)
