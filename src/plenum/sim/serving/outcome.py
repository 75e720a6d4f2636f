"""What a simulated run came to: arrays for each request and each instance, and the report that they add up to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plenum.serving.pools import Pool
from plenum.serving.report import Latencies, ServingReport, latencies_of
from plenum.serving.steps import AT as COEFFICIENT
from plenum.serving.workload import Requests, Slo
from plenum.sim.serving import fields as f
from plenum.sim.serving.world import World


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Instances:
    """Figures of N instances.

    Parameters
    ----------
    pool
        (N,) index of the pool of each.
    on_s
        (N,) seconds that it was up, starting or being emptied.
    busy_prefill_s, busy_decode_s
        (N,) seconds of iterations, each split by the tokens of the two phases.
    energy_j
        (N,) joules: of iterations, and of idling while it was on.
    cache_used_mean, cache_used_max
        (N,) part of KV blocks that requests held, over the time that it was on.
    prefill_tokens, decode_tokens, iterations
        (N,) prompt tokens computed (those computed anew included), sequences decoded summed over iterations, iterations.
    """

    pool: NDArray[np.int64]
    on_s: NDArray[np.float64]
    busy_prefill_s: NDArray[np.float64]
    busy_decode_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    cache_used_mean: NDArray[np.float64]
    cache_used_max: NDArray[np.float64]
    prefill_tokens: NDArray[np.int64]
    decode_tokens: NDArray[np.int64]
    iterations: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What became of R requests. Times are in seconds; NaN: it did not come to that.

    Parameters
    ----------
    requests, pools
        What was simulated.
    ready_s
        (R,) when each arrived: for a follower, the end of the one before it and the pause.
    ttft_s, tpot_s
        (R,) from there to the first token, and the mean gap to each further one (NaN where there is none).
    finish_s
        (R,) when the engine was done with it, or it was refused.
    request_s
        (R,) that it spent outside the engine besides (HTTP, tokenising): part of ``ttft_s``, not of ``finish_s``.
    queue_s
        (R,) from arrival until work on it began.
    transfer_s
        (R,) that it waited for its cache to cross to where it decodes.
    cached_tokens, output_tokens
        (R,) prompt tokens found in a cache, and tokens put out.
    instance
        (R,) where it was done, or last was; -1: nowhere.
    reason
        (R,) why it was refused, as an index into :data:`plenum.sim.serving.fields.REASONS`; 0: it was not.
    preemptions
        (R,) how often it had to start over or was swapped out.
    verdict, why
        (R,) what admission said last, as indices into :data:`plenum.serving.admission.VERDICTS` and
        :data:`plenum.serving.admission.REASONS`; -1: it was not asked.
    model
        (R,) that answered, or would have: another one than asked for where admission offered a cheaper one.
    instances
        Figures of each instance.
    gap_counts
        (N, bins) int64: histogram of gaps between tokens; ``gap_edges_s`` (bins + 1,) are the edges of its bins.
    gap_sum_s
        Sum of all gaps.
    area_s
        Integral of requests in the system over time: Little's law says that it is the sum of their times in the system.
    end_s
        When the run ended: at the last finish, or later where instances were still being watched.
    work
        Iterations and events.
    """

    requests: Requests
    pools: tuple[Pool, ...]
    ready_s: NDArray[np.float64]
    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    request_s: NDArray[np.float64]
    queue_s: NDArray[np.float64]
    transfer_s: NDArray[np.float64]
    cached_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    instance: NDArray[np.int64]
    reason: NDArray[np.int64]
    preemptions: NDArray[np.int64]
    verdict: NDArray[np.int64]
    why: NDArray[np.int64]
    model: NDArray[np.int64]
    instances: Instances
    gap_counts: NDArray[np.int64]
    gap_edges_s: NDArray[np.float64]
    gap_sum_s: float
    area_s: float
    end_s: float
    work: int

    @property
    def finished(self) -> NDArray[np.bool_]:
        """(R,) whether each was answered to its end."""
        return (self.reason == 0) & np.isfinite(self.finish_s)

    @property
    def e2e_s(self) -> NDArray[np.float64]:
        """(R,) seconds from arrival to the last token."""
        return self.finish_s - self.ready_s + self.request_s

    @property
    def duration_s(self) -> float:
        """Seconds from the first arrival to the last finish; 0 where nothing was asked."""
        if not len(self.ready_s):
            return 0.0
        return float(np.nanmax(self.finish_s) - np.nanmin(self.ready_s))

    def kept(self, slo: Slo) -> NDArray[np.bool_]:
        """(R,) whether each was answered with every promise kept."""
        slow = (self.ttft_s > slo.ttft_s) | (self.tpot_s > slo.tpot_s) | (self.e2e_s > slo.e2e_s)
        return self.finished & ~slow

    def report(self, slo: Slo | None = None, after_s: float = 0.0) -> ServingReport:
        """Sum the run up.

        Parameters
        ----------
        slo
            What was promised; None: nothing.
        after_s
            Latencies and the part that kept the promises are of requests that arrived at this time of the run or later, so that a
            service which is still filling up does not flatter; gaps between tokens, counts, rates and costs are of the whole run.
        """
        each, finished, duration_s = self.instances, self.finished, self.duration_s
        keeps, late = self.kept(slo or Slo()), ~(self.ready_s < after_s)
        kept, counted = int(np.count_nonzero(keeps)), int(np.count_nonzero(late))
        devices = np.array([pool.instance.devices for pool in self.pools], np.float64)[each.pool]
        prices = np.array([pool.instance.hardware.usd_per_hour for pool in self.pools])[each.pool]
        on_s = float(each.on_s.sum())
        usd = float((each.on_s * devices * prices).sum() / 3600)
        prompts = int(self.requests.prompt_tokens[finished].sum(dtype=np.int64))
        tokens = prompts + int(self.output_tokens.sum())
        return ServingReport(
            requests=len(self.requests),
            finished=int(np.count_nonzero(finished)),
            refused=int(np.count_nonzero(self.reason)),
            preemptions=int(self.preemptions.sum()),
            duration_s=duration_s,
            ttft_s=latencies_of(self.ttft_s[late]),
            tpot_s=latencies_of(self.tpot_s[late]),
            itl_s=_gap_latencies(self),
            e2e_s=latencies_of(self.e2e_s[finished & late]),
            queue_s=latencies_of(self.queue_s[late]),
            goodput_rps=kept / duration_s if duration_s > 0 else 0.0,
            slo_attained=int(np.count_nonzero(keeps & late)) / counted if counted else 1.0,
            prompt_tokens=int(each.prefill_tokens.sum()),
            output_tokens=int(self.output_tokens.sum()),
            cached_tokens=int(self.cached_tokens.sum()),
            busy_prefill=float(each.busy_prefill_s.sum()) / on_s if on_s > 0 else 0.0,
            busy_decode=float(each.busy_decode_s.sum()) / on_s if on_s > 0 else 0.0,
            cache_used_mean=float((each.cache_used_mean * each.on_s).sum()) / on_s if on_s > 0 else 0.0,
            cache_used_max=float(each.cache_used_max.max(initial=0.0)),
            energy_j=float(each.energy_j.sum()),
            device_s=float((each.on_s * devices).sum()),
            usd=usd,
            usd_per_million_tokens=usd / tokens * 1e6 if tokens else float("nan"),
        )


