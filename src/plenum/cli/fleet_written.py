"""What commands that make a fleet print and write: a summary for people or programs, or the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plenum.cli.console import console, write_json

if TYPE_CHECKING:
    from plenum.model import Fleet

F = TypeVar("F", bound=Callable[..., Any])


def choose_writing(command: F) -> F:
    """Add ``--out`` and ``--output``, as :func:`write_fleet` takes them."""
    command = click.option("--out", type=click.Path(dir_okay=False), help="Write a Fleet manifest to this file.")(
        command
    )
    return click.option(
        "--output",
        "-o",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="A summary for people or for programs, or the manifest.",
    )(command)


def write_fleet(fleet: Fleet, out: str | None, output: str) -> None:
    """Write the manifest to ``out``, if given, and print what ``output`` says.

    Raises
    ------
    FileError
        The file cannot be written.
    """
    from plenum.adapters.manifests.dump import dump_fleet

    if out:
        _write(Path(out), dump_fleet(fleet))
    if output == "yaml":
        click.echo(dump_fleet(fleet), nl=False)
    elif output == "json":
        write_json(summary(fleet) | ({"written": out} if out else {}))
    else:
        _print_table(summary(fleet))
        if out:
            click.echo(f"Written to {out}; draw it with: plenum fleet show {out}")


def summary(fleet: Fleet) -> dict[str, Any]:
    """Return counts and totals of a fleet as plain values; keys are permanent."""
    import numpy as np

    from plenum.model.fleet import CPU, LEVELS, MEMORY, NODE_LEVEL, DeviceKind, Health

    gpu = fleet.device_kind == DeviceKind.GPU
    models = Counter(fleet.models[m] or "unknown" for m in fleet.device_model[gpu].tolist())
    own = fleet.domain_level[fleet.budget_domain] == NODE_LEVEL

    def total(resource: str) -> int:
        rows = own & (fleet.budget_resource == fleet.resources.index(resource))
        return int(fleet.budget_capacity[rows].sum())

    levels = np.bincount(fleet.domain_level, minlength=len(LEVELS))
    return {
        "name": fleet.name,
        "nodes": fleet.n_nodes,
        "cordoned_nodes": int(fleet.node_cordoned.sum()),
        "unhealthy_nodes": int(np.count_nonzero(fleet.node_health != Health.HEALTHY)),
        "gpus": fleet.n_gpus,
        "unhealthy_gpus": int(np.count_nonzero(fleet.device_health[gpu] != Health.HEALTHY)),
        "gpu_models": dict(sorted(models.items(), key=lambda item: (-item[1], item[0]))),
        "nics": int(np.count_nonzero(fleet.device_kind == DeviceKind.NIC)),
        "drives": int(np.count_nonzero(fleet.device_kind == DeviceKind.NVME)),
        "cpu_milli": total(CPU),
        "memory_bytes": total(MEMORY),
        "domains": {name: int(count) for name, count in zip(LEVELS, levels, strict=True) if count},
    }


def _print_table(facts: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from plenum.model.units import show

    models = ", ".join(f"{count:,} {model}" for model, count in facts["gpu_models"].items())
    rows = [
        ("nodes", f"{facts['nodes']:,}" + _aside(cordoned=facts["cordoned_nodes"], unhealthy=facts["unhealthy_nodes"])),
        ("GPUs", f"{facts['gpus']:,}" + (f": {models}" if models else "") + _aside(unhealthy=facts["unhealthy_gpus"])),
        ("NICs", f"{facts['nics']:,}"),
        ("drives", f"{facts['drives']:,}"),
        ("cores", f"{facts['cpu_milli'] / 1000:,.0f}" if facts["cpu_milli"] else "unknown"),
        ("memory", show(facts["memory_bytes"], "memory_bytes") if facts["memory_bytes"] else "unknown"),
        ("domains", ", ".join(f"{count:,} {level}" for level, count in facts["domains"].items())),
    ]
    table = Table(title=Text(facts["name"]), title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    console().print(table)


def _aside(**counts: int) -> str:
    parts = [f"{count:,} {name}" for name, count in counts.items() if count]
    return f" ({', '.join(parts)})" if parts else ""


def _write(path: Path, text: str) -> None:
    from plenum.model.errors import FileError, Where

    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", Where(file=str(path), field="--out")) from None
