"""How much of the data sheet an instance's coefficients claim to reach, and how much any engine may.

Fitted constants and mean residuals can multiply to a speed that no device has: time to first token holds waiting besides work, and a
residual of the one must not become speed of the other. What is here tells, and bounds it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import entry, outer
from plenum.serving.loads import AT_LOAD
from plenum.serving.steps import AT, attention_s, chunk_pairs, chunk_pairs_window, step

COMPUTE_MOST = 0.80
"""Part of peak FLOP/s that a whole prefill is let reach; large matrix products alone measure 0.7 to 0.8 (power limits the clock)."""

BANDWIDTH_MOST = 0.93
"""Part of memory bandwidth that a whole decode iteration is let reach: what copies measure on HBM, which no kernel beats."""

_LIN_T, _EXP_T = AT["linear_token_s"], AT["expert_token_s"]
_WINDOW = AT["window"]
_LIN_W, _EXP_R, _HEAD_W, _STATE = AT["linear_weights_s"], AT["expert_read_s"], AT["head_weights_s"], AT["state_s"]
_EXPERTS, _ACTIVE, _GROUPS, _WIDTH = AT["experts"], AT["experts_active"], AT["groups"], AT["decode_width"]
_ISL, _OSL, _CACHED = AT_LOAD["isl"], AT_LOAD["osl"], AT_LOAD["cached"]
_ADVANCE, _TOGETHER = AT_LOAD["tokens_per_step"], AT_LOAD["together"]
_DEC, _DEC_W, _STAGES = AT["decode_context_s"], AT["decode_context_window_s"], AT["stages"]


@entry
def prompt_peak_s(work: NDArray[np.float64], prompts: float, isl: float, cached: float) -> float:
    """Seconds of the arithmetic of ``prompts`` equal prompts at peak FLOP/s on all devices of an instance.

    Parameters
    ----------
    work
        What :func:`plenum.serving.roofline.work_of` returns.
    prompts, isl, cached
        How many, their tokens, and those of each whose cache is found.
    """
    new = max(isl - cached, 1.0)
    pairs = attention_s(work, chunk_pairs(cached, new), chunk_pairs_window(cached, new, work[_WINDOW]))
    return prompts * (new * (work[_LIN_T] + work[_EXP_T]) + pairs) / work[_STAGES]


@entry
def iteration_peak_s(work: NDArray[np.float64], batch: float, context: float) -> float:
    """Seconds that a decode iteration of ``batch`` sequences of ``context`` tokens takes to read what it visits at full bandwidth."""
    seen = min(context, work[_WINDOW])
    each = (context * work[_DEC] + seen * work[_DEC_W] + work[_STATE]) / work[_STAGES]
    visited = 0.0
    if work[_EXPERTS] > 0.0:
        tokens = batch * work[_WIDTH] / work[_STAGES]
        visited = work[_EXPERTS] * (1.0 - (1.0 - work[_ACTIVE] / work[_EXPERTS]) ** tokens)
    return work[_LIN_W] + visited * work[_EXP_R] + work[_HEAD_W] + batch * each


@entry
def compute_use(c: NDArray[np.float64], work: NDArray[np.float64]) -> float:
    """Return the largest part of peak FLOP/s that prefill reaches with coefficients ``c``, over prompts of 256 to 2**20 tokens."""
    most, groups = 0.0, c[_GROUPS]
    for power in range(8, 21):
        n = 2.0**power
        pairs, near = groups * chunk_pairs(0.0, n), groups * chunk_pairs_window(0.0, n, c[_WINDOW])
        seconds = step(c, groups * n, pairs, near, groups, 0.0, 0.0, 0.0)[0]
        most = max(most, prompt_peak_s(work, groups, n, 0.0) / seconds)
    return most


@entry
def bandwidth_use(c: NDArray[np.float64], work: NDArray[np.float64]) -> float:
    """Return the largest part of memory bandwidth that decode reaches with coefficients ``c``, over batches and contexts."""
    most = 0.0
    for power in range(0, 13, 2):
        batch = c[_GROUPS] * 2.0**power
        for length in range(7, 20, 3):
            context = 2.0**length
            near = min(context, c[_WINDOW])
            seconds = step(c, 0.0, 0.0, 0.0, 0.0, batch, batch * context, batch * near)[0]
            most = max(most, iteration_peak_s(work, batch, context) / seconds)
    return most


@outer
def least_times(
    decode: NDArray[np.float64], prefill: NDArray[np.float64], loads: NDArray[np.float64], batch: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the least that n predictions may say, (n, 2): seconds between tokens, and to the first one.

    Parameters
    ----------
    decode, prefill
        (n, len(WORK_FIELDS)) of what decodes, and of what prefills.
    loads
        (n, len(LOAD_FIELDS)), see :mod:`plenum.serving.loads`.
    batch
        (n,) mean sequences that one worker decodes.
    """
    out = np.empty((len(loads), 2))
    for i in range(len(loads)):
        isl, context = loads[i, _ISL], loads[i, _ISL] + 0.5 * loads[i, _OSL]
        reading = iteration_peak_s(decode[i], max(batch[i], 1.0), context)
        out[i, 0] = reading / (BANDWIDTH_MOST * loads[i, _ADVANCE])
        prompts = max(batch[i], 1.0) if loads[i, _TOGETHER] > 0.5 else 1.0
        out[i, 1] = prompt_peak_s(prefill[i], prompts, isl, loads[i, _CACHED]) / COMPUTE_MOST
    return out
