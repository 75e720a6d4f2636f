"""Number formats: how many bytes a value takes, and what hardware computes it in."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from plenum.model.errors import FieldError


class UnknownFormatError(FieldError):
    """A number format that is not known."""

    code = "format.unknown"


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
    aliases
        Other spellings, as engines, checkpoints and benchmark files have them.
    group
        Values that share one scale; 0: none, or one for the whole matrix.
    error
        Typical loss against BF16, in words.
    source
        Of ``bits`` and of the rest.
    """

    name: str
    bits: float
    computes_as: tuple[str, ...]
    weight_only: bool = False
    aliases: tuple[str, ...] = ()
    group: int = 0
    error: str = ""
    source: str = ""

    @property
    def bytes(self) -> float:
        """Bytes of one value."""
        return self.bits / 8


_WIDE = ("bf16", "fp16", "fp32")

_GGML = "ggml-common.h: bytes of a block over its values"

_PLAIN = (
    Format(name="fp32", bits=32, computes_as=("fp32",), aliases=("float32", "f32", "float"), source="IEEE 754"),
    Format(
        name="tf32",
        bits=32,
        computes_as=("tf32", "fp32"),
        aliases=("tensorfloat32",),
        error="as BF16 or better",
        source="NVIDIA A100 whitepaper: 19 bits used, 32 stored",
    ),
    Format(name="fp16", bits=16, computes_as=("fp16", "fp32"), aliases=("float16", "f16", "half"), source="IEEE 754"),
    Format(
        name="bf16",
        bits=16,
        computes_as=_WIDE,
        aliases=("bfloat16", "auto", "none"),
        source="arXiv 1905.12322: 8 exponent, 7 fraction bits",
    ),
    Format(
        name="fp8",
        bits=8,
        computes_as=("fp8", *_WIDE),
        aliases=("fp8_e4m3", "e4m3", "e4m3fn", "float8_e4m3fn", "w8a8_fp8", "fp8_per_tensor"),
        error="small: under 1 % on most benchmarks",
        source="arXiv 2209.05433; E4M3",
    ),
    Format(
        name="fp8_e5m2",
        bits=8,
        computes_as=("fp8", *_WIDE),
        aliases=("e5m2", "float8_e5m2"),
        error="larger than E4M3's; made for gradients and wide ranges",
        source="arXiv 2209.05433; E5M2",
    ),
    Format(
        name="int8",
        bits=8,
        computes_as=("int8", *_WIDE),
        aliases=("w8a8", "w8a8_int8", "smoothquant", "sq"),
        error="small once outliers are smoothed",
        source="arXiv 2211.10438 (SmoothQuant): weights and activations",
    ),
)


def _weights_only(name: str, bits: float, group: int, aliases: tuple[str, ...], error: str, source: str) -> Format:
    """Return a format that is expanded before it is multiplied."""
    return Format(
        name=name,
        bits=bits,
        computes_as=_WIDE,
        weight_only=True,
        aliases=aliases,
        group=group,
        error=error,
        source=source,
    )


