"""What measurements taught about engines on hardware: efficiencies, corrections, and how far predictions can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plenum.model.errors import FieldError
from plenum.serving.instance import Instance
from plenum.serving.loads import prompt_time
from plenum.serving.peaks import BANDWIDTH_MOST, COMPUTE_MOST, bandwidth_use, compute_use
from plenum.serving.residuals import (
    POINTS_LIMIT,
    Features,
    Kernel,
    Residuals,
    correct,
    features_of,
    fit_residuals,
    widths,
)
from plenum.serving.roofline import (
    EFFICIENCY_FIELDS,
    Efficiency,
    compile_steps,
    efficiency_array,
    efficiency_of,
    work_of,
)
from plenum.serving.steps import AT, LOAD_POINTS, StepModel

VERSION = 1
"""Version of what :func:`to_document` writes."""


class CalibrationError(FieldError):
    """A calibration file that is not one, or is of a version that is not known."""

    code = "calibration.invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Standard deviations of the logarithm of truth over prediction.

    Parameters
    ----------
    point
        Of points of a configuration group (engine, hardware, model, formats) that was measured, about its mean.
    group
        Of the means of such groups of one engine on one kind of hardware: what is not known of a model never measured there.
    hardware, engine
        What is not known besides where the hardware, and the engine, was never measured.
    """

    point: float
    group: float
    hardware: float
    engine: float


TPOT_SPREAD = Spread(point=0.15, group=0.25, hardware=0.2, engine=0.25)
TTFT_SPREAD = Spread(point=0.40, group=0.40, hardware=0.3, engine=0.3)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """What was learnt from one set of measurements.

    Parameters
    ----------
    name
        Where it comes from, in words.
    efficiencies
        By ``engine|hardware``, by ``engine``, and under the empty name for all that was never measured.
    offsets
        By group (``engine|hardware|model|formats``): means of the logarithm of measured over predicted, of TPOT and of TTFT.
    tpot_spread, ttft_spread
        What remains without points of one's own.
    tpot, ttft
        Processes over points of one's own; None: there are none.
    coverage
        Part of truths that intervals are made to hold.
    """

    name: str = "no measurements"
    efficiencies: Mapping[str, Efficiency] = field(default_factory=dict[str, Efficiency])
    offsets: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    tpot_spread: Spread = TPOT_SPREAD
    ttft_spread: Spread = TTFT_SPREAD
    tpot: Residuals | None = None
    ttft: Residuals | None = None
    coverage: float = 0.90


UNCALIBRATED = Calibration()
"""Nothing is known but data sheets and the plain guesses of :class:`~plenum.serving.roofline.Efficiency`."""


def shipped() -> Calibration:
    """Return the calibration that ships with the package."""
    from plenum.serving.catalogue.calibrated import SHIPPED  # its table is made by this module's types

    return SHIPPED


def efficiency_for(instance: Instance, calibration: Calibration | None = None) -> Efficiency:
    """Return the efficiency that ``calibration`` (None: the shipped one) has for the engine and the hardware of ``instance``.

    What an engine reaches on GPUs says nothing of CPUs: those that were not measured themselves get :data:`HOST`.
    """
    table = (calibration or shipped()).efficiencies
    engine, hardware = instance.settings.engine, instance.hardware
    if (key := f"{engine}|{hardware.name}") in table:
        return table[key]
    if hardware.is_host:
        return HOST
    for key in (engine, ""):
        if key in table:
            return table[key]
    return _PLAIN


_PLAIN = Efficiency()

HOST = Efficiency(compute=0.35, experts=0.25, attention=0.2, memory=0.65, expert_memory=0.5, cache_memory=0.5)
"""CPU sockets, where none was measured: plain guesses. Matrix units of CPUs reach a third of their peak on prompts, and reading is
spread over two memory domains."""

HOST_SPREAD = 0.5
"""Standard deviation of the logarithm of truth over such a guess, besides what else is not known."""

LEAST_REQUEST = 0.25
"""Part of a request's fitted time outside iterations that corrections leave: HTTP and tokenising take some."""

MOST_PREFILL = 0.7
"""Logarithm that corrections of prefill are held to: more of a TTFT's residual is waiting of the benchmark that it comes from."""

LIGHT = 1
"""Place in :data:`~plenum.serving.steps.LOAD_POINTS` of the load at which the correction of prefill is taken."""


