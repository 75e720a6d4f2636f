"""Lengths of time as people write them."""

from __future__ import annotations

import pytest

from plenum.model import FieldError
from plenum.model.units import parse_duration, show_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0),
        (90, 90),
        (1.5, 1.5),
        ("2", 2),
        ("500ms", 0.5),
        ("10s", 10),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("2w", 1_209_600),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text, "x") == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "1y", "-1", "-1s", "1s x", True, None, "9" * 100, "1e4000", float("nan"), float("inf")]
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(FieldError):
        parse_duration(text, "x")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "0.25s"), (9.94, "9.9s"), (59.6, "1m"), (185, "3m 5s"), (7200, "2h"), (187_200, "2d 4h")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert show_duration(seconds) == text
