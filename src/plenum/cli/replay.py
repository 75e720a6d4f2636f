"""``plenum replay``: a trace under one or more policies, with the published results beside ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plenum.cli import charts
from plenum.cli.console import choose_output
from plenum.model.errors import FieldError, FileError

if TYPE_CHECKING:
    from plenum.sim.trace import ArrivalTrace

DEFAULT_TRACE = "openb/default"
SYNTHETIC_SEEDS = tuple(range(42, 52))
JOB_SEEDS = (42,)
MAX_SEEDS = 1_000
MAX_SEED = 2**63 - 1
GENERATED = (
    "synthetic is a generated trace, statistically similar to openb's default but not the published one: "
    "its results stand beside no published value"
)


@click.command("replay")
@click.argument("trace", required=False)
@click.option("--policy", "policies", default="fgd,plenum", show_default=True, help="Policies, separated by commas.")
@click.option("--seeds", help="Orders of arrival, such as 42-51 or 42,45. Default: all that the trace has.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of the traces. Default: $PLENUM_DATA, then ../shared/data."
)
@choose_output
@click.option("--plot", type=click.Path(path_type=Path), help="Write the curves into this PNG (arrival traces).")
@click.option("--chart/--no-chart", default=True, help="Draw the curves in the terminal too.")
@click.option("--limit", "--jobs", "limit", type=click.IntRange(min=1), help="Only so many first arrivals or jobs.")
@click.option("--fleet", type=click.Path(path_type=Path), help="philly: a Fleet manifest. Default: 96 nodes of 8 GPUs.")
@click.option("--queue", type=click.Choice(["backfill", "fifo"]), help="philly: what may overtake. Default: backfill.")
@click.option(
    "--patience-h", type=click.FloatRange(min=0), help="philly: hours after which nothing overtakes. Default: 24."
)
def command(
    trace: str | None,
    policies: str,
    seeds: str | None,
    data: Path | None,
    output: str,
    plot: Path | None,
    chart: bool,
    limit: int | None,
    fleet: Path | None,
    queue: str | None,
    patience_h: float | None,
) -> None:
    """Replay TRACE: openb/VARIANT, philly or synthetic.

    openb/VARIANT and synthetic: pods arrive until 130 % of the GPUs are asked for and nothing departs; how much of the
    cluster is allocated in the end, and how much of the rest can the usual mix not use? philly: training jobs arrive, wait,
    run and end. Without TRACE: openb/default, or synthetic where there is no data folder.
    """
    from plenum.adapters.traces.folder import find_data
    from plenum.placement import policy_named

    chosen = [policy_named(name) for name in dict.fromkeys(name.strip() for name in policies.split(","))]
    wanted = parse_seeds(seeds) if seeds is not None else None
    if plot:
        charts.check_png(plot)
    folder = find_data(data, os.environ)
    name = trace or (DEFAULT_TRACE if folder else "synthetic")
    if name == "philly":
        if plot:
            raise FieldError("--plot", "goes with openb/VARIANT and synthetic; philly has no curve over arrived demand")
        from plenum.cli.replay_jobs import run_philly

        run_philly(_folder(folder), chosen, wanted or JOB_SEEDS, output, limit, fleet, queue, patience_h)
        return
    for option, value in (("--fleet", fleet), ("--queue", queue), ("--patience-h", patience_h)):
        if value is not None:
            raise FieldError(option, f"goes with philly; {name} has a fleet of its own and its pods never wait")
    from plenum.cli.replay_arrivals import run_arrivals

    arrival_trace, published = _arrival_trace(name, folder, wanted)
    run_arrivals(arrival_trace, published, chosen, output, plot, chart, limit)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read ``42-51,60`` into ascending distinct seeds.

    Raises
    ------
    FieldError
        Something else, or more than a thousand of them.
    """
    seeds: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))):
            raise FieldError("--seeds", f"must be numbers and spans such as 42-51,60, not {text[:60]!r}")
        low, high = int(first[:20]), int((last or first)[:20])
        if high < low or high > MAX_SEED or high - low >= MAX_SEEDS or len(seeds) + high - low >= MAX_SEEDS:
            raise FieldError("--seeds", f"{part.strip()[:60]} must ascend, and there may be at most {MAX_SEEDS} seeds")
        seeds.update(range(low, high + 1))
    return tuple(sorted(seeds))


def _folder(folder: Path | None) -> Path:
    if folder is None:
        sentence = "there is no data folder: name one with --data or $PLENUM_DATA, or run plenum replay synthetic"
        raise FileError(sentence)
    return folder


def _arrival_trace(
    name: str, folder: Path | None, seeds: Sequence[int] | None
) -> tuple[ArrivalTrace, dict[tuple[str, str], float]]:
    from plenum.adapters.imports.openb import read_fleet
    from plenum.adapters.traces import openb
    from plenum.sim.synthetic import synthetic_trace

    if name == "synthetic":
        click.echo(GENERATED, err=True)
        return synthetic_trace(seeds or SYNTHETIC_SEEDS), {}
    known = [f"openb/{variant}" for variant in openb.variants(folder)] if folder else []
    if not name.startswith("openb/") or (folder and name not in known):
        here = ", ".join([*known, "philly", "synthetic"])
        raise FieldError("TRACE", f"there is no trace {name[:80]!r}; choose one of {here}")
    data = _folder(folder)
    fleet = read_fleet(data / "openb" / openb.NODE_LIST)
    return openb.read_trace(data, name.removeprefix("openb/"), fleet, seeds), openb.read_published(data)
