"""How long one engine iteration takes, as a few coefficients and one compiled function.

:func:`plenum.serving.roofline.compile_steps` turns an instance into coefficients; the analytic predictor, the planner and the
simulator all call :func:`step`. That is what makes their answers agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import entry, inner

FIELDS = (
    "stages",  # pipeline stages: a batch is cut into so many micro-batches, which overlap
    "fixed_s",  # gaps between kernels of one iteration
    "sequence_s",  # work of the host for each sequence of the batch: scheduling, sampling, turning tokens into text
    "linear_token_s",  # dense matrices: compute of one token
    "linear_weights_s",  # reading their weights once
    "activation_token_s",  # moving one token's activations through memory
    "expert_token_s",  # routed experts: compute of one token
    "expert_read_s",  # reading one expert's weights in every layer
    "experts",  # routed experts of a layer; 0: dense
    "experts_active",  # that one token visits
    "prefill_pair_s",  # attention of prefill: one query token against one key token, full attention and indexers
    "prefill_pair_window_s",  # the same in layers with a window, and of tokens that an indexer selects
    "decode_context_s",  # attention of decode: reading one token of cache
    "decode_context_window_s",  # the same in layers with a window, and of selected tokens
    "decode_pair_s",  # attention of decode: computing with one token of cache
    "decode_pair_window_s",
    "state_s",  # reading and writing the fixed state of one sequence
    "head_token_s",  # output head: compute of one sequence
    "head_weights_s",  # reading it
    "collective_s",  # latency of all collectives of one iteration
    "collective_token_s",  # their volume, for one token
    "window",  # tokens of the sliding window, or that an indexer selects; 0: all
    "idle_w",  # watts of the whole instance while nothing runs
    "memory_w",  # what reading memory all the time adds to awake_w
    "compute_w",  # what computing all the time adds
    "prefill_scale",  # what calibration found: time of prefill work over the roofline's
    "decode_scale",  # the same for decode work
    "groups",  # attention groups of data parallelism: the busiest sets the pace
    "decode_width",  # tokens computed for each decoding sequence: 1, or 1 + drafted ones
    "host_s",  # work of the host for one iteration, which overlaps with that of the devices
    "awake_w",  # watts of the whole instance while an iteration runs but neither reads nor computes
    "cap_w",  # watts that it is not let beyond
    "draft_share",  # time of drafting them, as a part of the linear and expert time of the model itself
    "request_s",  # of a request outside iterations, before its first token: HTTP, tokenising, the way back; ``step`` leaves it out
    "decode_more_4",  # by what part decode_scale is larger (or smaller) with 4 sequences in a batch than with one
    "decode_more_16",
    "decode_more_64",
    "decode_more_256",
    "prefill_pair_masked_s",  # of layers with an indexer: one pair where all tokens are attended to instead, which short prompts do
    "expert_spread",  # how unevenly experts visited fall on the parts that they are dealt out to; 0: every device holds some of each
)
"""Names of the coefficients, in the order in which the array holds them."""

AT = {name: index for index, name in enumerate(FIELDS)}

LOAD_POINTS = (1.0, 4.0, 16.0, 64.0, 256.0)
"""Sequences in a batch between which corrections of decode are interpolated (in logarithms); the coefficients ``decode_more_*``."""

_STAGES, _FIXED, _SEQUENCE = AT["stages"], AT["fixed_s"], AT["sequence_s"]
_LIN_T, _LIN_W, _ACT = AT["linear_token_s"], AT["linear_weights_s"], AT["activation_token_s"]
_EXP_T, _EXP_R, _EXPERTS, _ACTIVE = AT["expert_token_s"], AT["expert_read_s"], AT["experts"], AT["experts_active"]
_PRE, _PRE_W, _PRE_M = AT["prefill_pair_s"], AT["prefill_pair_window_s"], AT["prefill_pair_masked_s"]
_DEC, _DEC_W, _DPAIR, _DPAIR_W = (
    AT["decode_context_s"],
    AT["decode_context_window_s"],
    AT["decode_pair_s"],
    AT["decode_pair_window_s"],
)
_STATE, _HEAD_T, _HEAD_W = AT["state_s"], AT["head_token_s"], AT["head_weights_s"]
_COLL, _COLL_T = AT["collective_s"], AT["collective_token_s"]
_AWAKE_W, _MEM_W, _CPU_W, _CAP_W = AT["awake_w"], AT["memory_w"], AT["compute_w"], AT["cap_w"]
_PRE_SCALE, _DEC_SCALE = AT["prefill_scale"], AT["decode_scale"]
_MORE, _EXP_SPREAD = AT["decode_more_4"], AT["expert_spread"]
_GROUPS, _WIDTH, _DRAFT, _HOST = AT["groups"], AT["decode_width"], AT["draft_share"], AT["host_s"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepModel:
    """Coefficients of one instance.

    Parameters
    ----------
    coefficients
        (len(FIELDS),) float64, see :data:`FIELDS`. Others hold it too, so nobody writes to it; flagged as read-only it would be of another
        type than a row of many, and all loops would be compiled for both.
    """

    coefficients: NDArray[np.float64]

    def __getitem__(self, name: str) -> float:
        return float(self.coefficients[AT[name]])


@entry
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
    computed = decodes * c[_WIDTH]
    tokens = prefill_tokens + computed
    if tokens <= 0.0:
        return 0.0, 0.0
    stages = c[_STAGES]
    n = tokens / stages  # one micro-batch; the others overlap with it on other stages
    pace = n + (_unevenness(c[_GROUPS], prefill_tokens, prefills, computed, decodes)) / stages
    compute = pace * c[_LIN_T]
    memory = c[_LIN_W] + pace * c[_ACT]
    total = smooth_max(compute, memory)
    computing, reading = compute, memory
    if c[_EXPERTS] > 0.0:
        visited = c[_EXPERTS] * (1.0 - (1.0 - c[_ACTIVE] / c[_EXPERTS]) ** n)
        if c[_EXP_SPREAD] > 0.0:  # the part that holds most of those visited sets the pace
            uneven = c[_EXP_SPREAD] * math.sqrt(visited * max(1.0 - visited / c[_EXPERTS], 0.0))
            visited = min(visited + uneven, c[_EXPERTS])
        compute, memory = n * c[_EXP_T], visited * c[_EXP_R]
        total += smooth_max(compute, memory)
        computing, reading = computing + compute, reading + memory
    total *= 1.0 + c[_DRAFT]
    sampled = (prefills + computed) / stages  # tokens that the output head sees: drafted ones are checked there
    attend = attention_s(c, prefill_pairs, prefill_pairs_window) / stages
    if prefills > 0.0 and prefills < c[_GROUPS]:
        attend *= c[_GROUPS] / max(prefills, 1.0)
    total += attend
    compute = (context_tokens * c[_DPAIR] + context_window_tokens * c[_DPAIR_W]) * c[_WIDTH] / stages
    memory = (context_tokens * c[_DEC] + context_window_tokens * c[_DEC_W] + sequences * c[_STATE]) / stages
    total += smooth_max(compute, memory) + smooth_max(sampled * c[_HEAD_T], c[_HEAD_W])
    computing += attend + compute + sampled * c[_HEAD_T]
    reading += memory + c[_HEAD_W]
    total = smooth_max(total + c[_COLL] + n * c[_COLL_T] + c[_FIXED], c[_HOST] + sequences * c[_SEQUENCE])
    share = prefill_tokens / tokens
    total *= share * c[_PRE_SCALE] + (1.0 - share) * c[_DEC_SCALE] * (1.0 + _more(c, sequences))
    watts = c[_AWAKE_W] + (reading * c[_MEM_W] + computing * c[_CPU_W]) / total
    return total, total * min(watts, c[_CAP_W])


@entry
def attention_s(c: NDArray[np.float64], pairs: float, pairs_window: float) -> float:
    """Seconds of the attention of prefill over so many pairs, and so many within the window or selected.

    Where an indexer selects, engines attend to all with a mask as long as that is less work (DeepSeek-V3.2, section 2.1): selected tokens
    differ from query to query, so that they are attended to in the latent space, at the price of decode.
    """
    near = pairs_window * c[_PRE_W]
    return pairs * c[_PRE] + (min(near, pairs * c[_PRE_M]) if c[_PRE_M] > 0.0 else near)


@entry
def smooth_max(a: float, b: float) -> float:
    """Return a bit more than the larger of two times: compute and memory overlap, never quite (the norm of order 4)."""
    a2, b2 = a * a, b * b
    return math.sqrt(math.sqrt(a2 * a2 + b2 * b2))


@inner
def _more(c: NDArray[np.float64], sequences: float) -> float:
    """What the correction of decode at one sequence lacks at so many; see :data:`LOAD_POINTS`."""
    if c[_MORE] == 0.0 and c[_MORE + 1] == 0.0 and c[_MORE + 2] == 0.0 and c[_MORE + 3] == 0.0:
        return 0.0
    place = 0.5 * math.log2(max(sequences, 1.0))
    below = int(place)
    if below >= 4:
        return c[_MORE + 3]
    low = c[_MORE + below - 1] if below > 0 else 0.0
    return low + (place - below) * (c[_MORE + below] - low)


@inner
def _unevenness(groups: float, prefill_tokens: float, prefills: float, computed: float, decodes: float) -> float:
    """Tokens that the busiest attention group has beyond its share, times the groups."""
    if groups <= 1.0:
        return 0.0
    more = 0.0
    if prefills > 0.0 and prefills < groups:
        more += prefill_tokens * (groups / max(prefills, 1.0) - 1.0)
    if decodes > 0.0 and decodes < groups:
        more += computed * (groups / max(decodes, 1.0) - 1.0)
    return more


@entry
def chunk_pairs(earlier: float, tokens: float) -> float:
    """Pairs of query and key tokens of a chunk of ``tokens`` after ``earlier`` ones."""
    return tokens * earlier + 0.5 * tokens * (tokens + 1.0)


@entry
def chunk_pairs_window(earlier: float, tokens: float, window: float) -> float:
    """The same where a query sees no more than ``window`` tokens, itself included; 0 where there is no window."""
    if window <= 0.0:
        return 0.0
    growing = min(max(window - earlier, 0.0), tokens)  # queries that still see everything
    return chunk_pairs(earlier, growing) + (tokens - growing) * window
