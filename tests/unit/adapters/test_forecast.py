"""Forecasts of traffic: a season is learned, a burst is not taken for ever, too little says nothing."""

from __future__ import annotations

import math

import pytest

from plenum.adapters.forecast import forecast_rps

pytest.importorskip("statsmodels")

DAY = [10 + 8 * math.sin(2 * math.pi * hour / 24) for hour in range(24)]


def test_a_season_that_was_seen_twice_is_expected_again() -> None:
    rates = [rate * (1 + 0.02 * ((i * 7) % 5 - 2)) for i, rate in enumerate(DAY * 5)]
    at_its_lowest = rates[: 24 * 4 + 18]
    assert forecast_rps(at_its_lowest, 12, 24) == pytest.approx(18.0, rel=0.15)
    assert forecast_rps(at_its_lowest, 2, 24) < 8.0


def test_constant_traffic_is_expected_to_go_on() -> None:
    assert forecast_rps([5.0] * 50, 10) == 5.0


def test_a_burst_does_not_grow_for_ever() -> None:
    rates = [1.0] * 40 + [1.0 + i for i in range(10)]
    assert 9.0 < forecast_rps(rates, 60) <= 20.0


@pytest.mark.parametrize("rates", [[], [1.0] * 7, [math.nan] * 50])
def test_too_little_says_nothing(rates: list[float]) -> None:
    assert math.isnan(forecast_rps(rates, 5))


def test_nothing_is_never_less_than_nothing() -> None:
    assert forecast_rps([float(i) for i in range(30, 0, -1)], 100) >= 0.0
