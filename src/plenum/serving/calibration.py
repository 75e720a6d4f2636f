"""What measurements taught about engines on hardware: efficiencies, corrections, and how far predictions can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

from plenum.serving.instance import Instance
from plenum.serving.roofline import Efficiency, compile_steps
from plenum.serving.steps import StepModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Efficiencies by engine and hardware, and what residuals remain.

    Parameters
    ----------
    name
        Where it comes from, in words.
    """

    name: str = "default"


DEFAULT = Calibration()
"""The calibration that ships with the package."""


def efficiency_for(instance: Instance, calibration: Calibration | None = None) -> Efficiency:
    """Return the efficiency that ``calibration`` (None: the shipped one) has for the engine and the hardware of ``instance``."""
    del instance, calibration
    return Efficiency()


def calibrated_steps(instance: Instance, calibration: Calibration | None = None) -> StepModel:
    """Compile an instance with its calibrated efficiency and corrections, for the simulator.

    Parameters
    ----------
    calibration
        None: the shipped one.
    """
    return compile_steps(instance, efficiency_for(instance, calibration))
