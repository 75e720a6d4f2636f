"""Measured curves: seconds (or bytes) over tokens, fitted to a few points, and turned into coefficients of iterations.

A curve is whatever maps an array of token counts to an array of values: :class:`Quadratic` for a fit, :func:`interpolated` to go
through every point, :func:`prefill_curve` for what the performance model says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plenum.model.errors import FieldError
from plenum.serving.steps import FIELDS, StepModel, chunk_pairs, chunk_pairs_window, step

Curve = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Token counts to values of the same shape."""

MAX_POINTS = 100_000

NEUTRAL: Mapping[str, float] = {
    "stages": 1.0,
    "prefill_scale": 1.0,
    "decode_scale": 1.0,
    "groups": 1.0,
    "decode_width": 1.0,
    "cap_w": 1e12,
}
"""Coefficients whose neutral value is not 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quadratic:
    """``fixed + linear x + square x²``: launches, matrices and attention of a prefill; state and cache of a transfer.

    Parameters
    ----------
    fixed, linear, square
        None is negative, so that more tokens never take less.
    error
        Largest part by which it misses a point that it was fitted to.
    """

    fixed: float
    linear: float = 0.0
    square: float = 0.0
    error: float = 0.0

    def __call__(self, tokens: ArrayLike) -> NDArray[np.float64]:
        """Evaluate at each count of tokens."""
        x = np.asarray(tokens, np.float64)
        return self.fixed + x * (self.linear + x * self.square)


def fit_quadratic(tokens: ArrayLike, values: ArrayLike, *, degree: int = 2, relative: bool = False) -> Quadratic:
    """Fit a curve that never falls: least squares with coefficients of at least 0.

    Parameters
    ----------
    tokens, values
        (n,) each; a point may be there several times.
    degree
        1 for a line, 2 for a parabola. Of two points only a line is asked for, whatever this says.
    relative
        Weigh misses by the value, so that small ones count as much as large ones.

    Raises
    ------
    FieldError
        No points, too many, or values that cannot be meant.
    """
    from scipy.optimize import nnls

    x, y = _points(tokens, values)
    degree = min(degree, len(np.unique(x)) - 1)
    scale = float(x.max())
    columns = np.stack([(x / scale) ** power for power in range(degree + 1)], axis=1)
    weights = 1 / np.maximum(y, 1e-300) if relative else np.ones(len(y))
    found, _ = nnls(columns * weights[:, None], y * weights)
    fixed, linear, square = (*found, 0.0, 0.0)[:3]
    misses = np.abs(columns @ found - y) / np.maximum(np.abs(y), 1e-300)
    return Quadratic(
        fixed=float(fixed), linear=float(linear) / scale, square=float(square) / scale**2, error=float(misses.max())
    )


def interpolated(tokens: ArrayLike, values: ArrayLike) -> Curve:
    """Return a curve through every point that rises where they rise; outside of them it goes on straight.

    Raises
    ------
    FieldError
        Fewer than two points, or values that cannot be meant.
    """
    from scipy.interpolate import PchipInterpolator

    x, y = _points(tokens, values)
    x, first = np.unique(x, return_index=True)
    y = y[first]
    if len(x) < 2:
        raise FieldError("points", "a curve goes through at least two points with different counts of tokens")
    inside = PchipInterpolator(x, y)
    slopes = inside(x[[0, -1]], 1)

    def curve(at: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.asarray(at, np.float64)
        within = inside(np.clip(at, x[0], x[-1]))
        beyond = np.minimum(at - x[0], 0) * slopes[0] + np.maximum(at - x[-1], 0) * slopes[1]
        return np.maximum(within + beyond, 0.0)

    return curve


def prefill_curve(steps: StepModel, *, chunk_tokens: int = 8192) -> Curve:
    """Return the seconds in which an instance computes one prompt alone, in chunks, as the performance model says."""
    window = steps["window"]

    def one(tokens: float) -> float:
        total, earlier = 0.0, 0.0
        while earlier < tokens:
            now = min(float(chunk_tokens), tokens - earlier)
            pairs, near = chunk_pairs(earlier, now), chunk_pairs_window(earlier, now, window)
            total += step(steps.coefficients, now, pairs, near, 1.0, 0.0, 0.0, 0.0)[0]
            earlier += now
        return total

    def curve(at: NDArray[np.float64]) -> NDArray[np.float64]:
        at = np.asarray(at, np.float64)
        # A prompt's time is smooth in its length: a few hundred lengths say all, however many are asked for.
        grid = np.unique(at) if at.size <= 512 else np.geomspace(max(at.min(), 1.0), max(at.max(), 2.0), 512)
        return np.interp(at, grid, [one(float(tokens)) for tokens in grid])

    return curve


def prefill_steps(curve: Quadratic, *, idle_w: float = 0.0, busy_w: float = 0.0) -> StepModel:
    """Return coefficients of an instance that prefills a prompt alone in just the seconds of ``curve``.

    The square goes to attention (n (n + 1) / 2 pairs of n tokens), the rest to what is read once an iteration and once a token: terms that
    :func:`~plenum.serving.steps.step` adds up. In chunks a prompt pays for the fixed part once a chunk, and prompts in one batch share it:
    let ``max_batched_tokens`` be as large as the longest prompt, and ``max_sequences`` 1, to keep the curve.
    """
    return steps_of(
        linear_weights_s=curve.fixed,
        activation_token_s=max(curve.linear - curve.square, 0.0),
        prefill_pair_s=2 * curve.square,
        idle_w=idle_w,
        awake_w=busy_w,
    )


def decode_steps(
    *,
    fixed_s: float,
    sequence_s: float = 0.0,
    context_token_s: float = 0.0,
    idle_w: float = 0.0,
    busy_w: float = 0.0,
) -> StepModel:
    """Return coefficients of an instance whose decode iterations take ``fixed_s + sequences sequence_s + context context_token_s``."""
    return steps_of(
        linear_weights_s=fixed_s,
        activation_token_s=sequence_s,
        decode_context_s=context_token_s,
        idle_w=idle_w,
        awake_w=busy_w,
    )


def fit_decode(sequences: ArrayLike, context_tokens: ArrayLike, seconds: ArrayLike) -> StepModel:
    """Fit decode iterations to measured ones.

    Parameters
    ----------
    sequences, context_tokens, seconds
        (n,) each: sequences in the batch, the sum of their contexts, and how long one iteration took.
    """
    from scipy.optimize import nnls

    context, y = _points(context_tokens, seconds)
    batch = np.asarray(sequences, np.float64)
    if batch.shape != y.shape:
        raise FieldError("points", f"{len(batch)} batch sizes for {len(y)} times; every time needs one")
    columns = np.stack([np.ones(len(y)), batch, context], axis=1)
    scale = columns.max(axis=0)
    found, _ = nnls(columns / np.where(scale > 0, scale, 1.0), y)
    fixed, sequence, token = found / np.where(scale > 0, scale, 1.0)
    return decode_steps(fixed_s=float(fixed), sequence_s=float(sequence), context_token_s=float(token))


def steps_of(**coefficients: float) -> StepModel:
    """Return coefficients by name; those not named are neutral."""
    values = dict.fromkeys(FIELDS, 0.0) | {name: value for name, value in NEUTRAL.items() if name in FIELDS}
    if unknown := coefficients.keys() - values.keys():
        raise FieldError("coefficients", f"there is no coefficient {min(unknown)!r}; choose from {', '.join(FIELDS)}")
    values.update(coefficients)
    array = np.array([values[name] for name in FIELDS], np.float64)
    return StepModel(coefficients=array)


def _points(tokens: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(tokens, np.float64), np.asarray(values, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not 1 <= len(x) <= MAX_POINTS:
        raise FieldError("points", f"a curve is fitted to 1 to {MAX_POINTS:,} points, each with tokens and a value")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x >= 0).all() and (y >= 0).all() and x.max() > 0):
        raise FieldError("points", "tokens and values are finite and not negative, and some prompt has tokens")
    return x, y
