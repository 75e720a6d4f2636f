"""Number formats: how many bytes a value takes, and what hardware computes it in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One number format.

    Parameters
    ----------
    name
        ``bf16``, ``fp8``, ``int4`` …
    bits
        Of one value, scales and zero points of its group included.
    computes_as
        Formats to compute in, best first: the first that the hardware has a peak for is taken. A weight-only format is expanded to
        one of these before it is multiplied.
    weight_only
        Activations stay wide: memory is saved, FLOPs are not.
    error
        Typical loss against BF16, in words.
    source
        Of ``bits`` and of the rest.
    """

    name: str
    bits: float
    computes_as: tuple[str, ...]
    weight_only: bool = False
    error: str = ""
    source: str = ""

    @property
    def bytes(self) -> float:
        """Bytes of one value."""
        return self.bits / 8


FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format(name="fp32", bits=32, computes_as=("fp32",), source="IEEE 754"),
        Format(
            name="tf32", bits=32, computes_as=("tf32", "fp32"), source="NVIDIA A100 whitepaper: 19 bits used, 32 stored"
        ),
        Format(name="fp16", bits=16, computes_as=("fp16", "fp32"), source="IEEE 754"),
        Format(name="bf16", bits=16, computes_as=("bf16", "fp16", "fp32"), source="8 exponent, 7 fraction bits"),
        Format(name="fp8", bits=8, computes_as=("fp8", "bf16", "fp16", "fp32"), source="arXiv 2209.05433; E4M3"),
    )
}
"""Formats by name; the one table to add to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Which format each part of a model is held in; names of :data:`FORMATS`.

    ``experts`` empty: routed experts are held like the other ``weights``.
    """

    weights: str = "bf16"
    activations: str = "bf16"
    kv_cache: str = "bf16"
    experts: str = ""
