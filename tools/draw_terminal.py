"""Draw what a command prints in a terminal: ANSI text on standard input, a PNG as the only argument."""

from __future__ import annotations

import sys

import matplotlib as mpl
from rich.console import Console
from rich.segment import Segment
from rich.text import Text

mpl.use("Agg")
from matplotlib import pyplot as plt

CELL_W, CELL_H = 0.088, 0.19
"""Inches of a character cell."""

PALETTE = {"green": "#4cb782", "yellow": "#e0af4f", "red": "#e5534b", "cyan": "#56b6c2", "blue": "#61afef"}
BACKGROUND, FOREGROUND, DIM = "#11151c", "#d7dce5", "#8a93a3"


def main() -> None:
    """Draw standard input."""
    text = Text.from_ansi(sys.stdin.read().rstrip("\n"))
    rows = text.split("\n")
    columns = max(row.cell_len for row in rows)
    figure = plt.figure(figsize=((columns + 4) * CELL_W, (len(rows) + 2) * CELL_H), facecolor=BACKGROUND)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-2, columns + 2), ylim=(len(rows) + 1, -1))
    axes.axis("off")
    console = Console(width=columns + 1, color_system="truecolor")
    for y, row in enumerate(rows):
        _draw(axes, console, row, y)
    figure.savefig(sys.argv[1], dpi=150)


def _draw(axes, console: Console, row: Text, y: int) -> None:
    x = 0
    for segment in Segment.filter_control(row.render(console)):
        style = segment.style
        colour = FOREGROUND
        if style is not None and style.color is not None:
            colour = PALETTE.get(style.color.name, style.color.get_truecolor().hex)
        elif style is not None and style.dim:
            colour = DIM
        weight = "bold" if style is not None and style.bold else "normal"
        for character in segment.text:
            if character in "█░":
                alpha = 1.0 if character == "█" else 0.25
                axes.add_patch(plt.Rectangle((x, y + 0.18), 1, 0.64, color=colour, alpha=alpha, linewidth=0))
            elif character.strip():
                axes.text(x, y + 0.78, character, color=colour, family="DejaVu Sans Mono", fontsize=10, weight=weight)
            x += 1


main()
