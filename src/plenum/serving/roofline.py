"""From an instance to the coefficients of its iterations: peaks, bytes and latencies of every operator.

The roofline of Williams, Waterman and Patterson (CACM 2009) operator by operator: the time of each is the larger of its FLOPs over
the peak and its bytes over the bandwidth, each at the part of the data sheet's figure that calibration found to be reached.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from plenum.serving.formats import FORMATS, Format
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import Instance, cache_shards
from plenum.serving.steps import FIELDS, StepModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What an engine on a kind of hardware reaches of the data sheet, and what it adds.

    Parameters
    ----------
    compute, memory, network
        Parts of peak FLOP/s, memory and scale-up bandwidth that are reached.
    attention
        Part of peak FLOP/s that prefill attention reaches.
    layer_s, step_s, sequence_s
        Seconds of launches for each layer, for each iteration, and for each sequence in a batch.
    collective_s
        Latency of one collective in the scale-up domain.
    """

    compute: float = 0.65
    memory: float = 0.75
    network: float = 0.6
    attention: float = 0.4
    layer_s: float = 10e-6
    step_s: float = 1.0e-3
    sequence_s: float = 5e-6
    collective_s: float = 8e-6


def computed_in(hardware: Accelerator, form: Format) -> str:
    """Name of the format that ``hardware`` multiplies values of ``form`` in; empty where it can do none."""
    return next((name for name in form.computes_as if name in hardware.peak_flops), "")


def compile_steps(instance: Instance, efficiency: Efficiency | None = None) -> StepModel:
    """Compile an instance to the coefficients that :func:`plenum.serving.steps.step` reads."""
    eff = efficiency or Efficiency()
    model, hardware, spread, precision = instance.model, instance.hardware, instance.parallelism, instance.precision
    weights = FORMATS[precision.weights]
    experts = FORMATS[precision.experts or precision.weights]
    cache = FORMATS[precision.kv_cache].bytes
    wide = FORMATS[precision.activations].bytes
    peak = hardware.peak_flops[computed_in(hardware, weights)] * eff.compute
    expert_peak = hardware.peak_flops[computed_in(hardware, experts)] * eff.compute
    attention_peak = hardware.peak_flops[computed_in(hardware, FORMATS["bf16"])] * eff.attention
    bandwidth = hardware.hbm_bps * eff.memory
    link = hardware.scaleup_bps * eff.network
    groups = spread.tp * spread.dp  # devices of one stage
    layers = model.layers
    dense = model.attention_parameters + model.dense_parameters
    moe = [block for block in model.blocks if block.feed_forward.experts]
    routed = sum(b.count * b.feed_forward.active * b.feed_forward.expert_parameters(model.hidden) for b in moe)
    one_expert = sum(b.count * b.feed_forward.expert_parameters(model.hidden) for b in moe)
    shards = cache_shards(instance)

    def attended(kinds: tuple[str, ...], each: str) -> float:
        return float(sum(b.count * getattr(b.attention, each)() for b in model.blocks if b.attention.kind in kinds))

    full, window = ("full", "mla"), ("sliding",)
    collectives = 2 * layers if groups > 1 else 0
    volume = collectives * model.hidden * wide * 2 * (groups - 1) / groups if groups > 1 else 0.0
    values: dict[str, float] = dict.fromkeys(FIELDS, 0.0)
    values.update(
        stages=spread.pp,
        fixed_s=eff.step_s + layers * eff.layer_s,
        sequence_s=eff.sequence_s,
        linear_token_s=2 * dense / (groups * peak),
        linear_weights_s=dense * weights.bytes / (spread.tp * bandwidth),
        activation_token_s=layers * 12 * model.hidden * wide / (groups * bandwidth),
        expert_token_s=2 * routed / (groups * expert_peak),
        expert_read_s=one_expert * experts.bytes / (groups * bandwidth),
        experts=moe[0].feed_forward.experts if moe else 0,
        experts_active=moe[0].feed_forward.active if moe else 0,
        prefill_pair_s=attended(full, "pair_flops") / (groups * attention_peak),
        prefill_pair_window_s=attended(window, "pair_flops") / (groups * attention_peak),
        decode_context_s=attended(full, "cache_values") * cache / (shards * spread.dp * bandwidth),
        decode_context_window_s=attended(window, "cache_values") * cache / (shards * spread.dp * bandwidth),
        decode_pair_s=attended(full, "decode_pair_flops") / (groups * attention_peak),
        decode_pair_window_s=attended(window, "decode_pair_flops") / (groups * attention_peak),
        state_s=2 * attended(("linear",), "state_values") * cache / (groups * bandwidth),
        head_token_s=2 * model.hidden * model.vocab / (groups * peak),
        head_weights_s=model.hidden * model.vocab * 2.0 / (spread.tp * bandwidth),
        collective_s=collectives * eff.collective_s,
        collective_token_s=volume / (spread.dp * link),
        window=max((b.attention.window for b in model.blocks), default=0),
        idle_w=hardware.idle_w * instance.devices,
        memory_w=(hardware.idle_w + 0.6 * (hardware.tdp_w - hardware.idle_w)) * instance.devices,
        compute_w=hardware.tdp_w * instance.devices,
        prefill_scale=1.0,
        decode_scale=1.0,
    )
    array = np.array([values[name] for name in FIELDS], dtype=np.float64)
    array.flags.writeable = False
    return StepModel(coefficients=array)
