"""The frontier of a serving plan, drawn: throughput of each GPU against token time, and price against time to first token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plenum.cli import charts
from plenum.model.errors import FileError, Where
from plenum.planning.serving.words import figure as shown

if TYPE_CHECKING:
    from plenum.planning.serving.plan import ServingPlan
    from plenum.planning.serving.points import Point

MODES = (("together", False), ("apart", True))


def panels_of(plan: ServingPlan) -> list[charts.Panel]:
    """Return the best throughput of each mode over the time per output token, for a terminal."""
    curves = []
    most_s = 2 * min(plan.question.slo.tpot_s, max(p.tpot_s.typical for p in plan.points))
    for name, apart in MODES:
        best = _upper([p for p in plan.points if p.layout.disaggregated == apart and p.tpot_s.typical <= most_s])
        if best:
            curves.append(
                charts.Curve(
                    label=name,
                    x=np.array([p.tpot_s.typical * 1e3 for p in best]),
                    y=np.array([p.tokens_per_s_per_device for p in best]),
                )
            )
    return [
        charts.Panel(
            title="best of each mode", x_label="TPOT p99, ms", y_label="answer tokens/s per GPU", curves=curves
        )
    ]


def _upper(points: list[Point]) -> list[Point]:
    """Return the points that no quicker one out-does in throughput."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.tpot_s.typical, -p.tokens_per_s_per_device)):
        if not best or point.tokens_per_s_per_device > best[-1].tokens_per_s_per_device:
            best.append(point)
    return best


def draw(path: Path, plan: ServingPlan) -> None:
    """Draw two panels into a PNG.

    Raises
    ------
    MissingExtraError, FileError
        See :func:`plenum.cli.charts.check_png`.
    """
    charts.check_png(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import StrMethodFormatter

    figure = Figure(figsize=(11.5, 5.0), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    best = plan.recommended
    figure.suptitle(f"{plan.question.model.name}: {shown(best.rate_rps)} requests/s on {best.devices} GPUs")
    left, right = figure.subplots(1, 2)
    slo = plan.question.slo
    _panel(left, plan, lambda p: p.tpot_s, lambda p: p.tokens_per_s_per_device, slo.tpot_s)
    left.set(
        xlabel="time per output token, p99 (ms)",
        ylabel="answer tokens/s per GPU",
        title="throughput against token time",
    )
    _panel(right, plan, lambda p: p.ttft_s, lambda p: p.usd_per_million_tokens, slo.ttft_s)
    right.set(
        xlabel="time to first token, p99 (ms)", ylabel="$ per million answer tokens", title="price against first token"
    )
    right.set_yscale("log")
    right.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    right.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", Where(file=str(path))) from None


def _panel(axes: Any, plan: ServingPlan, time_of: Any, value_of: Any, promise_s: float) -> None:
    on_frontier = {id(p) for p in plan.frontier}

    def scatter(points: list[Point], **style: Any) -> None:
        axes.scatter([time_of(p).typical * 1e3 for p in points], [value_of(p) for p in points], linewidths=0, **style)

    for (name, apart), colour in zip(MODES, charts.COLOURS, strict=False):
        points = [p for p in plan.points if p.layout.disaggregated == apart]
        scatter([p for p in points if id(p) not in on_frontier], s=9, color=colour, alpha=0.18)
        if good := [p for p in points if id(p) in on_frontier]:
            scatter(good, s=22, color=colour, label=f"{name}, on the frontier")
    best = plan.recommended
    time = time_of(best)
    errors = [[(time.typical - time.low) * 1e3], [(time.high - time.typical) * 1e3]]
    style = {"fmt": "*", "markersize": 15, "color": "black", "elinewidth": 1, "capsize": 3}
    axes.errorbar([time.typical * 1e3], [value_of(best)], xerr=errors, label="recommended, 9 of 10 within", **style)
    if np.isfinite(promise_s):
        axes.axvline(promise_s * 1e3, color="0.4", linewidth=1, linestyle="--", label="promise")
        axes.set_xlim(0, promise_s * 1e3 * 2.2)
    axes.grid(alpha=0.25)
