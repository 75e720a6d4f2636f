"""Patel et al., "Splitwise", ISCA 2024 (arXiv 2311.18677): measured steps and watts of DGX A100 and H100, as splitwise-sim ships them.

Targets: calibrated on a random half, prompt and token times of the other half within 10 % in the median, and power too. Rows with no
power in them were measured without; ``-pcap`` rows are of devices held below their power.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from plenum.adapters.measurements import read_measurements
from plenum.adapters.traces.folder import find_data
from plenum.serving.fitting import calibrate
from plenum.serving.measured import Measured, measured
from plenum.serving.predict import predict_many

PROFILE = (find_data(None, os.environ) or Path("absent")) / "serving-profiles/splitwise_perf_model.csv.gz"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not PROFILE.is_file(), reason="no serving profiles: set PLENUM_DATA"),
]


@cache
def _points() -> Measured:
    return measured(read_measurements(PROFILE))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_steps_and_watts_of_the_other_half(seed):
    points = _points()
    assert len(points) == 1260
    order = np.random.default_rng(seed).permutation(len(points))
    calibration, rest = calibrate(points.take(order[:630])), points.take(order[630:])
    found = predict_many(
        rest.instances, isl=rest.isl, osl=rest.osl, concurrency=rest.concurrency, together=True, calibration=calibration
    )
    assert np.median(np.abs(found.ttft_s / np.exp(rest.log_ttft) - 1)) < 0.10
    assert np.median(np.abs(found.tpot_s / np.exp(rest.log_tpot) - 1)) < 0.10
    devices = np.array([instance.devices for instance in rest.instances])
    known = np.isfinite(rest.peak_w)
    assert known.sum() > 100
    peak, average = found.prompt_power_w / devices / rest.peak_w, found.decode_power_w / devices / rest.average_w
    assert np.median(np.abs(peak[known] - 1)) < 0.10
    assert np.median(np.abs(average[known] - 1)) < 0.10
