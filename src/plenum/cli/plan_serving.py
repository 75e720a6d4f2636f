"""``plenum plan serving``: how to serve a model, and why so."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.complete import complete_format, complete_hardware, complete_traffic
from plenum.cli.console import choose_output
from plenum.cli.exits import NO
from plenum.cli.instance_options import model_option
from plenum.cli.serving_cluster import accelerator_of
from plenum.cli.units import LONG_SECONDS, Number
from plenum.model.errors import FieldError, FileError, Where

if TYPE_CHECKING:
    from plenum.planning.serving.confirm import Verify
    from plenum.planning.serving.plan import ServingPlan
    from plenum.planning.serving.question import Question, Stock, Traffic
    from plenum.serving.architecture import Architecture
    from plenum.serving.workload import Requests

ENGINES = ("vllm", "sglang", "trtllm")
DEFAULT_TTFT_S, DEFAULT_TPOT_S = 1.0, 0.05
MAX_DEVICES = 100_000
MAX_TOKENS = 10_000_000
MAX_RPS = 1e6
MAX_NAMES = 20

LEAST_REQUESTS, MOST_REQUESTS = 2_000, 20_000
"""Simulated in one run: enough for a 99th percentile, few enough for a second."""

ANSWERS_LONG = 5.0
"""A run lasts at least so many times as long as a slow request: batches must fill before they tell anything."""


@click.command()
@model_option
@click.option(
    "--hardware",
    required=True,
    metavar="NAME[:N],…",
    help="What to choose from: H200, or H200:32,H100:16.",
    shell_complete=complete_hardware,
)
@click.option(
    "--gpus", type=click.IntRange(1, MAX_DEVICES), help="How many there are, where --hardware names one kind."
)
@click.option("--rps", type=Number(0, MAX_RPS, min_open=True), help="Requests a second to serve.")
@click.option(
    "--trace",
    help="Traffic instead: azure-conv, mooncake, a CSV or JSONL file, or bursty:RATE and the like.",
    shell_complete=complete_traffic,
)
@click.option("--isl", metavar="TOKENS[:VARIATION]", help="Of a prompt, such as 4000 or 4000:0.8.  [default: 1024]")
@click.option("--osl", metavar="TOKENS[:VARIATION]", help="Of an answer.  [default: 256]")
@click.option(
    "--cached",
    type=click.IntRange(0, MAX_TOKENS),
    default=0,
    help="Prompt tokens that a cache holds, on average.",
)
@click.option("--ttft-p99", type=LONG_SECONDS, help="Promise: time to first token.  [default: 1s, unless --e2e-p99]")
@click.option("--tpot-p99", type=LONG_SECONDS, help="Promise: time per output token.  [default: 50ms, likewise]")
@click.option("--e2e-p99", type=LONG_SECONDS, help="Promise: time to the last token.")
@click.option(
    "--engine", type=click.Choice(ENGINES), default="vllm", show_default=True, help="Calibration, and --manifest."
)
@click.option(
    "--weights",
    metavar="FORMAT,…",
    help="Formats of the weights to try, best liked first, such as fp8,bf16.  [default: as published, and fp8]",
    shell_complete=complete_format,
)
@click.option(
    "--kv-cache",
    metavar="FORMAT,…",
    default="bf16",
    show_default=True,
    help="Formats of the KV cache to try, such as bf16,fp8.",
    shell_complete=complete_format,
)
@click.option(
    "--mode",
    type=click.Choice(["any", "together", "apart"]),
    default="any",
    show_default=True,
    help="Where prefill and decode run.",
)
@click.option("--pipelines", is_flag=True, help="Try pipeline stages even where the model fits without.")
@click.option("--max-usd-per-hour", type=Number(0, min_open=True), help="Most that the devices may cost.")
@click.option("--calibration", type=click.Path(path_type=Path), help="A file that `plenum plan calibrate` wrote.")
@click.option("--simulate/--no-simulate", default=True, help="Confirm the finalists in the simulator.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of simulated traffic.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the traces. Default: $PLENUM_DATA, then ../shared/data."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the frontier into this PNG.")
@click.option("--chart/--no-chart", default=True, help="Draw it in the terminal too.")
@click.option(
    "--manifest", type=click.Path(path_type=Path), help="Write Endpoint manifests for `plenum apply` into this file."
)
@click.option(
    "--launch",
    type=click.Path(path_type=Path),
    help="Write scripts of the engines and Kubernetes YAML into this folder.",
)
@click.option(
    "--model-folder", help="Where the weights are on the nodes, for --manifest and --launch.  [default: /models/NAME]"
)
@choose_output
def command(**options: Any) -> None:
    """Find how to serve a model: hardware, parallelism, batching, pools, together or apart, and what it costs.

    With so many GPUs: the most requests a second within the promises. With --rps or --trace and no number of GPUs: the cheapest
    that serve it. The search is analytic; finalists are replayed in the simulator. Exits with 1, and says which limit binds, where
    nothing will do.

    \b
    plenum plan serving --model Llama-3.1-70B --hardware H200 --gpus 32 --isl 4000 --osl 500 --ttft-p99 1s --tpot-p99 40ms
    plenum plan serving --model Llama-3.1-8B --hardware H100,L40S --rps 50 --isl 2000 --osl 300 --ttft-p99 500ms
    plenum plan serving --model Qwen3-32B --hardware H200:32,H100:16 --trace azure-conv --plot frontier.png --launch out/
    """
    from plenum.adapters.calibrations import read_calibration
    from plenum.cli import charts
    from plenum.cli.compiled import load_model, load_simulator
    from plenum.cli.plan_serving_pages import print_limit, print_plan, write_limit, write_plan
    from plenum.planning.serving.limits import Limit
    from plenum.planning.serving.plan import plan_serving
    from plenum.planning.serving.prediction import calibrated

    if options["plot"]:
        charts.check_png(options["plot"])
    _check_folder(options)
    asked = _asked(options)
    load_model()
    if options["simulate"]:
        load_simulator()
    with _watched(asked, options) as verify:
        predict = calibrated(
            asked.question.traffic, read_calibration(options["calibration"]) if options["calibration"] else None
        )
        answer = plan_serving(asked.question, predict, verify)
    json = options["output"] == "json"
    if isinstance(answer, Limit):
        (write_limit if json else print_limit)(answer)
        sys.exit(NO)
    written = list(_write_files(answer, options))
    if json:
        write_plan(answer, asked.label, written)
    else:
        print_plan(answer, asked.label, written, chart=options["chart"])


# -- the question ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    question: Question
    label: str
    requests: Requests | None
    """Of a trace; None: made for each run."""


def _asked(options: dict[str, Any]) -> _Asked:
    from plenum.adapters.models import find_architecture
    from plenum.planning.serving.question import Question
    from plenum.serving.formats import format_named
    from plenum.serving.workload import Slo

    model = find_architecture(options["model"], "--model")
    stocks = _stocks(options["hardware"], options["gpus"])
    label, requests = _trace(options)
    traffic = _traffic(options, requests, stocks)
    promised = {name: options[f"{name}_p99"] for name in ("ttft", "tpot", "e2e")}
    if promised["e2e"] is None:
        unsaid = {"ttft": DEFAULT_TTFT_S, "tpot": DEFAULT_TPOT_S}
        promised |= {name: default for name, default in unsaid.items() if promised[name] is None}
    slo = Slo(**{f"{name}_s": value for name, value in promised.items() if value is not None})
    weights = _names(options["weights"], "--weights") if options["weights"] else _default_formats(model, stocks)
    caches = _names(options["kv_cache"], "--kv-cache")
    question = Question(
        model=model,
        stocks=stocks,
        traffic=traffic,
        slo=slo,
        engine=options["engine"],
        weights=tuple(format_named(name, "--weights").name for name in weights),
        caches=tuple(format_named(name, "--kv-cache").name for name in caches),
        usd_per_hour=options["max_usd_per_hour"] or float("inf"),
        disaggregated={"any": None, "together": False, "apart": True}[options["mode"]],
        pipelines=options["pipelines"],
    )
    return _Asked(question=question, label=label, requests=requests)


def _stocks(text: str, gpus: int | None) -> tuple[Stock, ...]:
    """Read ``H200:32,H100:16``, or ``H200`` with ``--gpus 32``."""
    from plenum.planning.serving.question import Stock

    found: dict[str, Stock] = {}
    for part in _names(text, "--hardware"):
        name, colon, number = part.partition(":")
        if colon and not (number.isascii() and number.isdigit() and 1 <= int(number[:9]) <= MAX_DEVICES):
            raise FieldError(
                "--hardware",
                f"{part[:60]!r} must be a name and a number of devices up to {MAX_DEVICES:,}, such as H200:32",
            )
        hardware = accelerator_of(name)
        if hardware.name in found:
            raise FieldError("--hardware", f"{hardware.name} is named twice")
        found[hardware.name] = Stock(hardware=hardware, count=int(number[:9]) if colon else 0)
    if gpus is not None:
        if len(found) > 1 or any(stock.count for stock in found.values()):
            raise FieldError(
                "--gpus", "goes with one kind of hardware; of several say how many with each, such as H200:32,H100:16"
            )
        found = {name: replace(stock, count=gpus) for name, stock in found.items()}
    return tuple(found.values())


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(names) > MAX_NAMES:
        raise FieldError(option, f"give up to {MAX_NAMES} names separated by commas, not {text[:60]!r}")
    return list(dict.fromkeys(names))


def _default_formats(model: Architecture, stocks: tuple[Stock, ...]) -> list[str]:
    """Return the published format, and FP8 before it where that is wider and some hardware multiplies FP8."""
    from plenum.serving.formats import FORMATS

    narrower = FORMATS[model.weights_format].bits > 8 and not model.experts_format
    native = any("fp8" in stock.hardware.peak_flops for stock in stocks)
    return ["fp8", model.weights_format] if narrower and native else [model.weights_format]


def _trace(options: dict[str, Any]) -> tuple[str, Requests | None]:
    from plenum.cli.serving_traffic import INVENTED, traffic_named

    text = options["trace"]
    if not text:
        return "", None
    prompts = outputs = None
    if text.partition(":")[0] in INVENTED:
        prompts, outputs = options["isl"], options["osl"]
    elif given := [f"--{name}" for name in ("isl", "osl") if options[name]]:
        raise FieldError(given[0], f"goes without --trace: {text[:60]} has lengths of its own")
    named = traffic_named(text, prompts=prompts, outputs=outputs, seed=options["seed"], data=options["data"])
    times = named.requests.arrival_s
    if times[-1] <= times[0]:
        raise FieldError("--trace", f"{text[:60]} has no two requests at different times; a rate needs them")
    return named.label, named.requests


def _traffic(options: dict[str, Any], requests: Requests | None, stocks: tuple[Stock, ...]) -> Traffic:
    from plenum.planning.serving.question import traffic_of

    counted = all(stock.count for stock in stocks)
    if requests is None and not options["rps"] and not counted:
        raise FieldError(
            "--rps",
            "say how many requests a second to serve, or how many GPUs there are (--gpus 32, or H200:32,H100:16)",
        )
    if requests is None:
        requests = _invented(options, options["rps"] or 1.0, LEAST_REQUESTS)
        traffic = replace(traffic_of(requests, found_tokens=options["cached"]), burst2=1.0, rps=0.0)
    else:
        traffic = traffic_of(requests, found_tokens=options["cached"])
        if counted and not options["rps"]:
            traffic = replace(traffic, rps=0.0)
    if options["cached"] >= traffic.prompt_tokens:
        raise FieldError("--cached", f"must be fewer tokens than a prompt has, {traffic.prompt_tokens:,.0f}")
    return replace(traffic, rps=options["rps"]) if options["rps"] else traffic


def _invented(options: dict[str, Any], rate: float, count: int) -> Requests:
    """Return Poisson requests of the lengths asked for; the same for the same seed."""
    import numpy as np

    from plenum.cli.serving_traffic import drawn_lengths
    from plenum.serving.workload import requests_of

    rng = np.random.default_rng(options["seed"])
    arrivals = np.cumsum(rng.exponential(1.0 / rate, count))
    return requests_of(arrivals, *drawn_lengths(rng, count, options["isl"], options["osl"]))


# -- the simulator -----------------------------------------------------------------------------------------------------


class _watched:  # noqa: N801 - used as a function
    """Shows progress while a plan is confirmed; its value simulates, or is None where nothing is to be simulated."""

    def __init__(self, asked: _Asked, options: dict[str, Any]) -> None:
        self._asked, self._options = asked, options
        self._bar: Any = None

    def __enter__(self) -> Verify | None:
        from plenum.cli.progress import bar
        from plenum.planning.serving.confirm import MAX_FINALISTS, MAX_ROUNDS, REPLAYS

        if not self._options["simulate"]:
            return None
        self._bar = bar(MAX_FINALISTS * MAX_ROUNDS + len(REPLAYS))
        move: Callable[[str, int], None] = self._bar.__enter__()
        runs = 0

        def verify(serving: Any, rate_rps: float) -> Any:
            nonlocal runs
            from plenum.planning.serving.words import figure
            from plenum.sim.serving.simulate import simulate

            move(f"simulating {figure(rate_rps)} requests/s", runs)
            requests = simulated_requests(self._asked.question, self._asked.requests, rate_rps, self._options)
            outcome = simulate(requests, serving, seed=self._options["seed"])
            report = outcome.report(after_s=float(requests.arrival_s[-1]) / 5)  # while it fills up, all is well
            runs += 1
            move("simulated", runs)
            return report

        return verify

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


def simulated_requests(
    question: Question, requests: Requests | None, rate_rps: float, options: dict[str, Any]
) -> Requests:
    """Return traffic for one run: a trace made denser or thinner, or Poisson arrivals long enough to fill the batches.

    What a cache is said to hold of prompts, and no trace tells where, is the same beginning of all of them.
    """
    from plenum.sim.serving import slices

    made = _scaled(question, requests, rate_rps, options)
    cached = options["cached"] and not len(made.block_id)
    return slices.with_prefix(made, options["cached"]) if cached else made


def _scaled(question: Question, requests: Requests | None, rate_rps: float, options: dict[str, Any]) -> Requests:
    from plenum.sim.serving import slices

    if requests is not None:
        own = (len(requests) - 1) / float(requests.arrival_s[-1] - requests.arrival_s[0])
        return slices.first(slices.scaled(requests, rate_rps / own), MOST_REQUESTS)
    slo, traffic = question.slo, question.traffic
    token_s = slo.tpot_s if slo.tpot_s < 10 else DEFAULT_TPOT_S
    slow_s = min(slo.ttft_s, 10.0) + traffic.output_tail * token_s
    count = int(min(max(LEAST_REQUESTS, ANSWERS_LONG * slow_s * rate_rps), MOST_REQUESTS))
    return _invented(options, rate_rps, count)


# -- files -------------------------------------------------------------------------------------------------------------


def _check_folder(options: dict[str, Any]) -> None:
    """Refuse, before any work is done, files that could not be written."""
    manifest, launch = options["manifest"], options["launch"]
    if manifest and not manifest.parent.is_dir():
        raise FileError("there is no such folder to write the manifest into", Where(file=str(manifest.parent)))
    if launch and launch.exists() and not launch.is_dir():
        raise FileError("--launch writes several files; name a folder", Where(file=str(launch)))


def _write_files(plan: ServingPlan, options: dict[str, Any]) -> Any:
    """Write what was asked for; yield the path of each file."""
    from plenum.planning.serving.launch import PROGRAMS, launch_script
    from plenum.planning.serving.manifests import endpoints_of, kubernetes_of

    folder = options["model_folder"] or f"/models/{plan.question.model.name}"
    if options["plot"]:
        from plenum.cli.plan_serving_plot import draw

        draw(options["plot"], plan)
        yield options["plot"]
    if options["manifest"]:
        documents = endpoints_of(plan.question, plan.recommended, engine=options["engine"], model_folder=folder)
        yield _written(options["manifest"], _yaml(documents))
    if options["launch"]:
        launch: Path = options["launch"]
        try:
            launch.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot be made: {error.strerror or error}", Where(file=str(launch))) from None
        for engine in PROGRAMS:
            yield _written(launch / f"{engine}.sh", launch_script(engine, plan.question, plan.recommended))
        objects = kubernetes_of(plan.question, plan.recommended, engine=options["engine"], model_folder=folder)
        yield _written(launch / "kubernetes.yaml", _yaml(objects))


def _yaml(documents: list[dict[str, Any]]) -> str:
    import yaml

    return yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True, width=120)


def _written(path: Path, text: str) -> Path:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", Where(file=str(path))) from None
    return path
