"""What users saw and what it took: the figures of a simulated or measured run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """Mean and percentiles of one latency; NaN where nothing was measured."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


def latencies_of(values: NDArray[np.float64]) -> Latencies:
    """Summarise finite values."""
    values = values[np.isfinite(values)]
    if not len(values):
        return Latencies(mean=np.nan, p50=np.nan, p90=np.nan, p95=np.nan, p99=np.nan)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(values, (50, 90, 95, 99)))
    return Latencies(mean=float(values.mean()), p50=p50, p90=p90, p95=p95, p99=p99)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingReport:
    """Figures of one run.

    Parameters
    ----------
    requests, finished, refused, preemptions
        Counts.
    duration_s
        From the first arrival to the last finish.
    ttft_s, tpot_s, itl_s, e2e_s, queue_s
        Seconds: to the first token, for each further token, between tokens as sent, to the last one, and waiting before work began.
    goodput_rps, slo_attained
        Requests a second, and the part of all requests, that kept every promise of the SLO.
    prompt_tokens, output_tokens, cached_tokens
        Tokens computed in prefill, sent, and found in a prefix cache.
    busy_prefill, busy_decode
        Parts of instance time spent in iterations, split by the tokens of each phase.
    cache_used_mean, cache_used_max
        Part of KV blocks in use.
    energy_j, device_s, usd, usd_per_million_tokens
        Of all devices over the run; the last one for each million tokens, prompt and output.
    """

    requests: int
    finished: int
    refused: int
    preemptions: int
    duration_s: float
    ttft_s: Latencies
    tpot_s: Latencies
    itl_s: Latencies
    e2e_s: Latencies
    queue_s: Latencies
    goodput_rps: float
    slo_attained: float
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    busy_prefill: float
    busy_decode: float
    cache_used_mean: float
    cache_used_max: float
    energy_j: float
    device_s: float
    usd: float
    usd_per_million_tokens: float
