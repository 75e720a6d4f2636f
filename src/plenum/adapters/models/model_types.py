"""Which ``model_type`` is read how. A new one that fits the common fields is one line here."""

from __future__ import annotations

import difflib

from plenum.adapters.models.layers import ModelType
from plenum.adapters.models.settings import Settings
from plenum.model.errors import FieldError

_MTP = "the layers that predict further tokens"
_VISION = "vision tower"


def _never(settings: Settings, layer: int) -> bool:
    return False


def _every_other(settings: Settings, layer: int) -> bool:
    """Gemma 2 and gpt-oss: the first of two layers has a window."""
    return layer % 2 == 0


def _five_of_six(settings: Settings, layer: int) -> bool:
    """Gemma 3."""
    return (layer + 1) % settings.whole("sliding_window_pattern", default=6, low=1) != 0


def _three_of_four(settings: Settings, layer: int) -> bool:
    """Llama 4: every fourth layer, without rotary positions, sees everything."""
    return (layer + 1) % 4 != 0


def _if_used(settings: Settings, layer: int) -> bool:
    """Qwen: only where switched on, and only above the first layers."""
    return settings.flag("use_sliding_window") and layer >= settings.whole("max_window_layers", default=0)


MODEL_TYPES: dict[str, ModelType] = {
    "llama": ModelType(family="llama", window_of=_never),
    "mistral": ModelType(family="llama"),
    "mistral3": ModelType(family="llama", left_out=_VISION),
    "smollm3": ModelType(family="llama", tied=True, window_of=_if_used),
    "mimo": ModelType(family="llama", window_of=_if_used, left_out=_MTP),
    "olmo2": ModelType(family="llama", window_of=_never),
    "granite": ModelType(family="llama", tied=True, window_of=_never),
    "qwen2": ModelType(family="qwen", window_of=_if_used),
    "qwen3": ModelType(family="qwen", window_of=_if_used),
    "qwen2_vl": ModelType(family="qwen", window_of=_if_used, left_out=_VISION),
    "qwen2_5_vl": ModelType(family="qwen", window_of=_if_used, left_out=_VISION),
    "qwen3_vl": ModelType(family="qwen", window_of=_if_used, left_out=_VISION),
    "qwen2_moe": ModelType(family="qwen-moe", window_of=_if_used),
    "qwen3_moe": ModelType(family="qwen-moe", window_of=_if_used),
    "qwen3_vl_moe": ModelType(family="qwen-moe", window_of=_if_used, left_out=_VISION),
    "qwen3_next": ModelType(family="qwen-hybrid", window_of=_never, left_out=_MTP),
    "qwen3_5": ModelType(family="qwen-hybrid", window_of=_never, left_out=f"{_VISION}; {_MTP}"),
    "qwen3_5_moe": ModelType(family="qwen-hybrid", window_of=_never, left_out=f"{_VISION}; {_MTP}"),
    "mixtral": ModelType(family="mixtral"),
    "phimoe": ModelType(family="mixtral"),
    "llama4": ModelType(family="llama4", window_of=_three_of_four, left_out=_VISION),
    "deepseek_v2": ModelType(family="deepseek"),
    "deepseek_v3": ModelType(family="deepseek", left_out=_MTP),
    "kimi_k2": ModelType(family="deepseek"),
    "kimi_k25": ModelType(family="deepseek", left_out=_VISION),
    "deepseek_v32": ModelType(family="deepseek-sparse", left_out=_MTP),
    "glm_moe_dsa": ModelType(family="deepseek-sparse", left_out=_MTP),
    "glm4_moe": ModelType(family="glm", window_of=_never, left_out=_MTP),
    "minimax_m2": ModelType(family="minimax", window_of=_never, left_out=_MTP),
    "mimo_v2_flash": ModelType(family="mimo", left_out=_MTP),
    "gpt_oss": ModelType(family="gpt-oss", window_of=_every_other),
    "gemma": ModelType(family="gemma", tied=True, window_of=_never),
    "gemma2": ModelType(family="gemma", tied=True, window_of=_every_other),
    "gemma3": ModelType(family="gemma", tied=True, window_of=_five_of_six, left_out=_VISION),
    "gemma3_text": ModelType(family="gemma", tied=True, window_of=_five_of_six),
    "phi3": ModelType(family="phi"),
    "cohere": ModelType(family="cohere", tied=True, window_of=_never),
    "falcon": ModelType(family="falcon", gated=False, tied=True, window_of=_never),
    "bloom": ModelType(family="bloom", gated=False, tied=True, window_of=_never),
    "gpt2": ModelType(family="gpt", gated=False, tied=True, window_of=_never),
    "gpt_neox": ModelType(family="gpt", gated=False, window_of=_never),
    "opt": ModelType(family="gpt", gated=False, tied=True, window_of=_never),
    "starcoder2": ModelType(family="starcoder", gated=False, tied=True),
}
"""By ``model_type``; models that see, hear or predict several tokens are read without those parts."""


def model_type_named(name: str, field: str) -> ModelType:
    """Return how models of a ``model_type`` are read.

    Raises
    ------
    FieldError
        It is not known; the sentence says which are.
    """
    found = MODEL_TYPES.get(name) or MODEL_TYPES.get(name.removesuffix("_text"))
    if found is None:
        near = difflib.get_close_matches(name, MODEL_TYPES, 3)
        hint = f"nearest: {', '.join(near)}; " if near else ""
        raise FieldError(field, f"{name[:60]!r} is not known; {hint}known: {', '.join(MODEL_TYPES)}")
    return found
