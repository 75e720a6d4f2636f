"""Three times as much as can be done: who is served, who waits, who is refused and told why, and how soon it is over.

Four emulated replicas behind the gateway's dispatcher. What they can do is measured first, then arrivals at random: calm, three times that
(two parts interactive, one part batch), calm again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.emulated_fleet import NAME, REPLICAS, Bench, Seen, engines, fleet
from benchmarks.findings import Finding, Target, at_least, below
from plenum.adapters.engines.emulated import Settings
from plenum.model.endpoint import Endpoint, Promise

SLOTS = 8
SETTINGS = Settings(host="127.0.0.1", port=0, model="llama-3.1-70b", hardware="A100", tensor=4, slots=SLOTS)
PROMISE = Promise(ttft_s=1.5, tpot_s=0.1)
PROMPT_TOKENS, OUTPUT_TOKENS = 400, 40
CAPACITY_S, CALM_S, RUSH_S, AFTER_S = 10.0, 8.0, 20.0, 15.0
CALM, INTERACTIVE, BATCH = 0.4, 2.0, 1.0
"""Of what can be done: before and after; and during the rush, together three times it."""

RECOVERED_S = 5.0
PATIENCE_S = 150.0


@dataclass(frozen=True, slots=True)
class Run:
    """Requests and when the phases began, by the same clock; what can be done, in requests a second."""

    seen: list[Seen]
    rush_s: float
    after_s: float
    over_s: float
    capacity_rps: float


def bench() -> Iterator[Finding]:
    """Run it once; about a minute and a half."""
    run = asyncio.run(_run())
    name = f"{REPLICAS} emulated replicas of Llama-3.1-70B on 4 A100, {SLOTS} places each"
    yield Finding(
        bench=name, what="what they can do, all places taken", value=run.capacity_rps, unit="requests/s",
        note=f"{PROMPT_TOKENS} prompt tokens, {OUTPUT_TOKENS} of output",
    )  # fmt: skip
    rush = [seen for seen in run.seen if run.rush_s <= seen.sent_s < run.after_s]
    served = [seen for seen in rush if seen.tier == "interactive" and not seen.refused]
    offered = len(rush) / (run.after_s - run.rush_s) / run.capacity_rps
    ttft, tpot = np.array([seen.first_s for seen in served]), np.array([seen.tpot_s for seen in served])
    calm = np.array([s.first_s for s in run.seen if s.sent_s < run.rush_s and not s.refused])
    yield Finding(
        bench=name, what=f"interactive TTFT p99 under {offered:.1f}x", value=float(np.percentile(ttft, 99)), unit="s",
        baseline=f"calm: {np.percentile(calm, 99):.2f} s", target=below(PROMISE.ttft_s, "s", float(np.percentile(ttft, 99))),
        note=f"{len(served)} served",
    )  # fmt: skip
    yield Finding(
        bench=name, what=f"interactive time per token p99 under {offered:.1f}x", value=1e3 * float(np.percentile(tpot, 99)),
        unit="ms", target=below(1e3 * PROMISE.tpot_s, "ms", 1e3 * float(np.percentile(tpot, 99))),
    )  # fmt: skip
    yield from _goodput(name, run, rush)
    yield from _others(name, run, rush)


def _goodput(name: str, run: Run, rush: list[Seen]) -> Iterator[Finding]:
    good = [
        seen.sent_s + seen.end_s
        for seen in run.seen
        if not seen.refused
        and (seen.tier == "batch" or (seen.first_s <= PROMISE.ttft_s and seen.tpot_s <= PROMISE.tpot_s))
    ]
    rate = sum(run.rush_s + 3 <= at < run.after_s for at in good) / (run.after_s - run.rush_s - 3)
    yield Finding(
        bench=name, what="goodput while it lasts", value=rate, unit="requests/s",
        baseline=f"can be done: {run.capacity_rps:.1f}", ratio=rate / run.capacity_rps,
        target=at_least(0.8, "x", rate / run.capacity_rps), note="within the promise, batch counted",
    )  # fmt: skip


def _others(name: str, run: Run, rush: list[Seen]) -> Iterator[Finding]:
    refused = [seen for seen in run.seen if seen.refused]
    told = sum(seen.retry_after_s >= 1 for seen in refused)
    reasons = ", ".join(f"{code} {count}" for code, count in Counter(s.refused for s in refused).most_common())
    yield Finding(
        bench=name, what="refused with a reason and Retry-After", value=100 * told / max(len(refused), 1), unit="%",
        target=at_least(100, "%", 100 * told / max(len(refused), 1)), note=f"{len(refused)}: {reasons}",
    )  # fmt: skip
    batch = [seen for seen in rush if seen.tier == "batch"]
    done = [seen for seen in batch if not seen.refused]
    early = sum(seen.sent_s + seen.end_s < run.after_s for seen in done)
    yield Finding(
        bench=name, what="batch: done while it lasts, of all that came", value=100 * early / max(len(batch), 1), unit="%",
        note=f"{len(done)} of {len(batch)} done by the end; {dict(Counter(seen.verdict for seen in batch))}",
        target=Target(words="none lost", met=len(done) == len(batch)),
    )  # fmt: skip
    after = sorted((s for s in run.seen if s.tier == "interactive" and s.sent_s >= run.after_s), key=lambda s: s.sent_s)
    bad = [s.sent_s - run.after_s for s in after if s.refused or s.first_s > PROMISE.ttft_s]
    yield Finding(
        bench=name, what="last interactive request refused or late after it ended", value=max(bad, default=0.0), unit="s",
        target=below(RECOVERED_S, "s", max(bad, default=0.0)), note=f"{len(bad)} of {len(after)}",
    )  # fmt: skip
    last = max((s.sent_s + s.end_s - run.after_s for s in done), default=0.0)
    yield Finding(bench=name, what="last batch request done after it ended", value=last, unit="s")


async def _run() -> Run:
    rng = np.random.default_rng(5)
    spec = Endpoint(
        name=NAME, model="m", engine="emulated", routing="least-loaded", slots=SLOTS, promise=PROMISE,
        timing_model=SETTINGS.model, timing_hardware=SETTINGS.hardware,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE_S), engines(SETTINGS) as started:
        async with fleet(Endpoint(name=NAME, model="m", engine="emulated", slots=SLOTS), started) as on:
            capacity = await _capacity(on, rng)
        async with fleet(spec, started) as on:
            sending: list[asyncio.Task[Seen]] = []
            await _phase(on, sending, {"interactive": CALM * capacity}, CALM_S, rng)
            rush_s = time.monotonic()
            await _phase(on, sending, {"interactive": INTERACTIVE * capacity, "batch": BATCH * capacity}, RUSH_S, rng)
            after_s = time.monotonic()
            await _phase(on, sending, {"interactive": CALM * capacity}, AFTER_S, rng)
            over_s = time.monotonic()
            seen = list(await asyncio.gather(*sending))
    return Run(seen, rush_s, after_s, over_s, capacity)


async def _capacity(on: Bench, rng: np.random.Generator) -> float:
    """Keep every place taken for a while; requests a second that end."""
    ended: list[float] = []
    stop_s = time.monotonic() + CAPACITY_S

    async def keep() -> None:
        while time.monotonic() < stop_s:
            await on.ask(_text(rng), PROMPT_TOKENS, _output(rng), tier="interactive")
            ended.append(time.monotonic())

    await asyncio.gather(*(keep() for _ in range(REPLICAS * SLOTS)))
    later = [at for at in ended if stop_s - CAPACITY_S + 2 <= at < stop_s]
    return len(later) / (CAPACITY_S - 2)


async def _phase(
    on: Bench, sending: list[asyncio.Task[Seen]], rates: dict[str, float], seconds: float, rng: np.random.Generator
) -> None:
    """Send requests at random times, whatever becomes of those before."""
    arrivals = sorted(
        (float(at), tier) for tier, rate in rates.items() for at in rng.uniform(0, seconds, rng.poisson(rate * seconds))
    )
    begin_s = time.monotonic()
    for at_s, tier in arrivals:
        await asyncio.sleep(max(begin_s + at_s - time.monotonic(), 0.0))
        text, output = _text(rng), _output(rng)
        sending.append(
            asyncio.create_task(on.ask(text, PROMPT_TOKENS, output, tier=tier, tenant=f"t{len(sending) % 3}"))
        )
    await asyncio.sleep(max(begin_s + seconds - time.monotonic(), 0.0))


def _text(rng: np.random.Generator) -> str:
    return f" {int(rng.integers(1_000_000)):06d}" * PROMPT_TOKENS


def _output(rng: np.random.Generator) -> int:
    return int(rng.integers(OUTPUT_TOKENS // 2, OUTPUT_TOKENS * 3 // 2))
