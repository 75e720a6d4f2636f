"""``plenum plan calibrate``: fit the performance model to measured points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.console import choose_output, write_json
from plenum.cli.measurement_options import given_by, measurement_options
from plenum.cli.sentences import write_sentences
from plenum.cli.tables import Column, write_table
from plenum.cli.units import Number
from plenum.model.errors import FieldError

if TYPE_CHECKING:
    from plenum.serving.accuracy import Accuracy
    from plenum.serving.calibration import Calibration
    from plenum.serving.measured import Measured

LEAST_HELD_OUT = 20
"""Points from which half of them are first held out, to tell how well the fit predicts what it has not seen."""


@click.command()
@click.option(
    "--measurements",
    "-m",
    type=click.Path(path_type=Path),
    required=True,
    multiple=True,
    help="What a benchmark wrote (vLLM, SGLang, guidellm, AIPerf, inference-perf), or a CSV; may be given again.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the calibration into this file.")
@click.option("--fresh", is_flag=True, help="Start from data sheets, not from the calibration that ships.")
@click.option("--coverage", type=Number(0.5, 0.99), default=0.9, show_default=True, help="Of intervals.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Which half is held out.")
@measurement_options
@choose_output
def command(**options: Any) -> None:
    """Fit the performance model to measured points, and say how far it can be trusted.

    Points correct predictions near them; away from them intervals widen. From 60 distinct points on, the constants of the physics are
    fitted anew. Half of the points are first held out and predicted, so that the errors shown are of points that were not seen.

    \b
    plenum plan calibrate -m bench.json --model Llama-3.1-8B --hardware H100 --tp 1 --out mine.json
    plenum plan serving … --calibration mine.json
    """
    from plenum.adapters.calibrations import write_calibration
    from plenum.adapters.measurements import read_measurements
    from plenum.cli.compiled import load_model
    from plenum.serving.accuracy import accuracy, held_out
    from plenum.serving.calibration import shipped
    from plenum.serving.fitting import calibrate, held_at_most
    from plenum.serving.measured import measured

    given = given_by(options)
    read = [point for path in options["measurements"] for point in read_measurements(path, given)]
    points = measured(read)
    if not len(points):
        raise FieldError(
            "--measurements", "none of the points says over how many devices, under which load and with which lengths"
        )
    prior = None if options["fresh"] else shipped()
    name = ", ".join(path.name for path in options["measurements"])
    load_model()
    before = accuracy(points, prior)
    seen = held_out(points, prior, options["seed"]) if len(points) >= LEAST_HELD_OUT else None
    calibration = calibrate(points, prior=prior, name=name, coverage=options["coverage"])
    if options["out"]:
        write_calibration(options["out"], calibration)
    if options["output"] == "json":
        write_json(
            {
                "points": len(points),
                "left_out": len(read) - len(points),
                "before": _plain(before),
                "held_out": _plain(seen) if seen else None,
                "held_at_most": held_at_most(calibration),
                "written": str(options["out"]) if options["out"] else None,
            }
        )
        return
    _print(points, len(read) - len(points), before, seen)
    _print_held(held_at_most(calibration), prior)
    _print_end(options["out"], seen is None)


def _plain(found: Accuracy) -> dict[str, dict[str, float | int]]:
    return {name: error._asdict() for name, error in (("ttft", found.ttft), ("tpot", found.tpot))}


def _print(points: Measured, left_out: int, before: Accuracy, seen: Accuracy | None) -> None:
    configurations = len({id(instance) for instance in points.instances})
    click.echo(f"{len(points):,} points of {configurations:,} configurations", nl=False)
    click.echo(f"; {left_out:,} more say too little" if left_out else "")
    click.echo()
    columns = [
        Column(head="PREDICTED"), Column(head="OF"), Column(head="POINTS", right=True), Column(head="MEDIAN ERROR", right=True),
        Column(head="MEAN ERROR", right=True), Column(head="IN INTERVAL", right=True),
    ]  # fmt: skip
    rows = []
    for what, found in (("before", before), ("held-out half", seen)):
        if found is None:
            continue
        for name, error in (("TTFT", found.ttft), ("TPOT", found.tpot)):
            if error.points:
                shown = [f"{100 * v:.1f} %" for v in (error.median, error.mean, error.held)]
                rows.append([what, name, f"{error.points:,}", *shown])
    write_table(columns, rows)


def _print_held(held: dict[str, tuple[str, ...]], prior: Calibration | None) -> None:
    """Say which constants the points asked too much of; those of the prior have been said to be there before."""
    from plenum.serving.fitting import held_at_most

    before = held_at_most(prior) if prior else {}
    for key, names in held.items():
        if key.count("|") and names != before.get(key):
            write_sentences(
                "",
                f"At the most that any device reaches for {key.replace('|', ' on ')}: {', '.join(names)}. Points beyond are corrected "
                "one by one; check how many devices they state.",
            )


def _print_end(out: Path | None, few: bool) -> None:
    click.echo()
    if few:
        click.echo(f"Fewer than {LEAST_HELD_OUT} points: none was held out.")
    if out:
        click.echo(f"Written to {out}; use it with --calibration {out}")
    else:
        click.echo("Nothing was written; keep it with --out FILE.")
