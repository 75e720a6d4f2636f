"""``plenum plan predict``: what one configuration does under a load."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.console import choose_output, write_json
from plenum.cli.exits import DONE, NO
from plenum.cli.instance_options import described_by, instance_options, pool_options
from plenum.cli.sentences import write_sentences
from plenum.cli.serving_cluster import MAX_DEGREE, check_lengths, check_pools, instance_of
from plenum.cli.tables import Column, write_table
from plenum.cli.units import Number
from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.serving.instance import Instance
    from plenum.serving.predict import Prediction

NO_ROOM = (
    "does not fit: its weights leave no room for KV cache. Give more devices (--tp, --pp), larger ones, or narrower --weights; "
    "`plenum plan models NAME` lists the fewest that hold it."
)

DEGREE = click.IntRange(1, MAX_DEGREE)
TOKENS = click.IntRange(1, 10_000_000)
LOAD = Number(0, 1e6, min_open=True)


@click.command()
@instance_options
@pool_options
@click.option("--prefill-tp", type=DEGREE, help="Tensor parallel degree of --prefill instances.  [default: --tp]")
@click.option("--isl", type=TOKENS, default=1024, show_default=True, help="Tokens of a prompt.")
@click.option("--osl", type=TOKENS, default=256, show_default=True, help="Tokens of an answer.")
@click.option("--cached", type=Number(0), default=0, help="Prompt tokens that a cache holds, on average.")
@click.option("--concurrency", type=LOAD, help="Requests in flight over all instances.")
@click.option("--rps", type=LOAD, help="Requests a second over all instances, instead.")
@click.option("--draft", type=click.IntRange(0, 16), default=0, help="Tokens drafted each step (speculative decoding).")
@click.option("--acceptance", type=Number(0, 1), default=0.7, help="Chance that a drafted token is accepted.")
@click.option("--calibration", type=click.Path(path_type=Path), help="A file that `plenum plan calibrate` wrote.")
@choose_output
def command(**options: Any) -> None:
    """Predict latencies, throughput and power of one configuration under a steady load, with 90 % intervals.

    --concurrency keeps so many requests in flight (as benchmarks do); --rps lets them come at random. With a calibration of your own
    measurements (`plenum plan calibrate`) intervals narrow where you measured. Exits with 1 where it does not fit, or --rps is more
    than it can serve. To find a configuration, use `plenum plan serving`; to see tails and queues, `plenum simulate serving`.

    \b
    plenum plan predict --model Llama-3.1-70B --hardware H200 --tp 4 --weights fp8 --isl 4000 --osl 500 --concurrency 32
    plenum plan predict --model DeepSeek-R1 --hardware B200 --engine sglang --dp 8 --ep 8 --rps 4 --prefill 1 --decode 1
    """
    from plenum.adapters.calibrations import read_calibration
    from plenum.cli.compiled import load_model
    from plenum.serving.calibration import basis_of, shipped
    from plenum.serving.predict import predict

    if bool(options["concurrency"]) == bool(options["rps"]):
        raise FieldError("--concurrency", "is needed, or --rps: one of the two says how much is asked")
    check_pools(options["replicas"], options["prefill"], options["decode"])
    described = described_by(options)
    instance = instance_of(described, checked=False)
    check_lengths(instance, options["isl"], options["osl"])
    count, first = options["decode"] or options["replicas"] or 1, None
    if options["prefill"]:
        apart = replace(described, tp=options["prefill_tp"], dp=1, ep=1) if options["prefill_tp"] else described
        first = instance_of(apart, checked=False)
    elif options["prefill_tp"]:
        raise FieldError("--prefill-tp", "goes with --prefill and --decode")
    if options["cached"] >= options["isl"]:
        raise FieldError("--cached", f"must be fewer tokens than --isl, {options['isl']:,.0f}")
    calibration = read_calibration(options["calibration"]) if options["calibration"] else None
    load_model()
    found = predict(
        instance,
        isl=options["isl"],
        osl=options["osl"],
        concurrency=options["concurrency"] or math.nan,
        rate_rps=options["rps"] or math.nan,
        workers=count,
        prefill=first,
        prefill_workers=options["prefill"] or 1,
        cached_tokens=options["cached"],
        calibration=calibration,
    )
    devices = count * instance.devices + (options["prefill"] or 0) * (first.devices if first else 0)
    basis = basis_of(instance, calibration or shipped())
    if options["output"] == "json":
        write_json(_plain(instance, first, found, devices, options, basis))
    elif found.cache_tokens <= 0:
        write_sentences(f"{instance.model.name} on {instance.parallelism} of {instance.hardware.name} {NO_ROOM}")
    else:
        _print(instance, first, found, devices, options, basis)
    sys.exit(NO if found.cache_tokens <= 0 or (found.saturated and options["rps"]) else DONE)


def _floors(instance: Instance, first: Instance | None, options: dict[str, Any]) -> tuple[float, float]:
    from plenum.serving.floors import floor_tpot_s, floor_ttft_s

    return floor_ttft_s(first or instance, options["isl"], options["cached"]), floor_tpot_s(instance, options["isl"])


def _plain(
    instance: Instance, first: Instance | None, found: Prediction, devices: int, options: dict[str, Any], basis: str
) -> dict[str, Any]:
    ttft, tpot = _floors(instance, first, options)
    return {
        "model": instance.model.name,
        "hardware": instance.hardware.name,
        "engine": instance.settings.engine,
        "parallelism": str(instance.parallelism),
        "precision": asdict(instance.precision),
        "devices": devices,
        "fits": found.cache_tokens > 0,
        "rests_on": basis,
        **asdict(found),
        "floor_ttft_s": ttft,
        "floor_tpot_s": tpot,
    }


def _print(
    instance: Instance, first: Instance | None, found: Prediction, devices: int, options: dict[str, Any], basis: str
) -> None:
    ttft, tpot = _floors(instance, first, options)
    precision = instance.precision
    experts = f", {precision.experts} experts" if precision.experts not in ("", precision.weights) else ""
    formats = f"{precision.weights} weights{experts}, {precision.kv_cache} cache"
    where = f"{instance.model.name} ({formats}) on {devices} x {instance.hardware.name}, {instance.parallelism}"
    write_sentences(f"{where}, {instance.settings.engine}", "")
    columns = [
        Column(head="WHAT"), Column(head="MEAN", right=True), Column(head="90 % INTERVAL", right=True),
        Column(head="FLOOR", right=True),
    ]  # fmt: skip
    rows = [
        ["time to first token", _ms(found.ttft_s), _between(found.ttft_low_s, found.ttft_high_s), _ms(ttft)],
        ["  of which waiting", _ms(found.wait_s), "", ""],
        ["time per output token", _ms(found.tpot_s), _between(found.tpot_low_s, found.tpot_high_s), _ms(tpot)],
        ["whole request", _ms(found.e2e_s), _between(found.e2e_low_s, found.e2e_high_s), ""],
        ["requests a second", f"{found.requests_rps:,.2f}", "", ""],
        ["answer tokens a second", f"{found.tokens_per_s:,.0f}", "", ""],
        ["  for each device", f"{found.tokens_per_s / devices:,.0f}", "", ""],
        ["batch that decodes", f"{found.batch:,.1f}", "", ""],
        ["KV cache of an instance", f"{found.cache_tokens:,.0f} tokens", "", ""],
        ["power of all devices", f"{found.power_w:,.0f} W", "", ""],
    ]
    write_table(columns, rows)
    warning = "WARNING: this rests on " if instance.hardware.is_host and "guesses" in basis else "Rests on "
    write_sentences("", f"{warning}{basis}.")
    if found.saturated:
        write_sentences("", "Saturated: more is asked than fits or can be served, and what is left waits.")


def _ms(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "without end"
    return f"{seconds * 1e3:,.1f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _between(low: float, high: float) -> str:
    return f"{_ms(low)} to {_ms(high)}" if math.isfinite(high) else ""
