"""Reads an architecture from a ``config.json`` of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plenum.adapters.imports.source import read_text
from plenum.adapters.models.layers import read_blocks
from plenum.adapters.models.model_types import model_type_named
from plenum.adapters.models.quantisation import read_formats
from plenum.adapters.models.settings import Settings
from plenum.model.errors import FieldError, FileError, Where
from plenum.serving.architecture import Architecture

CONFIG_LIMIT_BYTES = 4 * 2**20
"""The largest published ones list every module that is not quantised, and stay under 1 MiB."""


def read_config(path: Path) -> Architecture:
    """Read an architecture from a ``config.json``.

    Raises
    ------
    FileError
        Missing, too large, or not a JSON object.
    FieldError
        A value is missing or cannot be meant, or its ``model_type`` is not known.
    """
    values = _read_object(path, "a model's config.json")
    beside = path.with_name("hf_quant_config.json")
    if "quantization_config" not in values and beside.is_file():
        values["quantization_config"] = _from_modelopt(_read_object(beside, "ModelOpt's hf_quant_config.json"))
    try:
        return architecture_of(values, fallback=path.resolve().parent.name, source=str(path))
    except FieldError as error:
        raise error.located(file=str(path)) from None


def architecture_of(values: Mapping[str, Any], *, fallback: str, source: str) -> Architecture:
    """Return the architecture that a model's settings describe; ``fallback`` names it where they do not.

    Raises
    ------
    FieldError
        A value is missing or cannot be meant, or its ``model_type`` is not known.
    """
    outer = Settings(values)
    kind = model_type_named(outer.text("model_type"), "model_type")
    inner = outer.part("text_config") or outer.part("language_config") or outer
    # Multimodal models keep some values, and the quantisation, outside.
    merged = {
        **{k: v for k, v in values.items() if not isinstance(v, dict) or k == "quantization_config"},
        **inner.values,
    }
    settings = Settings({**merged, "model_type": outer.text("model_type")}, inner.prefix)
    weights, experts = read_formats(settings)
    return Architecture(
        name=_name(outer, fallback),
        family=kind.family,
        hidden=settings.whole("hidden_size", "n_embd", low=1),
        vocab=settings.whole("vocab_size", low=1),
        blocks=read_blocks(settings, kind),
        tied_embeddings=settings.flag("tie_word_embeddings", kind.tied),
        max_context=settings.whole(
            "max_position_embeddings", "n_positions", "seq_length", "max_seq_len", default=131_072, low=1
        ),
        weights_format=weights,
        experts_format=experts,
        left_out=kind.left_out,
        source=source,
    )


def _read_object(path: Path, what: str) -> dict[str, Any]:
    text = read_text(path, CONFIG_LIMIT_BYTES)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise FileError("is neither JSON nor a GGUF file", Where(file=str(path))) from None
    if not isinstance(values, dict):
        raise FileError(f"must be a JSON object, as {what} is", Where(file=str(path)))
    return values


def _from_modelopt(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what earlier ModelOpt checkpoints keep beside ``config.json`` as later ones write it inside."""
    inner = values.get("quantization")
    inner = inner if isinstance(inner, dict) else {}
    return {"quant_method": "modelopt", **inner, "ignore": inner.get("exclude_modules")}


def _name(settings: Settings, fallback: str) -> str:
    name = settings.text("_name_or_path").rstrip("/").rsplit("/", 1)[-1]
    return name if name and name.isprintable() and name != "." else fallback or "model"
