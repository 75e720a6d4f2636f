"""What an emulated engine pretends to be, as the serving model has it: an instance that has room for what it is to serve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from plenum.adapters.calibrations import read_calibration
from plenum.adapters.engines.emulated import Settings
from plenum.model.errors import FieldError
from plenum.serving.calibration import Calibration, calibrated_steps
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named, published_precision
from plenum.serving.instance import (
    EngineSettings,
    Instance,
    Parallelism,
    cache_capacity_tokens,
    weight_bytes_per_device,
)
from plenum.serving.steps import StepModel

GB = 1e9


def instance_of(settings: Settings) -> Instance:
    """Return the instance of the serving model whose time is kept.

    Raises
    ------
    FieldError
        The catalogue does not have it, or it does not fit.
    """
    model = model_named(settings.model, "spec.timing.model")
    published = published_precision(model)
    precision = replace(
        published,
        weights=settings.weights_format or published.weights,
        experts="" if settings.weights_format else published.experts,
        kv_cache=settings.cache_format or published.kv_cache,
    )
    standard = EngineSettings()
    instance = Instance(
        model=model,
        hardware=accelerator_named(settings.hardware, "spec.timing.hardware"),
        precision=precision,
        parallelism=Parallelism(tp=settings.tensor, pp=settings.pipeline, dp=settings.data, ep=settings.expert),
        settings=EngineSettings(
            max_sequences=settings.slots or standard.max_sequences,
            max_batched_tokens=settings.batch_tokens or standard.max_batched_tokens,
            block_tokens=settings.block_tokens or standard.block_tokens,
        ),
    )
    if not settings.cache_tokens:
        _check_room(instance, settings.context_tokens)
    return instance


def steps_of(settings: Settings) -> StepModel:
    """Return the seconds of that instance's iterations.

    Raises
    ------
    FieldError, FileError
        As above; or its calibration cannot be read.
    """
    return calibrated_steps(instance_of(settings), calibration_of(settings), isl=settings.isl, osl=settings.osl)


def calibration_of(settings: Settings) -> Calibration | None:
    """Return the calibration of one's own that its time is kept by; None: there is none.

    Raises
    ------
    FileError, FieldError
        It cannot be read, or is none.
    """
    return read_calibration(Path(settings.calibration)) if settings.calibration else None


def _check_room(instance: Instance, context_tokens: int) -> None:
    """Refuse what a real engine would not start with: no room beside the weights for the longest sequence that was asked for."""
    needed = context_tokens or instance.settings.block_tokens
    room = max(cache_capacity_tokens(instance, needed) // instance.parallelism.dp, 0)
    if room >= needed:
        return
    name, spread, hardware = instance.model.name, instance.parallelism, instance.hardware
    weights = f"{weight_bytes_per_device(instance) / GB:,.0f} GB of weights on each of its {spread.devices} devices"
    beside = f"beside them there is room for {room:,} tokens of cache, not for {needed:,}"
    raise FieldError(
        "spec.timing",
        f"{name} does not fit on {hardware.name} at {spread}: it has {weights} of {hardware.hbm_bytes / GB:,.0f} GB, and {beside}; "
        "give it more devices (spec.parallelism), smaller numbers (spec.format), a smaller contextLimit, or a larger accelerator",
    )
