"""What was predicted for the load that a bench measured, and the point that calibration takes from it."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plenum.cli.instance_options import described_by
from plenum.cli.serving_cluster import check_pools, instance_of
from plenum.model.errors import FileError, Where

if TYPE_CHECKING:
    from plenum.adapters.load import Summary
    from plenum.serving.instance import Instance
    from plenum.serving.predict import Prediction

POINT = (
    "id", "model", "hardware", "engine", "weights", "experts", "kv_cache", "tp", "pp", "dp", "ep", "workers", "prefill_tp",
    "prefill_pp", "prefill_dp", "prefill_ep", "prefill_workers", "concurrency", "rate_rps", "isl", "osl", "ttft_ms", "tpot_ms",
)  # fmt: skip
"""Columns that are written, of those that :mod:`plenum.adapters.measurements.plain` reads."""

MOST_CACHED = 0.05
"""Part of the prompts' tokens that a prefix cache may have held in a point that a model is fitted to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A prediction, and what it is for.

    Parameters
    ----------
    replicas, prefill
        Instances that decode (or do both), and that only prefill.
    concurrency, rate_rps
        The load; one of the two.
    """

    instance: Instance
    replicas: int
    prefill: int
    concurrency: float
    rate_rps: float
    prediction: Prediction


def stated(options: dict[str, Any]) -> Instance:
    """Return the instance that the options describe.

    Raises
    ------
    FieldError
        They do not go together.
    """
    check_pools(options["replicas"], options["prefill"], options["decode"])
    return instance_of(described_by(options))


def beside(instance: Instance, seen: Summary, options: dict[str, Any]) -> Beside | None:
    """Predict the load that was served: its mean rate and lengths as the server counted them; None where there was none."""
    from plenum.adapters.calibrations import read_calibration
    from plenum.cli.compiled import load_model
    from plenum.serving.predict import predict

    if not seen.served:
        return None
    calibration = read_calibration(options["calibration"]) if options["calibration"] else None
    load_model()
    replicas, prefill = options["decode"] or options["replicas"] or 1, options["prefill"] or 0
    alone = not math.isfinite(seen.offered_rps)  # one request has no rate
    concurrency, rate_rps = (1.0, math.nan) if alone else (math.nan, seen.offered_rps * seen.served / seen.requests)
    prediction = predict(
        instance,
        isl=max(seen.isl, 1.0),
        osl=max(seen.osl, 1.0),
        concurrency=concurrency,
        rate_rps=rate_rps,
        workers=replicas,
        prefill=instance if prefill else None,
        prefill_workers=prefill or 1,
        cached_tokens=min(seen.cached, max(seen.isl - 1.0, 0.0)),
        calibration=calibration,
    )
    return Beside(
        instance=instance,
        replicas=replicas,
        prefill=prefill,
        concurrency=concurrency,
        rate_rps=rate_rps,
        prediction=prediction,
    )


def add_point(path: Path, name: str, beside: Beside, seen: Summary) -> None:
    """Add what was measured to a table of measurements, begun where there is none.

    Raises
    ------
    FileError
        It cannot be written, or is another table; or much was cached, for which the table has no column.
    """
    if seen.cached > MOST_CACHED * seen.isl:
        raise FileError(
            f"is for prompts that were computed, and {seen.cached / seen.isl:.0%} of these came from a cache; use traffic without "
            "shared prefixes, or another --seed",
            Where(file=str(path)),
        )
    try:
        if not path.exists() or not path.stat().st_size:
            path.write_text(",".join(POINT) + "\n", encoding="utf-8")
        with path.open("r+", newline="", encoding="utf-8") as file:
            if next(csv.reader(file), None) != list(POINT):
                raise FileError("is a table of other columns; name a new file for the points", Where(file=str(path)))
            file.seek(0, 2)
            point = _point(name, beside, seen)
            csv.writer(file).writerow([point.get(column, "") for column in POINT])
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", Where(file=str(path))) from None


def fit(points: Path, out: Path) -> None:
    """Fit the performance model to a table of measurements, from the calibration that ships, and write the result.

    Raises
    ------
    FieldError, FileError
        The table says too little, or a file cannot be read or written.
    """
    from plenum.adapters.calibrations import write_calibration
    from plenum.adapters.measurements import Given, read_measurements
    from plenum.serving.calibration import shipped
    from plenum.serving.fitting import calibrate
    from plenum.serving.measured import measured

    found = measured(read_measurements(points, Given()))
    if not len(found):
        raise FileError("has no point that says its load and its lengths", Where(file=str(points)))
    write_calibration(out, calibrate(found, prior=shipped(), name=points.name))


def _point(name: str, beside: Beside, seen: Summary) -> dict[str, Any]:
    instance, spread = beside.instance, beside.instance.parallelism
    degrees = {"tp": spread.tp, "pp": spread.pp, "dp": spread.dp, "ep": spread.ep}
    apart = {f"prefill_{k}": v for k, v in degrees.items()} | {"prefill_workers": beside.prefill}
    load = {"concurrency": beside.concurrency} if beside.concurrency > 0 else {"rate_rps": beside.rate_rps}
    return {
        "id": name,
        "model": instance.model.name,
        "hardware": instance.hardware.name,
        "engine": instance.settings.engine,
        "weights": instance.precision.weights,
        "experts": instance.precision.experts,
        "kv_cache": instance.precision.kv_cache,
        **degrees,
        "workers": beside.replicas,
        **(apart if beside.prefill else {}),
        **load,
        "isl": round(seen.isl, 3),
        "osl": round(seen.osl, 3),
        "ttft_ms": round(seen.ttft_s.mean * 1e3, 4),
        "tpot_ms": round(seen.tpot_s.mean * 1e3, 4) if math.isfinite(seen.tpot_s.mean) else "",
    }
