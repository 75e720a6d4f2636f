"""Curves through measured points, and the iterations that reproduce them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.model.errors import FieldError
from plenum.serving.curves import (
    Quadratic,
    decode_steps,
    fit_decode,
    fit_quadratic,
    interpolated,
    prefill_curve,
    prefill_steps,
    steps_of,
)
from plenum.serving.steps import chunk_pairs, step

TOKENS = np.array([1.0, 64.0, 1000.0, 8000.0, 32_000.0, 128_000.0])
curves = st.builds(Quadratic, fixed=st.floats(0, 2), linear=st.floats(1e-7, 1e-3), square=st.floats(0, 1e-9)).filter(
    lambda curve: curve.linear >= curve.square
)


@settings(max_examples=60, deadline=None)
@given(curves)
def test_fit_finds_a_parabola_again(curve: Quadratic) -> None:
    found = fit_quadratic(TOKENS, curve(TOKENS), relative=True)
    assert found(TOKENS) == pytest.approx(curve(TOKENS), rel=1e-3, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(curves)
def test_steps_reproduce_the_curve(curve: Quadratic) -> None:
    steps = prefill_steps(curve)
    seconds = [step(steps.coefficients, n, chunk_pairs(0.0, n), 0.0, 1.0, 0.0, 0.0, 0.0)[0] for n in TOKENS]
    assert seconds == pytest.approx(curve(TOKENS), rel=1e-9)
    assert prefill_curve(steps, chunk_tokens=200_000)(TOKENS) == pytest.approx(curve(TOKENS), rel=1e-9)


def test_chunks_pay_for_launches_again() -> None:
    steps = prefill_steps(Quadratic(fixed=0.1, linear=1e-4, square=1e-9))
    whole, chunked = (prefill_curve(steps, chunk_tokens=n)(np.array([10_000.0]))[0] for n in (10_000, 2500))
    assert chunked == pytest.approx(whole + 0.3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e3)), min_size=1, max_size=20))
def test_fits_never_fall(points: list[tuple[int, float]]) -> None:
    tokens, seconds = zip(*points, strict=True)
    curve = fit_quadratic(tokens, seconds)
    assert min(curve.fixed, curve.linear, curve.square) >= 0
    if len(set(tokens)) == len(points) == 1:
        assert curve(tokens) == pytest.approx(seconds)


def test_line_through_two_points() -> None:
    curve = fit_quadratic((10.0, 30.0), (2.0, 4.0))
    assert (curve.fixed, curve.linear, curve.square) == pytest.approx((1.0, 0.1, 0.0))
    assert curve.error < 1e-9


def test_interpolated_goes_through_and_rises() -> None:
    tokens, seconds = [1000, 8000, 32_000, 128_000], [0.44, 0.72, 1.84, 7.4]
    curve = interpolated(tokens, seconds)
    assert curve(np.array(tokens)) == pytest.approx(seconds)
    at = np.linspace(1, 300_000, 5000)
    assert (np.diff(curve(at)) >= -1e-12).all()
    assert (curve(at) >= 0).all()


def test_decode_fit() -> None:
    batch = np.array([1, 8, 32, 64, 64, 16.0])
    context = np.array([1e3, 1e4, 2e4, 1e5, 3e5, 5e4])
    steps = fit_decode(batch, context, 0.02 + 1e-4 * batch + 1e-7 * context)
    same = decode_steps(fixed_s=0.02, sequence_s=1e-4, context_token_s=1e-7)
    for n, tokens in ((4.0, 4e3), (50.0, 2e5)):
        times = [step(model.coefficients, 0.0, 0.0, 0.0, 0.0, n, tokens, tokens)[0] for model in (steps, same)]
        assert times == pytest.approx([0.02 + 1e-4 * n + 1e-7 * tokens] * 2, rel=1e-6)


def test_watts() -> None:
    steps = decode_steps(fixed_s=0.0, context_token_s=1e-6, idle_w=100.0, busy_w=700.0)
    seconds, joules = step(steps.coefficients, 0.0, 0.0, 0.0, 0.0, 1.0, 1e4, 1e4)
    assert joules == pytest.approx(700 * seconds)


@pytest.mark.parametrize(
    ("tokens", "values"), [([], []), ([1], [1, 2]), ([-1], [1]), ([1], [float("nan")]), ([0], [1])]
)
def test_what_cannot_be_meant(tokens: list[float], values: list[float]) -> None:
    with pytest.raises(FieldError, match="points"):
        fit_quadratic(tokens, values)


def test_unknown_coefficient() -> None:
    with pytest.raises(FieldError, match="no coefficient 'speed'"):
        steps_of(speed=1.0)
