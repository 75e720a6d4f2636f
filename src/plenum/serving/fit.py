"""What fits where: the fewest devices that hold a model and one sequence of a given length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from plenum.serving.architecture import Architecture
from plenum.serving.formats import FORMATS, Precision
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import (
    RUNTIME_FRACTION,
    WORKSPACE_BYTES,
    Instance,
    Parallelism,
    cache_capacity_tokens,
    weight_bytes_per_device,
)

MOST_DEVICES = 72
"""Devices of one instance at most: the largest scale-up domain that engines run one instance over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a model fits on a kind of hardware.

    Parameters
    ----------
    devices
        Fewest that hold it in one tensor parallel group; 0: it does not fit.
    weight_bytes
        On each of them (of the largest group where it does not fit).
    usable_bytes
        Of each: what an engine has for weights and cache.
    cache_tokens
        Tokens of KV cache that they hold together.
    why_not
        What stands in the way where it does not fit.
    """

    devices: int
    weight_bytes: float
    usable_bytes: float
    cache_tokens: int
    why_not: str = ""


def model_bytes(model: Architecture, precision: Precision) -> float:
    """Bytes of all weights; embeddings stay 16 bits wide."""
    weights = FORMATS[precision.weights].bytes
    experts = FORMATS[precision.experts or precision.weights].bytes
    dense = (model.attention_parameters + model.dense_parameters) * weights
    return dense + model.expert_parameters * experts + model.embedding_parameters * 2.0


def fewest_devices(
    model: Architecture, hardware: Accelerator, precision: Precision, *, context_tokens: int = 8192
) -> Fit:
    """Return the smallest tensor parallel group of ``hardware`` that holds the weights and a cache of ``context_tokens``."""
    usable = hardware.hbm_bytes * RUNTIME_FRACTION - WORKSPACE_BYTES
    weights, most = 0.0, 1
    for devices in _groups(model, hardware):
        spread = Parallelism(tp=devices, ep=devices if model.expert_parameters else 1)
        instance = Instance(model=model, hardware=hardware, precision=precision, parallelism=spread)
        weights, most = weight_bytes_per_device(instance), devices
        tokens = cache_capacity_tokens(instance, context_tokens)
        if weights < usable and tokens >= context_tokens:
            return Fit(devices=devices, weight_bytes=weights, usable_bytes=usable, cache_tokens=tokens)
    return Fit(
        devices=0,
        weight_bytes=weights,
        usable_bytes=usable,
        cache_tokens=0,
        why_not=_why_not(hardware, most, (weights, usable), context_tokens),
    )


def _why_not(hardware: Accelerator, most: int, taken: tuple[float, float], context_tokens: int) -> str:
    weights, usable = taken
    room = f"{usable / 1e9:,.0f} GB are usable on each {hardware.name}"
    widest = (
        f"even over {most} devices, the most that one tensor parallel group may have," if most > 1 else "on one device"
    )
    if weights >= usable:
        return f"{widest} weights take {weights / 1e9:,.0f} GB each; {room}"
    return (
        f"{widest} weights of {weights / 1e9:,.0f} GB each leave no room for {context_tokens:,} tokens of cache; {room}"
    )


def _groups(model: Architecture, hardware: Accelerator) -> Iterator[int]:
    """Yield powers of two that divide the query heads, within a scale-up domain."""
    heads = [block.attention.heads for block in model.blocks if block.attention.kind != "linear"]
    devices = 1
    while devices <= min(hardware.scaleup_size, MOST_DEVICES):
        if all(count % devices == 0 for count in heads):
            yield devices
        devices *= 2
