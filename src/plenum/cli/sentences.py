"""Sentences under a table: folded where there is a terminal, one a line where there is none."""

from __future__ import annotations

import textwrap

import click

from plenum.cli.tables import INDENT, terminal_width


def write_sentences(*sentences: str) -> None:
    """Print each on a line of its own; what does not fit the terminal goes on, indented."""
    width = terminal_width()
    for sentence in sentences:
        if width is None or len(sentence) <= width:
            click.echo(sentence)
            continue
        for line in textwrap.wrap(sentence, width, subsequent_indent=INDENT, break_on_hyphens=False):
            click.echo(line)
