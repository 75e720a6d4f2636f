"""What training keeps in the memory of a device: weights, gradients, optimiser states, activations.

Activations follow Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198), section 4, term
by term, so that grouped heads, gated networks and experts are counted as they are; states and ZeRO stages follow Rajbhandari et al.
(arXiv 1910.02054), section 3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from plenum.serving.architecture import Architecture, Attention, FeedForward

Recompute = Literal["none", "selective", "full"]

WEIGHT_BYTES = 2.0
GRADIENT_BYTES = 4.0
"""Gradients are added up in FP32, as Megatron-LM and Llama 3 (arXiv 2407.21783, section 3.3.2) do."""
REDUCED_BYTES = 2.0
"""Gradients travel in 16 bits, as in the runs that the step time is checked with."""
OPTIMISER_BYTES = 12.0
"""Adam: FP32 copy of the weights, and two moments (arXiv 1910.02054, section 3.1)."""

USABLE_FRACTION = 0.94
RESERVED_BYTES = 3.0e9
"""Context, communication buffers and fragments of the allocator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a training job is spread over devices.

    Parameters
    ----------
    tp, pp, dp, cp
        Tensor, pipeline, data and context parallel degrees; they multiply to the devices.
    ep
        Devices of the data parallel groups that the experts are dealt out to; divides ``dp * cp``.
    micro_batch
        Sequences of one micro-batch.
    interleave
        Runs of layers of one pipeline stage (virtual stages of Megatron-LM).
    zero
        ZeRO stage: 0 nothing is sharded over data parallel ranks, 1 optimiser states, 2 gradients too, 3 weights too.
    recompute
        ``selective``: attention scores; ``full``: everything inside of a layer.
    sequence_parallel
        Activations outside of the matrices are split over ``tp`` too.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    cp: int = 1
    ep: int = 1
    micro_batch: int = 1
    interleave: int = 1
    zero: int = 1
    recompute: Recompute = "selective"
    sequence_parallel: bool = True

    @property
    def devices(self) -> int:
        """Devices of the job."""
        return self.tp * self.pp * self.dp * self.cp

    def __str__(self) -> str:
        sizes = (("TP", self.tp), ("PP", self.pp), ("DP", self.dp), ("CP", self.cp), ("EP", self.ep))
        parts = [f"{name}{size}" for name, size in sizes if size > 1] or ["DP1"]
        parts.append(f"micro-batch {self.micro_batch}")
        if self.interleave > 1:
            parts.append(f"{self.interleave} runs a stage")
        return " ".join([*parts, f"ZeRO-{self.zero}", f"recompute {self.recompute}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on the fullest device."""

    weights: float
    gradients: float
    optimiser: float
    activations: float
    usable: float

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return self.weights + self.gradients + self.optimiser + self.activations

    @property
    def fits(self) -> bool:
        """Whether they fit."""
        return self.total <= self.usable

    @property
    def largest(self) -> str:
        """Name of the largest part."""
        return max(("weights", "gradients", "optimiser", "activations"), key=lambda name: getattr(self, name))


def memory(
    model: Architecture,
    layout: Layout,
    sequence: int,
    *,
    micro_batches: int,
    hbm_bytes: float,
    fused_attention: bool = True,
) -> Memory:
    """Return what a device of the first stage holds: it keeps the most micro-batches.

    Parameters
    ----------
    sequence
        Tokens of one sequence.
    micro_batches
        Of one data parallel rank and step.
    fused_attention
        Scores are never stored (FlashAttention); then ``selective`` recomputation is what it does anyway.
    """
    dense, routed = device_parameters(model, layout)
    shards = layout.dp * layout.cp
    expert_shards = max(1, shards // layout.ep)

    def held(each: float, stage: int) -> float:
        if layout.zero >= stage:
            return each * (dense / shards + routed / expert_shards)
        return each * (dense + routed)

    return Memory(
        weights=held(WEIGHT_BYTES, 3),
        gradients=held(GRADIENT_BYTES, 2),
        optimiser=held(OPTIMISER_BYTES, 1),
        activations=_activations(model, layout, sequence, micro_batches, fused_attention),
        usable=hbm_bytes * USABLE_FRACTION - RESERVED_BYTES,
    )


def device_parameters(model: Architecture, layout: Layout) -> tuple[float, float]:
    """Return the weights of a device of the first stage before ZeRO: those of layers and one embedding, and those of experts."""
    layers = math.ceil(model.layers / layout.pp) / model.layers
    dense = (model.attention_parameters + model.dense_parameters) * layers / layout.tp
    embedding = model.hidden * model.vocab / layout.tp
    if layout.pp == 1 and not model.tied_embeddings:
        embedding *= 2
    return dense + embedding, model.expert_parameters * layers / (layout.tp * layout.ep)


def _activations(
    model: Architecture, layout: Layout, sequence: int, micro_batches: int, fused_attention: bool
) -> float:
    tokens = layout.micro_batch * sequence / layout.cp
    split = layout.tp if layout.sequence_parallel else 1
    hidden = 2.0 * model.hidden
    whole = sum(
        b.count * layer_bytes(model, b.attention, b.feed_forward, layout, sequence, fused_attention)
        for b in model.blocks
    )
    stored = model.layers * hidden / split if layout.recompute == "full" else whole
    flight = (
        min(layout.pp, micro_batches) / layout.pp
    )  # of all layers: each stage holds its share of so many micro-batches
    if layout.interleave > 1:
        flight *= 1 + (layout.pp - 1) / (layout.pp * layout.interleave)
    working = whole / model.layers if layout.recompute == "full" else 0.0  # the layer that is being recomputed
    head = 4.0 * model.vocab / layout.tp + 2 * hidden / split if layout.pp == 1 else 0.0  # FP32 logits, last norm
    return tokens * (stored * flight + working + head)


def layer_bytes(
    model: Architecture, attention: Attention, feed: FeedForward, layout: Layout, sequence: int, fused_attention: bool
) -> float:
    """Bytes of activations that one token leaves in one layer on each device, without full recomputation.

    Selective recomputation drops the scores, and in gated models (whose frameworks came later) also what norms and activation functions
    give, which costs next to nothing to compute again.
    """
    split = layout.tp if layout.sequence_parallel else 1
    h = model.hidden
    queries = attention.heads * (attention.head_dim + attention.rope_dim)
    values = attention.heads * attention.values
    keys = queries + values if attention.kind == "mla" else attention.cache_values()
    lean = feed.gated and layout.recompute != "none"
    inside = 2.0 * (queries + keys + values) + 2.0 * _network_width(feed, lean)
    outside = (4.0 if lean else 8.0) * h  # inputs of both norms, and what they give
    if not feed.gated:
        outside += 2.0 * h  # masks of dropout, one byte each: models of that time have it
    if feed.experts:
        outside += 4.0 * h * feed.active  # tokens sent to experts and back
    scores = 5.0 * attention.heads * sequence if layout.recompute == "none" and not fused_attention else 0.0
    return (inside + scores) / layout.tp + outside / split


def _network_width(feed: FeedForward, lean: bool) -> float:
    """Values that one token leaves inside of the feed-forward networks that it visits."""
    width = feed.width * feed.active + feed.shared_width if feed.experts else feed.width
    return width * (2 if lean or not feed.gated else 3)
