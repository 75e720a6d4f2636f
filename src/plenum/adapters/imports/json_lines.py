"""Finds the line of a value in JSON text: the standard parser forgets it, and errors need it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_SPACE = re.compile(r"[ \t\r\n]*")


def line_of(text: str, path: Sequence[str | int]) -> int:
    """Return the 1-based line of the value at a path of keys and indices, or of the deepest part of it that exists.

    Parameters
    ----------
    text
        Valid JSON.
    """
    decoder = json.JSONDecoder()
    at = _skip(text, 0)
    for step in path:
        found = _child(text, at, step, decoder)
        if found is None:
            break
        at = found
    return text.count("\n", 0, at) + 1


def _child(text: str, at: int, step: str | int, decoder: json.JSONDecoder) -> int | None:
    """Return where a member of the object or array that starts at ``at`` starts; None where there is none."""
    if text[at] != ("{" if isinstance(step, str) else "["):
        return None
    at, index = _skip(text, at + 1), 0
    while text[at] not in "}]":
        key: object = index
        if isinstance(step, str):
            key, at = decoder.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # the colon
        if key == step:
            return at
        _, at = decoder.raw_decode(text, at)
        at, index = _skip(text, at), index + 1
        if text[at] == ",":
            at = _skip(text, at + 1)
    return None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
