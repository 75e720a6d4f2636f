"""Reads an architecture from the header of a GGUF file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from plenum.adapters.models.gguf_header import GGUF_MAGIC, Header, read_header
from plenum.adapters.models.layers import read_blocks
from plenum.adapters.models.model_types import model_type_named
from plenum.adapters.models.settings import LAYERS_LIMIT, Settings
from plenum.model.errors import FieldError
from plenum.serving.architecture import Architecture

__all__ = ["GGUF_MAGIC", "read_gguf"]

ARCHITECTURES = {
    "llama": "llama",
    "llama4": "llama4",
    "mistral3": "mistral",
    "smollm3": "smollm3",
    "granite": "granite",
    "olmo2": "olmo2",
    "qwen2": "qwen2",
    "qwen2vl": "qwen2_vl",
    "qwen2moe": "qwen2_moe",
    "qwen3": "qwen3",
    "qwen3vl": "qwen3_vl",
    "qwen3moe": "qwen3_moe",
    "qwen3vlmoe": "qwen3_vl_moe",
    "deepseek2": "deepseek_v3",
    "glm4moe": "glm4_moe",
    "minimax-m2": "minimax_m2",
    "gpt-oss": "gpt_oss",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
    "command-r": "cohere",
    "falcon": "falcon",
    "bloom": "bloom",
    "gpt2": "gpt2",
    "starcoder2": "starcoder2",
}
"""``general.architecture`` to the ``model_type`` that has the same layers."""

_SETTINGS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "max_position_embeddings": "context_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "sliding_window": "attention.sliding_window",
    "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank",
    "qk_rope_head_dim": "rope.dimension_count",
    "num_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "n_shared_experts": "expert_shared_count",
    "first_k_dense_replace": "leading_dense_block_count",
    "interleave_moe_layer_step": "interleave_moe_layer_step",
}
"""Names of a ``config.json`` to the keys of a GGUF header, less the architecture in front."""

_FORMATS = {
    0: "fp32", 1: "fp16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_k", 11: "q3_k", 12: "q4_k",
    13: "q5_k", 14: "q6_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s", 22: "iq2_s",
    23: "iq4_xs", 29: "iq1_m", 30: "bf16", 34: "ternary", 35: "tq2_0", 39: "mxfp4", 40: "nvfp4",
}  # fmt: skip
"""Types of tensors, by their number in ggml.h."""


def read_gguf(path: Path) -> Architecture:
    """Read an architecture from the header of a GGUF file.

    Raises
    ------
    FileError
        It is cut short, or has counts and lengths that no model has.
    FieldError
        A value is missing or cannot be meant, or the architecture is not known.
    """
    header = read_header(path)
    try:
        return _architecture(header, path)
    except FieldError as error:
        raise error.located(file=str(path)) from None


def _architecture(header: Header, path: Path) -> Architecture:
    name = header.settings.get("general.architecture")
    kind = ARCHITECTURES.get(str(name))
    if kind is None:
        known = ", ".join(ARCHITECTURES)
        raise FieldError("general.architecture", f"{str(name)[:60]!r} is not known; known: {known}")
    settings = Settings(_config(header, str(name)), f"{name}: ")
    weights, experts = _formats(header)
    model = model_type_named(kind, "general.architecture")
    return Architecture(
        name=_name(header, path),
        family=model.family if "num_experts" not in settings or model.family != "llama" else "mixtral",
        hidden=settings.whole("hidden_size", low=1),
        vocab=settings.whole("vocab_size", low=1),
        blocks=read_blocks(settings, model),
        tied_embeddings=not any(tensor.name == "output.weight" for tensor in header.tensors),
        max_context=settings.whole("max_position_embeddings", default=131_072, low=1),
        weights_format=weights,
        experts_format=experts,
        left_out=model.left_out,
        source=str(path),
    )


def _config(header: Header, name: str) -> dict[str, Any]:
    """Return the settings under the names that a ``config.json`` has for them."""

    def setting(key: str) -> Any:
        value = header.settings.get(f"{name}.{key}")
        if isinstance(value, list) and 0 < len(value) <= LAYERS_LIMIT and len(set(value)) == 1:
            return value[0]  # one for each layer, all the same
        return value

    values = {ours: setting(theirs) for ours, theirs in _SETTINGS.items()}
    widths = {ours: value for ours, value in values.items() if value not in (None, 0)}
    widths["intermediate_size"] = setting("feed_forward_length")
    if name == "llama" and "num_experts" in widths:
        widths.setdefault("moe_intermediate_size", setting("feed_forward_length"))
    if name == "gpt-oss":
        widths.setdefault("moe_intermediate_size", setting("expert_feed_forward_length"))
    key, value = setting("attention.key_length"), setting("attention.value_length")
    if "kv_lora_rank" in widths:
        whole, inner = setting("attention.key_length_mla") or key, setting("attention.value_length_mla") or value
        rotary = widths.get("qk_rope_head_dim", 0)
        widths |= {"qk_nope_head_dim": _less(whole, rotary), "v_head_dim": inner}
    elif key is not None:
        widths |= {"head_dim": key, "v_head_dim": value}
    pattern = setting("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        widths["layer_types"] = ["sliding_attention" if near else "full_attention" for near in pattern]
    widths["vocab_size"] = setting("vocab_size") or header.lengths.get("tokenizer.ggml.tokens")
    return widths


def _less(whole: object, rotary: object) -> object:
    return whole - rotary if isinstance(whole, int) and isinstance(rotary, int) else whole


def _formats(header: Header) -> tuple[str, str]:
    """Return the format that most weights of the layers are in, and that of the routed experts where it is another one."""
    dense: Counter[str] = Counter()
    routed: Counter[str] = Counter()
    for tensor in header.tensors:
        if len(tensor.shape) >= 2 and tensor.name.startswith("blk."):
            (routed if "_exps" in tensor.name else dense)[_FORMATS.get(tensor.kind, "")] += tensor.values
    for counted in (dense, routed):
        counted.pop("", None)
    weights = dense.most_common(1)[0][0] if dense else "fp16"
    experts = routed.most_common(1)[0][0] if routed else ""
    return weights, experts if experts != weights else ""


def _name(header: Header, path: Path) -> str:
    name = header.settings.get("general.name")
    return name[:100] if isinstance(name, str) and name.isprintable() and name.strip() else path.stem
