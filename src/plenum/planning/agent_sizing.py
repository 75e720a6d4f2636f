"""What agents need: seconds, tokens and energy of a query, idle accelerators while tools run, power for a number of queries a day."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from plenum.model.errors import FieldError
from plenum.planning.agents import AgentWorkload
from plenum.serving.steps import StepModel, chunk_pairs, chunk_pairs_window, step

HOURS_A_DAY = 24.0
MAX_CONCURRENCY = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryCost:
    """Means of one query.

    Parameters
    ----------
    calls
        Model calls.
    prompt_tokens, reused_tokens, output_tokens
        Of all its calls; how many of the prompt tokens a prefix cache would find.
    prefill_s, decode_s
        Seconds on the instance, alone: of prompts (only what is not reused, if a prefix cache is there), and of answers.
    tool_s
        Seconds of waiting for tools.
    device_s
        Seconds of the whole instance where ``batch`` calls decode together.
    energy_wh
        Of that.
    """

    calls: float
    prompt_tokens: float
    reused_tokens: float
    output_tokens: float
    prefill_s: float
    decode_s: float
    tool_s: float
    device_s: float
    energy_wh: float

    @property
    def llm_s(self) -> float:
        """Seconds in the model, alone."""
        return self.prefill_s + self.decode_s

    @property
    def tool_share(self) -> float:
        """Part of the seconds of a query alone that tools take."""
        total = self.llm_s + self.tool_s
        return self.tool_s / total if total else 0.0


def cost_of_query(workload: AgentWorkload, steps: StepModel, *, batch: int = 1, reuse: bool = True) -> QueryCost:
    """Return the mean cost of the queries of a workload on one instance.

    Calls side by side count one after the other: seconds are of the instance, not of a clock on the wall.

    Parameters
    ----------
    batch
        Calls that decode together in ``device_s`` and ``energy_wh``; ``prefill_s`` and ``decode_s`` are of a call alone.
    reuse
        A prefix cache finds what earlier calls of the same query had.
    """
    requests = workload.requests
    earlier = workload.reused_tokens if reuse else np.zeros(len(requests), np.int64)
    prefill = np.array(
        [
            _prefill(steps, float(before), float(tokens))
            for before, tokens in zip(earlier, requests.prompt_tokens, strict=True)
        ]
    )
    context = requests.prompt_tokens + requests.output_tokens / 2
    alone = np.array([_decode(steps, 1, float(tokens)) for tokens in context])
    shared = alone if batch == 1 else np.array([_decode(steps, batch, float(tokens)) for tokens in context])
    outputs = requests.output_tokens - 1  # the first token comes out of prefill
    queries = workload.queries
    return QueryCost(
        calls=len(requests) / queries,
        prompt_tokens=float(requests.prompt_tokens.sum()) / queries,
        reused_tokens=float(workload.reused_tokens.sum()) / queries,
        output_tokens=float(requests.output_tokens.sum()) / queries,
        prefill_s=float(prefill[:, 0].sum()) / queries,
        decode_s=float(alone[:, 0] @ outputs) / queries,
        tool_s=_waited(workload) / queries,
        device_s=float(prefill[:, 0].sum() + shared[:, 0] @ outputs) / queries,
        energy_wh=float(prefill[:, 1].sum() + shared[:, 1] @ outputs) / queries / 3600,
    )


def power_w(queries_per_day: float, wh_per_query: float, *, pue: float = 1.0) -> float:
    """Return the mean watts of so many queries a day, cooling and conversion (``pue``) included.

    Raises
    ------
    FieldError
        Negative figures, or a PUE below 1.
    """
    if queries_per_day < 0 or wh_per_query < 0 or pue < 1:
        raise FieldError("energy", "queries a day and Wh a query are not negative, and a PUE is at least 1")
    return queries_per_day * wh_per_query / HOURS_A_DAY * pue


def idle_alone(concurrency: int, llm_s: float, tool_s: float) -> float:
    """Return the part of time that a server which takes one call at a time has none, with so many agents.

    The machine repairman (M/M/1 with a finite number of customers): agents wait for tools, then queue for the server. It depends on
    the distribution of tool times by their mean only.
    """
    _check_idle(concurrency, llm_s, tool_s)
    if llm_s <= 0:
        return 1.0
    if tool_s <= 0:
        return 0.0
    # Inverse Erlang B by its recursion: the server is idle when all agents are away, as N circuits are all busy.
    load = tool_s / llm_s
    inverse = 1.0
    for n in range(1, concurrency + 1):
        inverse = 1.0 + inverse * n / load
    return 1.0 / inverse


def idle_batched(concurrency: int, llm_s: float, tool_s: float) -> float:
    """Return the same where calls run together without slowing one another down: every agent waits for its tools at once.

    Agents that start independently are away a part ``tool_s / (llm_s + tool_s)`` of the time each, whatever the distributions.
    """
    _check_idle(concurrency, llm_s, tool_s)
    total = llm_s + tool_s
    return (tool_s / total) ** concurrency if total > 0 else 1.0


def agents_to_keep_busy(llm_s: float, tool_s: float, *, idle: float = 0.05, batched: bool = True) -> int:
    """Return the fewest agents at once with which the instance idles no more than ``idle``; 0 if no number does."""
    share = idle_batched if batched else idle_alone
    if share(MAX_CONCURRENCY, llm_s, tool_s) > idle:
        return 0
    low, high = 1, MAX_CONCURRENCY
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if share(middle, llm_s, tool_s) <= idle else (middle + 1, high)
    return low


def _waited(workload: AgentWorkload) -> float:
    """Return seconds of tool waits; calls side by side wait for the same tools."""
    requests = workload.requests
    follows = requests.after >= 0
    together = np.zeros(len(requests))
    np.maximum.at(together, requests.after[follows], requests.pause_s[follows])
    return float(together.sum())


def _prefill(steps: StepModel, earlier: float, tokens: float) -> tuple[float, float]:
    new = max(tokens - earlier, 1.0)
    window = steps["window"]
    pairs, near = chunk_pairs(tokens - new, new), chunk_pairs_window(tokens - new, new, window)
    return step(steps.coefficients, new, pairs, near, 1.0, 0.0, 0.0, 0.0)


def _decode(steps: StepModel, batch: int, context: float) -> tuple[float, float]:
    """Return seconds and joules of one token of one of ``batch`` sequences."""
    window = steps["window"]
    near = min(context, window) if window else context
    seconds, joules = step(steps.coefficients, 0.0, 0.0, 0.0, 0.0, float(batch), batch * context, batch * near)
    return seconds / batch, joules / batch


def _check_idle(concurrency: int, llm_s: float, tool_s: float) -> None:
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise FieldError("concurrency", f"must be 1 to {MAX_CONCURRENCY:,} agents, not {concurrency}")
    if not (0 <= llm_s < math.inf and 0 <= tool_s < math.inf):
        raise FieldError("seconds", "of model and tools are not negative")
