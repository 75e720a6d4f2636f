"""Experts over tiers of memory: hits against a brute-force oracle and against Che's approximation, batches, servers."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.model.errors import FieldError
from plenum.planning.experts import (
    Composition,
    Platform,
    Work,
    draw_trace,
    hit_rate,
    lru_hits,
    misses_of_batch,
    options,
    recommended,
    serve_on,
    servers_needed,
    tier_shares,
    zipf,
)

SMALL = Platform(name="small", hbm_bytes=10.0, pool_bytes=40.0, switch_bytes_per_s=1.0, prompt_s=0.1, token_s=0.01)
QUICK = Platform(name="quick", hbm_bytes=10.0, pool_bytes=40.0, switch_bytes_per_s=100.0, prompt_s=0.1, token_s=0.01)


def oracle(trace: list[int], slots: list[int]) -> list[int]:
    """Lists of names, the most recent last; what one evicts, the next takes."""
    tiers: list[OrderedDict[int, None]] = [OrderedDict() for _ in slots]
    counts = [0] * (len(slots) + 1)
    for expert in trace:
        found = next((i for i, tier in enumerate(tiers) if expert in tier), len(slots))
        counts[found] += 1
        if found < len(slots):
            del tiers[found][expert]
        moved: int | None = expert
        for tier, size in zip(tiers, slots, strict=True):
            if moved is None or size == 0:
                continue
            tier[moved] = None
            moved = tier.popitem(last=False)[0] if len(tier) > size else None
    return counts


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 11), max_size=200),
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
)
def test_lru_is_the_oracle(trace: list[int], slots: list[int]) -> None:
    assert lru_hits(np.array(trace, np.int64), 12, slots).tolist() == oracle(trace, slots)


@pytest.mark.parametrize("skew", [0.0, 0.8, 1.2])
@pytest.mark.parametrize("slots", [10, 45, 120])
def test_zipf_trace(skew: float, slots: int) -> None:
    popularity = zipf(150, skew)
    trace = draw_trace(popularity, 40_000, np.random.default_rng(7))
    counts = lru_hits(trace, 150, [slots])
    assert counts.tolist() == oracle(trace.tolist(), [slots])
    assert counts[0] / len(trace) == pytest.approx(hit_rate(popularity, slots), abs=0.01)


def test_three_tiers() -> None:
    popularity = zipf(200, 0.9)
    trace = draw_trace(popularity, 60_000, np.random.default_rng(3))
    measured = lru_hits(trace, 200, [20, 40, 60]) / len(trace)
    assert measured == pytest.approx(tier_shares(popularity, [20, 40, 60]), abs=0.01)
    assert measured.sum() == pytest.approx(1.0)


@pytest.mark.parametrize(("grouped", "within"), [(False, 0.01), (True, 0.03)])
@pytest.mark.parametrize("skew", [0.0, 1.0])
def test_batches(grouped: bool, within: float, skew: float) -> None:
    popularity, work = zipf(150, skew), Work(batch=8, grouped=grouped)
    trace = draw_trace(popularity, 80_000, np.random.default_rng(11), work)
    measured = lru_hits(trace, 150, [45])[1] / (len(trace) / work.batch)
    assert measured == pytest.approx(misses_of_batch(popularity, 45, work), rel=within)


def test_grouping_saves_switches_where_experts_hardly_fit() -> None:
    """Of two slots, prompts that come mixed throw each other's experts out."""
    popularity = zipf(4, 0.0)
    apart, together = (
        lru_hits(draw_trace(popularity, 32_000, np.random.default_rng(1), Work(batch=16, grouped=grouped)), 4, [2])[1]
        for grouped in (False, True)
    )
    assert together < 0.5 * apart


def test_edges_of_che() -> None:
    assert hit_rate(zipf(10, 1.0), 10) == 1.0
    assert hit_rate(zipf(10, 1.0), 0) == 0.0
    assert hit_rate(zipf(10, 0.0), 5) == pytest.approx(0.5, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.floats(0, 3), st.integers(0, 59))
def test_more_slots_never_hit_less(count: int, skew: float, slots: int) -> None:
    popularity = zipf(count, skew)
    assert hit_rate(popularity, slots) <= hit_rate(popularity, slots + 1) + 1e-9


def test_times_add_up() -> None:
    service = serve_on(
        SMALL, Composition(popularity=zipf(20, 0.0), expert_bytes=1.0), Work(batch=4, output_tokens=10), 1, "tiers"
    )
    assert service.miss_rate == pytest.approx(0.5)
    assert (service.router_s, service.switch_s, service.expert_s) == pytest.approx((0.025, 0.5, 0.2))
    assert service.request_s == pytest.approx(0.725)


def test_servers() -> None:
    composition = Composition(popularity=zipf(50, 1.0), expert_bytes=1.0, pinned_bytes=2.0)
    assert servers_needed(SMALL, composition, "hbm") == 7
    assert servers_needed(SMALL, composition, "tiers") == 2
    tight = Composition(popularity=zipf(50, 1.0), expert_bytes=1.0, pinned_bytes=9.5)
    assert servers_needed(SMALL, tight, "tiers") == 0
    with pytest.raises(FieldError, match="not even one expert fits"):
        serve_on(SMALL, tight, Work(), 5, "tiers")
    with pytest.raises(FieldError, match="it takes 2"):
        serve_on(SMALL, composition, Work(), 1, "tiers")


def test_recommended() -> None:
    composition = Composition(popularity=zipf(50, 0.5), expert_bytes=1.0)
    found = options([SMALL, QUICK], composition, Work())
    times = [s.request_s for s in found if s.platform == "small"]
    assert times == sorted(times, reverse=True)  # more servers, fewer switches
    assert found[len(times) - 1].mode == "hbm"
    assert found[len(times) - 1].switch_s == 0.0
    loose, strict = (recommended(found, [SMALL, QUICK], request_s=limit) for limit in (10.0, 2.2001))
    assert loose is not None
    assert strict is not None
    assert (loose.platform, loose.servers) == ("quick", 2)
    assert strict.request_s <= 2.2001
    assert recommended(found, [SMALL, QUICK], request_s=0.01) is None


def test_what_cannot_be_meant() -> None:
    with pytest.raises(FieldError, match="must be 1 to"):
        zipf(0, 1.0)
    with pytest.raises(FieldError, match="must be 0 to 10"):
        zipf(5, -1.0)
    with pytest.raises(FieldError, match="one to three"):
        lru_hits(np.array([0]), 1, [1, 1, 1, 1])
    with pytest.raises(FieldError, match="there are 0 to 2"):
        lru_hits(np.array([3]), 3, [1])
