"""``python -m benchmarks [NAME ...]``: run the benchmarks named, or all that take seconds; a table here and JSON in out/bench.json.

``crash``, ``failover``, ``load``, ``overload``, ``accuracy`` and ``routing_live`` take minutes and are run by name only:
``python -m benchmarks crash --kills 200``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import (
    churn,
    crash,
    failover,
    gateway,
    large_fleet,
    load,
    overload,
    planner,
    routing_live,
    scoring,
    serving_accuracy,
    serving_routing,
    serving_simulator,
    startup,
    stores,
)
from benchmarks.findings import Finding

BENCHES: dict[str, Callable[[], Iterator[Finding]]] = {
    "startup": startup.bench,
    "scoring": scoring.bench,
    "gangs": churn.bench,
    "fleet": large_fleet.bench,
    "stores": stores.bench,
    "planner": planner.bench,
    "routing": serving_routing.bench,
    "serving": serving_simulator.bench,
}
LONG = ("crash", "failover", "load", "overload", "routing_live", "accuracy", "gateway")
"""Of minutes each; not among those that run when none is named."""

OUT = Path("out/bench.json")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure speed, quality and endurance.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join((*BENCHES, *LONG))}")
    parser.add_argument("--kills", type=int, help="how often crash and failover kill a server")
    parser.add_argument("--tasks", type=int, help="how many tasks load submits")
    parser.add_argument("--litellm", default="", help="a Python with litellm[proxy], to measure beside the gateway")
    given = parser.parse_args(arguments)
    benches = BENCHES | {
        "crash": partial(crash.bench, given.kills),
        "failover": partial(failover.bench, given.kills),
        "load": partial(load.bench, given.tasks),
        "gateway": partial(gateway.bench, given.litellm),
        "overload": overload.bench,
        "accuracy": serving_accuracy.bench,
        "routing_live": routing_live.bench,
    }
    if unknown := [name for name in given.names if name not in benches]:
        parser.error(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(benches)}")
    console = Console(width=None if sys.stdout.isatty() else 150)
    findings: list[Finding] = []
    for name in given.names or BENCHES:
        with Console(stderr=True).status(f"measuring {name} ..."):
            found = list(benches[name]())
        console.print(_table(name, found))
        findings += found
    OUT.parent.mkdir(exist_ok=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
    OUT.write_text(json.dumps({"machine": machine, "findings": [asdict(f) for f in findings]}, indent=1) + "\n")
    targets = [f.target for f in findings if f.target]
    met = sum(target.met for target in targets)
    console.print(f"{met} of {len(targets)} targets met; written to {OUT}")
    return 0


def _table(name: str, findings: list[Finding]) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("what", overflow="fold", ratio=4)
    for column in ("measured", "ratio", "target", "met?"):
        table.add_column(column, justify="right")
    table.add_column("against, notes", overflow="fold", ratio=3)
    for f in findings:
        table.add_row(
            f.what,
            f"{_figure(f.value)} {f.unit}",
            "" if f.ratio is None else f"{_figure(f.ratio)}x",
            f.target.words if f.target else "",
            ("yes" if f.target.met else "NO") if f.target else "",
            "; ".join(part for part in (f.baseline, f.note) if part),
        )
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
