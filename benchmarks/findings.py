"""What a benchmark reports: one row a figure, with its baseline and its target."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A promise, in words, and whether this run kept it."""

    words: str
    met: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One measured figure.

    Parameters
    ----------
    baseline, ratio
        What it is compared with, measured in the same run, and measured/baseline; empty and None where it stands alone.
    target
        None where nothing was promised.
    """

    bench: str
    what: str
    value: float
    unit: str
    baseline: str = ""
    ratio: float | None = None
    target: Target | None = None
    note: str = ""


def below(limit: float, unit: str, value: float) -> Target:
    """Promise that a figure stays below a limit."""
    return Target(words=f"< {limit:g} {unit}", met=value < limit)


def at_least(limit: float, unit: str, value: float) -> Target:
    """Promise that a figure reaches a limit."""
    return Target(words=f"≥ {limit:,g} {unit}", met=value >= limit)


def timed_ms(calls: Iterable[Callable[[], object]]) -> np.ndarray:
    """Run calls one after another; (K,) milliseconds each. Making the next call is not timed."""
    taken = []
    for call in calls:
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    return np.array(taken)


def p50(taken_ms: np.ndarray) -> float:
    return float(np.percentile(taken_ms, 50))


def p99(taken_ms: np.ndarray) -> float:
    return float(np.percentile(taken_ms, 99))
