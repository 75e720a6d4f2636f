"""What predicts for an endpoint's replicas: the serving model where it knows what they run on, else nothing but what is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plenum.gateway import forecast
from plenum.gateway.forecast import Forecast, StepsModel
from plenum.model.endpoint import Endpoint
from plenum.model.errors import PlenumError

if TYPE_CHECKING:
    from plenum.serving.calibration import Calibration


def foresee(spec: Endpoint, calibration: Calibration | None = None) -> Forecast:
    """Return the forecast of an endpoint: with the performance model's times where it says whose they are, all learned otherwise.

    Parameters
    ----------
    calibration
        Of one's own measurements; None: the one that ships.
    """
    if not spec.timing_hardware:
        return Forecast()
    from plenum.adapters.engines.emulated import emulated_settings
    from plenum.adapters.engines.emulated_instance import instance_of
    from plenum.serving.calibration import calibrated_steps

    try:
        settings = emulated_settings(spec, spec.pools[-1].name, host="", port=0, key="")
        instance = instance_of(settings)
    except PlenumError:
        return Forecast()

    def taken_for(isl: float, osl: float) -> StepsModel:
        steps = calibrated_steps(instance, calibration, isl=isl, osl=osl)
        return StepsModel(steps, instance.settings.max_batched_tokens, isl + osl / 2)

    steps = calibrated_steps(instance, calibration, isl=settings.isl, osl=settings.osl)
    return Forecast(StepsModel(steps, instance.settings.max_batched_tokens), taken_for)


def warm() -> None:
    """Have what predictions need imported and compiled before the first table comes: the loop would stand still for a second."""
    from plenum.adapters.engines.emulated import Settings
    from plenum.adapters.engines.emulated_instance import instance_of
    from plenum.serving.calibration import calibrated_steps

    instance = instance_of(Settings(host="", port=0))
    forecast.warm(StepsModel(calibrated_steps(instance), instance.settings.max_batched_tokens))
