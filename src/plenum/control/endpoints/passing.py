"""Time that passes by a wall clock."""

from __future__ import annotations


def has_passed(now: float, since: float, span_s: float) -> bool:
    """Tell whether a span is over; a clock that was set back since counts as if it were, rather than that one waits for ever."""
    return not since <= now < since + span_s
