"""Values out of JSON whose writers change their minds: found by name, checked, or NaN."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from plenum.model.errors import FieldError

DEPTH_LIMIT = 8
NODES_LIMIT = 20_000
"""Of a search for a name."""


def part(values: Any, *path: str) -> Mapping[str, Any]:
    """Return the object at a path of keys; empty where there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values if isinstance(values, Mapping) else {}


def number(values: Mapping[str, Any], *names: str, scale: float = 1.0) -> float:
    """Return the first of the named numbers times ``scale``; NaN where there is none.

    Raises
    ------
    FieldError
        It is not a number of at least 0, or not a finite one.
    """
    for name in names:
        value = values.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e15:
            raise FieldError(name, f"must be a number of at least 0, not {str(value)[:40]!r}")
        return float(value) * scale
    return math.nan


def whole(values: Mapping[str, Any], *names: str, default: int = 0) -> int:
    """Return the first of the named whole numbers, which may be written as text; ``default`` where there is none.

    Raises
    ------
    FieldError
        It is something else, or out of range.
    """
    for name in names:
        value = values.get(name)
        if value is None or value == "":
            continue
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 10**9:
            raise FieldError(name, f"must be a whole number of at least 0, not {str(value)[:40]!r}")
        return value
    return default


def text(values: Mapping[str, Any], *names: str) -> str:
    """Return the first of the named texts, of a list its first; empty where there is none."""
    for name in names:
        value = values.get(name)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, str) and value.strip():
            return value.strip()[:200]
    return ""


def find(values: Any, names: Iterable[str]) -> Any:
    """Return the value of the first of ``names`` that stands anywhere inside, nearest to the top; None where none does."""
    wanted = tuple(names)
    level, seen = [values], 0
    for _ in range(DEPTH_LIMIT):
        for node in level:
            for name in wanted:
                if isinstance(node, Mapping) and node.get(name) is not None:
                    return node[name]
        deeper: list[Any] = []
        for node in level:
            inner = node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ()
            deeper += [child for child in inner if isinstance(child, Mapping | list)]
            seen += len(deeper)
            if seen > NODES_LIMIT:
                return None
        level = deeper
    return None
