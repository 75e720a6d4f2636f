"""All models that are known, and how people spell them."""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

from plenum.model.errors import FieldError
from plenum.serving.architecture import Architecture
from plenum.serving.catalogue import dense_models, expert_models, latent, llama, qwen
from plenum.serving.formats import Precision

MODELS: dict[str, Architecture] = {
    model.name: model
    for model in (*llama.MODELS, *qwen.MODELS, *latent.MODELS, *expert_models.MODELS, *dense_models.MODELS)
}
"""Architectures by name."""

ALIASES: dict[str, str] = {
    "BLOOM": "BLOOM-176B",
    "DeepSeek-R1-Distill-Llama-8B": "Llama-3.1-8B",
    "DeepSeek-R1-Distill-Llama-70B": "Llama-3.1-70B",
    "DeepSeek-V3-Base": "DeepSeek-V3",
    "DeepSeek-R1-Distill-Qwen-7B": "Qwen2.5-7B",
    "DeepSeek-R1-Distill-Qwen-14B": "Qwen2.5-14B",
    "DeepSeek-R1-Distill-Qwen-32B": "Qwen2.5-32B",
    "GLM-4.6": "GLM-4.5",
    "GLM-5.1": "GLM-5",
    "Kimi-K2-Thinking": "Kimi-K2.5",
    "Kimi-K2.6": "Kimi-K2.5",
    "Llama-3.3-Nemotron-70B": "Llama-3.1-70B",
    "Llama-4-Maverick-17B-128E": "Llama-4-Maverick",
    "Llama-4-Scout-17B-16E": "Llama-4-Scout",
    "MiniMax-M2": "MiniMax-M2.5",
    "MiniMax-M2.1": "MiniMax-M2.5",
    "MiniMax-M2.7": "MiniMax-M2.5",
    "Mistral-Nemo-12B": "Mistral-Nemo",
    "Phi-3-mini-4k": "Phi-3-mini",
    "Phi-3-mini-128k": "Phi-3-mini",
    "Phi-3.5-mini": "Phi-3-mini",
    "Phi-3-medium-128k": "Phi-3-medium",
    "Phi-3-medium-4k": "Phi-3-medium",
    "Qwen2-7B": "Qwen2.5-7B",
    "Qwen2-72B": "Qwen2.5-72B",
    "Qwen3.6-27B": "Qwen3.5-27B",
    "Qwen3.6-35B-A3B": "Qwen3.5-35B-A3B",
    "Qwen3-VL-4B": "Qwen3-4B",
    "Qwen3-VL-8B": "Qwen3-8B",
    "Qwen3-VL-30B-A3B": "Qwen3-30B-A3B",
    "Qwen3-VL-32B": "Qwen3-32B",
    "Qwen3-VL-235B-A22B": "Qwen3-235B-A22B",
    "Kimi-K2.7-Code": "Kimi-K2.5",
    "QwQ-32B": "Qwen2.5-32B",
}
"""Other names of the same shapes."""

NAME_LIMIT = 200
"""Characters of a name at most."""

_NOISE = frozenset(
    (
        *("meta", "instruct", "chat", "hf", "it", "base", "dynamic", "static", "quantized", "gguf", "preview"),
        *("original", "exp", "speciale", "terminus", "bf16", "pt"),
    )
)
"""Words in names of repositories that leave the shapes as they are."""

_FORMAT_WORDS = {
    "fp8": "fp8",
    "nvfp4": "nvfp4",
    "fp4": "nvfp4",
    "mxfp4": "mxfp4",
    "awq": "awq",
    "gptq": "gptq",
    "int4": "int4",
    "int8": "int8",
    "w4a16": "int4",
    "w8a8": "int8",
}
"""Words in names of repositories that say which format their weights are in."""

_GLUED = re.compile(r"^(llama|qwen|gemma|phi|kimi|glm|smollm|falcon|bloom|mixtral|mistral|minimax)(?=[\dkm])")


class UnknownModelError(FieldError):
    """A model that is not in the catalogue."""

    code = "model.unknown"


def model_named(name: str, field: str = "model") -> Architecture:
    """Return the architecture of a model by its name, by another spelling, or by the path of its repository.

    A format in the name of a repository (``…-FP8``) is taken as the one that the weights are shipped in.

    Raises
    ------
    UnknownModelError
        The catalogue has no such model; the sentence has the nearest names.
    """
    words, form = _words(name[:NAME_LIMIT])
    found = _BY_WORDS.get(words)
    if found is None:
        raise UnknownModelError(field, _suggestion(name[:NAME_LIMIT], words))
    model = MODELS[found]
    if not form or form == model.experts_format:
        return model
    routed = bool(model.expert_parameters) and form in ("nvfp4", "mxfp4")  # attention of such checkpoints stays wide
    return replace(model, weights_format="bf16" if routed else form, experts_format=form if routed else "")


def published_precision(model: Architecture) -> Precision:
    """Return the formats that a model is shipped in; activations and cache in 16 bits unless the weights are multiplied as FP8."""
    return Precision(weights=model.weights_format, experts=model.experts_format)


def _suggestion(name: str, words: str) -> str:
    near = difflib.get_close_matches(words, _BY_WORDS, 5, 0.5)
    names = list(dict.fromkeys(_BY_WORDS[close] for close in near))
    hint = f"nearest: {', '.join(names)}" if names else "`plenum plan models` lists those that are"
    return f"no model is called {name!r}; {hint}; or give the path of a config.json or a GGUF file"


def _words(name: str) -> tuple[str, str]:
    """Return what tells models apart in a name, and the format that it states."""
    text = re.sub(r"-v0\.\d+", "", name.strip().rstrip("/").rsplit("/", 1)[-1].lower())
    parts = re.split(r"[-_. ]+", _GLUED.sub(r"\1-", text))
    form = next((_FORMAT_WORDS[part] for part in parts if part in _FORMAT_WORDS), "")
    kept = [
        part for part in parts if part not in _NOISE and part not in _FORMAT_WORDS and not re.fullmatch(r"\d{4}", part)
    ]
    return "-".join(kept), form


_BY_WORDS = {_words(name)[0]: name for name in MODELS} | {
    _words(alias)[0]: name for alias, name in ALIASES.items() if name in MODELS
}
