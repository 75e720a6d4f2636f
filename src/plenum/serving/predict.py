"""What a deployment does under a load: time to first token, time per output token, throughput and power, with intervals.

One question: :func:`predict`. Thousands of candidates at once: :func:`predict_many`. Disaggregated deployments name what prefills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plenum.serving.calibration import (
    MOST_PREFILL,
    Calibration,
    calibrated_steps,
    corrections,
    efficiency_for,
    shipped,
)
from plenum.serving.instance import Instance, cache_capacity_tokens, tokens_per_step, transfer_s
from plenum.serving.loads import AT_LOAD, AT_OUT, LOAD_FIELDS, solve
from plenum.serving.peaks import BANDWIDTH_MOST, COMPUTE_MOST, least_times
from plenum.serving.roofline import EFFICIENCY_FIELDS, coefficients, efficiency_array, work_of_many


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """What n deployments do; every column is (n,) float64 unless said otherwise.

    Parameters
    ----------
    ttft_s, tpot_s, e2e_s
        Mean seconds to the first token (queueing included), between later tokens, and to the last; infinite where more requests
        come than can be served.
    ttft_low_s, ttft_high_s, tpot_low_s, tpot_high_s
        Interval that holds the truth with the chance of ``Calibration.coverage``; of ``e2e_s`` it is as wide as if both erred alike.
    requests_rps, tokens_per_s
        Requests and answer tokens a second of the whole deployment.
    batch
        Mean sequences that one worker decodes.
    prefill_busy
        Part of their time that those who prefill do so.
    wait_s
        Part of ``ttft_s`` spent waiting.
    power_w
        Watts of all devices.
    saturated
        bool: the load is more than fits or can be served; some of it waits.
    prompt_power_w, decode_power_w
        Watts of all devices while prefill runs (the peak), and while decode does.
    prompt_s, step_s
        Prefill of one prompt alone; one decode iteration without prefill.
    cache_tokens
        Tokens of KV cache of one worker; 0 or less: its weights do not fit, and nothing else of the row means anything.
    """

    ttft_s: NDArray[np.float64]
    ttft_low_s: NDArray[np.float64]
    ttft_high_s: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    tpot_low_s: NDArray[np.float64]
    tpot_high_s: NDArray[np.float64]
    e2e_s: NDArray[np.float64]
    e2e_low_s: NDArray[np.float64]
    e2e_high_s: NDArray[np.float64]
    requests_rps: NDArray[np.float64]
    tokens_per_s: NDArray[np.float64]
    batch: NDArray[np.float64]
    prefill_busy: NDArray[np.float64]
    wait_s: NDArray[np.float64]
    power_w: NDArray[np.float64]
    prompt_power_w: NDArray[np.float64]
    decode_power_w: NDArray[np.float64]
    saturated: NDArray[np.bool_]
    prompt_s: NDArray[np.float64]
    step_s: NDArray[np.float64]
    cache_tokens: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ttft_s)

    def row(self, index: int) -> Prediction:
        """Return one of them."""
        return Prediction(**{f.name: getattr(self, f.name)[index].item() for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What one deployment does: a row of :class:`Predictions`."""

    ttft_s: float
    ttft_low_s: float
    ttft_high_s: float
    tpot_s: float
    tpot_low_s: float
    tpot_high_s: float
    e2e_s: float
    e2e_low_s: float
    e2e_high_s: float
    requests_rps: float
    tokens_per_s: float
    batch: float
    prefill_busy: float
    wait_s: float
    power_w: float
    prompt_power_w: float
    decode_power_w: float
    saturated: bool
    prompt_s: float
    step_s: float
    cache_tokens: float


