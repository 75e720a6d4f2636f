"""From an instance to the coefficients of its iterations: peaks, bytes and latencies of every operator.

The roofline of Williams, Waterman and Patterson (CACM 2009) operator by operator. :func:`work_of` says what an operator takes at the
data sheet's peaks; an :class:`Efficiency` says which part of each peak is reached and what launches and collectives add.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.serving.architecture import Architecture, Attention
from plenum.serving.formats import FORMATS, Format, Precision
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import Instance, Parallelism, cache_shards
from plenum.serving.steps import AT, FIELDS, StepModel

ACTIVATION_PASSES = 12
"""Times that a layer moves a token's hidden state through memory: norms, residuals, projections in and out."""

DISPATCH_BYTES = 3
"""Bytes for each value of a token's hidden state that visits an expert elsewhere: out in 8 bits, back in 16 (DeepSeek-V3, 3.2.2)."""

REMOTE_LATENCY = 3.0
"""Latency of a collective beyond a scale-up domain over that of one within: an estimate. The constants by which NCCL chooses its
algorithms (``src/graph/tuning.cc``, tree and ring, protocol LL) give a small all-reduce 10 to 15 us on one server of eight GPUs, depending
on the version, about 26 on two and 36 on four: 1.7 to 3.7 times as long. Nothing measured for the shipped calibration spans two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What an engine on a kind of hardware reaches of the data sheet, and what it adds.

    Parameters
    ----------
    compute, experts, attention
        Parts of peak FLOP/s that dense matrices, routed experts and prefill attention reach in 16 bits.
    narrow
        What is left of that part each time that a narrower format doubles the peak.
    memory, expert_memory, cache_memory
        Parts of memory bandwidth that reading dense weights, experts and KV cache reaches.
    network
        Part of scale-up bandwidth that collectives reach.
    layer_s, expert_layer_s, latent_layer_s, step_s, sequence_s
        Seconds that launches add for each layer, besides for each layer with experts and for each whose attention is latent or
        linear (more and smaller kernels); seconds of the host, which overlap, for each iteration and for each sequence.
    collective_s
        Latency of one collective in the scale-up domain.
    awake, memory_power, compute_power, peak_power
        As parts of the data sheet's power: watts of an iteration that waits; what reading, and computing, all the time adds; the most.
    request_s
        Seconds between a request and the queue: HTTP, tokenising, scheduling; and the same of the first token on its way back.
    queueing
        Waiting for prefill over that of a queue with random arrivals and the same mean: below 1 where work comes evenly.
    burst
        Part of closed-loop requests that start together, as all do when a benchmark begins.
    """

    compute: float = 0.65
    experts: float = 0.5
    attention: float = 0.4
    narrow: float = 0.8
    memory: float = 0.75
    expert_memory: float = 0.6
    cache_memory: float = 0.6
    network: float = 0.5
    layer_s: float = 20e-6
    expert_layer_s: float = 20e-6
    latent_layer_s: float = 20e-6
    step_s: float = 2.0e-3
    sequence_s: float = 30e-6
    collective_s: float = 8e-6
    awake: float = 0.29
    memory_power: float = 0.5
    compute_power: float = 0.75
    peak_power: float = 1.03
    request_s: float = 0.02
    queueing: float = 1.0
    burst: float = 0.2


EFFICIENCY_FIELDS = tuple(f.name for f in fields(Efficiency))
"""Names of what calibration fits, in order."""

_AT_EFF = {name: index for index, name in enumerate(EFFICIENCY_FIELDS)}

_DIVIDED_BY = {
    "linear_token_s": "compute",
    "head_token_s": "compute",
    "expert_token_s": "experts",
    "prefill_pair_s": "attention",
    "prefill_pair_window_s": "attention",
    "prefill_pair_masked_s": "attention",
    "decode_pair_s": "attention",
    "decode_pair_window_s": "attention",
    "linear_weights_s": "memory",
    "activation_token_s": "memory",
    "head_weights_s": "memory",
    "state_s": "cache_memory",
    "expert_read_s": "expert_memory",
    "decode_context_s": "cache_memory",
    "decode_context_window_s": "cache_memory",
    "collective_token_s": "network",
}
"""Which part of a peak each coefficient's time goes with."""

_COUNTS = ("narrow", "expert_narrow", "layers", "expert_layers", "latent_layers", "collectives", "tdp_w")
WORK_FIELDS = FIELDS + _COUNTS
"""Columns of :func:`work_of`: the coefficients at data-sheet peaks, then the counts that overheads multiply."""

