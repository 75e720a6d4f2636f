"""What is compiled, and how often."""

from __future__ import annotations

import numpy as np
import pytest
from numba import types

from plenum.graph.compiled import entry, inner, outer


@inner
def _scaled(share: float, count: int, up: bool) -> float:
    return share * count if up else share


@entry
def _both(values: np.ndarray, share: float) -> float:
    return _scaled(1, 2, True) + _scaled(share, len(values), share > 0.5)


def test_numbers_of_any_kind_are_what_annotations_say() -> None:
    values = np.zeros(3, np.int32)
    assert _both(values, 1) == pytest.approx(5.0)
    assert _both(values, 0.5) == pytest.approx(2.5)
    assert _both.signatures == [(types.Array(types.int32, 1, "C"), types.float64)]
    # What calls it may have been compiled by an earlier run, and it itself not by this one.
    for share in (types.int64, types.float64):
        _scaled.compile((share, types.int64, types.boolean))
    assert _scaled.signatures == [(types.float64, types.int64, types.boolean)]


def test_what_would_be_cut_off_is_not_and_what_is_no_number_stays() -> None:
    @outer
    def half(count: int, name: str = "", more: float | None = None) -> float:
        return count / 2

    assert half(3.5) == 1.75
    assert half(3, "x", None) == 1.5
