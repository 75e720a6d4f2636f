"""Names with values beside them; a long value goes on under itself where the terminal is narrow."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import click

from plenum.cli.tables import clean, terminal_width

INDENT = "  "
LEAST = 30
"""Characters that a value has however narrow the terminal is."""


def write_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print names and values, the values in one column; an empty name goes on with the one before it."""
    width = max((len(name) for name, _ in facts), default=0) + 2
    room = terminal_width()
    for name, value in facts:
        text = clean(value)
        lines = [text] if room is None else textwrap.wrap(text, max(LEAST, room - width - len(INDENT))) or [""]
        click.echo(f"{INDENT}{click.style(name.ljust(width), dim=True)}{lines[0]}")
        for line in lines[1:]:
            click.echo(f"{INDENT}{' ' * width}{line}")