def calibrated_steps(
    instance: Instance, calibration: Calibration | None = None, *, isl: float = 2048.0, osl: float = 512.0
) -> StepModel:
    """Compile an instance with its calibrated efficiency and corrections: what predictor, planner and simulator all run on.

    The correction of decode is that of its time per token at each of :data:`~plenum.serving.steps.LOAD_POINTS`, the one of prefill that
    of time to first token under a light load, as far as it goes beyond what length explains. Neither makes work faster than
    :mod:`plenum.serving.peaks` lets it be: a time to first token holds waiting besides work, and what work cannot explain is taken off
    the request's own time.

    Parameters
    ----------
    calibration
        None: the shipped one.
    isl, osl
        Tokens of prompts and answers about which the corrections are taken.
    """
    chosen = calibration or shipped()
    steps = compile_steps(instance, efficiency_for(instance, chosen))
    loads = np.array(LOAD_POINTS)
    tpot, ttft = corrections([instance] * len(loads), chosen, isl=isl, osl=osl, load=loads)
    given, array, work = steps.coefficients, steps.coefficients.copy(), work_of(instance)
    scales = np.maximum(np.exp(tpot.mean), bandwidth_use(given, work) / BANDWIDTH_MOST)
    array[AT["decode_scale"]] = scales[0]
    array[AT["decode_more_4"] :][: len(loads) - 1] = scales[1:] / scales[0] - 1.0
    slower = math.exp(float(np.clip(ttft.mean[LIGHT], -MOST_PREFILL, MOST_PREFILL)))
    prefill = max(slower, compute_use(given, work) / COMPUTE_MOST)
    prompt_s = prompt_time(given, 1.0, isl, 0.0, instance.settings.max_batched_tokens)[0]
    array[AT["prefill_scale"]] = prefill
    # What prefill may not be faster by comes off the request's time outside iterations, as long as there is some left.
    request_s = array[AT["request_s"]]
    array[AT["request_s"]] = max(slower * request_s - (prefill - slower) * prompt_s, LEAST_REQUEST * request_s)
    return StepModel(coefficients=array)


def basis_of(instance: Instance, calibration: Calibration) -> str:
    """Say what a prediction for ``instance`` rests on."""
    engine, hardware = instance.settings.engine, instance.hardware.name
    if group_of(instance) in calibration.offsets:
        return f"{calibration.name}: {instance.model.name} in {instance.precision.weights} was measured on {hardware} under {engine}"
    if f"{engine}|{hardware}" in calibration.efficiencies:
        return f"{calibration.name}: other models were measured on {hardware} under {engine}, this one was not"
    if instance.hardware.is_host:
        return f"plain guesses: {hardware} was not measured, and what engines reach on GPUs says nothing of CPUs; measure it first"
    if engine in calibration.efficiencies:
        return f"{calibration.name}: {engine} was measured, but not on {hardware}"
    return f"data sheets: {engine} on {hardware} was not measured"


def corrections(
    instances: Sequence[Instance],
    calibration: Calibration,
    *,
    isl: ArrayLike,
    osl: ArrayLike,
    load: NDArray[np.float64],
    prefill: Sequence[Instance | None] = (),
) -> tuple[Correction, Correction]:
    """Return what a calibration adds to the physics of TPOT and of TTFT where ``load`` requests are in flight for each worker."""
    n = len(instances)
    firsts = list(prefill) if len(prefill) else [None] * n
    columns = [np.broadcast_to(np.asarray(v, np.float64), (n,)) for v in (isl, osl)]
    points = calibration.tpot is not None or calibration.ttft is not None
    features = features_of(instances, firsts, columns[0], columns[1], load) if points else _NOTHING
    return correction_of(instances, features, calibration, 0), correction_of(instances, features, calibration, 1)


