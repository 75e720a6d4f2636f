"""How commands write: tables for people, JSON for programs."""

from __future__ import annotations

import json
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
    """Print plain values as indented JSON."""
    click.echo(json.dumps(value, indent=2))


def console() -> Any:
    """Return a console that fits the terminal, without colour where there is none."""
    from rich.console import Console

    return Console(highlight=False, markup=False)
