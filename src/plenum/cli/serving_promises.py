"""Promises as people write them: ``ttft-p99=500ms,tpot-p99=40ms``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from plenum.model.errors import FieldError
from plenum.model.units import parse_duration

if TYPE_CHECKING:
    from plenum.serving.workload import Slo

PARTS = re.compile(r"(ttft|tpot|itl|e2e)(?:-p(\d{1,2}(?:\.\d+)?))?", re.IGNORECASE)
EXAMPLE = "ttft-p99=500ms,tpot-p99=40ms"
PERCENTILE = 99.0
"""Unless told."""


def read_promises(text: str | None, option: str = "--slo") -> Slo:
    """Read promises; all of one percentile.

    Raises
    ------
    FieldError
        Something else, twice the same, or different percentiles.
    """
    from plenum.serving.workload import Slo

    seconds: dict[str, float] = {}
    percentiles: set[float] = set()
    for part in (text or "").split(",") if text else []:
        name, equals, value = part.strip().partition("=")
        match = PARTS.fullmatch(name.strip())
        if not match or not equals:
            raise FieldError(option, f"must be promises such as {EXAMPLE}, not {part.strip()[:40]!r}")
        what = {"itl": "tpot"}.get(match[1].lower(), match[1].lower())
        if what in seconds:
            raise FieldError(option, f"promises {what} twice")
        seconds[what] = parse_duration(value.strip(), option)
        if seconds[what] <= 0:
            raise FieldError(option, f"{what} must be promised within more than 0 s")
        if match[2] and not float(match[2]):
            raise FieldError(option, f"p{match[2]} promises nothing to anybody; a promise is such as {EXAMPLE}")
        if match[2]:
            percentiles.add(float(match[2]))
    if len(percentiles) > 1:
        given = ", ".join(f"p{p:g}" for p in sorted(percentiles))
        raise FieldError(option, f"all promises are of one percentile, not {given}")
    fields = {f"{what}_s": value for what, value in seconds.items()}
    return Slo(**fields, percentile=percentiles.pop() if percentiles else PERCENTILE)
