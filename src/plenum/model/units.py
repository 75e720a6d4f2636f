"""Quantities as people write them (``64``, ``500m``, ``2TiB``, ``40kW``, ``400Gb/s``) to integers in base units."""

from __future__ import annotations

import re
from decimal import Decimal

from plenum.model.errors import FieldError

_NUMBER = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?)\s*(.*?)\s*$")
_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
_BYTES = {p + b: f for p, f in (_DECIMAL | _BINARY).items() for b in ("", "B")}
_SUFFIXES = {
    "bytes": (_BYTES, "a size such as 512Mi, 80GB or 2TiB"),
    "milli": ({"m": 1, "": 1000}, "a number of cores such as 64, 0.5 or 500m"),
    "w": ({"": 1, "W": 1, "kW": 10**3, "MW": 10**6}, "a power such as 700, 40kW or 1.2MW"),
    "bps": (
        {p + s: f for p, f in _DECIMAL.items() for s in ("bps", "b/s", "bit/s", "")},
        "a rate such as 400Gb/s",
    ),
    "count": (_DECIMAL, "a number such as 8 or 2k"),
}

_DURATION = re.compile(r"(?:(?:\d+\.?\d*|\.\d+)(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"([\d.]+)(ms|[smhdw])")
_SECONDS = {"ms": Decimal("0.001"), "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

MAX_DURATION_S = 10 * 366 * 86_400
"""Ten years; whoever means longer means for ever."""

MAX_TEXT = 64
"""Characters of a quantity; nobody writes longer ones."""

MAX_QUANTITY = 2**62
"""Anything larger would overflow the int64 arrays that the solver adds up in."""


def parse(value: object, unit: str, field: str) -> int:
    """Read a quantity into an integer of its base unit.

    Parameters
    ----------
    value
        A number or a string with a suffix.
    unit
        ``bytes``, ``milli`` (thousandths of a core), ``w``, ``bps`` or ``count``.
    field
        Name used in the error.

    Raises
    ------
    FieldError
        Not a quantity of that unit, negative, or absurdly large.
    """
    table, example = _SUFFIXES[unit]
    shown = repr(value) if len(str(value)) <= MAX_TEXT else f"{str(value)[:20]!r}…"
    match = None if isinstance(value, bool) or len(str(value)) > MAX_TEXT else _NUMBER.match(str(value))
    if match is None or match[2] not in table:
        raise FieldError(field, f"{shown} is not {example}")
    amount = Decimal(match[1]) * table[match[2]]  # a float would round whole numbers beyond 2^53
    if not 0 <= amount < MAX_QUANTITY:
        raise FieldError(field, f"{shown} must be at least 0 and below 2^62 {unit}")
    return round(amount)


def parse_duration(value: object, field: str) -> float:
    """Read a length of time into seconds: a number of them, or ``500ms``, ``10s``, ``5m``, ``1h30m``, ``7d``.

    Raises
    ------
    FieldError
        Not a duration, negative, or longer than ten years.
    """
    text = str(value).strip()
    shown = repr(value) if len(text) <= MAX_TEXT else f"{text[:20]!r}…"
    seconds = None
    if not isinstance(value, bool) and len(text) <= MAX_TEXT:
        if (number := _NUMBER.match(text)) and not number[2]:
            seconds = Decimal(number[1])
        elif _DURATION.fullmatch(text):
            seconds = sum((Decimal(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(text)), Decimal(0))
    if seconds is None:
        raise FieldError(field, f"{shown} is not a duration such as 30 (seconds), 500ms, 10s, 5m, 1h30m or 7d")
    if not 0 <= seconds <= MAX_DURATION_S:
        raise FieldError(field, f"{shown} must be at least 0 and at most ten years")
    return float(seconds)


def show_duration(seconds: float) -> str:
    """Write a length of time for people, in at most two units: ``3m 5s``, ``2d 4h``."""
    if seconds < 10:
        return f"{max(seconds, 0):.2g}s"
    rest = round(seconds)
    for unit, small in (("d", "h"), ("h", "m"), ("m", "s")):
        size, below = int(_SECONDS[unit]), int(_SECONDS[small])
        if rest >= size:
            part = rest % size // below
            return f"{rest // size}{unit}" + (f" {part}{small}" if part else "")
    return f"{rest}s"


def counted(amount: int | str, noun: str) -> str:
    """Write how many there are of something: ``1 core``, ``0.5 cores``, ``2,000 cores``; an amount in words stands as it is."""
    text = amount if isinstance(amount, str) else f"{amount:,}"
    return f"{text} {noun}" if text == "1" else f"{text} {noun}s"


def unit_of(resource: str) -> str:
    """Return the unit that a resource's name ends in: ``memory_bytes`` is in ``bytes``; else a plain count."""
    suffix = resource.rsplit("_", 1)[-1]
    return suffix if suffix in _SUFFIXES else "count"


def show(amount: int | float, resource: str) -> str:
    """Write an amount of a resource for people: ``show(2**41, "memory_bytes") == "2 TiB"``."""
    unit = unit_of(resource)
    if unit == "bytes":
        steps, base, tail = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"), 1024.0, ""
    elif unit in ("w", "bps"):
        steps, base, tail = ("", "k", "M", "G", "T", "P"), 1000.0, "W" if unit == "w" else "b/s"
    elif unit == "milli":
        return f"{amount / 1000:g}"
    else:
        return f"{amount:g}" if isinstance(amount, float) else str(amount)
    value, step = float(amount), 0
    while abs(value) >= base and step < len(steps) - 1:
        value, step = value / base, step + 1
    return f"{value:.4g} {steps[step]}{tail}".rstrip()
