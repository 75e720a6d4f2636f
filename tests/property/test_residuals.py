"""The process over residuals against plain linear algebra, written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.serving.residuals import LEVELS, SCALES, Features, Kernel, correct, fit_residuals

KERNEL = Kernel((0.1, 0.15, 0.2, 0.25), 0.05)


@st.composite
def problems(draw, least=2, most=12):
    """Features of some points and of one to predict, and residuals."""
    count = draw(st.integers(least, most))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    groups = np.array([[f"{level}{rng.integers(3)}" for level in range(len(LEVELS))] for _ in range(count + 1)])
    values = rng.uniform(0, 12, (count + 1, len(SCALES)))
    return Features(groups[:-1], values[:-1]), Features(groups[-1:], values[-1:]), rng.normal(0, 0.2, count)


def covariance(a, b):
    """Kernel of two configurations, term by term."""
    total = 0.0
    for level, deviation in enumerate(KERNEL.levels):
        if a[0][level] == b[0][level]:
            total += deviation**2
    distance = sum(((x - y) / scale) ** 2 for x, y, scale in zip(a[1], b[1], SCALES, strict=True))
    return total * np.exp(-0.5 * distance)


def rows(features):
    return list(zip(features.groups, features.values, strict=True))


def posterior(known, noise, values, asked):
    points, target = rows(known), rows(asked)[0]
    k = np.array([[covariance(a, b) for b in points] for a in points]) + np.diag(noise**2)
    cross = np.array([covariance(target, b) for b in points])
    mean = cross @ np.linalg.solve(k, values)
    variance = covariance(target, target) - cross @ np.linalg.solve(k, cross)
    return mean, np.sqrt(max(variance, 1e-6) + KERNEL.noise**2)


@settings(deadline=None, max_examples=60)
@given(problems())
def test_mean_and_deviation_are_those_of_the_textbook(problem):
    known, asked, values = problem
    noise = np.full(len(values), KERNEL.noise)
    fitted = fit_residuals(known, values, KERNEL, 0.9, noise=noise)
    mean, deviation = correct(fitted, asked)
    expected = posterior(known, noise, values, asked)
    assert mean[0] == pytest.approx(expected[0], abs=1e-8)
    assert deviation[0] == pytest.approx(expected[1], abs=1e-8)


@settings(deadline=None, max_examples=20)
@given(problems(least=20, most=24))
def test_quantiles_are_those_of_leaving_each_point_out(problem):
    known, _, values = problem
    noise = np.full(len(values), KERNEL.noise)
    fitted = fit_residuals(known, values, KERNEL, 0.9, noise=noise)
    scores = []
    for out in range(len(values)):
        rest = np.arange(len(values)) != out
        mean, deviation = posterior(known.take(rest), noise[rest], values[rest], known.take(np.array([out])))
        scores.append(abs(values[out] - mean) / deviation)
    part = min(1.0, 0.9 * (len(values) + 1) / len(values))
    assert fitted.quantile == pytest.approx(np.quantile(scores, part), rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(problems())
def test_far_from_every_point_nothing_is_known(problem):
    known, asked, values = problem
    fitted = fit_residuals(known, values, KERNEL, 0.9)
    strange = Features(np.full_like(asked.groups, "?"), asked.values)
    mean, deviation = correct(fitted, strange)
    assert mean[0] == 0.0
    assert deviation[0] == pytest.approx(np.sqrt(sum(v**2 for v in KERNEL.levels) + KERNEL.noise**2))
