"""Qin et al., "Mooncake": FAST 2025, table 2 (the conversation trace), and arXiv 2407.00079, table 1 (hit rates by capacity).

What can be found of the prompts, whatever the routing: the trace's published figures, the most that any cache could find, and how much
of it a cache of a given size finds. Then what routing makes of it on a stated cluster: hit rate and time to the first token.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from plenum.adapters.traces import mooncake
from plenum.adapters.traces.folder import find_data
from plenum.serving import prefix
from plenum.serving.calibration import calibrated_steps
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.instance import Instance, Parallelism
from plenum.serving.pools import Pool, Serving
from plenum.sim.serving import Policies, simulate

DATA = find_data(None, os.environ) or Path("absent")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not (DATA / mooncake.CONVERSATION).is_file(), reason="no Mooncake trace: set PLENUM_DATA"),
]

PUBLISHED = {"requests": 12_031, "prompt": 12_035, "output": 343, "cache_ratio": 0.40}
"""FAST 2025, table 2, conversation."""

PUBLISHED_LRU = {1_000: 0.30, 10_000: 0.40, 30_000: 0.48, 50_000: 0.50, 100_000: 0.51}
"""arXiv 2407.00079, table 1, of 0.51 with no limit. Of another trace (tools and agents, 23,608 requests), which shares long system
prompts: so a small cache finds more there than here, and the comparison is of the large ones."""


@cache
def trace():
    return mooncake.read_conversation(DATA)


@cache
def found(capacity: int) -> float:
    """Part of all blocks that one LRU cache of so many finds."""
    requests = trace()
    held = prefix.caches(int(requests.block_id.max()) + 1, np.array([capacity]), np.zeros(1, int), np.zeros(1, int))
    hits = 0
    for start, stop in zip(requests.block_offset, requests.block_offset[1:], strict=False):
        hits += prefix.lookup(held, 0, requests.block_id, start, stop)[0]
        prefix.insert(held, 0, requests.block_id, start, stop)
    return hits / len(requests.block_id)


def test_the_trace_is_the_published_one() -> None:
    requests = trace()
    assert len(requests) == PUBLISHED["requests"]
    assert requests.prompt_tokens.mean() == pytest.approx(PUBLISHED["prompt"], abs=0.5)
    assert requests.output_tokens.mean() == pytest.approx(PUBLISHED["output"], abs=0.5)


def test_the_most_that_can_be_found() -> None:
    """A set that never forgets, against the compiled cache without a limit: equal. The paper says 40 %; blocks counted, it is 36.6 %."""
    requests = trace()
    seen: set[int] = set()
    hits = 0
    for start, stop in zip(requests.block_offset, requests.block_offset[1:], strict=False):
        ids = requests.block_id[start:stop].tolist()
        hits += next((k for k, block in enumerate(ids) if block not in seen), len(ids))
        seen.update(ids)
    most = hits / len(requests.block_id)
    assert found(len(seen)) == most
    assert most == pytest.approx(0.366, abs=0.001)
    assert most == pytest.approx(PUBLISHED["cache_ratio"], abs=0.04)


def test_large_caches_find_what_the_paper_says_they_find() -> None:
    """As parts of what a cache without limit finds: within 3 points from 50,000 blocks on."""
    rates = [found(capacity) for capacity in PUBLISHED_LRU]
    assert rates == sorted(rates)
    most = found(int(trace().block_id.max()) + 1)
    for capacity in (50_000, 100_000):
        assert found(capacity) / most == pytest.approx(PUBLISHED_LRU[capacity] / 0.51, abs=0.03)


REPLICAS = 8
HOST_BYTES = 1e12
PUBLISHED_GLOBAL_OVER_LOCAL = 2.36
"""FAST 2025: a cache that all instances share finds up to so many times what local ones find; and "the capacity of local DRAM
supports only up to 50 % of the theoretical cache hit rate"."""


@cache
def served(routing: str):
    """The whole trace on 8 instances of Llama-3.1-70B, each 4 H100 with 1 TB of host memory for prefixes."""
    instance = Instance(
        model=model_named("Llama-3.1-70B"), hardware=accelerator_named("H100"), parallelism=Parallelism(tp=4)
    )
    tokens = int(HOST_BYTES / (instance.model.cache_values_per_token * 2))
    pool = Pool(instance=instance, steps=calibrated_steps(instance), count=REPLICAS, dram_tokens=tokens)
    return simulate(trace(), Serving(pools=(pool,)), Policies(routing=routing), seed=0)


def hit_rate(routing: str) -> float:
    return float(served(routing).cached_tokens.sum() / trace().prompt_tokens.sum(dtype=np.int64))


def most_tokens() -> float:
    """Part of all prompt tokens that a cache without limit finds."""
    return (
        found(int(trace().block_id.max()) + 1) * len(trace().block_id) * 512 / trace().prompt_tokens.sum(dtype=np.int64)
    )


def test_routing_by_prefix_finds_nearly_all_and_random_routing_a_third() -> None:
    assert hit_rate("random") < 0.5 * most_tokens(), "the paper: local caches find at most half"
    assert 0.9 * most_tokens() < hit_rate("prefix-aware") <= most_tokens()
    assert hit_rate("prefix-aware") / hit_rate("random") > PUBLISHED_GLOBAL_OVER_LOCAL


def test_first_tokens_come_sooner_in_the_order_of_the_paper() -> None:
    """arXiv 2407.00079, figure 8, the mean TTFT: random, load balancing, cache-aware (the shortest time that is predicted)."""
    mean = {
        name: served(name).ttft_s.mean() for name in ("random", "least-loaded", "prefix-aware", "predicted-latency")
    }
    assert mean["random"] > mean["least-loaded"] > mean["prefix-aware"] > mean["predicted-latency"]
    assert mean["random"] > 2 * mean["predicted-latency"]
    assert all(np.isfinite(served(name).ttft_s).all() for name in mean), "and nobody is refused for it"


def test_copying_prefixes_finds_no_less_and_brings_first_tokens_no_later() -> None:
    """arXiv 2407.00079, figure 8: cache-aware scheduling with KVCache transfer has the lowest mean TTFT of the four."""
    assert hit_rate("mooncake") >= hit_rate("predicted-latency")
    assert served("mooncake").ttft_s.mean() < served("predicted-latency").ttft_s.mean()
