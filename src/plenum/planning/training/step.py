"""How long one training step takes, and where the time goes.

A roofline of its parts: matrices against peak FLOP/s, everything between them against memory bandwidth, tensor parallel collectives
inside of the scale-up domain, gradients and weights over the network beside the backward pass, the pipeline's bubble (Narayanan et al.,
SC 2021, section 2.2), the optimiser. The two efficiencies are fitted once for all to published runs (tests/papers/test_training.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plenum.fabric.collectives import collective_s
from plenum.planning.training.memory import REDUCED_BYTES, WEIGHT_BYTES, Layout, device_parameters, layer_bytes
from plenum.serving.architecture import Architecture, Block
from plenum.serving.hardware import Accelerator

HOP_SCALEUP_S = 2e-6
HOP_SCALEOUT_S = 8e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Parts of the data sheet's figures that training reaches.

    Parameters
    ----------
    matrices
        Of peak FLOP/s inside of large matrix products.
    attention
        Of peak FLOP/s inside of fused attention.
    experts, narrow
        What of ``matrices`` remains inside of the many smaller products of experts, and in FP8, whose values are scaled on the way.
    memory, scaleup, scaleout
        Of bandwidths.
    overlap
        Part of the traffic of data parallelism that hides behind the backward pass.
    expert_overlap
        Part of the traffic to and from experts that hides behind other micro-batches (DualPipe, arXiv 2412.19437, section 3.2.1).
    """

    matrices: float = 0.57
    attention: float = 0.45
    experts: float = 0.85
    narrow: float = 0.80
    memory: float = 0.88
    scaleup: float = 0.70
    scaleout: float = 0.70
    overlap: float = 0.90
    expert_overlap: float = 0.85


REACHED = {"A100": Reached(matrices=0.70), "A100-40GB": Reached(matrices=0.70)}
"""By accelerator, where it differs from the others: an A100 keeps its clock, later ones run large products into their power limit."""


def reached_on(hardware: Accelerator) -> Reached:
    """Return what training reaches on a kind of hardware."""
    return REACHED.get(hardware.name, Reached())


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Seconds of one step by part, on the slowest device; parts add up to ``total_s``.

    ``model_flops`` are those of the forward and backward pass without recomputation, over all devices.
    """

    compute_s: float
    elementwise_s: float
    tensor_s: float
    experts_s: float
    context_s: float
    pipeline_s: float
    bubble_s: float
    data_s: float
    optimiser_s: float
    model_flops: float
    hardware_flops: float

    @property
    def total_s(self) -> float:
        """Seconds of the step."""
        parts = (self.compute_s, self.elementwise_s, self.tensor_s, self.experts_s, self.context_s, self.pipeline_s)
        return sum(parts) + self.bubble_s + self.data_s + self.optimiser_s

    @property
    def communication_share(self) -> float:
        """Part of the step in which devices wait for one another's data, the bubble not included."""
        waits = (self.tensor_s, self.experts_s, self.context_s, self.pipeline_s, self.data_s)
        return sum(waits) / self.total_s

    def mfu(self, devices: int, peak_flops: float) -> float:
        """Model FLOP utilisation (Chowdhery et al., arXiv 2204.02311, appendix B)."""
        return self.model_flops / (self.total_s * devices * peak_flops)


def token_flops(model: Architecture, sequence: int, *, causal: bool = True) -> tuple[float, float]:
    """Return the FLOPs of one token's forward pass in matrices, and in attention over the rest of its sequence."""
    matrices = 2.0 * model.active_parameters
    attention = 0.0
    for block in model.blocks:
        part = block.attention
        seen = min(sequence, part.window) if part.window else sequence
        mean = seen - seen * seen / (2.0 * sequence) if causal else float(seen)
        if part.kind == "linear":  # reads and writes its state
            attention += block.count * 4.0 * part.state_values()
        else:
            attention += block.count * part.pair_flops() * mean
    return matrices, attention