def predict(
    instance: Instance,
    *,
    isl: float,
    osl: float,
    concurrency: float = float("nan"),
    rate_rps: float = float("nan"),
    workers: int = 1,
    prefill: Instance | None = None,
    prefill_workers: int = 1,
    cached_tokens: float = 0.0,
    together: bool = False,
    calibration: Calibration | None = None,
) -> Prediction:
    """Predict one deployment; see :func:`predict_many`."""
    return predict_many(
        [instance],
        isl=isl,
        osl=osl,
        concurrency=concurrency,
        rate_rps=rate_rps,
        workers=workers,
        prefill=[prefill],
        prefill_workers=prefill_workers,
        cached_tokens=cached_tokens,
        together=together,
        calibration=calibration,
    ).row(0)


def predict_many(
    instances: Sequence[Instance],
    *,
    isl: ArrayLike,
    osl: ArrayLike,
    concurrency: ArrayLike = np.nan,
    rate_rps: ArrayLike = np.nan,
    workers: ArrayLike = 1,
    prefill: Sequence[Instance | None] = (),
    prefill_workers: ArrayLike = 1,
    cached_tokens: ArrayLike = 0.0,
    together: ArrayLike = False,
    calibration: Calibration | None = None,
) -> Predictions:
    """Predict n deployments under steady loads.

    Parameters
    ----------
    instances
        n instances that decode, and prefill too where ``prefill`` says nothing; the same object may come many times (it is then
        compiled once).
    isl, osl
        Tokens of prompts and answers; a number or (n,), like all that follow.
    concurrency
        Requests in flight over the whole deployment, each followed by another at once (closed loop).
    rate_rps
        Requests a second over the whole deployment that arrive at random (open loop). Give one of the two.
    workers, prefill_workers
        How many ``instances[i]`` and how many ``prefill[i]`` there are.
    prefill
        n instances that prefill only, or None for aggregated ones; empty: all are aggregated.
    cached_tokens
        Prompt tokens whose cache is found (prefix reuse).
    together
        True: ``concurrency`` prompts are prefilled as one batch, then decode as one, and no others come (offline; kernel benchmarks).
    calibration
        None: the shipped one.

    Returns
    -------
    Predictions
        One row each. What does not fit has ``cache_tokens`` <= 0, what is overloaded is ``saturated``: values, not errors.
    """
    chosen = calibration or shipped()
    firsts = list(prefill) if len(prefill) else [None] * len(instances)
    compiled = compile_loads(
        instances,
        firsts,
        calibration=chosen,
        isl=isl,
        osl=osl,
        concurrency=concurrency,
        rate_rps=rate_rps,
        workers=workers,
        prefill_workers=prefill_workers,
        cached_tokens=cached_tokens,
        together=together,
    )
    decode = _calibrated(coefficients(compiled.work, compiled.efficiency), instances, chosen, compiled.loads)
    first = decode
    if any(first is not None for first in firsts):
        first = coefficients(compiled.prefill_work, compiled.prefill_efficiency)
        befores = [first or instance for first, instance in zip(firsts, instances, strict=True)]
        first = _calibrated(first, befores, chosen, compiled.loads)
    out = solve(decode, first, compiled.loads)
    least = least_times(compiled.work, compiled.prefill_work, compiled.loads, out[:, AT_OUT["batch"]])
    return _predictions(instances, firsts, compiled.loads, out, least, chosen)


class Compiled(NamedTuple):
    """n loads, ready for :func:`plenum.serving.loads.solve` but for the efficiencies, which a fit varies."""

    work: NDArray[np.float64]
    prefill_work: NDArray[np.float64]
    efficiency: NDArray[np.float64]
    prefill_efficiency: NDArray[np.float64]
    loads: NDArray[np.float64]


