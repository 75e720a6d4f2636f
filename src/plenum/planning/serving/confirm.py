"""Finalists are simulated by whoever asks; what fails is loaded less or made larger, a bounded number of times."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from plenum.planning.serving.layout import Layout, PoolChoice, serving_of
from plenum.planning.serving.search import Candidate, Search, preference
from plenum.serving.pools import Serving
from plenum.serving.report import Latencies, ServingReport
from plenum.serving.workload import Slo

MAX_FINALISTS = 3
MAX_ROUNDS = 6
"""Simulations of one finalist at most, to find what it bears; never more than the analytic model says, so that both agree."""

MAX_SIMULATIONS = 10
"""Of all finalists together."""

CLOSE = 0.04
"""What a finalist bears is found to within this part."""

STEP_DOWN = 0.93
"""At least so much less is tried after a run that broke a promise."""

REPLAYS = (1.0, 1.3)
"""Times the traffic that a plan is replayed at in the end."""


class Verify(Protocol):
    """A simulator of serving."""

    def __call__(self, serving: Serving, rate_rps: float) -> ServingReport:
        """Send the question's traffic at ``rate_rps`` to ``serving`` and report what users saw."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One simulated run: ``times`` the planned rate, and whether every promise was kept."""

    times: float
    rate_rps: float
    report: ServingReport
    keeps: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Confirmed:
    """A finalist and what the simulator says of it.

    Parameters
    ----------
    rate_rps
        Requests a second at which it kept every promise; where none of its runs did, the lowest that was tried.
    replays
        In the order they were run.
    """

    candidate: Candidate
    rate_rps: float
    replays: tuple[Replay, ...]

    @property
    def keeps(self) -> bool:
        """Whether any run kept every promise."""
        return any(replay.keeps for replay in self.replays)


def at_percentile(latencies: Latencies, percentile: float) -> float:
    """Return a percentile of a report: of those that it holds the next one up."""
    for limit, value in ((50.0, latencies.p50), (90.0, latencies.p90), (95.0, latencies.p95)):
        if percentile <= limit:
            return value
    return latencies.p99


def keeps(report: ServingReport, slo: Slo) -> bool:
    """Tell whether a run kept every promise, and finished all it was sent."""
    return (
        report.finished == report.requests
        and not at_percentile(report.ttft_s, slo.percentile) > slo.ttft_s
        and not at_percentile(report.tpot_s, slo.percentile) > slo.tpot_s
        and not at_percentile(report.e2e_s, slo.percentile) > slo.e2e_s
    )


