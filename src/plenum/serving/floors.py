"""What no engine can beat: times of the data sheet's peaks with nothing lost, for plans that ask for less."""

from __future__ import annotations

from plenum.serving.instance import Instance
from plenum.serving.roofline import WORK_FIELDS, work_of
from plenum.serving.steps import attention_s, chunk_pairs, chunk_pairs_window

_AT = {name: index for index, name in enumerate(WORK_FIELDS)}


def floor_ttft_s(instance: Instance, isl: float, cached_tokens: float = 0.0) -> float:
    """Return the least seconds to the first token of one prompt on an idle instance: all FLOPs at peak, or all weights read once.

    Attention data parallelism does not help one prompt: only one group computes its attention and dense layers.
    """
    work = work_of(instance)
    new = max(isl - cached_tokens, 1.0)
    groups = work[_AT["groups"]]
    near = chunk_pairs_window(cached_tokens, new, work[_AT["window"]])
    pairs = attention_s(work, chunk_pairs(cached_tokens, new), near)
    compute = new * (groups * work[_AT["linear_token_s"]] + work[_AT["expert_token_s"]]) + groups * pairs
    return float(max(compute / work[_AT["stages"]], _read_s(instance, new)))


def floor_tpot_s(instance: Instance, context_tokens: float = 0.0) -> float:
    """Return the least seconds between tokens of one sequence alone: its weights and its cache read once at full bandwidth.

    With speculative decoding the read is shared by the tokens that one iteration yields at most.
    """
    work = work_of(instance)
    window = min(context_tokens, work[_AT["window"]])
    cache = context_tokens * work[_AT["decode_context_s"]] + window * work[_AT["decode_context_window_s"]]
    # Columns spread the cache over all groups; one sequence is in one of them.
    alone = _read_s(instance, 1.0) + cache * work[_AT["groups"]]
    return float(alone / (1.0 + instance.settings.speculative_tokens))


def _read_s(instance: Instance, tokens: float) -> float:
    """Seconds of reading the weights that ``tokens`` tokens visit."""
    work = work_of(instance)
    experts = work[_AT["experts"]]
    visited = experts * (1.0 - (1.0 - work[_AT["experts_active"]] / experts) ** tokens) if experts else 0.0
    return work[_AT["linear_weights_s"]] + visited * work[_AT["expert_read_s"]] + work[_AT["head_weights_s"]]
