"""``plenum plan predict``: what one configuration does under a load."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.console import choose_output, write_json
from plenum.cli.tables import Column, write_table
from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.serving.instance import Instance
    from plenum.serving.predict import Prediction

NO_ROOM = "does not fit: its weights leave no room for KV cache"


@click.command()
@click.option("--model", required=True, help="A model's name, a folder with its config.json, or a GGUF file.")
@click.option("--hardware", required=True, help="The accelerator, such as H200.")
@click.option("--engine", default="vllm", show_default=True, help="Chooses the calibration: vllm, sglang, trtllm.")
@click.option("--tp", type=click.IntRange(1, 4096), default=1, show_default=True, help="Tensor parallel degree.")
@click.option("--pp", type=click.IntRange(1, 512), default=1, show_default=True, help="Pipeline stages.")
@click.option("--dp", type=click.IntRange(1, 4096), default=1, show_default=True, help="Attention groups.")
@click.option("--ep", type=click.IntRange(1, 4096), default=1, show_default=True, help="Parts of the experts.")
@click.option("--replicas", type=click.IntRange(1, 100_000), default=1, show_default=True, help="How many instances.")
@click.option("--weights", help="Format of the weights.  [default: as published]")
@click.option("--kv-cache", help="Format of the KV cache.  [default: bf16, or fp8 with narrow weights]")
@click.option("--isl", type=click.FloatRange(1), default=1024, show_default=True, help="Tokens of a prompt.")
@click.option("--osl", type=click.FloatRange(1), default=256, show_default=True, help="Tokens of an answer.")
@click.option("--cached", type=click.FloatRange(0), default=0, help="Prompt tokens whose cache is found.")
@click.option("--concurrency", type=click.FloatRange(0, min_open=True), help="Requests in flight over all replicas.")
@click.option("--rps", type=click.FloatRange(0, min_open=True), help="Requests a second over all replicas, instead.")
@click.option("--sequences", type=click.IntRange(1), default=256, show_default=True, help="In one batch at most.")
@click.option("--draft", type=click.IntRange(0, 16), default=0, help="Tokens drafted each step (speculative decoding).")
@click.option("--acceptance", type=click.FloatRange(0, 1), default=0.7, help="Chance that a drafted token is accepted.")
@click.option("--prefill", type=click.IntRange(1), help="Disaggregate: so many instances of --prefill-tp only prefill.")
@click.option("--prefill-tp", type=click.IntRange(1, 4096), help="Tensor parallel degree of those.  [default: --tp]")
@click.option("--calibration", type=click.Path(path_type=Path), help="A file that `plenum plan calibrate` wrote.")
@choose_output
def command(**options: Any) -> None:
    """Predict latencies, throughput and power of one configuration under a steady load, with 90 % intervals.

    --concurrency keeps so many requests in flight (as benchmarks do); --rps lets them come at random. With a calibration of your own
    measurements (`plenum plan calibrate`) intervals narrow where you measured.

    \b
    plenum plan predict --model Llama-3.1-70B --hardware H200 --tp 4 --weights fp8 --isl 4000 --osl 500 --concurrency 32
    plenum plan predict --model DeepSeek-R1 --hardware B200 --engine sglang --dp 8 --ep 8 --rps 4 --prefill 1
    """
    from plenum.adapters.calibrations import read_calibration
    from plenum.cli.progress import compile_note
    from plenum.serving.predict import predict

    if bool(options["concurrency"]) == bool(options["rps"]):
        raise FieldError("--concurrency", "is needed, or --rps: one of the two says how much is asked")
    instance = _instance(options, options["tp"], options["dp"], options["ep"])
    first = None
    if options["prefill"]:
        apart = options["prefill_tp"]
        first = _instance(options, apart or options["tp"], 1 if apart else options["dp"], 1 if apart else options["ep"])
    calibration = read_calibration(options["calibration"]) if options["calibration"] else None
    with compile_note("the performance model"):
        found = predict(
            instance,
            isl=options["isl"],
            osl=options["osl"],
            concurrency=options["concurrency"] or math.nan,
            rate_rps=options["rps"] or math.nan,
            workers=options["replicas"],
            prefill=first,
            prefill_workers=options["prefill"] or 1,
            cached_tokens=min(options["cached"], options["isl"] - 1),
            calibration=calibration,
        )
    devices = options["replicas"] * instance.devices + (options["prefill"] or 0) * (first.devices if first else 0)
    if options["output"] == "json":
        write_json(_plain(instance, first, found, devices, options))
    elif found.cache_tokens <= 0:
        click.echo(f"{instance.model.name} on {instance.parallelism} of {instance.hardware.name} {NO_ROOM}.")
    else:
        _print(instance, first, found, devices, options)


def _instance(options: dict[str, Any], tp: int, dp: int, ep: int) -> Instance:
    from plenum.adapters.measurements.given import workers_of
    from plenum.adapters.models import find_architecture
    from plenum.serving.catalogue.accelerators import accelerator_named
    from plenum.serving.formats import Precision, format_named
    from plenum.serving.instance import EngineSettings, Instance
    from plenum.serving.measured import run_in

    model = find_architecture(options["model"], "--model")
    weights = format_named(options["weights"], "--weights").name if options["weights"] else ""
    cache = format_named(options["kv_cache"], "--kv-cache").name if options["kv_cache"] else ""
    stated = Precision(
        weights=weights or model.weights_format, experts="" if weights else model.experts_format, kv_cache=cache
    )
    return Instance(
        model=model,
        hardware=accelerator_named(options["hardware"], "--hardware"),
        precision=run_in(model, stated),
        parallelism=workers_of(tp, pp=options["pp"], dp=dp, ep=ep, field="--ep").parallelism,
        settings=EngineSettings(
            engine=options["engine"],
            max_sequences=options["sequences"],
            speculative_tokens=options["draft"],
            acceptance=options["acceptance"],
        ),
    )


def _floors(instance: Instance, first: Instance | None, options: dict[str, Any]) -> tuple[float, float]:
    from plenum.serving.floors import floor_tpot_s, floor_ttft_s

    cached = min(options["cached"], options["isl"] - 1)
    return floor_ttft_s(first or instance, options["isl"], cached), floor_tpot_s(instance, options["isl"])


def _plain(
    instance: Instance, first: Instance | None, found: Prediction, devices: int, options: dict[str, Any]
) -> dict[str, Any]:
    ttft, tpot = _floors(instance, first, options)
    values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(found).items()}
    return {
        "model": instance.model.name,
        "hardware": instance.hardware.name,
        "engine": instance.settings.engine,
        "parallelism": str(instance.parallelism),
        "precision": asdict(instance.precision),
        "devices": devices,
        "fits": found.cache_tokens > 0,
        **values,
        "floor_ttft_s": ttft,
        "floor_tpot_s": tpot,
    }


def _print(
    instance: Instance, first: Instance | None, found: Prediction, devices: int, options: dict[str, Any]
) -> None:
    ttft, tpot = _floors(instance, first, options)
    precision = instance.precision
    formats = f"{precision.weights} weights, {precision.kv_cache} cache"
    where = f"{instance.model.name} ({formats}) on {devices} x {instance.hardware.name}, {instance.parallelism}"
    click.echo(f"{where}, {instance.settings.engine}\n")
    columns = [
        Column(head="WHAT"), Column(head="MEAN", right=True), Column(head="90 % INTERVAL", right=True),
        Column(head="FLOOR", right=True),
    ]  # fmt: skip
    rows = [
        ["time to first token", _ms(found.ttft_s), _between(found.ttft_low_s, found.ttft_high_s), _ms(ttft)],
        ["  of which waiting", _ms(found.wait_s), "", ""],
        ["time per output token", _ms(found.tpot_s), _between(found.tpot_low_s, found.tpot_high_s), _ms(tpot)],
        ["whole request", _ms(found.e2e_s), "", ""],
        ["requests a second", f"{found.requests_rps:,.2f}", "", ""],
        ["answer tokens a second", f"{found.tokens_per_s:,.0f}", "", ""],
        ["  for each device", f"{found.tokens_per_s / devices:,.0f}", "", ""],
        ["batch that decodes", f"{found.batch:,.1f}", "", ""],
        ["KV cache of an instance", f"{found.cache_tokens:,.0f} tokens", "", ""],
        ["power of all devices", f"{found.power_w:,.0f} W", "", ""],
    ]
    write_table(columns, rows)
    if found.saturated:
        click.echo("\nSaturated: more is asked than fits or can be served, and what is left waits.")


def _ms(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "without end"
    return f"{seconds * 1e3:,.1f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _between(low: float, high: float) -> str:
    return f"{_ms(low)} to {_ms(high)}" if math.isfinite(high) else ""
