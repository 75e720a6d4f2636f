"""From measured points to what was measured: instances of the catalogue, as columns that the predictor takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plenum.serving.architecture import Architecture
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named, published_precision
from plenum.serving.formats import FORMATS, Precision
from plenum.serving.hardware import Accelerator
from plenum.serving.instance import EngineSettings, Instance
from plenum.serving.measurement import Measurement, Workers

CAPPED = "power capped"
"""What the source of a measurement says where devices were held below their power."""

MANY_SEQUENCES = 4096
"""Limit on a batch where a source states none: benchmarks set it out of the way."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """n stated points.

    Parameters
    ----------
    points
        As read.
    instances, prefill
        What ran; ``prefill`` None where aggregated. Equal configurations are one object.
    workers, prefill_workers, concurrency, rate_rps, isl, osl
        (n,) float64.
    together
        (n,) 1 where a static batch was measured: seconds of its prefill stand for TTFT, of its decode iterations for TPOT.
    log_ttft, log_tpot
        (n,) natural logarithms of seconds; NaN where not measured.
    peak_w, average_w
        (n,) watts of one device; NaN where not measured.
    """

    points: tuple[Measurement, ...]
    instances: tuple[Instance, ...]
    prefill: tuple[Instance | None, ...]
    workers: NDArray[np.float64]
    prefill_workers: NDArray[np.float64]
    concurrency: NDArray[np.float64]
    rate_rps: NDArray[np.float64]
    isl: NDArray[np.float64]
    osl: NDArray[np.float64]
    together: NDArray[np.float64]
    log_ttft: NDArray[np.float64]
    log_tpot: NDArray[np.float64]
    peak_w: NDArray[np.float64]
    average_w: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.points)

    def take(self, index: NDArray[np.integer]) -> Measured:
        """Return some of them."""
        return Measured(
            points=tuple(self.points[i] for i in index),
            instances=tuple(self.instances[i] for i in index),
            prefill=tuple(self.prefill[i] for i in index),
            **{name: getattr(self, name)[index] for name in _ARRAYS},
        )


_ARRAYS = (
    *("workers", "prefill_workers", "concurrency", "rate_rps", "isl", "osl", "together"),
    *("log_ttft", "log_tpot", "peak_w", "average_w"),
)


def measured(points: Sequence[Measurement]) -> Measured:
    """Find what was measured in the catalogue.

    Parameters
    ----------
    points
        Those that are not :attr:`~plenum.serving.measurement.Measurement.stated` are left out.

    Raises
    ------
    UnknownModelError, UnknownHardwareError
        The catalogue does not have what a point names.
    """
    kept = [point for point in points if point.stated]
    models: dict[str, Architecture] = {}
    hardware: dict[str, Accelerator] = {}
    known: dict[tuple[object, ...], Instance] = {}

    def instance(point: Measurement, workers: Workers) -> Instance:
        device = f"{point.hardware} {CAPPED in point.source}"
        key = point.model, device, point.engine, point.precision, workers.parallelism
        if key not in known:
            model = models.get(point.model) or models.setdefault(point.model, model_named(point.model))
            known[key] = Instance(
                model=model,
                hardware=hardware.get(device) or hardware.setdefault(device, _device(point)),
                precision=run_in(model, point.precision),
                parallelism=workers.parallelism,
                settings=EngineSettings(engine=point.engine, max_sequences=MANY_SEQUENCES),
            )
        return known[key]

    def column(name: str) -> NDArray[np.float64]:
        return np.array([getattr(point, name) for point in kept], dtype=np.float64)

    def counts(name: str) -> NDArray[np.float64]:
        return np.array([pool.count if (pool := getattr(p, name)) else 1 for p in kept], dtype=np.float64)

    apart = [point.prefill if point.mode == "disaggregated" else None for point in kept]
    return Measured(
        points=tuple(kept),
        instances=tuple(instance(point, point.workers) for point in kept if point.workers),
        prefill=tuple(instance(p, first) if first else None for p, first in zip(kept, apart, strict=True)),
        workers=counts("workers"),
        prefill_workers=counts("prefill"),
        concurrency=column("concurrency"),
        rate_rps=column("rate_rps"),
        isl=column("isl"),
        osl=column("osl"),
        together=np.array([_static(point) for point in kept], dtype=np.float64),
        log_ttft=_logs([p.prompt_s if _static(p) else p.ttft_s for p in kept]),
        log_tpot=_logs([p.token_s if _static(p) else p.tpot_s for p in kept]),
        peak_w=column("peak_w"),
        average_w=column("average_w"),
    )


def _logs(times_s: Sequence[float]) -> NDArray[np.float64]:
    """Return logarithms; a time of nothing, as of words that all came at once, tells nothing."""
    times = np.array(times_s, dtype=np.float64)
    return np.log(np.where(times > 0, times, np.nan))


def _static(point: Measurement) -> bool:
    return math.isnan(point.ttft_s) and math.isnan(point.tpot_s) and (point.prompt_s > 0 or point.token_s > 0)


def _device(point: Measurement) -> Accelerator:
    """Return the accelerator; one whose power is capped is another kind, since it computes at another pace."""
    found = accelerator_named(point.hardware)
    return replace(found, name=f"{found.name} capped") if CAPPED in point.source else found


def run_in(model: Architecture, stated: Precision | None) -> Precision:
    """Return the formats that a model was run in, from what a source states of them.

    A four-bit checkpoint of a mixture of experts has four bits in its experts only; attention stays wide (NVIDIA's NVFP4 and
    Moonshot's INT4 checkpoints). Where weights are narrow and nothing is said of the cache, it is taken to be FP8, as engines are
    run with such checkpoints in published benchmarks.
    """
    published = published_precision(model)
    if stated is None:
        precision = published
    else:
        precision = stated
        if model.expert_parameters and FORMATS[stated.weights].bits < 8 and not stated.experts:
            own = FORMATS[published.experts or published.weights].bits
            experts = published.experts if published.experts and own < 8 else stated.weights
            precision = replace(stated, weights="bf16", experts=experts)
        if stated.kv_cache:
            return precision
    narrow = FORMATS[precision.experts or precision.weights].bits < 10
    return replace(precision, kv_cache="fp8" if narrow else "bf16")
