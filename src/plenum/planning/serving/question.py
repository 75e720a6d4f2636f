"""What is asked of the planner: a model, hardware to choose from, traffic, and what is promised for it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from plenum.serving.architecture import Architecture
from plenum.serving.hardware import Accelerator
from plenum.serving.workload import Requests, Slo


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """Devices of one kind that may be used; ``count`` 0: as many as it takes."""

    hardware: Accelerator
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests as a few figures.

    Parameters
    ----------
    rps
        Requests a second; 0: as many as can be served.
    prompt_tokens, output_tokens
        Means; ``prompt_tail`` and ``output_tail`` are the percentiles that are promised for.
    prompt_spread
        Coefficient of variation of the prompts.
    found_tokens
        Tokens of a prompt that a prefix cache holds, on average.
    longest_tokens
        Prompt and answer of the longest request.
    burst2
        Square of the coefficient of variation of the times between arrivals; 1: Poisson.
    """

    rps: float = 0.0
    prompt_tokens: float
    output_tokens: float
    prompt_tail: float
    output_tail: float
    prompt_spread: float = 0.0
    found_tokens: float = 0.0
    longest_tokens: float
    burst2: float = 1.0


def steady_traffic(rps: float, prompt_tokens: float, output_tokens: float, *, found_tokens: float = 0.0) -> Traffic:
    """Return Poisson traffic of equal requests."""
    return Traffic(
        rps=rps,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        prompt_tail=prompt_tokens,
        output_tail=output_tokens,
        found_tokens=found_tokens,
        longest_tokens=prompt_tokens + output_tokens,
    )


MAX_BURST2 = 25.0
"""Beyond it arrivals are no renewal process but waves, which the simulator must judge."""


def traffic_of(requests: Requests, *, found_tokens: float = 0.0, percentile: float = 99.0) -> Traffic:
    """Sum up a trace of at least two requests; tails are of ``percentile``."""
    prompts, outputs = requests.prompt_tokens.astype(np.float64), requests.output_tokens.astype(np.float64)
    span_s = float(requests.arrival_s[-1] - requests.arrival_s[0])
    gaps = np.diff(requests.arrival_s)
    burst2 = float(gaps.var() / gaps.mean() ** 2) if len(gaps) and gaps.mean() > 0 else 1.0
    return Traffic(
        rps=(len(requests) - 1) / span_s if span_s > 0 else 0.0,
        prompt_tokens=float(prompts.mean()),
        output_tokens=float(outputs.mean()),
        prompt_tail=float(np.percentile(prompts, percentile)),
        output_tail=float(np.percentile(outputs, percentile)),
        prompt_spread=float(prompts.std() / prompts.mean()),
        found_tokens=found_tokens,
        longest_tokens=float((prompts + outputs).max()),
        burst2=min(max(burst2, 1.0), MAX_BURST2),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A planner's question.

    Parameters
    ----------
    stocks
        Hardware to choose from. Where every count is given and ``traffic.rps`` is 0, the most requests a second are sought; where a
        rate is given, the cheapest devices that serve it.
    slo
        What is promised.
    engine
        Chooses the calibration and the launch lines.
    weights, caches
        Names of formats that weights and KV cache may be held in, best liked first.
    usd_per_hour
        Most that the devices may cost an hour; infinity: no matter.
    disaggregated
        True: only with prefill and decode apart; False: only together; None: whichever is better.
    pipelines
        Try pipeline stages even where the model fits without: nothing that was measured says how well they do.
    """

    model: Architecture
    stocks: tuple[Stock, ...]
    traffic: Traffic
    slo: Slo = field(default_factory=Slo)
    engine: str = "vllm"
    weights: tuple[str, ...] = ("bf16",)
    caches: tuple[str, ...] = ("bf16",)
    usd_per_hour: float = float("inf")
    disaggregated: bool | None = None
    pipelines: bool = False
