"""``plenum bench``: replays traffic against an endpoint, and holds what was predicted against what was measured."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.cloud import authority, cloud_options
from plenum.cli.complete import complete_endpoint, complete_traffic
from plenum.cli.console import choose_output, write_json
from plenum.cli.exits import DONE, NO
from plenum.cli.instance_options import pool_options, stated_options
from plenum.cli.serving_promises import read_promises
from plenum.cli.serving_traffic import TRACE_HELP, NamedTraffic, traffic_named
from plenum.cli.units import LONG_SECONDS, Number
from plenum.model.errors import FieldError, MissingExtraError

if TYPE_CHECKING:
    from plenum.adapters.load import Gauge, Measured, Summary
    from plenum.cli.bench_prediction import Beside

URL = "http://127.0.0.1:8080"
TOKENS = "TOKENS[:VARIATION]"
MAX_SEED = 2**63 - 1


@click.command()
@click.argument("endpoint", shell_complete=complete_endpoint)
@click.option("--url", envvar="PLENUM_GATEWAY", help="Any OpenAI server instead.  [default: the cloud's gateway]")
@click.option("--key", default="", envvar="PLENUM_KEY", help="Inference key; better in $PLENUM_KEY than here.")
@click.option("--api", type=click.Choice(["chat", "completions"]), default="chat", show_default=True)
@click.option("--trace", help=TRACE_HELP, shell_complete=complete_traffic)
@click.option("--rps", type=Number(0, 1e5, min_open=True), help="Requests a second at random, instead of --trace.")
@click.option("--isl", metavar=TOKENS, help="Prompts of invented traffic.  [default: 1024]")
@click.option("--osl", metavar=TOKENS, help="Outputs of invented traffic.  [default: 256]")
@click.option("--scale", type=Number(0, 1000, min_open=True), default=1.0, show_default=True, help="Times the load.")
@click.option("--duration", type=LONG_SECONDS, default="60s", show_default=True, help="So much of the traffic.")
@click.option("--limit", type=click.IntRange(1), help="Only so many first requests.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the public traces.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of traffic and words.")
@click.option("--timeout", type=LONG_SECONDS, default="10m", show_default=True, help="Of one request.")
@click.option("--max-open", type=click.IntRange(1, 4096), default=1024, show_default=True, help="Requests in flight.")
@click.option("--slo", help="Promises that goodput counts by, such as ttft-p99=500ms,tpot-p99=40ms.")
@stated_options
@pool_options
@click.option("--calibration", type=click.Path(path_type=Path), help="Predict with this, of `plenum plan calibrate`.")
@click.option(
    "--measurements", type=click.Path(path_type=Path), help="Add the point to this CSV, which calibrate reads."
)
@click.option(
    "--calibrate", type=click.Path(path_type=Path), help="Fit to --measurements, and write the calibration here."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the latencies into this PNG.")
@choose_output
@cloud_options
def command(**options: Any) -> None:
    """Send ENDPOINT traffic as it came or was invented, and say what its users saw.

    With --url, ENDPOINT is what that server calls its model.

    Requests are sent when they are due, however long those before them take, and every latency counts from then. Prompts have the
    lengths asked for in the server's own tokens; those of traces with block hashes share what those share. Where model and accelerator
    are known (from the endpoint, or --model and --hardware) the prediction for just this load stands beside. Exits with 1 where what is
    promised (by the endpoint, or --slo) is not kept, or nothing was served.

    \b
    plenum bench chat --trace azure-conv --scale 0.01 --duration 60s
    plenum bench chat --rps 2 --isl 300 --osl 40:0.5 --slo ttft-p99=1s,tpot-p99=80ms
    plenum bench big --rps 20 --model Llama-3.1-8B --hardware H100 --measurements points.csv --calibrate mine.json
    """
    from plenum.adapters.load import summarise
    from plenum.cli import bench_figures, bench_prediction
    from plenum.cli.bench_target import pointed

    _check(options)
    options = pointed(options)
    _check_point(options)
    slo = read_promises(options["slo"])
    traffic = _traffic(options)
    instance = bench_prediction.stated(options) if options["model"] else None
    run, gauge = _measure(traffic, options)
    seen = summarise(run, slo)
    beside = bench_prediction.beside(instance, seen, options) if instance else None
    if options["measurements"] and beside and seen.served:
        bench_prediction.add_point(options["measurements"], options["endpoint"], beside, seen)
    if options["calibrate"]:
        bench_prediction.fit(options["measurements"], options["calibrate"])
    if options["plot"]:
        bench_figures.draw(options["plot"], f"{options['endpoint']}, {traffic.label}", run)
    _tell(traffic, run, gauge, seen, beside, options)
    missed = options["slo"] and seen.slo_attained < slo.percentile / 100
    sys.exit(NO if missed or not seen.served else DONE)


def _check(options: dict[str, Any]) -> None:
    from importlib.util import find_spec

    from plenum.cli import charts

    if find_spec("aiohttp") is None:
        raise MissingExtraError("sending load needs aiohttp, which is not installed: pip install 'plenum-os[gateway]'")
    if options["plot"]:
        charts.check_png(options["plot"])
    if options["trace"] and options["rps"]:
        raise FieldError("--rps", "is traffic of its own; leave out --trace")
    if options["url"] and not options["url"].startswith(("http://", "https://")):
        raise FieldError("--url", f"must be such as {URL}, not {options['url'][:80]!r}")
    if bool(options["model"]) != bool(options["hardware"]):
        raise FieldError("--hardware", "and --model say together what was measured; give both")
    if options["calibrate"] and not options["measurements"]:
        raise FieldError("--calibrate", "fits to the points of --measurements; name that file too")


def _check_point(options: dict[str, Any]) -> None:
    if options["measurements"] and not options["model"]:
        raise FieldError("--measurements", "needs --model and --hardware: a point says what it is a point of")


def _traffic(options: dict[str, Any]) -> NamedTraffic:
    return traffic_named(
        options["trace"] or f"poisson:{options['rps'] or 1.0!r}",
        prompts=options["isl"],
        outputs=options["osl"],
        duration_s=options["duration"],
        scale=options["scale"],
        limit=options["limit"],
        seed=options["seed"],
        data=options["data"],
    )


def _measure(traffic: NamedTraffic, options: dict[str, Any]) -> tuple[Measured, Gauge]:
    from plenum.adapters.load import Target, replay
    from plenum.cli.progress import bar

    target = Target(
        url=options["url"].rstrip("/").removesuffix("/v1"),
        model=options["endpoint"],
        key=options["key"],
        api=options["api"],
        timeout_s=options["timeout"],
        ca=authority(options["context"]),
    )
    with bar(len(traffic.requests)) as advance:
        return asyncio.run(
            replay(
                target,
                traffic.requests,
                seed=options["seed"],
                max_open=options["max_open"],
                told=lambda over: advance(options["endpoint"], over),
            )
        )


def _tell(
    traffic: NamedTraffic, run: Measured, gauge: Gauge, seen: Summary, beside: Beside | None, options: dict[str, Any]
) -> None:
    from plenum.cli import bench_figures

    if options["output"] == "json":
        write_json(bench_figures.as_json(options["endpoint"], traffic.label, gauge, seen, beside))
        return
    bench_figures.print_run(options["endpoint"], traffic.label, gauge, seen, beside)
    for name in ("measurements", "calibrate", "plot"):
        if options[name]:
            click.echo(f"{name}: {options[name]}")
