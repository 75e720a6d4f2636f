"""Which of an engine's own arguments anybody may give: those that name no file, no code, no address and no key.

Engines get new arguments with every release, so the table holds what is harmless rather than what is not; of the rest an operator decides.
llama.cpp and the emulated engine are not in it: their drivers take nothing but numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

ANY = "*"
_VALUE = re.compile(r"-?[\d.]+|[\w,+][\w,+-]*")
"""Numbers, and names without a slash or a dot: no place of anything, be it a file or code."""

_SHORT = re.compile(r"-(?![\d.]+$)")
"""What begins a short name; a number below zero does not."""


@dataclass(frozen=True, slots=True)
class _Harmless:
    flags: frozenset[str]
    valued: frozenset[str]


def _harmless(flags: str, valued: str) -> _Harmless:
    return _Harmless(frozenset(flags.split()), frozenset(valued.split()))


HARMLESS: dict[str, _Harmless] = {
    "vllm": _harmless(
        "async-scheduling disable-cascade-attn disable-custom-all-reduce disable-hybrid-kv-cache-manager disable-log-stats "
        "disable-sliding-window enable-auto-tool-choice enable-chunked-prefill enable-expert-parallel enable-prefix-caching "
        "enforce-eager kv-cache-metrics kv-sharing-fast-prefill language-model-only",
        "attention-backend block-size cpu-offload-gb dtype gpu-memory-utilization kv-cache-dtype kv-cache-memory-bytes "
        "long-prefill-token-threshold max-logprobs max-loras max-lora-rank max-model-len max-num-batched-tokens "
        "max-num-partial-prefills max-num-seqs moe-backend num-gpu-blocks-override optimization-level performance-mode "
        "prefix-caching-hash-algo quantization reasoning-parser scheduling-policy seed stream-interval swap-space "
        "tokenizer-mode tool-call-parser",
    ),
    "sglang": _harmless(
        "disable-cuda-graph disable-overlap-schedule disable-radix-cache enable-dp-attention enable-mixed-chunk "
        "enable-priority-scheduling enable-torch-compile is-embedding",
        "attention-backend chunked-prefill-size context-length cuda-graph-max-bs dtype grammar-backend kv-cache-dtype "
        "max-lora-rank max-loras-per-batch max-prefill-tokens max-queued-requests max-running-requests max-total-tokens "
        "mem-fraction-static num-continuous-decode-steps page-size quantization random-seed reasoning-parser "
        "sampling-backend schedule-conservativeness schedule-policy stream-interval tokenizer-mode tool-call-parser "
        "torch-compile-max-bs",
    ),
}


def risky_argument(engine: str, words: Iterable[str], allowed: Collection[str] = ()) -> str:
    """Return the first argument that is not known to be harmless; empty: none.

    Parameters
    ----------
    words
        As they would stand on the engine's command line.
    allowed
        Names, such as ``--tokenizer``, that may be given all the same, with whatever value; ``*``: all. A word that begins with a dash
        and is no number is no value, but an argument under its short name, such as ``-cc``.
    """
    known = HARMLESS.get(engine)
    if known is None or ANY in allowed:
        return ""
    trusted = {_plain(name) for name in allowed}
    return next((name or "''" for name, values in _taken_apart(words) if not _passes(known, trusted, name, values)), "")


def _taken_apart(words: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each argument's name and values; words before the first name are the values of what stands there first."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    for first, *values in groups:
        name, separator, value = first.partition("=")
        yield name, [value, *values] if separator else values


def _plain(name: str) -> str:
    return name.removeprefix("--").replace("_", "-")


def _passes(known: _Harmless, trusted: Collection[str], name: str, values: list[str]) -> bool:
    """Whether an argument may be given; one value too many would be taken for something else, such as the model."""
    plain = _plain(name)
    if not name.startswith("--"):
        return False
    if plain in trusted:
        return not any(_SHORT.match(value) for value in values)
    if plain.removeprefix("no-") in known.flags:
        return not values
    return plain in known.valued and len(values) == 1 and _VALUE.fullmatch(values[0]) is not None