def step(
    model: Architecture,
    hardware: Accelerator,
    layout: Layout,
    *,
    sequence: int,
    batch: int,
    form: str = "bf16",
    reached: Reached | None = None,
    fused_attention: bool = True,
) -> Step:
    """Return the time of one step of ``batch`` sequences; ``layout`` must go into it without rest."""
    eff = reached or reached_on(hardware)
    micro_batches = max(1, batch // (layout.dp * layout.micro_batch))
    stage_layers = 1.0 / layout.pp
    tokens = layout.micro_batch * sequence / layout.cp  # of one micro-batch on one device
    matrices, attention = token_flops(model, sequence, causal=fused_attention)
    peak, wide = hardware.peak_flops[form], hardware.peak_flops["bf16"]
    # Forward once, backward twice as much; recomputation goes forward again.
    passes = {"none": (3.0, 3.0), "selective": (3.0, 3.0 if fused_attention else 4.0), "full": (4.0, 4.0)}[
        layout.recompute
    ]
    share = tokens * stage_layers / layout.tp
    head = 2.0 * model.hidden * model.vocab
    routed = _routed_flops(model)
    weighed = (matrices - head - routed + routed / eff.experts) * passes[0] + head * 3.0
    reach = eff.matrices * (eff.narrow if form == "fp8" else 1.0)
    compute = share * (weighed / (peak * reach) + attention * passes[1] / (wide * eff.attention))
    elementwise = tokens * stage_layers * _moved_bytes(model, layout, sequence, fused_attention) * passes[0]
    elementwise /= hardware.hbm_bps * eff.memory
    tensor = _tensor_s(model, hardware, layout, tokens, passes[0], eff) * stage_layers
    experts = _experts_s(model, hardware, layout, tokens, eff) * stage_layers
    context = _context_s(model, hardware, layout, tokens, eff) * stage_layers
    hops = _pipeline_s(model, hardware, layout, tokens, eff)
    one = compute + elementwise + tensor + experts + context + hops
    backward = one * micro_batches * 2.0 / 3.0
    data = _data_s(model, hardware, layout, micro_batches, eff)
    tokens_all = batch * sequence
    return Step(
        compute_s=compute * micro_batches,
        elementwise_s=elementwise * micro_batches,
        tensor_s=tensor * micro_batches,
        experts_s=experts * micro_batches,
        context_s=context * micro_batches,
        pipeline_s=hops * micro_batches,
        bubble_s=one * (layout.pp - 1) / layout.interleave,
        data_s=max(data * (1.0 - eff.overlap), data - backward),
        optimiser_s=_optimiser_s(model, hardware, layout, eff),
        model_flops=tokens_all * 3.0 * (matrices + attention),
        hardware_flops=tokens_all * (((matrices - head) * passes[0] + head * 3.0) + attention * passes[1]),
    )


def _routed_flops(model: Architecture) -> float:
    """FLOPs of one token's forward pass in routed experts."""
    return sum(
        2.0 * block.count * block.feed_forward.active * block.feed_forward.expert_parameters(model.hidden)
        for block in model.blocks
    )


def _moved_bytes(model: Architecture, layout: Layout, sequence: int, fused_attention: bool) -> float:
    """Bytes that one token moves through memory between the matrices in one pass over all layers: each stored value is written and read."""

    everything = replace(layout, recompute="none")

    def layer(block: Block) -> float:
        stored = layer_bytes(model, block.attention, block.feed_forward, everything, sequence, True)
        scores = 0.0 if fused_attention else 5.0 * block.attention.heads * sequence / layout.tp
        return 2.0 * (stored + scores)

    return sum(block.count * layer(block) for block in model.blocks)


def _tensor_s(
    model: Architecture, hardware: Accelerator, layout: Layout, tokens: float, passes: float, eff: Reached
) -> float:
    """Two all-reduces a layer and pass forward, as many backward (or a reduce-scatter and an all-gather each, which move as much)."""
    if layout.tp == 1:
        return 0.0
    inside = layout.tp <= hardware.scaleup_size
    bps = (hardware.scaleup_bps * eff.scaleup if inside else hardware.scaleout_bps * eff.scaleout) * 8
    once, _ = collective_s(layout.tp, tokens * model.hidden * 2.0, bps, HOP_SCALEUP_S if inside else HOP_SCALEOUT_S)
    return model.layers * 2 * (passes - 1) * once


def _experts_s(model: Architecture, hardware: Accelerator, layout: Layout, tokens: float, eff: Reached) -> float:
    """Tokens go to their experts and back, forward and backward."""
    layers = sum(block.count for block in model.blocks if block.feed_forward.experts)
    if not layers or layout.ep == 1:
        return 0.0
    active = next(block.feed_forward.active for block in model.blocks if block.feed_forward.experts)
    inside = layout.tp * layout.ep <= hardware.scaleup_size
    bps = hardware.scaleup_bps * eff.scaleup if inside else hardware.scaleout_bps * eff.scaleout
    volume = tokens / layout.tp * active * model.hidden * 2.0 * (layout.ep - 1) / layout.ep
    return layers * 4 * volume / bps * (1.0 - eff.expert_overlap)


def _context_s(model: Architecture, hardware: Accelerator, layout: Layout, tokens: float, eff: Reached) -> float:
    """Keys and values of the other parts of the sequence are gathered, forward and backward (arXiv 2407.21783, section 3.3.2)."""
    if layout.cp == 1:
        return 0.0
    each = sum(block.count * block.attention.cache_values() for block in model.blocks) * 2.0 / layout.tp
    inside = layout.tp * layout.cp <= hardware.scaleup_size
    bps = hardware.scaleup_bps * eff.scaleup if inside else hardware.scaleout_bps * eff.scaleout
    return 2 * tokens * (layout.cp - 1) * each / bps


def _pipeline_s(model: Architecture, hardware: Accelerator, layout: Layout, tokens: float, eff: Reached) -> float:
    """Each run of layers sends its activations on, and their gradients back; neither hides behind the stage that waits for it.

    Tensor parallel ranks send a part each (Narayanan et al., SC 2021, section 4.1); stages are the outermost split of the devices.
    """
    if layout.pp == 1:
        return 0.0
    inside = layout.devices <= hardware.scaleup_size
    bps = hardware.scaleup_bps * eff.scaleup if inside else hardware.scaleout_bps * eff.scaleout
    hop = HOP_SCALEUP_S if inside else HOP_SCALEOUT_S
    return 2 * layout.interleave * (tokens * model.hidden * 2.0 / layout.tp / bps + hop)


def _data_s(model: Architecture, hardware: Accelerator, layout: Layout, micro_batches: int, eff: Reached) -> float:
    """Gradients are reduced and weights gathered once a step; with ZeRO-3 weights are gathered for each pass of each micro-batch."""
    ranks = layout.dp * layout.cp
    if ranks == 1:
        return 0.0
    dense, routed = device_parameters(model, layout)
    weights = dense + routed
    inside = layout.devices <= hardware.scaleup_size
    bps = hardware.scaleup_bps * eff.scaleup if inside else hardware.scaleout_bps * eff.scaleout
    gathers = 2 * micro_batches if layout.zero >= 3 else 1
    volume = weights * (REDUCED_BYTES + WEIGHT_BYTES * gathers) * (ranks - 1) / ranks
    return volume / bps


def _optimiser_s(model: Architecture, hardware: Accelerator, layout: Layout, eff: Reached) -> float:
    """States, gradients and weights are read, states and weights written, once a step."""
    dense, routed = device_parameters(model, layout)
    shards = layout.dp * layout.cp if layout.zero else 1
    return (dense + routed) / shards * 30.0 / (hardware.hbm_bps * eff.memory)