def compile_loads(
    instances: Sequence[Instance],
    prefill: Sequence[Instance | None],
    *,
    calibration: Calibration,
    isl: ArrayLike,
    osl: ArrayLike,
    concurrency: ArrayLike = np.nan,
    rate_rps: ArrayLike = np.nan,
    workers: ArrayLike = 1,
    prefill_workers: ArrayLike = 1,
    cached_tokens: ArrayLike = 0.0,
    together: ArrayLike = False,
) -> Compiled:
    """Compile what :func:`predict_many` was asked; see there."""
    firsts = [first or instance for first, instance in zip(prefill, instances, strict=True)]
    apart = np.array([first is not None for first in prefill], dtype=bool)
    loads = np.empty((len(instances), len(LOAD_FIELDS)))
    columns: dict[str, ArrayLike] = {
        "concurrency": concurrency,
        "rate_rps": rate_rps,
        "isl": isl,
        "osl": osl,
        "cached": cached_tokens,
        "together": together,
        "workers": workers,
        "prefill_workers": np.where(apart, prefill_workers, 0),
    }
    for name, values in columns.items():
        loads[:, AT_LOAD[name]] = values
    _describe(instances, firsts, loads)
    efficiency, queue = _efficiencies(instances, calibration)
    for k, name in enumerate(("request_s", "queueing", "burst")):
        loads[:, AT_LOAD[name]] = queue[:, k]
    work = work_of_many(instances)
    if not apart.any():
        return Compiled(work, work, efficiency, efficiency, loads)
    return Compiled(work, work_of_many(firsts), efficiency, _efficiencies(firsts, calibration)[0], loads)


