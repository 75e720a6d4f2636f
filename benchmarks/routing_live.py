"""Routing on a trace of block hashes, live: four emulated replicas, by prefix and in turn, beside what the simulator says of the same.

Some conversations of Mooncake's trace, pressed into a short time, their lengths an eighth, go through the gateway's dispatcher to four
processes that keep the serving model's time; the simulator runs the same requests with the same policy on the same model.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.emulated_fleet import NAME, REPLICAS, Bench, Seen, engines, fleet
from benchmarks.findings import Finding, Target, at_least
from plenum.adapters.engines.emulated import Settings
from plenum.adapters.engines.emulated_process import instance_of
from plenum.adapters.traces import mooncake
from plenum.adapters.traces.folder import find_data
from plenum.model.endpoint import Endpoint
from plenum.serving.calibration import calibrated_steps
from plenum.serving.pools import Pool, Serving
from plenum.serving.workload import Requests, requests_of
from plenum.sim.serving import Policies, simulate
from plenum.sim.serving.slices import scaled

SHARE, SECONDS, SHORTER = 0.03, 16.0, 8
"""Of the trace's conversations; into how much of the model's time their hour is pressed; by what lengths are divided."""

SCALE = 2.5
"""Real seconds for each of the model's: what this machine adds to a request counts for less than half."""

BLOCK = mooncake.BLOCK_TOKENS // SHORTER
SETTINGS = Settings(
    host="127.0.0.1",
    port=0,
    model="llama-3.1-70b",
    hardware="H100",
    tensor=4,
    scale=SCALE,
    slots=64,
    block_tokens=BLOCK,
    cache_tokens=80_000,
)
POLICIES = ("round-robin", "prefix-aware")
CLOSE = 0.10
"""How far what is measured may be from what was simulated."""

PATIENCE_S = 100.0


def bench() -> Iterator[Finding]:
    """Yield nothing where the trace is absent."""
    data = find_data(None, os.environ)
    if data is None or not (data / mooncake.CONVERSATION).is_file():
        return
    requests = _slice(mooncake.read_conversation(data))
    live = {name: asyncio.run(_live(requests, name)) for name in POLICIES}
    name = f"{len(requests)} requests of mooncake, {REPLICAS} emulated replicas of Llama-3.1-70B on 4 H100"
    rates = {policy: _hit_rate(run) for policy, run in live.items()}
    means = {policy: float(np.mean([seen.first_s for seen in run])) / SCALE for policy, run in live.items()}
    for policy, run in live.items():
        hit_rate, ttft_s = _simulated(requests, policy)
        failed = sum(bool(seen.refused) for seen in run)
        yield Finding(
            bench=name,
            what=f"{policy}: prompt tokens found",
            value=100 * rates[policy],
            unit="%",
            baseline=f"simulated {100 * hit_rate:.1f} %",
            ratio=rates[policy] / hit_rate,
            target=_near(rates[policy] / hit_rate),
            note=f"{failed} of {len(run)} failed",
        )
        yield Finding(
            bench=name,
            what=f"{policy}: TTFT mean",
            value=1e3 * means[policy],
            unit="ms",
            baseline=f"simulated {1e3 * ttft_s:.0f} ms",
            ratio=means[policy] / ttft_s,
            target=_near(means[policy] / ttft_s),
        )
    for what, value in (("prompt tokens found", rates), ("TTFT mean", means)):
        ratio = value["prefix-aware"] / value["round-robin"]
        yield Finding(
            bench=name,
            what=f"by prefix over in turn: {what}",
            value=ratio,
            unit="x",
            target=at_least(1.0, "x", ratio) if what != "TTFT mean" else Target(words="< 1 x", met=ratio < 1),
        )


def _near(ratio: float) -> Target:
    return Target(words=f"within {100 * CLOSE:.0f} %", met=abs(ratio - 1) <= CLOSE)


def _slice(trace: Requests) -> Requests:
    """Return whole conversations, pressed into a short time."""
    some = scaled(trace, SHARE)
    return _shortened(scaled(some, float(some.arrival_s[-1]) / SECONDS))


def _shortened(requests: Requests) -> Requests:
    """Return the same requests with an eighth of the tokens, blocks as before; a block that is not whole is nobody else's."""
    prompt = np.maximum(requests.prompt_tokens // SHORTER, 1)
    ids = [requests.block_id[a:b] for a, b in zip(requests.block_offset[:-1], requests.block_offset[1:], strict=True)]
    whole = [each[: tokens // BLOCK] for each, tokens in zip(ids, prompt.tolist(), strict=True)]
    return replace(
        requests_of(requests.arrival_s, prompt, np.maximum(requests.output_tokens // SHORTER, 1)),
        block_offset=np.concatenate([[0], np.cumsum([len(each) for each in whole])]).astype(np.int64),
        block_id=np.concatenate(whole).astype(np.int64),
        block_tokens=BLOCK,
    )


def _simulated(requests: Requests, policy: str) -> tuple[float, float]:
    instance = instance_of(SETTINGS)
    pool = Pool(instance=instance, steps=calibrated_steps(instance), count=REPLICAS, cache_tokens=SETTINGS.cache_tokens)
    run = simulate(requests, Serving(pools=(pool,)), Policies(routing=policy), seed=0)
    return float(run.cached_tokens.sum() / requests.prompt_tokens.sum()), float(np.mean(run.ttft_s))


async def _live(requests: Requests, policy: str) -> list[Seen]:
    spec = Endpoint(name=NAME, model="m", engine="emulated", routing=policy, slots=SETTINGS.slots)
    async with asyncio.timeout(PATIENCE_S), engines(SETTINGS) as started, fleet(spec, started) as on:
        await on.ask("warm", 1, 1, tier="interactive")
        begin_s = time.monotonic()
        sending: list[asyncio.Task[Seen]] = []
        for number in range(len(requests)):
            await asyncio.sleep(max(begin_s + SCALE * float(requests.arrival_s[number]) - time.monotonic(), 0.0))
            sending.append(asyncio.create_task(_send(on, requests, number)))
        return list(await asyncio.gather(*sending))


async def _send(on: Bench, requests: Requests, number: int) -> Seen:
    tokens, output = int(requests.prompt_tokens[number]), int(requests.output_tokens[number])
    return await on.ask(_text(requests, number), tokens, output, tier="interactive")


def _text(requests: Requests, number: int) -> str:
    """Return a prompt whose blocks are equal where the trace's are: a word is a token of the emulated engine."""
    start, stop = requests.block_offset[number], requests.block_offset[number + 1]
    whole = "".join(f" {block:06d}" * BLOCK for block in requests.block_id[start:stop].tolist())
    left = int(requests.prompt_tokens[number]) - int(stop - start) * BLOCK
    return whole + "".join(f" r{number:04d}" for _ in range(left))


def _hit_rate(run: list[Seen]) -> float:
    return sum(seen.cached_tokens for seen in run) / max(sum(seen.prompt_tokens for seen in run), 1)
