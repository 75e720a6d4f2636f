"""What an emulated engine pretends to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from plenum.adapters.calibrations import write_calibration
from plenum.adapters.engines.emulated import emulated_settings, launch_emulated
from plenum.adapters.engines.emulated_instance import instance_of, steps_of
from plenum.model.endpoint import Endpoint
from plenum.model.errors import FieldError, FileError
from plenum.serving.calibration import UNCALIBRATED, calibrated_steps


def endpoint(*arguments: str) -> Endpoint:
    timing = {"timing_model": "llama-3.1-8b", "timing_hardware": "H100"}
    return Endpoint(name="m", model="x", engine="emulated", arguments=arguments, **timing)  # type: ignore[arg-type]


def test_its_time_is_kept_by_ones_own_calibration_about_ones_own_lengths(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    write_calibration(own, UNCALIBRATED)
    given = endpoint("--calibration", str(own), "--isl", "300", "--osl=40")
    settings = emulated_settings(given, "serve", host="", port=0, key="")
    wanted = calibrated_steps(instance_of(settings), UNCALIBRATED, isl=300.0, osl=40.0)
    assert list(steps_of(settings).coefficients) == list(wanted.coefficients)
    plain = emulated_settings(endpoint(), "serve", host="", port=0, key="")
    assert list(steps_of(plain).coefficients) == list(calibrated_steps(instance_of(plain)).coefficients)


def test_a_calibration_that_cannot_be_read_is_said_before_anything_starts(tmp_path: Path) -> None:
    given = endpoint("--calibration", str(tmp_path / "gone.json"))
    with pytest.raises(FileError, match=r"gone\.json"):
        launch_emulated(emulated_settings(given, "serve", host="", port=0, key=""))


@pytest.mark.parametrize(
    "given", ["--isl=long", "--isl=", "--scale=nan", "--latency=inf", "--cache-tokens=-5", "--seed=1.5", "--hang=2"]
)
def test_arguments_that_no_engine_could_keep_time_by_are_refused(given: str) -> None:
    with pytest.raises(FieldError, match=r"spec\.arguments"):
        emulated_settings(endpoint(given), "serve", host="", port=0, key="")
