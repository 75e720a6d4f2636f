"""What a benchmark's file does not say and a person adds; and what is still missing then."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from plenum.model.errors import FieldError, PlenumError, Where
from plenum.serving.formats import Precision, format_named
from plenum.serving.instance import Parallelism
from plenum.serving.measurement import Measurement, Workers


class IncompleteError(PlenumError):
    """A benchmark's file says too little to learn from, and nobody added the rest."""

    code = "measurement.incomplete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Facts to take instead of the file's; empty, None or NaN: the file's stand.

    Parameters
    ----------
    model, hardware, engine, engine_version
        As in :class:`~plenum.serving.measurement.Measurement`.
    weights, experts, kv_cache
        Formats, in any spelling.
    workers
        Who served: how each was spread, and how many.
    prefill
        Who computed the prompts, where others did.
    concurrency, rate_rps, isl, osl
        As in Measurement.
    """

    model: str = ""
    hardware: str = ""
    engine: str = ""
    engine_version: str = ""
    weights: str = ""
    experts: str = ""
    kv_cache: str = ""
    workers: Workers | None = None
    prefill: Workers | None = None
    concurrency: float = math.nan
    rate_rps: float = math.nan
    isl: float = math.nan
    osl: float = math.nan


OPTIONS = {
    "model": "--model",
    "hardware": "--hardware",
    "engine": "--engine",
    "workers": "--tp (and --pp, --dp, --ep)",
    "load": "--concurrency or --rps",
    "isl": "--isl",
    "osl": "--osl",
}
"""What may be missing, and the options that say it."""


def complete(read: Measurement, given: Given) -> Measurement:
    """Return a measurement with the given facts in place of the file's."""
    changes: dict[str, object] = {}
    for name in ("model", "hardware", "engine", "engine_version"):
        if getattr(given, name):
            changes[name] = getattr(given, name)
    for name in ("concurrency", "rate_rps", "isl", "osl"):
        if not math.isnan(getattr(given, name)):
            changes[name] = getattr(given, name)
    for name in ("workers", "prefill"):
        if getattr(given, name) is not None:
            changes[name] = getattr(given, name)
    if given.prefill is not None:
        changes["mode"] = "disaggregated"
    precision = _precision(read.precision, given)
    if precision is not None:
        changes["precision"] = precision
    return replace(read, **changes)  # pyright: ignore[reportArgumentType]


def missing(read: Measurement) -> list[str]:
    """Return what a measurement does not say, as keys of :data:`OPTIONS`."""
    absent = [name for name in ("model", "hardware", "engine") if not getattr(read, name)]
    if read.workers is None or (read.mode == "disaggregated" and read.prefill is None):
        absent.append("workers")
    if not (read.concurrency > 0 or read.rate_rps > 0):
        absent.append("load")
    return absent + [name for name in ("isl", "osl") if not getattr(read, name) > 0]


def require(measurements: Iterable[Measurement], names: Iterable[str], file: str) -> None:
    """Raise where a measurement lacks any of the named facts.

    Raises
    ------
    IncompleteError
        The sentence says what is missing and which options say it.
    """
    wanted = set(names)
    for read in measurements:
        absent = [name for name in missing(read) if name in wanted]
        if absent:
            options = ", ".join(OPTIONS[name] for name in absent)
            what = ", ".join(_SAID[name] for name in absent)
            raise IncompleteError(f"does not say {what}; say it with {options}", Where(file=file, field=read.id))


_SAID = {
    "model": "which model ran",
    "hardware": "on which hardware",
    "engine": "in which engine",
    "workers": "over how many devices",
    "load": "under which load",
    "isl": "how long prompts were",
    "osl": "how long answers were",
}


def _precision(read: Precision | None, given: Given) -> Precision | None:
    base = read or Precision()
    changes = {
        name: format_named(value, f"--{name.replace('_', '-')}").name
        for name, value in (("weights", given.weights), ("experts", given.experts), ("kv_cache", given.kv_cache))
        if value
    }
    return replace(base, **changes) if changes else read


def workers_of(tp: int, *, pp: int = 1, dp: int = 1, ep: int = 1, count: int = 1, field: str = "tp") -> Workers:
    """Return workers; the parts must go together.

    Raises
    ------
    FieldError
        A part is not positive, or experts are dealt out to more devices than there are.
    """
    if min(tp, pp, dp, ep, count) < 1 or max(tp, pp, dp, ep, count) > 100_000:
        raise FieldError(field, "tp, pp, dp, ep and the number of workers must be from 1 to 100000")
    if (tp * dp) % ep:
        raise FieldError(field, f"experts cannot be dealt out over {ep} of {tp * dp} devices")
    return Workers(parallelism=Parallelism(tp=tp, pp=pp, dp=dp, ep=ep), count=count)