_AT_WORK = {name: index for index, name in enumerate(WORK_FIELDS)}


def computed_in(hardware: Accelerator, form: Format) -> str:
    """Name of the format that ``hardware`` multiplies values of ``form`` in; empty where it can do none."""
    return next((name for name in form.computes_as if name in hardware.peak_flops), "")


def compile_steps(instance: Instance, efficiency: Efficiency | None = None) -> StepModel:
    """Compile an instance to the coefficients that :func:`plenum.serving.steps.step` reads."""
    array = coefficients(work_of(instance)[None, :], efficiency_array(efficiency or Efficiency())[None, :])[0]
    return StepModel(coefficients=array)


def efficiency_array(efficiency: Efficiency) -> NDArray[np.float64]:
    """Return an efficiency as an array in the order of :data:`EFFICIENCY_FIELDS`."""
    return np.array([getattr(efficiency, name) for name in EFFICIENCY_FIELDS], dtype=np.float64)


def efficiency_of(values: NDArray[np.float64]) -> Efficiency:
    """Return what :func:`efficiency_array` made an array of."""
    return replace(Efficiency(), **{name: float(v) for name, v in zip(EFFICIENCY_FIELDS, values, strict=True)})


def coefficients(work: NDArray[np.float64], efficiency: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply efficiencies to work.

    Parameters
    ----------
    work
        (n, len(WORK_FIELDS)).
    efficiency
        (n, len(EFFICIENCY_FIELDS)), or (1, …) for one that holds for all.

    Returns
    -------
    NDArray
        (n, len(FIELDS)): rows are what :func:`plenum.serving.steps.step` takes.
    """

    def eff(name: str) -> NDArray[np.float64]:
        return efficiency[:, _AT_EFF[name]]

    def count(name: str) -> NDArray[np.float64]:
        return work[:, _AT_WORK[name]]

    out = work[:, : len(FIELDS)].copy()
    for name, part in _DIVIDED_BY.items():
        out[:, AT[name]] /= eff(part)
    for name, halvings in (("linear_token_s", "narrow"), ("expert_token_s", "expert_narrow")):
        out[:, AT[name]] /= eff("narrow") ** count(halvings)
    out[:, AT["fixed_s"]] = (
        count("layers") * eff("layer_s")
        + count("expert_layers") * eff("expert_layer_s")
        + count("latent_layers") * eff("latent_layer_s")
    )
    out[:, AT["host_s"]] = eff("step_s")
    out[:, AT["request_s"]] = eff("request_s")
    out[:, AT["sequence_s"]] = eff("sequence_s")
    out[:, AT["collective_s"]] = count("collectives") * eff("collective_s")
    parts = (
        ("awake_w", "awake"),
        ("memory_w", "memory_power"),
        ("compute_w", "compute_power"),
        ("cap_w", "peak_power"),
    )
    for name, part in parts:
        out[:, AT[name]] = count("tdp_w") * eff(part)
    return out


class _Shape(NamedTuple):
    """Sums over the blocks of a model, which no parallelism changes."""

    dense: float
    routed_flops: float
    one_expert: float
    experts: float
    active: float
    expert_layers: float
    latent_layers: float
    index_pair_flops: float
    pair_flops: float
    pair_window_flops: float
    pair_masked_flops: float
    decode_pair_flops: float
    decode_pair_window_flops: float
    cache_values: float
    cache_window_values: float
    state_values: float
    window: float
    layers: float


def _seen(attention: Attention) -> int:
    """Tokens at most that a query attends to; 0: all. An indexer still compares it with all of them."""
    return attention.window if attention.kind == "sliding" else attention.selected


def _more_kernels(attention: Attention) -> int:
    """Times that a layer launches what :attr:`Efficiency.latent_layer_s` stands for: once more to score, select and gather tokens."""
    return (attention.kind in ("mla", "linear")) + bool(attention.selected)


def _near_flops(attention: Attention) -> int:
    """FLOPs of a pair in prefill where few tokens are attended to: where they are selected, in the latent space as decode does."""
    return attention.decode_pair_flops() if attention.selected else attention.pair_flops()


@lru_cache(maxsize=512)
def _shape(model: Architecture) -> _Shape:
    moe = [block for block in model.blocks if block.feed_forward.experts]
    growing = [b for b in model.blocks if b.attention.kind in ("full", "mla", "sliding")]

    def attended(near: bool, each: str) -> float:
        """Sum over the layers that see a bounded number of tokens (a window, or those that an indexer selects), or over the others."""
        return float(sum(b.count * getattr(b.attention, each)() for b in growing if bool(_seen(b.attention)) is near))

    def indexed(each: str) -> float:
        return float(sum(b.count * getattr(b.attention, each)() for b in growing if b.attention.selected))

    return _Shape(
        dense=model.attention_parameters + model.dense_parameters,
        routed_flops=2.0
        * sum(b.count * b.feed_forward.active * b.feed_forward.expert_parameters(model.hidden) for b in moe),
        one_expert=sum(b.count * b.feed_forward.expert_parameters(model.hidden) for b in moe),
        experts=moe[0].feed_forward.experts if moe else 0,
        active=moe[0].feed_forward.active if moe else 0,
        expert_layers=sum(b.count for b in moe),
        latent_layers=sum(b.count * _more_kernels(b.attention) for b in model.blocks),
        index_pair_flops=indexed("index_pair_flops"),
        pair_flops=attended(False, "pair_flops"),
        pair_window_flops=sum(b.count * _near_flops(b.attention) for b in growing if _seen(b.attention)),
        pair_masked_flops=indexed("pair_flops"),
        decode_pair_flops=attended(False, "decode_pair_flops"),
        decode_pair_window_flops=attended(True, "decode_pair_flops"),
        cache_values=attended(False, "cache_values") + indexed("index_values"),
        cache_window_values=attended(True, "cache_values") - indexed("index_values"),
        state_values=sum(b.count * b.attention.state_values() for b in model.blocks),
        window=max((_seen(b.attention) for b in model.blocks), default=0),
        layers=model.layers,
    )


@lru_cache(maxsize=4096)
def _peaks(peak_flops: tuple[tuple[str, float], ...], precision: Precision) -> tuple[float, float, float]:
    """Peak FLOP/s of dense weights, of experts and of attention."""
    peaks: Mapping[str, float] = dict(peak_flops)

    def of(name: str) -> float:
        return next((peaks[form] for form in FORMATS[name].computes_as if form in peaks), 0.0) or min(peaks.values())

    return of(precision.weights), of(precision.experts or precision.weights), of("bf16")


def work_of(instance: Instance) -> NDArray[np.float64]:
    """Return what one instance's operators take at the data sheet's peaks, (len(WORK_FIELDS),)."""
    return work_of_many([instance])[0]


def work_of_many(instances: Sequence[Instance]) -> NDArray[np.float64]:
    """Return :func:`work_of` of many instances, (n, len(WORK_FIELDS)); equal objects are computed once."""
    rows: dict[int, NDArray[np.float64]] = {}
    for instance in instances:
        if id(instance) not in rows:
            rows[id(instance)] = _work(instance)
    return np.array([rows[id(instance)] for instance in instances]).reshape(len(instances), len(WORK_FIELDS))


def _work(instance: Instance) -> NDArray[np.float64]:
    model, hardware, spread, precision = instance.model, instance.hardware, instance.parallelism, instance.precision
    shape = _shape(model)
    peak, expert_peak, attention_peak = _peaks(tuple(hardware.peak_flops.items()), precision)
    weight_bytes = FORMATS[precision.weights].bytes
    expert_bytes = FORMATS[precision.experts or precision.weights].bytes
    cache = FORMATS[precision.kv_cache].bytes
    wide = FORMATS[precision.activations].bytes
    bandwidth = hardware.hbm_bps
    width = spread.tp * spread.dp  # devices of one stage
    context_bytes = cache / (cache_shards(instance) * spread.dp * bandwidth)
    collectives, volume_s = _communication(model.hidden, wide, shape, spread, hardware)
    index_s = shape.index_pair_flops / (width * max(attention_peak, hardware.peak_flops.get("fp8", 0.0)))
    settings = instance.settings
    # Layers whose tokens an indexer selects compare all (in 8 bits where there are such: DeepSeek-V3.2) and attend to a window's worth.
    values: dict[str, float] = {
        "stages": spread.pp,
        "linear_token_s": 2 * shape.dense / (width * peak),
        "linear_weights_s": shape.dense * weight_bytes / (spread.tp * bandwidth),
        "activation_token_s": shape.layers * ACTIVATION_PASSES * model.hidden * wide / (width * bandwidth),
        "expert_token_s": shape.routed_flops / (width * expert_peak),
        "expert_read_s": shape.one_expert * expert_bytes / (width * bandwidth),
        "experts": shape.experts,
        "experts_active": shape.active,
        "prefill_pair_s": shape.pair_flops / (width * attention_peak) + index_s,
        "prefill_pair_window_s": shape.pair_window_flops / (width * attention_peak),
        "prefill_pair_masked_s": shape.pair_masked_flops / (width * attention_peak),
        "decode_context_s": shape.cache_values * context_bytes,
        "decode_context_window_s": shape.cache_window_values * context_bytes,
        "decode_pair_s": shape.decode_pair_flops / (width * attention_peak) + index_s,
        "decode_pair_window_s": shape.decode_pair_window_flops / (width * attention_peak),
        "state_s": 2 * shape.state_values * max(wide, 2.0) / (width * bandwidth),
        "head_token_s": 2 * model.hidden * model.vocab / (width * attention_peak),
        "head_weights_s": model.hidden * model.vocab * 2.0 / (spread.tp * bandwidth),
        "collective_token_s": volume_s,
        "window": shape.window,
        "prefill_scale": 1.0,
        "decode_scale": 1.0,
        "groups": spread.dp,
        "decode_width": 1.0 + settings.speculative_tokens,
        "draft_share": settings.speculative_tokens / shape.layers,
        "expert_spread": math.sqrt(2.0 * spread.ep * math.log(spread.ep)) if shape.experts else 0.0,
        "narrow": math.log2(max(peak / attention_peak, 1.0)),
        "expert_narrow": math.log2(max(expert_peak / attention_peak, 1.0)),
        "layers": shape.layers + settings.speculative_tokens,  # each drafted token is one layer, launched by itself
        "expert_layers": shape.expert_layers,
        "latent_layers": shape.latent_layers,
        "collectives": collectives,
        "tdp_w": hardware.tdp_w * instance.devices,
        "idle_w": hardware.idle_w * instance.devices,
    }
    out = np.zeros(len(WORK_FIELDS))
    for name, value in values.items():
        out[_AT_WORK[name]] = value
    return out


def _communication(
    hidden: float, wide: float, shape: _Shape, spread: Parallelism, hardware: Accelerator
) -> tuple[float, float]:
    """Collectives of one iteration (one beyond the scale-up domain counts for :data:`REMOTE_LATENCY`), and seconds of their volume a token.

    Tensor parallel groups all-reduce after attention and after the feed-forward part; where attention is data parallel, tokens are
    sent to the experts that they visit and back instead of the second of the two. Pipeline stages hand tokens on.
    """
    domain, width = max(hardware.scaleup_size, 1), spread.tp * spread.dp
    near, far = hardware.scaleup_bps, hardware.scaleout_bps

    def latency(devices: int) -> float:
        return 1.0 if devices <= domain else REMOTE_LATENCY

    count, seconds = 0.0, 0.0
    sent = shape.expert_layers if spread.dp > 1 else 0.0
    if spread.tp > 1:
        reduces = 2.0 * shape.layers - sent
        volume = 2.0 * (spread.tp - 1) / spread.tp * hidden * wide
        count += reduces * latency(spread.tp)
        seconds += reduces * volume / (spread.dp * (near if spread.tp <= domain else far))
    if sent:
        inside, outside = _copies(shape.active, spread, domain)
        count += 2.0 * sent * latency(width)
        seconds += sent * hidden * DISPATCH_BYTES * (inside / near + outside / far) / width
    if spread.pp > 1:
        hops = spread.pp - 1.0
        count += hops * latency(width * spread.pp)
        seconds += hops * hidden * wide / (width * (near if width * spread.pp <= domain else far))
    return count, seconds


def _copies(active: float, spread: Parallelism, domain: int) -> tuple[float, float]:
    """How often a token is sent to its experts within scale-up domains, and between them: once a domain, and on from there (DeepEP)."""
    width = spread.tp * spread.dp
    visited = (
        1.0 - (1.0 - 1.0 / spread.ep) ** active if spread.ep > 1 else 1.0
    )  # chance that a device holds some expert of it
    domains = math.ceil(width / domain)
    outside = (domains - 1.0) * (1.0 - (1.0 - 1.0 / domains) ** active if spread.ep >= domains > 1 else 1.0)
    return max((width - 1.0) * visited - outside, 0.0), outside