_NOTHING = Features(np.zeros((0, 0), np.str_), np.zeros((0, 0)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Correction:
    """Mean (n,) of the logarithm of truth over physics, and half the width (n,) of the interval about it."""

    mean: NDArray[np.float64]
    half: NDArray[np.float64]


def correction_of(
    instances: Sequence[Instance], features: Features, calibration: Calibration, column: int
) -> Correction:
    """Return what ``calibration`` adds to physics; ``column`` 0: TPOT, 1: TTFT."""
    spread = (calibration.tpot_spread, calibration.ttft_spread)[column]
    process = (calibration.tpot, calibration.ttft)[column]
    known: dict[int, tuple[float, float]] = {}
    for instance in instances:
        if id(instance) not in known:
            known[id(instance)] = _known(instance, calibration, spread, column)
    mean = np.array([known[id(i)][0] for i in instances])
    sigma = np.array([known[id(i)][1] for i in instances])
    width = _normal_quantile(calibration.coverage)
    if process is None:
        return Correction(mean=mean, half=width * sigma)
    shift, own = correct(process, features)
    prior = math.sqrt(sum(level**2 for level in process.kernel.levels) + process.kernel.noise**2)
    # Far from every point the process says nothing, and what is not known is what it was without it.
    nearness = np.clip(2.0 * (prior - own) / max(prior - process.kernel.noise, 1e-9), 0.0, 1.0)
    width_own = process.quantile or width
    far = np.maximum(width * sigma, width_own * own)
    return Correction(mean=mean + shift, half=nearness * width_own * own + (1.0 - nearness) * far)


def group_of(instance: Instance) -> str:
    """Return the group whose residuals have one mean: engine, hardware, model and widths of formats."""
    return f"{instance.settings.engine}|{instance.hardware.name}|{instance.model.name}|{widths(instance.precision)}"


def _known(instance: Instance, calibration: Calibration, spread: Spread, column: int) -> tuple[float, float]:
    offset = calibration.offsets.get(group_of(instance))
    if offset is not None:
        return offset[column], spread.point
    variance = spread.point**2 + spread.group**2
    engine = instance.settings.engine
    if f"{engine}|{instance.hardware.name}" not in calibration.efficiencies:
        variance += spread.hardware**2
        if instance.hardware.is_host:
            variance += HOST_SPREAD**2
    if engine not in calibration.efficiencies:
        variance += spread.engine**2
    return 0.0, math.sqrt(variance)


def _normal_quantile(coverage: float) -> float:
    """Standard deviations about the mean that hold ``coverage`` of a normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + 0.5 * coverage)


def to_document(calibration: Calibration) -> dict[str, Any]:
    """Return a calibration as plain values that JSON can hold."""
    return {
        "version": VERSION,
        "name": calibration.name,
        "coverage": calibration.coverage,
        "efficiency_fields": list(EFFICIENCY_FIELDS),
        "efficiencies": {k: [float(v) for v in efficiency_array(e)] for k, e in calibration.efficiencies.items()},
        "offsets": {key: list(pair) for key, pair in calibration.offsets.items()},
        "spread": {
            name: {part: getattr(spread, part) for part in Spread.__slots__}
            for name, spread in (("tpot", calibration.tpot_spread), ("ttft", calibration.ttft_spread))
        },
        "points": {
            name: None
            if process is None
            else {
                "groups": process.features.groups.tolist(),
                "values": process.features.values.tolist(),
                "residuals": process.values.tolist(),
                "noise": process.noise.tolist(),
                "kernel": {"levels": list(process.kernel.levels), "noise": process.kernel.noise},
            }
            for name, process in (("tpot", calibration.tpot), ("ttft", calibration.ttft))
        },
    }


def from_document(document: Mapping[str, Any]) -> Calibration:
    """Return what :func:`to_document` made.

    Raises
    ------
    CalibrationError
        It is none, of a version that is not known, or holds what cannot be meant.
    """
    if document.get("version") != VERSION:
        raise CalibrationError("version", f"must be {VERSION}: calibrate anew with `plenum plan calibrate`")
    try:
        names = tuple(document["efficiency_fields"])
        coverage = float(document["coverage"])
        spreads = {name: Spread(**{k: float(v) for k, v in document["spread"][name].items()}) for name in _COLUMNS}
        calibration = Calibration(
            name=str(document["name"])[:500],
            coverage=coverage,
            efficiencies={key: _efficiency(names, row) for key, row in document["efficiencies"].items()},
            offsets={key: (float(pair[0]), float(pair[1])) for key, pair in document["offsets"].items()},
            tpot_spread=spreads["tpot"],
            ttft_spread=spreads["ttft"],
        )
        processes = {name: _process(document["points"][name], coverage) for name in _COLUMNS}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, np.linalg.LinAlgError) as error:
        raise CalibrationError("calibration", f"is none that `plenum plan calibrate` wrote ({error})") from None
    return replace(calibration, **processes)


_COLUMNS = ("tpot", "ttft")


def _efficiency(names: tuple[str, ...], row: Sequence[float]) -> Efficiency:
    values = efficiency_array(Efficiency())
    for name, value in zip(names, row, strict=True):
        if name in EFFICIENCY_FIELDS:
            number = float(value)
            if not 0.0 < number < 1e6:
                raise ValueError(f"{name} must be a positive number, not {number}")
            values[EFFICIENCY_FIELDS.index(name)] = number
    return efficiency_of(values)


def _process(document: Mapping[str, Any] | None, coverage: float) -> Residuals | None:
    if document is None:
        return None
    values = np.array(document["values"], dtype=np.float64)
    groups = np.array(document["groups"], dtype=np.str_)
    residuals, noise = (np.array(document[name], dtype=np.float64) for name in ("residuals", "noise"))
    shapes_agree = groups.shape == values.shape and len(groups) == len(residuals) == len(noise) <= POINTS_LIMIT
    if not shapes_agree or not all(np.isfinite(a).all() for a in (values, residuals, noise)):
        raise ValueError(f"points must be finite and no more than {POINTS_LIMIT}")
    kernel = Kernel(tuple(float(v) for v in document["kernel"]["levels"]), float(document["kernel"]["noise"]))
    return fit_residuals(Features(groups, values), residuals, kernel, coverage, noise=noise)
