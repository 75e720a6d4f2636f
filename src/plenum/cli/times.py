"""Times as people give and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from plenum.model.errors import FieldError
from plenum.model.units import parse_duration

_UNITS = (("s", 1, 120), ("m", 60, 7200), ("h", 3600, 172_800), ("d", 86_400, float("inf")))
"""Unit, its seconds, and below how many seconds it is used."""


def seconds_of(text: str) -> float:
    """Return an RFC 3339 time as seconds since the epoch; 0 for no time.

    Raises
    ------
    ValueError
        It is none.
    """
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def age(text: str, now: float) -> str:
    """Return how long ago a time was, in one unit; empty for none."""
    if not text:
        return ""
    seconds = max(int(now - seconds_of(text)), 0)
    unit, size = next((unit, size) for unit, size, most in _UNITS if seconds < most)
    return f"{seconds // size}{unit}"


def clock(text: str) -> str:
    """Return a time of day in this terminal's zone, with the day where that is not today; empty for none."""
    if not text:
        return ""
    at = datetime.fromisoformat(text).astimezone()
    today = datetime.now().astimezone().date()
    return at.strftime("%H:%M:%S" if at.date() == today else "%Y-%m-%d %H:%M:%S")


def moment(text: str, option: str, now: float) -> str:
    """Read a time: RFC 3339, or how long ago, such as ``-10m``. Returns RFC 3339 in UTC.

    Raises
    ------
    FieldError
        It is neither.
    """
    if re.fullmatch(r"-?[0-9][0-9.]*(ms|[smhdw])([0-9.]+(ms|[smhdw]))*", text):
        return rfc3339(now - parse_duration(text.removeprefix("-"), option))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise FieldError(
            option, f"{text[:60]!r} is not a time: write 2030-01-31T12:00:00Z, or how long ago, such as -10m"
        ) from None
    return rfc3339(at.timestamp())  # a time without a zone is one of this terminal's


def rfc3339(seconds: float) -> str:
    """Return seconds since the epoch as RFC 3339 text in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
