"""How far the performance model lies from NVIDIA's measured serving points: halves, configurations, models and GPUs held out."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks.findings import Finding, Target, below
from plenum.adapters.measurements import read_measurements
from plenum.adapters.traces.folder import find_data
from plenum.serving.accuracy import Accuracy, Error, accuracy
from plenum.serving.calibration import shipped
from plenum.serving.fitting import calibrate
from plenum.serving.measured import Measured, measured

PROFILE = "serving-profiles/end_to_end_ttft_tpot.csv.gz"
SEEDS = (1, 2, 3)
FOLDS = (
    ("DeepSeek-R1", "DeepSeek-V3", "DeepSeek-V3.1"),
    ("Llama-3.1-70B", "GLM-5", "MiniMax-M2.5"),
    ("Qwen3-32B", "Kimi-K2.5", "Qwen3.5-397B-A17B"),
    ("Llama-3.1-8B", "Qwen3-235B-A22B", "gpt-oss-120b"),
)
"""Models that are left out together; those of one architecture are never apart."""

TPOT_MEAN, TPOT_MEDIAN, TTFT_MEDIAN, COLD_MEAN, HELD = 15.0, 8.0, 20.0, 30.0, (85.0, 95.0)
THEIRS = "NVIDIA's planner: TPOT 21 % (median 11 %), TTFT 53 % (literature)"


def bench() -> Iterator[Finding]:
    """Yield nothing where the profiles are absent."""
    data = find_data(None, os.environ)
    if data is None or not (data / PROFILE).is_file():
        return
    points = measured(read_measurements(data / PROFILE))
    for seed in SEEDS:
        rest = np.zeros(len(points), bool)
        rest[np.random.default_rng(seed).permutation(len(points))[len(points) // 2 :]] = True
        yield from _rows(f"a random half, seed {seed}", _left_out(points, rest), targets=True)
    numbers = {key: k for k, key in enumerate(dict.fromkeys(map(id, points.instances)))}
    groups = np.array([numbers[id(instance)] for instance in points.instances])
    for seed in SEEDS:
        kept = np.random.default_rng(seed).permutation(len(numbers))[: len(numbers) // 2]
        yield from _rows(f"half of the configurations, seed {seed}", _left_out(points, ~np.isin(groups, kept)))
    models = np.array([instance.model.name for instance in points.instances])
    folds = [_left_out(points, np.isin(models, fold)) for fold in FOLDS]
    for fold, found in zip(FOLDS, folds, strict=True):
        yield from _rows(f"all but {', '.join(fold)}", found)
    counts = [found.tpot.points for found in folds]
    cold = float(np.average([100 * found.tpot.mean for found in folds], weights=counts))
    held = float(np.average([100 * found.tpot.held for found in folds], weights=counts))
    yield _finding("each fold of models by the others: TPOT mean error", cold, below(COLD_MEAN, "%", cold))
    yield _finding("each fold of models by the others: TPOT in its interval", held, None)
    devices = np.array([instance.hardware.name for instance in points.instances])
    for device in np.unique(devices):
        yield from _rows(f"all but {device}", _left_out(points, devices == device))
    yield from _rows("what ships, in sample", accuracy(points, shipped()))


def _left_out(points: Measured, rest: NDArray[np.bool_]) -> Accuracy:
    """Calibrate without some points, and predict those."""
    return accuracy(points.take(np.flatnonzero(rest)), calibrate(points.take(np.flatnonzero(~rest))))


def _rows(what: str, found: Accuracy, targets: bool = False) -> Iterator[Finding]:
    tpot, ttft = _percent(found.tpot), _percent(found.ttft)
    yield _finding(f"{what}: TPOT median error", tpot.median, below(TPOT_MEDIAN, "%", tpot.median) if targets else None)
    yield _finding(f"{what}: TPOT mean error", tpot.mean, below(TPOT_MEAN, "%", tpot.mean) if targets else None)
    yield _finding(f"{what}: TTFT median error", ttft.median, below(TTFT_MEDIAN, "%", ttft.median) if targets else None)
    yield _finding(f"{what}: TTFT mean error", ttft.mean, None)
    for name, error in (("TPOT", tpot), ("TTFT", ttft)):
        met = Target(words=f"{HELD[0]:g} to {HELD[1]:g} %", met=HELD[0] <= error.held <= HELD[1]) if targets else None
        yield _finding(f"{what}: {name} in its interval", error.held, met)


def _finding(what: str, value: float, target: Target | None) -> Finding:
    return Finding(bench="2,238 measured serving points", what=what, value=value, unit="%", target=target, note=THEIRS)


def _percent(error: Error) -> Error:
    return Error(error.points, 100 * error.median, 100 * error.mean, 100 * error.held)
