"""The tests behind a rollback: how often they are wrong, and how soon they are right, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from plenum.control.endpoints.judge import ALPHA, FIRST_LOOK, fails_more, is_slower, level, look_at

RATIO, MARGIN = 1.5, 0.05
LOOKS = 7
TIMES_OLD = 9
"""Requests of the old revision for each of a canary that gets a tenth."""


def slower_after(rng: np.random.Generator, factor: float, sigma: float, looks: int = LOOKS) -> int:
    """Return after how many of its requests a canary so many times as slow is given up; 0: never."""
    most = FIRST_LOOK << (looks - 1)
    new, old = factor * rng.lognormal(0, sigma, most), rng.lognormal(0, sigma, most * TIMES_OLD)
    for taken in range(looks):
        n = FIRST_LOOK << taken
        if is_slower(new[:n].tolist(), old[: n * TIMES_OLD].tolist(), RATIO, level(taken))[0]:
            return n
    return 0


@pytest.mark.parametrize("sigma", [0.2, 0.8])
def test_one_exactly_at_the_limit_is_given_up_no_more_often_than_stated(sigma: float) -> None:
    rng = np.random.default_rng(5)
    alarms = sum(slower_after(rng, RATIO, sigma, looks=5) > 0 for _ in range(600))
    assert alarms <= 600 * ALPHA / 3 + 3 * (600 * ALPHA / 3) ** 0.5 + 1


def test_one_that_is_as_good_is_not_given_up() -> None:
    rng = np.random.default_rng(6)
    assert not any(slower_after(rng, 1.0, 0.6, looks=5) for _ in range(300))


@pytest.mark.parametrize(("sigma", "within"), [(0.15, 24), (0.3, 96), (0.6, 384)])
def test_one_that_is_twice_as_slow_is_found_soon(sigma: float, within: int) -> None:
    rng = np.random.default_rng(7)
    found = [slower_after(rng, 2.0, sigma) for _ in range(60)]
    assert all(0 < n <= within for n in found)


def fails_after(rng: np.random.Generator, chance: float, before: float) -> int:
    most = FIRST_LOOK << (LOOKS - 1)
    new, old = rng.random(most) < chance, rng.random(most * TIMES_OLD) < before
    for taken in range(LOOKS):
        n = FIRST_LOOK << taken
        m = n * TIMES_OLD
        if fails_more((int(new[:n].sum()), n), (int(old[:m].sum()), m), MARGIN, level(taken))[0]:
            return n
    return 0


def test_failures_are_judged_with_the_same_care() -> None:
    rng = np.random.default_rng(8)
    at_the_limit = [fails_after(rng, 0.01 + MARGIN, 0.01) for _ in range(500)]
    assert sum(n > 0 for n in at_the_limit) <= 500 * ALPHA / 3 + 4
    assert all(0 < fails_after(rng, 0.4, 0.01) <= 192 for _ in range(50))
    assert fails_after(rng, 1.0, 0.0) == FIRST_LOOK


def test_what_cannot_be_told_is_not_told() -> None:
    assert is_slower([], [1.0], 1.0, 0.5) == (False, 1.0)
    assert is_slower([1.0] * 20, [1.0] * 20, 1.0, 0.5) == (False, 1.0)
    assert not fails_more((0, 0), (0, 0), 0.0, 0.01)[0]
    assert not look_at(FIRST_LOOK - 1, 0)
    assert sum(level(k) for k in range(100)) <= ALPHA / 3


def test_a_rank_sum_agrees_with_scipys() -> None:
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(9)
    for _ in range(20):
        x, y = rng.integers(1, 12, 30) * 1.0, rng.integers(1, 9, 50) * 1.0
        ours = is_slower(x.tolist(), y.tolist(), 1.0, 0.05)[1]
        assert ours == pytest.approx(mannwhitneyu(x, y, alternative="greater", method="asymptotic").pvalue, abs=1e-9)