def finalists_of(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the best candidates, the best of the other mode (apart or together) among them."""
    if not candidates:
        return []
    first = candidates[0]
    other = next((c for c in candidates if c.layout.disaggregated != first.layout.disaggregated), None)
    chosen = [first, *([other] if other else [])]
    chosen += [c for c in candidates[1:] if c is not other][: MAX_FINALISTS - len(chosen)]
    return chosen


def confirm_most(state: Search, finalists: Sequence[Candidate], verify: Verify) -> list[Confirmed]:
    """Return what each finalist bears in simulation, best first, and last those that broke a promise in every run."""
    found: list[Confirmed] = []
    for candidate in finalists:
        best = max((c.rate_rps for c in found if c.keeps), default=0.0)
        if candidate.capacity_rps <= best:
            continue
        replays = list(_climb(state, candidate, verify, best))
        kept = [replay.rate_rps for replay in replays if replay.keeps]
        rate = max(kept) if kept else min(replay.rate_rps for replay in replays)
        found.append(Confirmed(candidate=candidate, rate_rps=rate, replays=tuple(replays)))
    return sorted(found, key=lambda c: (not c.keeps, -c.rate_rps))


def _climb(state: Search, candidate: Candidate, verify: Verify, best: float) -> Iterator[Replay]:
    """Yield runs that close in on the most that a finalist bears."""
    low, high, rate = 0.0, float("inf"), candidate.capacity_rps
    for failures in range(MAX_ROUNDS):
        replay = _run(state, candidate.layout, rate, candidate.capacity_rps, verify)
        yield replay
        if replay.keeps:
            low = rate
        else:
            high = rate
        if high == float("inf") or high < best or (low > 0 and high / low - 1 < CLOSE):
            return
        lower = high * min(STEP_DOWN, max(_relief(replay.report, state.question.slo), 0.6))
        lower *= STEP_DOWN ** (2 * failures)  # tails of traces give way late: larger steps the longer it takes
        rate = 0.5 * (low + high) if low > 0.0 else lower


def _relief(report: ServingReport, slo: Slo) -> float:
    """Return by what to multiply a rate that broke a promise: the more it was broken the less, with half of the excess."""
    excess = max(
        at_percentile(report.ttft_s, slo.percentile) / slo.ttft_s,
        at_percentile(report.tpot_s, slo.percentile) / slo.tpot_s,
        at_percentile(report.e2e_s, slo.percentile) / slo.e2e_s,
        1.0,
    )
    return 1.0 / (1.0 + 0.5 * (excess - 1.0))


def _run(state: Search, layout: Layout, rate: float, planned: float, verify: Verify) -> Replay:
    report = verify(serving_of(layout, state.figures(layout, rate)), rate)
    return Replay(times=rate / planned, rate_rps=rate, report=report, keeps=keeps(report, state.question.slo))


def confirm_rate(state: Search, finalists: Sequence[Candidate], verify: Verify) -> list[Confirmed]:
    """Return the cheapest finalist that keeps every promise at the asked rate, then those that were tried before it and broke one.

    A finalist that fails comes back with one more instance of what fell short, in its place by price.
    """
    rate = state.question.traffic.rps
    waiting = [(preference(state.question, c), index, c) for index, c in enumerate(finalists)]
    heapq.heapify(waiting)
    serial = len(waiting)
    failed: list[Confirmed] = []
    for _ in range(MAX_SIMULATIONS):
        if not waiting:
            break
        _, _, candidate = heapq.heappop(waiting)
        replay = _run(state, candidate.layout, rate, rate, verify)
        tried = Confirmed(candidate=candidate, rate_rps=rate, replays=(replay,))
        if replay.keeps:
            return [tried, *failed]
        failed.append(tried)
        for grown in _grown(state, candidate.layout, replay.report):
            heapq.heappush(waiting, (preference(state.question, grown), serial, grown))
            serial += 1
    return failed


def _grown(state: Search, layout: Layout, report: ServingReport) -> Iterator[Candidate]:
    """Yield the layout with one more instance where it fell short, if stock and budget allow."""
    slo, rate = state.question.slo, state.question.traffic.rps
    slow_start = at_percentile(report.ttft_s, slo.percentile) > slo.ttft_s
    slow_tokens = at_percentile(report.tpot_s, slo.percentile) > slo.tpot_s
    short = (
        {"both"} | ({"prefill"} if slow_start or not slow_tokens else set()) | ({"decode"} if slow_tokens else set())
    )
    for index, pool in enumerate(layout.pools):
        if pool.role not in short:
            continue
        pools = tuple(replace(p, count=p.count + (i == index)) for i, p in enumerate(layout.pools))
        grown = Layout(pools=_reshared(pools))
        if state.allows(grown) and (candidate := state.candidate(grown, rate)):
            yield candidate


def _reshared(pools: tuple[PoolChoice, ...]) -> tuple[PoolChoice, ...]:
    """Give each pool of a role requests in proportion to its devices."""
    shared = []
    for pool in pools:
        same = [p for p in pools if p.role == pool.role]
        total = sum(p.count * p.option.devices for p in same)
        shared.append(replace(pool, share=pool.count * pool.option.devices / total))
    return tuple(shared)


def replays_of(
    state: Search, layout: Layout, rate: float, verify: Verify, known: Sequence[Replay]
) -> tuple[Replay, ...]:
    """Return the planned traffic replayed at 1x and 1.3x; runs that are known are not run again."""
    found: list[Replay] = []
    limits = state.figures(layout, rate)
    for times in REPLAYS:
        at = next((r for r in known if abs(r.rate_rps / (rate * times) - 1) < 1e-9), None)
        report = at.report if at else verify(serving_of(layout, limits), rate * times)
        found.append(Replay(times=times, rate_rps=rate * times, report=report, keeps=keeps(report, state.question.slo)))
    return tuple(found)
