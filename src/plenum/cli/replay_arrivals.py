"""``plenum replay openb/…`` and ``synthetic``: runs, table, curves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from plenum.cli import charts, progress
from plenum.cli.console import write_json
from plenum.cli.stopwatch import TimedEngine
from plenum.graph.cluster import Cluster
from plenum.model import FieldError
from plenum.placement import Policy
from plenum.sim.arrivals import ArrivalReplay, engine_for, replay_arrivals
from plenum.sim.trace import Arrivals, ArrivalTrace

CLOSE_UP_PERCENT = 80.0
"""Until so much has arrived every policy places nearly all of it; the terminal plot starts here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of ``--output json``."""

    trace: str
    policy: str
    seed: int
    allocated_gpu_percent: float
    fragmented_gpu_percent: float
    failed_count: int
    decisions_per_s: float


def run_arrivals(
    trace: ArrivalTrace,
    published: dict[tuple[str, str], float],
    policies: Sequence[Policy],
    output: str,
    plot: Path | None,
    chart: bool,
    limit: int | None,
) -> None:
    """Replay every policy with every seed of the trace and show what came of it.

    Parameters
    ----------
    published
        (trace, policy) to percent, shown beside ours; left out where ``limit`` cuts the trace.
    limit
        Arrivals of each seed to replay; None: all.
    """
    if not trace.fleet.n_gpus:
        raise FieldError("TRACE", f"{trace.name} has no GPUs in its fleet; there is nothing to allocate")
    cluster = Cluster.of(trace.fleet)
    with progress.compile_note():
        for policy in policies:
            _warm_up(trace, policy, cluster)
    runs: dict[str, list[ArrivalReplay]] = {policy.name: [] for policy in policies}
    rows: list[Result] = []
    with progress.bar(len(policies) * sum(len(_cut(a, limit).order) for a in trace.arrivals.values())) as advance:
        before = 0
        for policy in policies:
            for seed, arrivals in trace.arrivals.items():
                replay, decisions_per_s = _one_run(
                    trace,
                    _cut(arrivals, limit),
                    policy,
                    seed,
                    cluster,
                    lambda done, at=before, what=policy.name: advance(what, at + done),
                )
                before += len(replay.node)
                runs[policy.name].append(replay)
                rows.append(
                    Result(
                        trace=trace.name,
                        policy=policy.name,
                        seed=seed,
                        allocated_gpu_percent=round(replay.allocated_gpu_percent, 6),
                        fragmented_gpu_percent=round(replay.fragmented_gpu_percent, 6),
                        failed_count=replay.failed_count,
                        decisions_per_s=round(decisions_per_s, 1),
                    )
                )
    if plot:
        allocated, fragmented = _panels(runs)
        charts.write_png(plot, _title(trace), (allocated, _close_up(allocated), fragmented))
    if output == "json":
        write_json([asdict(row) for row in rows])
        return
    _print_arrivals(trace, rows, published if limit is None else {})
    if chart and charts.has_terminal_charts():
        _print_charts(runs)
    if plot:
        click.echo(f"plot: {plot}")


def _cut(arrivals: Arrivals, limit: int | None) -> Arrivals:
    return arrivals if limit is None else replace(arrivals, order=arrivals.order[:limit])


def _warm_up(trace: ArrivalTrace, policy: Policy, cluster: Cluster) -> None:
    """Compile or load everything that a run calls, so that its speed is that of deciding."""
    first = _cut(next(iter(trace.arrivals.values())), 1)
    replay_arrivals(trace, first, engine_for(trace, first, policy, 0, cluster))


def _one_run(
    trace: ArrivalTrace, arrivals: Arrivals, policy: Policy, seed: int, cluster: Cluster, on_done: Callable[[int], None]
) -> tuple[ArrivalReplay, float]:
    engine = TimedEngine(engine_for(trace, arrivals, policy, seed, cluster))
    replay = replay_arrivals(trace, arrivals, engine, on_sample=lambda done, _: on_done(done))
    return replay, engine.decisions_per_s


def _title(trace: ArrivalTrace) -> str:
    seeds = list(trace.arrivals)
    several = f"mean of {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    return f"{trace.name}, {trace.fleet.n_gpus:,} GPUs, {several}"


def _print_arrivals(trace: ArrivalTrace, rows: Sequence[Result], published: dict[tuple[str, str], float]) -> None:
    shown = any((trace.name, row.policy) in published for row in rows)
    beside_ours = ("published %", "difference") if shown else ()
    figures = ("allocated %", *beside_ours, "unallocated %", "fragmented %", "failed", "decisions/s")
    table = charts.new_table(_title(trace), "policy", figures)
    free = {}
    for policy in dict.fromkeys(row.policy for row in rows):
        mine = [row for row in rows if row.policy == policy]
        allocated = float(np.mean([row.allocated_gpu_percent for row in mine]))
        free[policy] = 100 - allocated
        beside = published.get((trace.name, policy))
        theirs = ("", "") if beside is None else (f"{beside:.2f}", f"{allocated - beside:+.2f}")
        table.add_row(
            policy,
            f"{allocated:.2f}",
            *(theirs if shown else ()),
            f"{free[policy]:.2f}",
            f"{np.mean([row.fragmented_gpu_percent for row in mine]):.2f}",
            f"{np.mean([row.failed_count for row in mine]):,.0f}",
            f"{np.mean([row.decisions_per_s for row in mine]):,.0f}",
        )
    charts.print_tables(table)
    if shown:
        click.echo("published: mean of ten seeds, Weng et al., Beware of Fragmentation (USENIX ATC 2023)")
    if free.keys() >= {"fgd", "plenum"} and free["fgd"] > 0:
        less = 100 * (1 - free["plenum"] / free["fgd"])
        click.echo(
            f"plenum leaves {free['plenum']:.2f} % of the GPUs unallocated, fgd {free['fgd']:.2f} %: "
            f"{abs(less):.1f} % {'less' if less >= 0 else 'more'}"
        )


def _panels(runs: dict[str, list[ArrivalReplay]]) -> tuple[charts.Panel, charts.Panel]:
    """Return allocation and fragmentation against arrived demand, runs averaged at equal demand."""
    every = [run for replays in runs.values() for run in replays]
    end = min(run.percent(run.arrived_gpu_milli[-1]) for run in every)
    grid = np.linspace(0, end, len(every[0].arrived_gpu_milli))

    def curve(policy: str, field: str) -> charts.Curve:
        lines = np.array([_at(run, grid, field) for run in runs[policy]])
        return charts.Curve(label=policy, x=grid, y=lines.mean(axis=0), low=lines.min(axis=0), high=lines.max(axis=0))

    allocated = charts.Panel(
        title="Allocated",
        x_label="arrived demand, % of the GPUs",
        y_label="% of the GPUs",
        curves=[curve(policy, "allocated_gpu_milli") for policy in runs],
        ideal=charts.Curve(label="all demand, up to every GPU", x=grid, y=np.minimum(grid, 100.0)),
    )
    fragmented = replace(
        allocated,
        title="Free, but of no use to the usual mix",
        curves=[curve(policy, "fragmented_gpu_milli") for policy in runs],
        ideal=None,
    )
    return allocated, fragmented


def _close_up(panel: charts.Panel) -> charts.Panel:
    """Return the part where policies differ, or all of a run that ends before it."""
    curves = [_from(curve, CLOSE_UP_PERCENT) for curve in panel.curves]
    return replace(panel, title=f"{panel.title}, close up", curves=curves, ideal=None, y_low=None)


def _from(curve: charts.Curve, start: float) -> charts.Curve:
    which = curve.x >= start
    if not which.any():
        return curve
    parts = {
        name: getattr(curve, name)[which] for name in ("x", "y", "low", "high") if getattr(curve, name) is not None
    }
    return replace(curve, **parts)


def _at(run: ArrivalReplay, grid: NDArray[np.float64], field: str) -> NDArray[np.float64]:
    scale = 100.0 / run.capacity_gpu_milli
    return np.interp(grid, run.arrived_gpu_milli * scale, getattr(run, field) * scale)


def _print_charts(runs: dict[str, list[ArrivalReplay]]) -> None:
    for panel in _panels(runs):
        click.echo()
        click.echo(charts.terminal_text(_close_up(panel), colour=sys.stdout.isatty()))
