"""Prometheus's text format, as far as engines' metrics need it: each name's values added up over its labels."""

from __future__ import annotations

import math
from collections.abc import Mapping

from plenum.ports.engine import EngineMetrics

MAX_LINES = 20_000
"""Lines that are looked at; what a server says after them is left."""


def sums(text: str) -> dict[str, float]:
    """Return each sample's name with its values added up over all labels; lines that are none are passed over."""
    found: dict[str, float] = {}
    for line in text.split("\n", MAX_LINES)[:MAX_LINES]:
        if not line or line[0] == "#":
            continue
        name = line.partition("{")[0].partition(" ")[0]
        # After the closing brace: a value, and maybe a time; braces may stand inside of labels.
        rest = line[line.rfind("}") + 1 :] if "{" in line else line[len(name) :]
        try:
            value = float(rest.split()[0])
        except (IndexError, ValueError):
            continue
        found[name] = found.get(name, 0.0) + value
    return found


def engine_metrics(text: str, names: Mapping[str, tuple[str, ...]]) -> EngineMetrics:
    """Return an engine's metrics under the names that all engines share.

    Parameters
    ----------
    names
        Field of :class:`EngineMetrics` to the engine's own names, which are added up; the first of them must be there.
    """
    found = sums(text)
    values = {
        field: found[own[0]] + math.fsum(found.get(name, 0.0) for name in own[1:])
        for field, own in names.items()
        if own[0] in found
    }
    return EngineMetrics(**values)
