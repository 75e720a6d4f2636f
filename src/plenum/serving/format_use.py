"""What a piece of hardware does with a number format: computes in it, or falls back, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from plenum.serving.formats import FORMATS, Format, Precision
from plenum.serving.hardware import Accelerator


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatUse:
    """How hardware runs a format.

    Parameters
    ----------
    format
        Name of the format that values are held in.
    computed_in
        Name of the format that they are multiplied in; empty: the hardware can do nothing with it.
    native
        They are multiplied as they are held.
    peak_flops
        Of ``computed_in``, FLOP/s; 0 where there is none.
    compute_ratio
        That peak over the one of the hardware's 16-bit format: above 1 the format saves compute.
    memory_ratio
        Bytes of a value over those of a 16-bit one: below 1 the format saves memory, whatever it is computed in.
    why
        The same in a sentence.
    """

    format: str
    computed_in: str
    native: bool
    peak_flops: float
    compute_ratio: float
    memory_ratio: float
    why: str


def format_use(hardware: Accelerator, name: str) -> FormatUse:
    """Say what ``hardware`` does with the format called ``name`` (a name of :data:`~plenum.serving.formats.FORMATS`)."""
    form = FORMATS[name]
    computed = next((known for known in form.computes_as if known in hardware.peak_flops), "")
    peak = hardware.peak_flops.get(computed, 0.0)
    wide = max((hardware.peak_flops.get(known, 0.0) for known in ("bf16", "fp16")), default=0.0)
    native = bool(computed) and computed == form.computes_as[0] and not form.weight_only
    return FormatUse(
        format=name,
        computed_in=computed,
        native=native,
        peak_flops=peak,
        compute_ratio=peak / wide if wide else 0.0,
        memory_ratio=form.bits / 16,
        why=_why(hardware, form, computed, native),
    )


def precision_uses(hardware: Accelerator, precision: Precision) -> dict[str, FormatUse]:
    """Say the same of each part of a model: ``weights``, ``experts`` where they differ, and ``kv_cache`` (expanded as it is read)."""
    parts = {"weights": precision.weights, "experts": precision.experts, "kv_cache": precision.kv_cache}
    return {part: format_use(hardware, name) for part, name in parts.items() if name}


def _why(hardware: Accelerator, form: Format, computed: str, native: bool) -> str:
    if not computed:
        return f"computes in none of {', '.join(form.computes_as)}"
    teraflops = f"{hardware.peak_flops[computed] / 1e12:,.0f} TFLOP/s"
    if native:
        return f"multiplied as it is held: {teraflops}"
    if form.weight_only:
        return f"expanded to {computed} before it is multiplied: memory is saved, compute is not ({teraflops})"
    slow = hardware.peak_flops[computed] <= hardware.peak_flops.get("bf16", 0.0)
    cost = "memory is saved, compute is not" if slow else "memory is saved, and some compute"
    return f"no units for {form.computes_as[0]}: expanded to {computed}; {cost} ({teraflops})"
