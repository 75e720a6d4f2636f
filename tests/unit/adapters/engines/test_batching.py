"""The emulated engine's batching, on virtual time: what the simulator says of the same requests, it does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.serving_samples import TOY, TOY_CHIP, steps_of

from plenum.adapters.engines.batching import Batch, Stream
from plenum.adapters.engines.blocks import Blocks
from plenum.serving.instance import EngineSettings, Instance
from plenum.serving.pools import Pool, Serving
from plenum.serving.workload import requests_of
from plenum.sim.serving.simulate import simulate

BLOCK = 16


def emulate(
    arrival_s: Sequence[float],
    prompts: Sequence[int],
    outputs: Sequence[int],
    hashes: Sequence[Sequence[int]],
    *,
    cache_tokens: int,
    most: int,
    budget: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times to the first token, of the end, and cached tokens, from a loop like the server's on a clock of its own."""
    batch = Batch(
        steps_of().coefficients, Blocks(cache_tokens // BLOCK, BLOCK), max_sequences=most, max_batched_tokens=budget
    )
    now, first, last = 0.0, [np.nan] * len(prompts), [np.nan] * len(prompts)
    streams: list[Stream] = []
    for k, (prompt, output, ids) in enumerate(zip(prompts, outputs, hashes, strict=True)):

        def told(k: int = k) -> None:
            first[k] = now if np.isnan(first[k]) else first[k]
            last[k] = now

        streams.append(Stream(prompt_tokens=prompt, output_tokens=output, hashes=ids, told=told))
    come, idle = 0, True
    while come < len(streams) or batch.running or batch.waiting:
        while come < len(streams) and arrival_s[come] <= now:
            batch.add(streams[come])
            come += 1
        seconds = batch.begin(idle=idle)
        idle = not seconds
        if idle:
            now = arrival_s[come]
            continue
        now += seconds
        batch.end()
    assert all(stream.done for stream in streams)
    assert batch.blocks.occupied == 0
    cached = np.array([stream.cached_tokens for stream in streams])
    return np.array(first) - np.array(arrival_s), np.array(last), cached


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("cache_tokens", "most", "budget", "shared"),
    [(100_000, 64, 512, False), (100_000, 4, 64, False), (1_600, 64, 256, False), (100_000, 64, 512, True)],
    ids=["roomy", "few places, small chunks", "preempting", "prefixes"],
)
def test_it_does_what_the_simulator_says(seed, cache_tokens, most, budget, shared):
    rng = np.random.default_rng(seed)
    count = 60
    arrival_s = np.cumsum(rng.exponential(0.05, count))
    prompts, outputs = rng.integers(20, 300, count), rng.integers(1, 60, count)
    # Families of prompts with the same beginning, which ends at a block.
    hashes = [[1000 * int(k % 5) + b for b in range(p // BLOCK)] if shared else [] for k, p in enumerate(prompts)]
    columns: dict[str, Any] = {}
    if shared:
        columns = {
            "block_id": np.array([each for ids in hashes for each in ids], np.int64),
            "block_offset": np.cumsum([0, *(len(ids) for ids in hashes)]),
            "block_tokens": BLOCK,
        }
    settings = EngineSettings(max_sequences=most, max_batched_tokens=budget, block_tokens=BLOCK)
    instance = Instance(model=TOY, hardware=TOY_CHIP, settings=settings)
    pool = Pool(instance=instance, steps=steps_of(), count=1, cache_tokens=cache_tokens)
    said = simulate(requests_of(arrival_s, prompts, outputs, **columns), Serving(pools=(pool,)), seed=0)

    ttft_s, finish_s, cached = emulate(
        arrival_s.tolist(),
        prompts.tolist(),
        outputs.tolist(),
        hashes,
        cache_tokens=cache_tokens,
        most=most,
        budget=budget,
    )

    assert (said.reason == 0).all()
    assert (said.preemptions.sum() > 0) == (cache_tokens < 10_000)
    np.testing.assert_allclose(ttft_s, said.ttft_s, rtol=1e-9)
    np.testing.assert_allclose(finish_s, said.finish_s, rtol=1e-9)
    np.testing.assert_array_equal(cached, said.cached_tokens)
    assert (cached.sum() > 0) == shared


def test_who_leaves_gives_everything_back():
    batch = Batch(steps_of().coefficients, Blocks(100, BLOCK), max_sequences=2, max_batched_tokens=64)
    streams = [
        Stream(prompt_tokens=100, output_tokens=50, hashes=[10 * k + b for b in range(6)], told=lambda: None)
        for k in range(4)
    ]
    for stream in streams:
        batch.add(stream)
    for _ in range(3):
        assert batch.begin() > 0
        batch.end()
    assert batch.blocks.occupied > 0

    for stream in streams:
        batch.remove(stream)
        batch.remove(stream)

    assert (batch.running, len(batch.waiting), batch.blocks.occupied) == (0, 0, 0)
    assert batch.begin() == 0.0


def test_a_request_that_leaves_in_the_middle_of_an_iteration_gets_nothing_of_it():
    batch = Batch(steps_of().coefficients, Blocks(100, BLOCK), max_sequences=2, max_batched_tokens=512)
    told: list[int] = []
    streams = [Stream(prompt_tokens=40, output_tokens=5, told=lambda k=k: told.append(k)) for k in range(2)]
    for stream in streams:
        batch.add(stream)
    batch.begin()
    batch.remove(streams[0])
    batch.end()

    assert told == [1]


def test_what_has_come_from_elsewhere_decodes_at_once():
    batch = Batch(steps_of().coefficients, Blocks(100, BLOCK), max_sequences=2, max_batched_tokens=512)
    stream = Stream(prompt_tokens=400, output_tokens=3, told=lambda: None, brought=True, generated=1)
    batch.add(stream)

    seconds = batch.begin()
    batch.end()

    assert stream.generated == 2
    assert seconds < 0.02  # of a prompt of 400 tokens it would be more


def test_blocks_are_evicted_least_recent_first_and_from_the_end():
    blocks = Blocks(4, BLOCK)
    assert blocks.take((), 2)
    blocks.share([1, 2])
    blocks.give_back([1, 2], 0)
    assert blocks.take((), 2)
    blocks.share([3, 4])
    blocks.give_back([3, 4], 0)
    assert (blocks.found([1, 2]), blocks.found([3, 4]), blocks.occupied) == (2, 2, 0)

    assert blocks.take((), 1)

    assert (blocks.found([1, 2]), blocks.found([3, 4])) == (1, 2)
    assert not blocks.take([3, 4], 2)
    assert blocks.found([1]) == 1
