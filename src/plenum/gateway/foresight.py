"""What predicts for an endpoint's replicas: the serving model where it knows what they run on, else nothing but what is measured."""

from __future__ import annotations

from plenum.gateway import forecast
from plenum.gateway.forecast import Forecast, StepsModel
from plenum.model.endpoint import Endpoint
from plenum.model.errors import PlenumError


def foresee(spec: Endpoint) -> Forecast:
    """Return the forecast of an endpoint: with the performance model's times where it says whose they are, all learned otherwise."""
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
    return Forecast(StepsModel(calibrated_steps(instance), instance.settings.max_batched_tokens))


def warm() -> None:
    """Have what predictions need imported and compiled before the first table comes: the loop would stand still for a second."""
    from plenum.adapters.engines.emulated import Settings
    from plenum.adapters.engines.emulated_instance import instance_of
    from plenum.serving.calibration import calibrated_steps

    instance = instance_of(Settings(host="", port=0))
    forecast.warm(StepsModel(calibrated_steps(instance), instance.settings.max_batched_tokens))
