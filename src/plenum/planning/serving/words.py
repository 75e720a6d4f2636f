"""Numbers as sentences have them: three digits, no exponents."""

from __future__ import annotations

import math


def figure(value: float) -> str:
    """Write a number: ``0.0123``, ``25.6``, ``1,234``."""
    if not math.isfinite(value):
        return "-"
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def duration(seconds: float) -> str:
    """Write a latency: ``35 ms``, ``1.1 s``; a dash where it is infinite."""
    if not math.isfinite(seconds):
        return "-"
    return f"{figure(seconds * 1e3)} ms" if seconds < 0.9995 else f"{figure(seconds)} s"