def per_worker(
    concurrency: NDArray[np.float64], batch: NDArray[np.float64], workers: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return requests in flight for each worker, by which corrections are looked up; of open loops, those that decode on average."""
    return np.where(concurrency > 0, concurrency / np.maximum(workers, 1.0), np.maximum(batch, 0.5))


def _calibrated(
    rows: NDArray[np.float64],
    instances: Sequence[Instance],
    calibration: Calibration,
    loads: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return coefficients with corrections in them where requests come at random: a queue is no linear function of its service.

    Of closed loops the corrections are of the times themselves, as they were measured.
    """
    opened = np.flatnonzero(~(loads[:, AT_LOAD["concurrency"]] > 0))
    if not len(opened):
        return rows
    out = rows.copy()
    known: dict[tuple[int, float, float], NDArray[np.float64]] = {}
    for i in opened.tolist():
        isl, osl = float(loads[i, AT_LOAD["isl"]]), float(loads[i, AT_LOAD["osl"]])
        key = id(instances[i]), isl, osl
        if key not in known:
            known[key] = calibrated_steps(instances[i], calibration, isl=isl, osl=osl).coefficients
        out[i] = known[key]
    return out


def _predictions(
    instances: Sequence[Instance],
    firsts: Sequence[Instance | None],
    loads: NDArray[np.float64],
    out: NDArray[np.float64],
    least: NDArray[np.float64],
    calibration: Calibration,
) -> Predictions:
    def column(name: str) -> NDArray[np.float64]:
        return out[:, AT_OUT[name]]

    def load(name: str) -> NDArray[np.float64]:
        return loads[:, AT_LOAD[name]]

    closed, full = load("concurrency") > 0, column("saturated") > 0
    inflight = per_worker(load("concurrency"), column("batch"), load("workers"))
    of_tpot, of_ttft = corrections(
        instances, calibration, isl=load("isl"), osl=load("osl"), load=inflight, prefill=firsts
    )
    # Of open loops they are in the coefficients already, but for what prefill is not let be corrected by: that is not known.
    tpot = np.maximum(column("tpot_s") * np.exp(of_tpot.mean * closed), least[:, 0])
    ttft = np.maximum(column("ttft_s") * np.exp(of_ttft.mean * closed), least[:, 1])
    held_back = np.maximum(np.abs(of_ttft.mean) - MOST_PREFILL, 0.0) * ~closed
    half_tpot, half_ttft = of_tpot.half, of_ttft.half + held_back
    # However little is known, nothing is quicker than the data sheet.
    low_tpot = np.maximum(tpot * np.exp(-half_tpot), BANDWIDTH_MOST * least[:, 0])
    low_ttft = np.maximum(ttft * np.exp(-half_ttft), COMPUTE_MOST * least[:, 1])
    e2e = ttft + tpot * (load("osl") - 1.0)
    physical = column("ttft_s") + column("tpot_s") * (load("osl") - 1.0)
    # In a closed loop what is in flight over its time is the throughput: it changes as the times do. Of what does not fit at once
    # it changes as the time per token does, which is what all the rest waits for.
    slower = np.ones(len(out))
    np.divide(e2e, physical, out=slower, where=closed & ~(full & (column("tpot_s") > 0)))
    np.divide(tpot, column("tpot_s"), out=slower, where=closed & full & (column("tpot_s") > 0))
    rps = column("rps") / slower
    return Predictions(
        ttft_s=ttft,
        ttft_low_s=low_ttft,
        ttft_high_s=ttft * np.exp(half_ttft),
        tpot_s=tpot,
        tpot_low_s=low_tpot,
        tpot_high_s=tpot * np.exp(half_tpot),
        e2e_s=e2e,
        e2e_low_s=low_ttft + low_tpot * (load("osl") - 1.0),
        e2e_high_s=ttft * np.exp(half_ttft) + tpot * np.exp(half_tpot) * (load("osl") - 1.0),
        requests_rps=rps,
        tokens_per_s=rps * load("osl"),
        batch=column("batch"),
        prefill_busy=column("prefill_busy"),
        wait_s=column("wait_s"),
        power_w=column("watts"),
        prompt_power_w=column("prompt_w"),
        decode_power_w=column("decode_w"),
        saturated=column("saturated") > 0,
        prompt_s=column("prompt_s"),
        step_s=column("step_s"),
        cache_tokens=load("cache_tokens").copy(),
    )


def _efficiencies(
    instances: Sequence[Instance], calibration: Calibration
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Efficiencies as rows, and of each the constants of queueing."""
    index: dict[int, int] = {}
    rows: dict[int, NDArray[np.float64]] = {}
    places: dict[int, int] = {}
    for instance in instances:
        if id(instance) not in places:
            eff = efficiency_for(instance, calibration)
            rows.setdefault(id(eff), efficiency_array(eff))
            places[id(instance)] = index.setdefault(id(eff), len(index))
    table = np.array(list(rows.values())).reshape(-1, len(EFFICIENCY_FIELDS))
    found = table[[places[id(instance)] for instance in instances]]
    return found, found[:, [EFFICIENCY_FIELDS.index(name) for name in ("request_s", "queueing", "burst")]]


def _describe(instances: Sequence[Instance], firsts: Sequence[Instance], loads: NDArray[np.float64]) -> None:
    """Fill what settings and memory say."""
    names = ("chunk_tokens", "mixed", "sequences", "tokens_per_step")
    known: dict[tuple[int, int], tuple[float, ...]] = {}
    rooms: dict[tuple[int, float], int] = {}
    contexts = (loads[:, AT_LOAD["isl"]] + 0.5 * loads[:, AT_LOAD["osl"]]).tolist()
    for instance, context in zip(instances, contexts, strict=True):
        if (id(instance), context) not in rooms:
            rooms[id(instance), context] = cache_capacity_tokens(instance, context)
    room = [rooms[id(instance), context] for instance, context in zip(instances, contexts, strict=True)]
    loads[:, AT_LOAD["cache_tokens"]] = room
    lengths = loads[:, AT_LOAD["isl"]].tolist()
    loads[:, AT_LOAD["transfer_s"]] = [
        0.0 if first is instance else transfer_s(first, instance, isl)
        for instance, first, isl in zip(instances, firsts, lengths, strict=True)
    ]
    for instance, first in zip(instances, firsts, strict=True):
        key = id(instance), id(first)
        if key not in known:
            settings = instance.settings
            known[key] = (
                first.settings.max_batched_tokens,
                float(settings.chunked_prefill),
                settings.max_sequences,
                tokens_per_step(settings.speculative_tokens, settings.acceptance),
            )
    rows = np.array([known[id(i), id(f)] for i, f in zip(instances, firsts, strict=True)]).reshape(-1, len(names))
    for k, name in enumerate(names):
        loads[:, AT_LOAD[name]] = rows[:, k]
