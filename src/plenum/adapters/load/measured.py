"""What came back when, as arrays, and its figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plenum.serving.report import Latencies, latencies_of
from plenum.serving.workload import Slo

RESAMPLES = 1_000
COVERAGE = 0.9


@dataclass(slots=True, kw_only=True)
class Sample:
    """One request. Times are seconds from the start of the run; NaN: it did not come so far.

    Parameters
    ----------
    due_s, sent_s
        When it should have been sent, and was; every latency counts from the first, so that a late sender hides nothing.
    first_s, last_s
        When the first and the last token came.
    gaps_s
        Between chunks with text.
    reason
        Why it was not served; empty: it was.
    """

    due_s: float
    asked_prompt_tokens: int
    asked_output_tokens: int
    sent_s: float = np.nan
    first_s: float = np.nan
    last_s: float = np.nan
    gaps_s: Sequence[float] = ()
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """N requests of one run, by when they were due.

    Parameters
    ----------
    due_s, late_s, ttft_s, tpot_s, e2e_s
        (N,) float64 seconds; NaN where it was not measured. ``late_s`` is how long after its time the sender sent it.
    itl_s
        (M,) float64: gaps between the chunks of all requests.
    prompt_tokens, cached_tokens, output_tokens, asked_prompt_tokens, asked_output_tokens
        (N,) int64.
    reasons
        (N,): why it was not served; empty: it was.
    said
        Reason to a sentence about it.
    """

    due_s: NDArray[np.float64]
    late_s: NDArray[np.float64]
    ttft_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    e2e_s: NDArray[np.float64]
    itl_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    cached_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    asked_prompt_tokens: NDArray[np.int64]
    asked_output_tokens: NDArray[np.int64]
    reasons: tuple[str, ...]
    said: dict[str, str]

    def __len__(self) -> int:
        return len(self.due_s)

    @property
    def served(self) -> NDArray[np.bool_]:
        """(N,) bool: which were."""
        return np.array([not reason for reason in self.reasons], dtype=np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Figures of one run.

    Parameters
    ----------
    ttft_between_s, tpot_between_s
        Interval of the mean that holds with a chance of 90 % (bootstrap over requests).
    goodput_rps, slo_attained
        Requests a second, and the part of all, that kept every promise; one that was not served kept none. NaN: nothing was promised.
    in_flight
        On average.
    late_s
        The sender's own lateness, 99th percentile: above some milliseconds it is the sender that was measured.
    """

    requests: int
    served: int
    refused: dict[str, int]
    said: dict[str, str]
    span_s: float
    offered_rps: float
    served_rps: float
    output_tokens_per_s: float
    goodput_rps: float
    slo_attained: float
    in_flight: float
    late_s: float
    ttft_s: Latencies
    tpot_s: Latencies
    itl_s: Latencies
    e2e_s: Latencies
    ttft_between_s: tuple[float, float]
    tpot_between_s: tuple[float, float]
    isl: float
    osl: float
    cached: float
    asked_isl: float
    asked_osl: float
    exact_prompts: float


def measured_of(samples: Sequence[Sample], said: dict[str, str]) -> Measured:
    """Put samples into arrays; ``said`` is what servers said of each reason."""

    def seconds(name: str) -> NDArray[np.float64]:
        return np.array([getattr(sample, name) for sample in samples], dtype=np.float64)

    def tokens(name: str) -> NDArray[np.int64]:
        return np.array([getattr(sample, name) for sample in samples], dtype=np.int64)

    due, first, last = seconds("due_s"), seconds("first_s"), seconds("last_s")
    output = tokens("output_tokens")
    reasons = tuple(sample.reason for sample in samples)
    served = np.array([not reason for reason in reasons], dtype=np.bool_)
    return Measured(
        due_s=due,
        late_s=seconds("sent_s") - due,
        ttft_s=np.where(served, first - due, np.nan),
        tpot_s=np.where(served & (output > 1), (last - first) / np.maximum(output - 1, 1), np.nan),
        e2e_s=np.where(served, last - due, np.nan),
        itl_s=np.array([gap for sample in samples if not sample.reason for gap in sample.gaps_s], dtype=float),
        prompt_tokens=tokens("prompt_tokens"),
        cached_tokens=tokens("cached_tokens"),
        output_tokens=output,
        asked_prompt_tokens=tokens("asked_prompt_tokens"),
        asked_output_tokens=tokens("asked_output_tokens"),
        reasons=reasons,
        said={reason: said[reason] for reason in dict.fromkeys(reasons) if said.get(reason)},
    )


def summarise(run: Measured, slo: Slo) -> Summary:
    """Return the figures of a run; of requests that were not served, only that they were not."""
    served, is_promised = run.served, min(slo.ttft_s, slo.tpot_s, slo.e2e_s) < np.inf
    kept = served & (run.ttft_s <= slo.ttft_s) & (run.e2e_s <= slo.e2e_s)
    kept &= np.isnan(run.tpot_s) | (run.tpot_s <= slo.tpot_s)
    # Rates count over the time in which requests came and were worked on, not over the wait for the very last one alone.
    ends = run.due_s[served] + run.e2e_s[served]
    span_s = max(float(run.due_s[-1] - run.due_s[0]), float(ends.max() - run.due_s[0]) if len(ends) else 0.0, 1e-9)
    arrivals_s = float(run.due_s[-1] - run.due_s[0])
    asked, got = run.asked_prompt_tokens[served], run.prompt_tokens[served]
    return Summary(
        requests=len(run),
        served=int(served.sum()),
        refused=dict(Counter(reason for reason in run.reasons if reason).most_common()),
        said=run.said,
        span_s=span_s,
        offered_rps=(len(run) - 1) / arrivals_s if arrivals_s > 0 else float("nan"),
        served_rps=float(served.sum()) / span_s,
        output_tokens_per_s=float(run.output_tokens[served].sum()) / span_s,
        goodput_rps=float(kept.sum()) / span_s if is_promised else float("nan"),
        slo_attained=float(kept.mean()) if is_promised else float("nan"),
        in_flight=float(np.nansum(run.e2e_s)) / span_s,
        late_s=latencies_of(run.late_s).p99,
        ttft_s=latencies_of(run.ttft_s),
        tpot_s=latencies_of(run.tpot_s),
        itl_s=latencies_of(run.itl_s),
        e2e_s=latencies_of(run.e2e_s),
        ttft_between_s=_between(run.ttft_s),
        tpot_between_s=_between(run.tpot_s),
        isl=_mean(got),
        osl=_mean(run.output_tokens[served]),
        cached=_mean(run.cached_tokens[served]),
        asked_isl=_mean(asked),
        asked_osl=_mean(run.asked_output_tokens[served]),
        exact_prompts=_mean(asked == got),
    )


def _mean(values: NDArray[np.generic]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _between(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return an interval of the mean by resampling, the same for the same values."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    means = np.array([rng.choice(values, len(values)).mean() for _ in range(RESAMPLES)])
    low, high = np.percentile(means, (50 - 50 * COVERAGE, 50 + 50 * COVERAGE))
    return float(low), float(high)