def outcome_of(w: World, requests: Requests, pools: tuple[Pool, ...]) -> Outcome:
    """Read the outcome off the state of a run that is over."""
    end_s = float(w.clock[f.NOW])
    first, finished, ready = w.rf[:, f.FIRST], w.rf[:, f.FINISHED], w.rf[:, f.READY]
    generated = w.ri[:, f.GENERATED]
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot = np.where(generated > 1, (finished - first) / (generated - 1), np.nan)
    answered = w.ri[:, f.STATE] != f.REFUSED
    request_s = w.steps[w.ri[:, f.AT], COEFFICIENT["request_s"]]
    return Outcome(
        requests=requests,
        pools=pools,
        ready_s=ready.copy(),
        ttft_s=first - ready + request_s,
        tpot_s=np.where(answered, tpot, np.nan),
        finish_s=finished.copy(),
        request_s=request_s,
        queue_s=w.rf[:, f.STARTED_AT] - ready,
        transfer_s=w.rf[:, f.CROSSING_S].copy(),
        cached_tokens=w.ri[:, f.CACHED].copy(),
        output_tokens=generated.copy(),
        instance=w.ri[:, f.AT].copy(),
        reason=w.ri[:, f.REASON].copy(),
        preemptions=w.ri[:, f.PREEMPTED].copy(),
        verdict=w.ri[:, f.VERDICT].copy(),
        why=w.ri[:, f.WHY].copy(),
        model=w.ri[:, f.ASKED].copy(),
        instances=_instances_of(w, end_s),
        gap_counts=w.tally[:, : f.BINS].copy(),
        gap_edges_s=f.BIN_LEAST_S * np.exp(np.arange(f.BINS + 1) / f.BINS_PER_E),
        gap_sum_s=float(w.nf[f.ITL_SUM].sum()),
        area_s=float(w.clock[f.AREA]),
        end_s=end_s,
        work=int(w.count[f.WORK]),
    )


