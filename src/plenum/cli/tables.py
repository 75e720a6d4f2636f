"""Tables of plain columns: they fit the terminal, and where there is none a row is a line."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click

GAP = "  "
LEAST_FOLDED = 10
"""Characters that a column keeps however narrow the terminal is."""

LEAST_BESIDE = 40
"""Characters that a long text must have to stand beside the rest of its row."""

INDENT = "    "

COLOURS = {
    "Running": "green",
    "Ready": "green",
    "Succeeded": "green",
    "Valid": "green",
    "Pending": "yellow",
    "Starting": "cyan",
    "Stopping": "magenta",
    "Updating": "cyan",
    "Degraded": "yellow",
    "Idle": "bright_black",
    "Cordoned": "yellow",
    "Draining": "magenta",
    "Failed": "red",
    "Lost": "red",
    "Expired": "red",
    "running": "green",
    "exited": "bright_black",
    "unknown": "bright_black",
    "Unknown": "bright_black",
}
"""Colour of a cell that says just this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column.

    Parameters
    ----------
    right
        Cells stand at its right edge: numbers.
    fold
        Its text may go over several lines where the terminal is narrow.
    wide
        Shown with ``-o wide`` only.
    below
        Of the last column: where little room is left for it, its text stands on lines of its own under the row.
    """

    head: str
    right: bool = False
    fold: bool = False
    wide: bool = False
    below: bool = False


def terminal_width() -> int | None:
    """Return the characters of a line of the terminal, or of ``$COLUMNS``; None where output goes elsewhere and no line is too long."""
    asked = os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty()
    return shutil.get_terminal_size((80, 24)).columns if asked else None


def clean(text: object) -> str:
    """Return text on one line that cannot steer the terminal that shows it."""
    plain = str(text)
    return plain if plain.isprintable() else "".join(c if c.isprintable() else " " for c in plain).strip()


def without_empty(
    columns: Sequence[Column], rows: Sequence[Sequence[object]]
) -> tuple[list[Column], list[list[object]]]:
    """Return a table without the columns in which no row has anything, but for the two that stand first."""
    shown = [i for i in range(len(columns)) if i < 2 or any(str(row[i]) for row in rows)]
    return [columns[i] for i in shown], [[row[i] for i in shown] for row in rows]


def write_table(columns: Sequence[Column], rows: Sequence[Sequence[object]], *, width: int | None = None) -> None:
    """Print a table under its heads."""
    for line in table_lines(columns, rows, width=width if width is not None else terminal_width()):
        click.echo(line)


def table_lines(
    columns: Sequence[Column],
    rows: Sequence[Sequence[object]],
    *,
    width: int | None = None,
    widths: Sequence[int] | None = None,
    heads: bool = True,
) -> Iterator[str]:
    """Yield the lines of a table; ``widths`` keeps columns where those of an earlier table stood."""
    cells = [[clean(cell) for cell in row] for row in rows]
    if width is not None and not widths and (beside := _beside(columns, cells, width)) < len(columns):
        yield from _with_notes(columns, cells, width, heads, beside)
        return
    wanted = list(widths) if widths else column_widths(columns, cells, width)
    if heads:
        yield from _row_lines(columns, [column.head for column in columns], wanted, bold=True)
    for row in cells:
        yield from _row_lines(columns, row, wanted)


def _beside(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> int:
    """Return how many columns stand beside one another; those after them go under their rows."""
    widths = [max([len(c.head), *(_length(row[i]) for row in cells)]) for i, c in enumerate(columns)]
    count = len(columns)
    if count > 1 and columns[-1].below:
        room = width - sum(n + len(GAP) for n in widths[:-1])
        count -= widths[-1] > room and room < LEAST_BESIDE
    least = [min(n, max(LEAST_FOLDED, len(c.head))) if c.fold else n for n, c in zip(widths, columns, strict=True)]
    while count > 2 and sum(least[:count]) + len(GAP) * (count - 1) > width:
        count -= 1
    return count


def _with_notes(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int, heads: bool, beside: int
) -> Iterator[str]:
    wanted = column_widths(columns[:beside], [row[:beside] for row in cells], width)
    if heads:
        yield from _row_lines(columns, [column.head for column in columns[:beside]], wanted, bold=True)
    for row in cells:
        yield from _row_lines(columns, row[:beside], wanted)
        for column, text in zip(columns[beside:], row[beside:], strict=True):
            note = text if column.below or not text else f"{column.head.lower()} {text}"
            for line in textwrap.wrap(note, width, initial_indent=INDENT, subsequent_indent=INDENT):
                yield click.style(line, dim=True)


def column_widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """Return how wide each column is: as its widest cell, columns that fold narrower where the whole would not fit."""
    wanted = [max([len(c.head), *(_length(row[i]) for row in cells)]) for i, c in enumerate(columns)]
    over = sum(wanted) + len(GAP) * (len(columns) - 1) - width if width is not None else 0
    while over > 0:
        folding = [i for i, c in enumerate(columns) if c.fold and wanted[i] > max(LEAST_FOLDED, len(c.head))]
        if not folding:
            break
        widest = max(folding, key=lambda i: wanted[i])
        others = [wanted[i] for i in folding if i != widest]
        least = max(LEAST_FOLDED, len(columns[widest].head))
        # Down to the next widest at once, then in turns.
        step = min(over, max(wanted[widest] - max([*others, least]), 1))
        wanted[widest] -= step
        over -= step
    return wanted


def _row_lines(
    columns: Sequence[Column], row: Sequence[str], widths: Sequence[int], *, bold: bool = False
) -> Iterator[str]:
    folded = [_folded(cell, widths[i], columns[i].fold) for i, cell in enumerate(row)]
    for k in range(max(len(lines) for lines in folded)):
        parts = []
        for i, lines in enumerate(folded):
            text = lines[k] if k < len(lines) else ""
            last = i == len(folded) - 1
            # The last column may be as wide as no line ever is.
            pad = "" if last and not columns[i].right else " " * (widths[i] - _length(text))
            shown = click.style(text, bold=True) if bold and text else _coloured(text)
            parts.append(pad + shown if columns[i].right else shown if last else shown + pad)
        yield GAP.join(parts).rstrip()


def _coloured(text: str) -> str:
    colour = COLOURS.get(text.partition(",")[0])
    return click.style(text, fg=colour) if colour else text


def _folded(text: str, width: int, fold: bool) -> list[str]:
    if not fold or _length(text) <= width:
        return [text]
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _length(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
