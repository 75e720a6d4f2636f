"""``plenum simulate chaos``: seeds in, violations out."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import Any

import click

from plenum.cli.console import choose_output, write_json
from plenum.cli.progress import bar, compile_note
from plenum.model.errors import FieldError
from plenum.sim.chaos.defects import DEFECTS
from plenum.sim.chaos.run import Verdict, needed, run_seed, shrunk

MAX_SEEDS, MAX_SEED, MAX_STEPS, MAX_JOBS = 1_000_000, 2**63 - 1, 1_000_000, 256


@click.command()
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="One seed.")
@click.option("--seeds", metavar="A-B", help="Many seeds, both ends included.  [default: 0-19]")
@click.option(
    "--steps", type=click.IntRange(1, MAX_STEPS), default=1500, show_default=True, help="Events with mischief, a seed."
)
@click.option("--jobs", type=click.IntRange(1, MAX_JOBS), default=1, show_default=True, help="Processes.")
@click.option("--serves", is_flag=True, help="With endpoints of models too, their gateways and canaries.")
@click.option("--defect", "defects", multiple=True, type=click.Choice(sorted(DEFECTS)), hidden=True)
@choose_output
def command(
    seed: int | None, seeds: str | None, steps: int, jobs: int, serves: bool, defects: tuple[str, ...], output: str
) -> None:
    """Run the whole control plane on a virtual clock while everything goes wrong, and check that what must never happen does not.

    Machines crash, messages are lost, late, repeated and out of order, the store fails, leaders change, clocks are set, processes
    stand still. One seed is one run, event by event. Exits with 1 if an invariant does not hold; the shortest run of the same seed that
    shows it is printed with what happened before.

    \b
    plenum simulate chaos --seeds 0-1999 --jobs 2
    plenum simulate chaos --seed 17 --steps 640
    plenum simulate chaos --serves --seeds 0-99
    """
    if seed is not None and seeds is not None:
        raise FieldError("--seeds", "give either one seed or many")
    chosen = range(seed, seed + 1) if seed is not None else parse_span("0-19" if seeds is None else seeds)
    started_s = perf_counter()
    verdicts = list(_run(chosen, steps, min(jobs, len(chosen)), defects, serves))
    wall_s = perf_counter() - started_s
    failed = [verdict for verdict in verdicts if not verdict.ok]
    short = shrunk(failed[0], defects=defects, serves=serves) if failed else None
    kinds = tuple(needed(short, defects=defects, serves=serves)) if short else ()
    if output == "json":
        write_json(_as_json(verdicts, steps, wall_s, short, kinds))
    else:
        _print(verdicts, steps, wall_s, failed, short, kinds, defects, serves)
    sys.exit(1 if failed else 0)


def parse_span(text: str) -> range:
    """Read ``0-1999`` or ``7`` into seeds.

    Raises
    ------
    FieldError
        Something else, or too many.
    """
    first, dash, last = text.partition("-")
    if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))):
        raise FieldError("--seeds", f"must be a span such as 0-1999, not {text[:60]!r}")
    low, high = int(first[:20]), int((last or first)[:20])
    if high < low or high > MAX_SEED or high - low >= MAX_SEEDS:
        raise FieldError("--seeds", f"{text[:60]} must ascend and hold at most {MAX_SEEDS:,} seeds")
    return range(low, high + 1)


def _run(seeds: Sequence[int], steps: int, jobs: int, defects: Sequence[str], serves: bool) -> Iterator[Verdict]:
    one = partial(run_seed, steps=steps, defects=defects, serves=serves)
    with bar(len(seeds)) as move, compile_note():
        if jobs == 1:
            for done, seed in enumerate(seeds, start=1):
                yield one(seed)
                move(f"seed {seed}", done)
            return
        # Not forked: compiled code and threads do not survive that everywhere.
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            for done, verdict in enumerate(pool.imap(one, seeds, chunksize=4), start=1):
                move(f"seed {verdict.seed}", done)
                yield verdict


def _as_json(
    verdicts: Sequence[Verdict], steps: int, wall_s: float, short: Verdict | None, kinds: Sequence[str]
) -> dict[str, Any]:
    return {
        "seeds": len(verdicts),
        "steps": steps,
        "events": sum(v.events for v in verdicts),
        "records": sum(v.records for v in verdicts),
        "virtual_s": sum(v.virtual_s for v in verdicts),
        "wall_s": wall_s,
        "failed": [asdict(v) | {"story": []} for v in verdicts if not v.ok],
        "shortest": None if short is None else asdict(short) | {"needs": list(kinds)},
        "digests": {str(v.seed): v.digest for v in verdicts},
    }


def _print(
    verdicts: Sequence[Verdict],
    steps: int,
    wall_s: float,
    failed: Sequence[Verdict],
    short: Verdict | None,
    kinds: Sequence[str],
    defects: Sequence[str],
    serves: bool,
) -> None:
    if short is not None:
        click.echo(f"seed {short.seed} breaks '{short.invariant}' at step {short.failed_at}: {short.sentence}\n")
        for step, second, sentence in short.story:
            click.echo(f"{step:>7} {second:>8.1f} s  {sentence}")
        click.echo(f"\nshortest failing prefix: {short.steps} steps of mischief")
        click.echo(f"it does not fail without: {', '.join(kinds) or '(it fails without any one kind of fault)'}")
        planted = " --serves" * serves + "".join(f" --defect {name}" for name in defects)
        click.echo(f"again: plenum simulate chaos --seed {short.seed} --steps {short.steps}{planted}\n")
    events, virtual_h = sum(v.events for v in verdicts), sum(v.virtual_s for v in verdicts) / 3600
    click.echo(
        f"{len(verdicts)} seeds of {steps} steps: {len(failed)} failed; {events:,} events and {virtual_h:,.1f} simulated hours "
        f"in {wall_s:.1f} s"
    )
    if len(failed) > 1:
        click.echo("failed seeds: " + ", ".join(f"{v.seed} ({v.invariant})" for v in failed[:50]))
    if len(verdicts) == 1:
        click.echo(f"log {verdicts[0].digest}")