def _instances_of(w: World, end_s: float) -> Instances:
    on = np.isin(w.ni[f.CONDITION], (f.STARTING, f.UP, f.DRAINING))
    on_s = w.nf[f.ON_S] + np.where(on, end_s - w.nf[f.ON_SINCE], 0.0)
    held = w.ni[f.USED] + w.ni[f.PINNED] * w.ni[f.COST]
    occupied = w.nf[f.OCCUPIED] + held * np.where(on, end_s - w.nf[f.COUNTED_TO], 0.0)
    busy = w.nf[f.BUSY_PREFILL] + w.nf[f.BUSY_DECODE]
    blocks = w.ni[f.BLOCKS]
    return Instances(
        pool=w.ni[f.POOL].copy(),
        on_s=on_s,
        busy_prefill_s=w.nf[f.BUSY_PREFILL].copy(),
        busy_decode_s=w.nf[f.BUSY_DECODE].copy(),
        energy_j=w.nf[f.ENERGY] + np.maximum(on_s - busy, 0.0) * w.steps[:, COEFFICIENT["idle_w"]],
        cache_used_mean=np.divide(occupied, blocks * on_s, out=np.zeros_like(on_s), where=on_s > 0),
        cache_used_max=w.ni[f.PEAK] / blocks,
        prefill_tokens=w.ni[f.PREFILL_TOKENS].copy(),
        decode_tokens=w.ni[f.DECODE_TOKENS].copy(),
        iterations=w.ni[f.ITERATIONS].copy(),
    )


def _gap_latencies(outcome: Outcome) -> Latencies:
    """Percentiles of gaps between tokens, from their histogram: to the middle of a bin 2 % wide; the mean is exact."""
    counts = outcome.gap_counts.sum(axis=0)
    total = int(counts.sum())
    if not total:
        return latencies_of(np.zeros(0))
    middles = np.sqrt(outcome.gap_edges_s[:-1] * outcome.gap_edges_s[1:])
    places = np.searchsorted(np.cumsum(counts), np.array([0.5, 0.9, 0.95, 0.99]) * total)
    p50, p90, p95, p99 = (float(middles[min(place, len(middles) - 1)]) for place in places)
    return Latencies(mean=outcome.gap_sum_s / total, p50=p50, p90=p90, p95=p95, p99=p99)
