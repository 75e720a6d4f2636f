"""Gang pickers: among domains of a level that can hold a gang, which one first.

A picker is a compiled function in spirit but tiny in fact: it turns each domain's spare capacity (replicas left over after
the gang) into a key, and the smallest key wins, ties by domain order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Picker = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def best_fit(spare: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave the least behind: large domains stay whole for large gangs."""
    return spare


def most_free(spare: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave the most behind: the gang gets the quietest domain."""
    return -spare


def first_fit(spare: NDArray[np.int64]) -> NDArray[np.int64]:
    """Take the first domain, as schedulers without a view of topology do."""
    return np.zeros_like(spare)


PICKERS: dict[str, Picker] = {"best-fit": best_fit, "most-free": most_free, "first-fit": first_fit}
