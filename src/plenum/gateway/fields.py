"""What a request may say: every field that is passed on to an engine, and what it may hold.

Engines take many more fields than OpenAI's, some of which reach into other requests' state (slots, caches, hand-offs) or into files, and
each version brings new ones. So only what stands here is passed on; anything else is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from plenum.gateway.answers import invalid
from plenum.ports.engine import CHAT, COMPLETIONS, EMBEDDINGS

Check = Callable[[str, Any], None]

MAX_TOKENS = 1_048_576
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 1_024
MAX_BIASES = 1_024
MAX_TOOLS = 256
MAX_ROUNDS = 1 << 63

_RESERVED = (
    "add_special_tokens", "allowed_media_paths", "bootstrap_host", "bootstrap_port", "bootstrap_room", "cache_prompt", "cache_salt",
    "chat_template", "data_parallel_rank", "disagg_prefill_dp_rank", "extra_key", "id_slot", "kv_transfer_params", "lora", "lora_path",
    "mm_processor_kwargs", "media_io_kwargs", "priority", "prompt_embeds", "request_id", "return_hidden_states", "rid", "routed_dp_rank",
    "slot_id", "slot_save_path", "vllm_xargs",
)  # fmt: skip
"""Refused like any unknown field; named so that the sentence can say why."""


def check_fields(path: str, body: dict[str, Any]) -> None:
    """Pass if an engine may be sent what a request says.

    Raises
    ------
    RefusedError
        A field is not for clients, unknown, or holds what it cannot mean.
    """
    known = _FIELDS[path]
    for name, value in body.items():
        check = known.get(name)
        if check is None:
            raise _unknown(name)
        if value is not None:
            check(name, value)


def _unknown(name: str) -> Exception:
    shown = name[:64] if name.isprintable() else "?"
    if name in _RESERVED:
        return invalid(shown, f"{shown} is set by the gateway alone; leave it out", code="request.field_reserved")
    return invalid(shown, f"there is no field {shown!r} here; leave it out", code="request.field_unknown")


def _number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise invalid(name, f"{name} must be a number from {low:g} to {high:g}")

    return check


def whole(low: int, high: int) -> Check:
    """Return a check for whole numbers."""

    def check(name: str, value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            raise invalid(name, f"{name} must be a whole number from {low:,} to {high:,}")

    return check


def _flag(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise invalid(name, f"{name} must be true or false")


def _text(most: int) -> Check:
    def check(name: str, value: Any) -> None:
        if type(value) is not str or len(value) > most:
            raise invalid(name, f"{name} must be a text of at most {most:,} characters")

    return check


def _stops(name: str, value: Any) -> None:
    stops = [value] if type(value) is str else value
    if (
        type(stops) is not list
        or len(stops) > MAX_STOPS
        or any(type(stop) is not str or not 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops)
    ):
        raise invalid(name, f"{name} must be a text or at most {MAX_STOPS} texts, none empty")


def _biases(name: str, value: Any) -> None:
    bias = _number(-100, 100)
    if type(value) is not dict or len(value) > MAX_BIASES:
        raise invalid(name, f"{name} must map at most {MAX_BIASES:,} tokens to numbers")
    for each in value.values():
        bias(name, each)


def _object(name: str, value: Any) -> None:
    if type(value) is not dict:
        raise invalid(name, f"{name} must be an object")


def _objects(name: str, value: Any) -> None:
    if type(value) is not list or len(value) > MAX_TOOLS or any(type(each) is not dict for each in value):
        raise invalid(name, f"{name} must be a list of at most {MAX_TOOLS} objects")


def _choice(name: str, value: Any) -> None:
    if type(value) not in (str, dict):
        raise invalid(name, f"{name} must be a word or an object")


def _stream_options(name: str, value: Any) -> None:
    _object(name, value)
    for each, said in value.items():
        if each not in ("include_usage", "include_obfuscation"):
            raise invalid(f"{name}.{each}"[:64], "stream_options takes include_usage and nothing else")
        _flag(f"{name}.{each}", said)


def _template_options(name: str, value: Any) -> None:
    # Anything else would reach the template's renderer, where some of it is code or turns checks off.
    _object(name, value)
    for each, said in value.items():
        if each not in ("enable_thinking", "thinking") or type(said) is not bool:
            raise invalid(name, f"{name} takes enable_thinking and thinking, true or false")


def _anything(name: str, value: Any) -> None:
    """Pass: whoever reads it next checks it."""


_SAMPLING: dict[str, Check] = {
    "model": _anything,
    "stream": _flag,
    "stream_options": _stream_options,
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "logit_bias": _biases,
    "n": whole(1, 128),
    "seed": whole(-MAX_ROUNDS, MAX_ROUNDS * 2 - 1),
    "stop": _stops,
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "user": _text(256),
    "service_tier": _text(32),
    "prompt_cache_key": _text(256),
    "safety_identifier": _text(256),
    "prompt_cache_retention": _text(32),
    "metadata": _object,
    # Beyond OpenAI's, and the same in most engines.
    "top_k": whole(-1, 1_000_000),
    "min_p": _number(0, 1),
    "typical_p": _number(0, 1),
    "repetition_penalty": _number(0, 10),
    "repeat_penalty": _number(0, 10),
    "min_tokens": whole(0, MAX_TOKENS),
    "ignore_eos": _flag,
    "skip_special_tokens": _flag,
    "stop_token_ids": _anything,
    "response_format": _object,
    "structured_outputs": _object,
    "grammar": _text(65_536),
    "json_schema": _object,
}

_FIELDS: dict[str, dict[str, Check]] = {
    CHAT: {
        **_SAMPLING,
        "messages": _anything,
        "max_tokens": whole(1, MAX_TOKENS),
        "max_completion_tokens": whole(1, MAX_TOKENS),
        "logprobs": _flag,
        "top_logprobs": whole(0, 20),
        "modalities": _anything,
        "parallel_tool_calls": _flag,
        "reasoning_effort": _text(16),
        "verbosity": _text(16),
        "store": _flag,
        "tools": _objects,
        "tool_choice": _choice,
        "functions": _objects,
        "function_call": _choice,
        "chat_template_kwargs": _template_options,
    },
    COMPLETIONS: {
        **_SAMPLING,
        "prompt": _anything,
        "max_tokens": whole(0, MAX_TOKENS),
        "logprobs": whole(0, 20),
        "best_of": whole(1, 128),
        "echo": _flag,
        "suffix": _text(65_536),
    },
    EMBEDDINGS: {
        "model": _anything,
        "input": _anything,
        "dimensions": whole(1, 65_536),
        "encoding_format": _text(16),
        "user": _text(256),
    },
}
