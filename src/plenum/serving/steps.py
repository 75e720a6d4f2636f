"""How long one engine iteration takes, as a few coefficients and one compiled function.

:func:`plenum.serving.roofline.compile_steps` turns an instance into coefficients; the analytic predictor, the planner and the
simulator all call :func:`step`. That is what makes their answers agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

FIELDS = (
    "stages",  # pipeline stages: a batch is cut into so many micro-batches, which overlap
    "fixed_s",  # launches, sampling, scheduling of one iteration
    "sequence_s",  # the same for each sequence in the batch
    "linear_token_s",  # dense matrices: compute of one token
    "linear_weights_s",  # reading their weights once
    "activation_token_s",  # moving one token's activations through memory
    "expert_token_s",  # routed experts: compute of one token
    "expert_read_s",  # reading one expert's weights in every layer
    "experts",  # routed experts of a layer; 0: dense
    "experts_active",  # that one token visits
    "prefill_pair_s",  # attention of prefill: one query token against one key token, full attention
    "prefill_pair_window_s",  # the same in layers with a window
    "decode_context_s",  # attention of decode: reading one token of cache
    "decode_context_window_s",  # the same in layers with a window
    "decode_pair_s",  # attention of decode: computing with one token of cache
    "decode_pair_window_s",
    "state_s",  # reading and writing the fixed state of one sequence
    "head_token_s",  # output head: compute of one sequence
    "head_weights_s",  # reading it
    "collective_s",  # latency of all collectives of one iteration
    "collective_token_s",  # their volume, for one token
    "window",  # tokens of the sliding window; 0: none
    "idle_w",  # watts of the whole instance while nothing runs
    "memory_w",  # while memory bound
    "compute_w",  # while compute bound
    "prefill_scale",  # what calibration found: time of prefill work over the roofline's
    "decode_scale",  # the same for decode work
)
"""Names of the coefficients, in the order in which the array holds them."""

AT = {name: index for index, name in enumerate(FIELDS)}

_STAGES, _FIXED, _SEQUENCE = AT["stages"], AT["fixed_s"], AT["sequence_s"]
_LIN_T, _LIN_W, _ACT = AT["linear_token_s"], AT["linear_weights_s"], AT["activation_token_s"]
_EXP_T, _EXP_R, _EXPERTS, _ACTIVE = AT["expert_token_s"], AT["expert_read_s"], AT["experts"], AT["experts_active"]
_PRE, _PRE_W = AT["prefill_pair_s"], AT["prefill_pair_window_s"]
_DEC, _DEC_W, _DPAIR, _DPAIR_W = (
    AT["decode_context_s"],
    AT["decode_context_window_s"],
    AT["decode_pair_s"],
    AT["decode_pair_window_s"],
)
_STATE, _HEAD_T, _HEAD_W = AT["state_s"], AT["head_token_s"], AT["head_weights_s"]
_COLL, _COLL_T = AT["collective_s"], AT["collective_token_s"]
_MEM_W, _CPU_W = AT["memory_w"], AT["compute_w"]
_PRE_SCALE, _DEC_SCALE = AT["prefill_scale"], AT["decode_scale"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepModel:
    """Coefficients of one instance.

    Parameters
    ----------
    coefficients
        (len(FIELDS),) float64, read-only; see :data:`FIELDS`.
    """

    coefficients: NDArray[np.float64]

    def __getitem__(self, name: str) -> float:
        return float(self.coefficients[AT[name]])


@njit(cache=True)
def step(
    c: NDArray[np.float64],
    prefill_tokens: float,
    prefill_pairs: float,
    prefill_pairs_window: float,
    prefills: float,
    decodes: float,
    context_tokens: float,
    context_window_tokens: float,
) -> tuple[float, float]:
    """Seconds and joules of one iteration of one instance.

    Parameters
    ----------
    c
        Coefficients, (len(FIELDS),).
    prefill_tokens
        Prompt tokens computed in this iteration (found prefixes are not).
    prefill_pairs, prefill_pairs_window
        Pairs of query and key tokens among them: a chunk of n tokens after k earlier ones has n k + n (n + 1) / 2; the same with no
        more than ``window`` keys a query.
    prefills
        Sequences that prefill.
    decodes
        Sequences that decode one token (or one draft's worth).
    context_tokens, context_window_tokens
        Sum of their contexts; the same with no more than ``window`` each.
    """
    sequences = prefills + decodes
    tokens = prefill_tokens + decodes
    if tokens <= 0.0:
        return 0.0, 0.0
    stages = c[_STAGES]
    n = tokens / stages  # one micro-batch; the others overlap with it on other stages
    compute = n * c[_LIN_T]
    memory = c[_LIN_W] + n * c[_ACT]
    total = max(compute, memory)
    bound = compute if compute >= memory else 0.0
    if c[_EXPERTS] > 0.0:
        visited = c[_EXPERTS] * (1.0 - (1.0 - c[_ACTIVE] / c[_EXPERTS]) ** n)
        compute = n * c[_EXP_T]
        memory = visited * c[_EXP_R]
        total += max(compute, memory)
        bound += compute if compute >= memory else 0.0
    attend = (prefill_pairs * c[_PRE] + prefill_pairs_window * c[_PRE_W]) / stages
    total += attend
    bound += attend
    compute = context_tokens * c[_DPAIR] + context_window_tokens * c[_DPAIR_W]
    memory = context_tokens * c[_DEC] + context_window_tokens * c[_DEC_W] + sequences * c[_STATE]
    total += max(compute, memory) / stages
    total += max(sequences / stages * c[_HEAD_T], c[_HEAD_W])
    total += c[_COLL] + n * c[_COLL_T]
    share = prefill_tokens / tokens
    total *= share * c[_PRE_SCALE] + (1.0 - share) * c[_DEC_SCALE]
    total += c[_FIXED] + sequences * c[_SEQUENCE]
    busy = min(1.0, bound / total)
    return total, total * (busy * c[_CPU_W] + (1.0 - busy) * c[_MEM_W])


@njit(cache=True)
def chunk_pairs(earlier: float, tokens: float) -> float:
    """Pairs of query and key tokens of a chunk of ``tokens`` after ``earlier`` ones."""
    return tokens * earlier + 0.5 * tokens * (tokens + 1.0)


@njit(cache=True)
def chunk_pairs_window(earlier: float, tokens: float, window: float) -> float:
    """The same where a query sees no more than ``window`` tokens, itself included; 0 where there is no window."""
    if window <= 0.0:
        return 0.0
    growing = min(max(window - earlier, 0.0), tokens)  # queries that still see everything
    return chunk_pairs(earlier, growing) + (tokens - growing) * window
