"""Options that say what a benchmark's file does not: for every command that reads measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.units import Number

if TYPE_CHECKING:
    from plenum.adapters.measurements import Given
    from plenum.serving.measurement import Workers

_COUNT = click.IntRange(1, 100_000)
_POSITIVE = Number(0, min_open=True)

_OPTIONS = (
    click.option("--model", help="Which model ran, where the file does not say."),
    click.option("--hardware", help="On which accelerator."),
    click.option("--engine", help="In which engine: vllm, sglang, trtllm, llama.cpp."),
    click.option("--engine-version", help="Of which version."),
    click.option("--weights", metavar="FORMAT", help="Format of the weights."),
    click.option("--experts", metavar="FORMAT", help="Format of the routed experts, where it is another."),
    click.option("--kv-cache", metavar="FORMAT", help="Format of the KV cache."),
    click.option("--tp", type=_COUNT, help="Tensor parallel degree of each instance."),
    click.option("--pp", type=_COUNT, default=1, help="Pipeline stages."),
    click.option("--dp", type=_COUNT, default=1, help="Attention data parallel groups of one instance."),
    click.option("--ep", type=_COUNT, default=1, help="Devices that the experts are dealt out to."),
    click.option("--workers", type=_COUNT, default=1, help="Instances that shared the load."),
    click.option(
        "--prefill-tp", type=_COUNT, help="Tensor parallel degree of prefill instances, where prefill was apart."
    ),
    click.option("--prefill-workers", type=_COUNT, default=1, help="Instances that computed the prompts."),
    click.option("--concurrency", type=_POSITIVE, help="Requests in flight."),
    click.option("--rps", type=_POSITIVE, help="Requests a second."),
    click.option("--isl", type=_POSITIVE, help="Mean tokens of prompts."),
    click.option("--osl", type=_POSITIVE, help="Mean tokens of answers."),
)


def measurement_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that :func:`given_by` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given_by(options: dict[str, Any]) -> Given:
    """Return what the options say of a benchmark.

    Raises
    ------
    FieldError
        Degrees of parallelism that do not go together.
    """
    from plenum.adapters.measurements import Given

    def text(name: str) -> str:
        return options.get(name) or ""

    def number(name: str) -> float:
        return options.get(name) or math.nan

    return Given(
        model=text("model"),
        hardware=text("hardware"),
        engine=text("engine"),
        engine_version=text("engine_version"),
        weights=text("weights"),
        experts=text("experts"),
        kv_cache=text("kv_cache"),
        workers=_workers(options),
        prefill=_prefill(options),
        concurrency=number("concurrency"),
        rate_rps=number("rps"),
        isl=number("isl"),
        osl=number("osl"),
    )


def _workers(options: dict[str, Any]) -> Workers | None:
    from plenum.adapters.measurements.given import workers_of

    if not options.get("tp"):
        return None
    parts = {name: options.get(name) or 1 for name in ("pp", "dp", "ep")}
    return workers_of(options["tp"], **parts, count=options.get("workers") or 1, field="--tp")


def _prefill(options: dict[str, Any]) -> Workers | None:
    from plenum.adapters.measurements.given import workers_of

    if not options.get("prefill_tp"):
        return None
    return workers_of(options["prefill_tp"], count=options.get("prefill_workers") or 1, field="--prefill-tp")
