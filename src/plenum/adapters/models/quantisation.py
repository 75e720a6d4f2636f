"""Which format the weights of a checkpoint are in, from its ``quantization_config``."""

from __future__ import annotations

import re
from collections import Counter

from plenum.adapters.models.settings import Settings

_KNOWN = "fp8, mxfp4, awq, gptq, bitsandbytes, compressed-tensors, modelopt, bitnet"

MODULES_LIMIT = 20_000
"""Names of matrices that are looked at."""

_ALGORITHMS = {
    "fp8": "fp8",
    "fp8_pb_wo": "fp8_block",
    "nvfp4": "nvfp4",
    "w4a16_nvfp4": "nvfp4",
    "w4a16_awq": "awq",
    "w8a8_sq_per_channel": "int8",
}
"""``quant_algo`` of NVIDIA's ModelOpt."""

_ATTENTION = re.compile(r"self_attn(\W*$|\.(qkv|q|q_a|q_b|o)_proj)")

_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float8_e4m3fn": "fp8"}


def read_formats(settings: Settings) -> tuple[str, str]:
    """Return the formats of the weights and, where it is another one, of the routed experts.

    Raises
    ------
    FieldError
        The method of quantisation is not known.
    """
    wide = _DTYPES.get(settings.text("torch_dtype") or settings.text("dtype"), "bf16")
    quantised = settings.part("quantization_config")
    if quantised is None:
        return wide, ""
    mixed = quantised.part("quantized_layers")
    if mixed is not None:
        return _mixed(mixed, wide)
    form = _format(quantised)
    if form == "mxfp4" or _attention_ignored(quantised):
        return wide, form
    return form, ""


def _format(quantised: Settings) -> str:
    method = quantised.text("quant_method").lower()
    bits = quantised.whole("bits", "w_bit", default=4)
    match method:
        case "fp8" | "fbgemm_fp8":
            return "fp8_block" if quantised.each("weight_block_size") else "fp8"
        case "mxfp4" | "mxfp8":
            return method
        case "awq" | "gptq":
            return method if bits == 4 else "int8_wo"
        case "bitsandbytes":
            return "int4" if quantised.flag("load_in_4bit") else "int8"
        case "bitnet":
            return "ternary"
        case "modelopt" | "compressed-tensors":
            return _by_algorithm(quantised) or _by_group(quantised)
    if not method and _by_algorithm(quantised):
        return _by_algorithm(quantised)
    raise quantised.wrong("quant_method", f"{method[:40]!r} is not known; known: {_KNOWN}")


def _by_algorithm(quantised: Settings) -> str:
    return _ALGORITHMS.get(quantised.text("quant_algo").lower(), "")


def _mixed(layers: Settings, wide: str) -> tuple[str, str]:
    """Return the formats that most matrices outside and inside of the experts are in."""
    dense: Counter[str] = Counter()
    routed: Counter[str] = Counter()
    for name in list(layers.values)[:MODULES_LIMIT]:
        layer = layers.part(name)
        (routed if "experts" in name else dense)[_by_algorithm(layer) if layer else ""] += 1
    weights = dense.most_common(1)[0][0] if dense else wide
    experts = routed.most_common(1)[0][0] if routed else ""
    return weights or wide, experts if experts != weights else ""


def _by_group(quantised: Settings) -> str:
    groups = quantised.part("config_groups")
    name = next(iter(groups.values), "") if groups else ""
    group = groups.part(name) if groups and name else None
    weights = group.part("weights") if group else None
    if group is None or weights is None:
        raise quantised.wrong("config_groups", "says nothing of the weights")
    bits, size = weights.whole("num_bits"), weights.whole("group_size", default=0)
    if weights.text("type") == "float":
        if bits == 4:
            return "nvfp4" if size <= 16 else "mxfp4"
        return "fp8_block" if weights.text("strategy") == "block" else "fp8"
    if bits == 8:
        return "int8" if group.part("input_activations") else "int8_wo"
    return "int4_g32" if size == 32 else "int4"


def _attention_ignored(quantised: Settings) -> bool:
    ignored = quantised.values.get("ignore") or quantised.values.get("modules_to_not_convert") or []
    return isinstance(ignored, list) and any(_ATTENTION.search(str(name)[:300]) for name in ignored[:MODULES_LIMIT])
