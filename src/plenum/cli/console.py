"""How commands write: tables for people, JSON for programs."""

from __future__ import annotations

import json
import math
from typing import Any

import click

choose_output = click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people or for programs.",
)


def write_yaml(values: Any) -> None:
    """Print plain values as YAML documents that can be applied again."""
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    click.echo(yaml.dump_all(values, Dumper=dumper, sort_keys=False, allow_unicode=True, width=120), nl=False)


def write_json(value: Any) -> None:
    """Print plain values as indented JSON, which has neither NaN nor infinity: what is not a finite number is null."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def console() -> Any:
    """Return a console that fits the terminal, without colour where there is none."""
    from rich.console import Console

    return Console(highlight=False, markup=False)
