"""A Gaussian process over what the physical model leaves unexplained: it corrects near measured points and is unsure away from them.

Rasmussen and Williams, Gaussian Processes for Machine Learning, chapter 2; leave-one-out in closed form: section 5.4.2. The kernel is
a sum over ever narrower groups of configurations, so that a point teaches most about its like and a little about its kin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import outer
from plenum.serving.formats import FORMATS, Precision
from plenum.serving.instance import Instance

POINTS_LIMIT = 2000
"""Points that a process keeps at most: its cost grows with their square."""

LEVELS = (
    ("engine", "hardware"),
    ("engine", "family"),
    ("engine", "hardware", "model", "precision"),
    ("engine", "hardware", "model", "precision", "layout"),
)
"""What two configurations must have in common for each term of the kernel."""

SCALES = (2.0, 2.0, 2.5, 2.5)
"""Distances, in doublings, of concurrency, prompt, answer and devices over which a term fades."""


class Kernel(NamedTuple):
    """Standard deviations of the terms of :data:`LEVELS`, and of what repeats of one measurement differ by; natural logarithms."""

    levels: tuple[float, ...]
    noise: float


TPOT_KERNEL = Kernel((0.10, 0.12, 0.12, 0.12), 0.05)
TTFT_KERNEL = Kernel((0.20, 0.20, 0.30, 0.30), 0.15)


class Features(NamedTuple):
    """n configurations: what they have in common, (n, len(LEVELS)) strings, and logarithms to base 2, (n, 4)."""

    groups: NDArray[np.str_]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Features:
        """Return some of them."""
        return Features(self.groups[index], self.values[index])


def features_of(
    instances: Sequence[Instance],
    prefill: Sequence[Instance | None],
    isl: NDArray[np.float64],
    osl: NDArray[np.float64],
    load: NDArray[np.float64],
) -> Features:
    """Describe configurations; ``load`` is what is in flight for each worker."""
    known: dict[tuple[int, int], tuple[tuple[str, ...], float]] = {}
    groups: list[tuple[str, ...]] = []
    devices = np.empty(len(instances))
    for i, (instance, first) in enumerate(zip(instances, prefill, strict=True)):
        key = id(instance), id(first)
        if key not in known:
            known[key] = _groups(instance, first), float(instance.devices)
        names, devices[i] = known[key]
        groups.append(names)
    values = np.column_stack([np.maximum(load, 0.1), np.maximum(isl, 1.0), np.maximum(osl, 1.0), devices])
    return Features(np.array(groups, dtype=np.str_).reshape(len(instances), len(LEVELS)), np.log2(values))


def _groups(instance: Instance, prefill: Instance | None) -> tuple[str, ...]:
    first = "" if prefill is None else f" after {prefill.parallelism}"
    parts = {
        "engine": instance.settings.engine,
        "hardware": instance.hardware.name,
        "family": instance.model.family,
        "model": instance.model.name,
        "precision": widths(instance.precision),
        "layout": f"{instance.parallelism}{first}",
    }
    return tuple("|".join(parts[name] for name in level) for level in LEVELS)


def widths(precision: Precision) -> str:
    """Return whole bits of weights, and of experts where they differ; ``w``: only weights are so narrow.

    Formats of one width run alike once the physics has their peaks: FP8 with one scale or with one for each block.
    """
    names = [precision.weights, precision.experts] if precision.experts else [precision.weights]
    parts = [f"{int(FORMATS[name].bits)}{'w' if FORMATS[name].weight_only else ''}" for name in names]
    return "+".join(dict.fromkeys(parts))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Residuals:
    """A fitted process.

    Parameters
    ----------
    features, values
        n points, and the logarithm of measured over predicted at each, (n,).
    noise
        (n,) standard deviations: outliers have larger ones.
    kernel
        Terms.
    quantile
        Standard deviations that the wanted part of leave-one-out errors stays within.
    inverse, weights
        Inverse of the covariance (n, n), and its product with ``values``.
    """

    features: Features
    values: NDArray[np.float64]
    noise: NDArray[np.float64]
    kernel: Kernel
    quantile: float
    inverse: NDArray[np.float64]
    weights: NDArray[np.float64]


def fit_residuals(
    features: Features,
    values: NDArray[np.float64],
    kernel: Kernel,
    coverage: float,
    noise: NDArray[np.float64] | None = None,
) -> Residuals:
    """Fit a process to n residuals.

    Parameters
    ----------
    coverage
        Part of truths that an interval should hold; it sets ``quantile`` by the leave-one-out errors.
    noise
        Where it is known from an earlier fit; None: found here, larger at points that their neighbours contradict.
    """
    covariance = _covariance(features, features, kernel)
    found = np.full(len(values), kernel.noise) if noise is None else noise
    inverse = _inverse(covariance, found)
    for _ in range(2 if noise is None else 0):
        error = (inverse @ values) / np.diag(inverse)
        # What lies beyond three standard deviations is believed as little as it takes to bring it back there.
        found = np.maximum(kernel.noise, np.sqrt(np.maximum(error**2 / 9.0 - 1.0 / np.diag(inverse) + found**2, 0.0)))
        inverse = _inverse(covariance, found)
    error = np.abs((inverse @ values) / np.diag(inverse))
    spread = np.sqrt(1.0 / np.diag(inverse) - found**2 + kernel.noise**2)
    count = len(values)
    quantile = float(np.quantile(error / spread, min(1.0, coverage * (count + 1) / count))) if count >= 20 else 0.0
    return Residuals(
        features=features,
        values=values,
        noise=found,
        kernel=kernel,
        quantile=quantile,
        inverse=inverse,
        weights=inverse @ values,
    )


def correct(residuals: Residuals, features: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of the logarithm of truth over physics at m configurations, noise included."""
    cross = _covariance(features, residuals.features, residuals.kernel)
    known = np.einsum("ij,ij->i", cross @ residuals.inverse, cross)
    total = sum(level**2 for level in residuals.kernel.levels)
    return cross @ residuals.weights, np.sqrt(np.maximum(total - known, 1e-6) + residuals.kernel.noise**2)


def _inverse(covariance: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.inv(covariance + np.diag(noise**2)), dtype=np.float64)


def _covariance(a: Features, b: Features, kernel: Kernel) -> NDArray[np.float64]:
    codes_a, codes_b = np.empty(a.groups.shape, np.int64), np.empty(b.groups.shape, np.int64)
    for level in range(len(LEVELS)):
        both = np.concatenate([a.groups[:, level], b.groups[:, level]])
        codes = np.unique(both, return_inverse=True)[1]
        codes_a[:, level], codes_b[:, level] = codes[: len(a)], codes[len(a) :]
    return _kernel(
        codes_a,
        a.values / np.array(SCALES),
        codes_b,
        b.values / np.array(SCALES),
        np.array(kernel.levels, np.float64) ** 2,
    )


@outer
def _kernel(
    groups_a: NDArray[np.int64],
    a: NDArray[np.float64],
    groups_b: NDArray[np.int64],
    b: NDArray[np.float64],
    variances: NDArray[np.float64],
) -> NDArray[np.float64]:
    out = np.zeros((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            variance = 0.0
            for level in range(len(variances)):
                if groups_a[i, level] == groups_b[j, level]:
                    variance += variances[level]
            if variance > 0.0:
                distance = 0.0
                for k in range(a.shape[1]):
                    distance += (a[i, k] - b[j, k]) ** 2
                out[i, j] = variance * np.exp(-0.5 * distance)
    return out
