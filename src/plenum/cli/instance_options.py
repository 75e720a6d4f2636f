"""The options that describe one kind of instance and how many of it there are: the same words in every command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from plenum.cli.complete import complete_format, complete_hardware, complete_model
from plenum.cli.serving_cluster import ENGINES, MAX_DEGREE, MAX_REPLICAS, Described

MODEL_HELP = "A model's name, a folder with its config.json, or a GGUF file."
KV_CACHE_HELP = "Format of the KV cache."

_DEGREE = click.IntRange(1, MAX_DEGREE)

model_option = click.option("--model", required=True, help=MODEL_HELP, shell_complete=complete_model)
hardware_option = click.option(
    "--hardware", required=True, help="Accelerator, such as H100.", shell_complete=complete_hardware
)

_SHAPE = (
    click.option("--tp", type=_DEGREE, default=1, show_default=True, help="Tensor parallel degree."),
    click.option("--pp", type=_DEGREE, default=1, show_default=True, help="Pipeline stages."),
    click.option("--dp", type=_DEGREE, default=1, show_default=True, help="Attention data parallel groups."),
    click.option("--ep", type=_DEGREE, default=1, show_default=True, help="Parts that experts are dealt out to."),
    click.option(
        "--weights",
        metavar="FORMAT",
        help="Format of the weights, such as fp8.  [default: as published]",
        shell_complete=complete_format,
    ),
    click.option(
        "--kv-cache",
        metavar="FORMAT",
        default="bf16",
        show_default=True,
        help=KV_CACHE_HELP,
        shell_complete=complete_format,
    ),
)

_ENGINE = (
    click.option(
        "--engine", type=click.Choice(ENGINES), default="vllm", show_default=True, help="Whose calibration counts."
    ),
    click.option(
        "--max-sequences", type=click.IntRange(1, 65_536), default=256, show_default=True, help="Most in one batch."
    ),
    click.option(
        "--chunk", type=click.IntRange(1, 1_048_576), default=8192, show_default=True, help="Most tokens an iteration."
    ),
)

_POOLS = (
    click.option(
        "--replicas",
        type=click.IntRange(1, MAX_REPLICAS),
        help="Instances that prefill and decode.  [default: 1, unless apart]",
    ),
    click.option(
        "--prefill", type=click.IntRange(1, MAX_REPLICAS), help="Instances that only prefill (with --decode)."
    ),
    click.option("--decode", type=click.IntRange(1, MAX_REPLICAS), help="Instances that only decode (with --prefill)."),
)


def shape_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add model, hardware, parallelism and formats."""
    return _added(command, (model_option, hardware_option, *_SHAPE))


def spread_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add parallelism and formats, where the command has a model and hardware of its own."""
    return _added(command, _SHAPE)


def instance_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add everything that :func:`described_by` reads: the shape, and the engine with its limits."""
    return _added(command, (model_option, hardware_option, *_SHAPE, *_ENGINE))


def stated_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the same, none of it required: for commands that work without a model of their own too."""
    optional = (
        click.option("--model", help=MODEL_HELP, shell_complete=complete_model),
        click.option("--hardware", help="Accelerator, such as H100.", shell_complete=complete_hardware),
    )
    return _added(command, (*optional, *_SHAPE, *_ENGINE))


def pool_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add how many instances there are: together, or prefill and decode apart."""
    return _added(command, _POOLS)


def described_by(options: dict[str, Any]) -> Described:
    """Return the instance that a command's options describe; what the command has no option for keeps its usual value."""
    return Described(**{field.name: options[field.name] for field in fields(Described) if field.name in options})


def _added(command: Callable[..., Any], options: tuple[Callable[..., Any], ...]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
