"""Results for the eye: wide tables, and curves as a PNG (matplotlib) or as text (plotext), with the extra ``plot``."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from plenum.model.errors import FileError, MissingExtraError, Where

INSTALL = "pip install 'plenum-os[plot]'"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by the colour-blind too."""
TABLE_WIDTH = 120
TERMINAL_SIZE = (90, 15)
TERMINAL_COLOURS = ("cyan", "red", "green", "magenta", "yellow", "blue")
TERMINAL_MARKS = ("o", "*", "+", "x", "#", "=", "@")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """One line: ``y`` (T,) over ``x`` (T,), and the band (low, high) around it where there are several runs."""

    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """Curves that share their axes; ``ideal`` is a thin line to compare them with, ``y_low`` where the axis starts."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    ideal: Curve | None = None
    y_low: float | None = 0.0


def print_tables(*tables: object) -> None:
    """Print rich tables; where nobody's terminal sets a width, one that none of ours wraps in."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(*tables)


def new_table(title: str, label: str, figures: Sequence[str]) -> Table:
    """Return a table with a column of labels and columns of figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column(label, no_wrap=True, min_width=14)
    for heading in figures:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def write_png(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Draw the panels side by side into a file.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    FileError
        The file cannot be written.
    """
    check_png(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * len(panels), 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        if panel.ideal:
            axes.plot(panel.ideal.x, panel.ideal.y, color="0.6", linewidth=1, linestyle="--", label=panel.ideal.label)
        for curve, colour in zip(panel.curves, _cycled(len(panel.curves)), strict=True):
            if curve.low is not None and curve.high is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(curve.x, curve.y, color=colour, label=curve.label)
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label, ylim=(panel.y_low, None))
        axes.margins(x=0)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", Where(file=str(path))) from None


def check_png(path: Path) -> None:
    """Refuse, before any work is done, a plot that could not be written.

    Raises
    ------
    MissingExtraError, FileError
        See :func:`write_png`.
    """
    if path.suffix.lower() != ".png":
        raise FileError("--plot writes PNG; give it a name that ends in .png", Where(file=str(path)))
    if not path.parent.is_dir():
        raise FileError("there is no such folder to write the plot into", Where(file=str(path.parent)))
    _check_installed("matplotlib")


def terminal_text(panel: Panel, *, colour: bool) -> str:
    """Return a panel drawn in characters; without colour every curve has a mark of its own.

    Raises
    ------
    MissingExtraError
        plotext is not installed.
    """
    plotext = _library("plotext")
    plotext.terminal.limit(False, False)
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(*TERMINAL_SIZE)
    figure.title(f"{panel.title}: {panel.y_label}")
    figure.label(panel.x_label)
    for i, curve in enumerate(panel.curves):
        mark = plotext.marker("braille", TERMINAL_COLOURS[i % 6]) if colour else TERMINAL_MARKS[i % 7]
        signal = figure.signal(curve.x.tolist(), curve.y.tolist(), marker=mark)
        if colour:
            signal.lines()
        signal.label(curve.label)
        figure.draw(signal)
    text = figure.build().string(colorless=not colour)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _cycled(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def has_terminal_charts() -> bool:
    """Tell whether plotext is installed."""
    return find_spec("plotext") is not None


def _library(name: str) -> ModuleType:
    _check_installed(name)
    return importlib.import_module(name)


def _check_installed(name: str) -> None:
    if find_spec(name) is None:
        raise MissingExtraError(f"drawing needs {name}, which is not installed: {INSTALL}")