_GROUPED = (
    Format(
        name="fp8_block",
        bits=8 + 32 / (128 * 128),
        computes_as=("fp8", *_WIDE),
        aliases=("fp8_blockwise", "fp8_128x128", "block_fp8"),
        group=128 * 128,
        error="small: trained in it",
        source="arXiv 2412.19437 (DeepSeek-V3): one FP32 scale for 128 x 128 weights",
    ),
    Format(
        name="mxfp8",
        bits=8 + 8 / 32,
        computes_as=("mxfp8", "fp8", *_WIDE),
        group=32,
        error="small",
        source="OCP Microscaling Formats v1.0: one 8-bit scale for 32 values",
    ),
    _weights_only(
        "int8_wo", 8 + 16 / 128, 128, ("w8a16", "int8_weight_only"), "none to speak of", "One FP16 scale for 128 values"
    ),
    _weights_only(
        "int4",
        4 + 16 / 128,
        128,
        ("int4_wo", "w4a16", "int4_weight_only", "uint4", "int4_g128"),
        "visible on small models, about 1 % on large ones",
        "Symmetric: one FP16 scale for 128 values",
    ),
    _weights_only(
        "int4_g32",
        4 + 16 / 32,
        32,
        ("int4_group32", "w4a16_g32"),
        "none to speak of where trained for it",
        "Kimi-K2-Thinking and K2.5 config.json: pack-quantized, group_size 32, symmetric",
    ),
    *(
        _weights_only(
            name,
            4 + (16 + 4) / 128,
            128,
            (f"{name}_int4", f"int4_{name}", f"{name}_marlin"),
            "about 1 % on large models",
            f"{paper}: one FP16 scale and one 4-bit zero for 128 values",
        )
        for name, paper in (("awq", "arXiv 2306.00978"), ("gptq", "arXiv 2210.17323"))
    ),
    Format(
        name="nvfp4",
        bits=4 + 8 / 16,
        computes_as=("nvfp4", *_WIDE),
        aliases=("fp4", "fp4_e2m1", "w4a4_nvfp4", "modelopt_fp4"),
        group=16,
        error="about 1 % on large models, more on small ones",
        source="NVIDIA Blackwell: E2M1 with one FP8 scale for 16 values (and one FP32 for the tensor)",
    ),
    Format(
        name="mxfp4",
        bits=4 + 8 / 32,
        computes_as=("mxfp4", *_WIDE),
        aliases=("w4a8_mxfp4_mxfp8", "w4a16_mxfp4"),
        group=32,
        error="somewhat larger than NVFP4's unless trained for it",
        source="OCP Microscaling Formats v1.0: E2M1 with one 8-bit scale for 32 values",
    ),
    Format(
        name="ternary",
        bits=54 * 8 / 256,
        computes_as=("int8", *_WIDE),
        weight_only=True,
        aliases=("int1.58", "1.58bit", "b1.58", "bitnet", "tq1_0"),
        group=256,
        error="none to speak of where trained for it; not for models that were not",
        source="arXiv 2402.17764: log2 3 = 1.58 bits; packed as ggml's TQ1_0, 54 bytes for 256 values",
    ),
)


def _gguf(name: str, block_bytes: int, block: int, error: str) -> Format:
    aliases = (f"gguf_{name}", f"{name}_s", f"{name}_m") if name.endswith("_k") else (f"gguf_{name}",)
    bits = block_bytes * 8 / block
    return _weights_only(name, bits, block, aliases, error, f"{_GGML}: {block_bytes} bytes for {block}")


_GGUF = (
    _gguf("q4_0", 18, 32, "visible"),
    _gguf("q4_1", 20, 32, "visible"),
    _gguf("q5_0", 22, 32, "small"),
    _gguf("q5_1", 24, 32, "small"),
    _gguf("q8_0", 34, 32, "none to speak of"),
    _gguf("q2_k", 84, 256, "large"),
    _gguf("q3_k", 110, 256, "plain to see"),
    _gguf("q4_k", 144, 256, "small"),
    _gguf("q5_k", 176, 256, "small"),
    _gguf("q6_k", 210, 256, "none to speak of"),
    _gguf("iq1_s", 50, 256, "very large"),
    _gguf("iq1_m", 56, 256, "very large"),
    _gguf("iq2_xxs", 66, 256, "large"),
    _gguf("iq2_xs", 74, 256, "large"),
    _gguf("iq2_s", 82, 256, "large"),
    _gguf("iq3_xxs", 98, 256, "plain to see"),
    _gguf("iq3_s", 110, 256, "plain to see"),
    _gguf("iq4_xs", 136, 256, "small"),
    _gguf("iq4_nl", 18, 32, "small"),
    _gguf("tq2_0", 66, 256, "none to speak of where trained for it"),
)

FORMATS: dict[str, Format] = {form.name: form for form in (*_PLAIN, *_GROUPED, *_GGUF)}
"""Formats by name; the one table to add to."""

_SPELLINGS = {alias: form.name for form in FORMATS.values() for alias in (form.name, *form.aliases)}


def format_named(name: str, field: str = "format") -> Format:
    """Return a format by its name or by one of its other spellings, whatever the case.

    Raises
    ------
    UnknownFormatError
        No format is called so; the sentence has the nearest names.
    """
    key = name.strip().lower().replace("-", "_")
    found = _SPELLINGS.get(key)
    if found is None:
        near = list(dict.fromkeys(_SPELLINGS[close] for close in difflib.get_close_matches(key, _SPELLINGS, 4, 0.5)))
        hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(FORMATS)}"
        raise UnknownFormatError(field, f"no number format is called {name[:80]!r}; {hint}")
    return FORMATS[found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Which format each part of a model is held in; names of :data:`FORMATS`.

    ``experts`` empty: routed experts are held like the other ``weights``.
    """

    weights: str = "bf16"
    activations: str = "bf16"
    kv_cache: str = "bf16"
    experts: str = ""
