"""``plenum fleet validate``: find what is wrong with a fleet."""

from __future__ import annotations

import sys

import click

from plenum.cli.console import choose_output, console, write_json
from plenum.model.units import counted


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@choose_output
def command(file: str, output: str) -> None:
    """Find what is wrong with a fleet and say where.

    Exits with 2 if the manifest cannot be read, with 1 if something in the fleet cannot work, else with 0.
    """
    from plenum.adapters.manifests.fleet import read_fleet
    from plenum.graph.validate import findings

    fleet = read_fleet(file)
    found = findings(fleet)
    errors = sum(finding.severity == "error" for finding in found)
    if output == "json":
        from dataclasses import asdict

        write_json({"file": file, "fleet": fleet.name, "findings": [asdict(finding) for finding in found]})
    else:
        out = console()
        for finding in found:
            place = ": ".join(part for part in (file, finding.where, finding.field) if part)
            more = f" (and {finding.count - 1:,} more like it)" if finding.count > 1 else ""
            colour = "red" if finding.severity == "error" else "yellow"
            out.print(f"{finding.severity}:", style=colour, end=" ")
            out.print(f"{place}: {finding.sentence}{more}", markup=False, soft_wrap=True)
        rest = len(found) - errors
        size = f"{counted(fleet.n_nodes, 'node')}, {counted(fleet.n_gpus, 'GPU')}"
        out.print(
            f"{fleet.name}: {size}: {counted(errors or 'no', 'error')}, {counted(rest or 'no', 'warning')}",
            markup=False,
        )
    sys.exit(1 if errors else 0)
