"""``plenum fleet import``: what other systems know about a fleet, as a manifest."""

from __future__ import annotations

from pathlib import Path

import click

from plenum.cli.fleet_written import choose_writing, write_fleet
from plenum.model.errors import FieldError

MAX_COPIES = 100_000
FILE = click.Path(dir_okay=False, path_type=Path)
_copies = (
    click.option(
        "--count", type=click.IntRange(1, MAX_COPIES), help="Make this many nodes like it, named NODE0, NODE1, …"
    ),
    click.option("--names", help="Or nodes of these names, such as gpu[01-16]."),
)


@click.group()
def command() -> None:
    """Turn another system's description into a fleet.

    Prints a summary; --out writes a Fleet manifest, -o yaml prints it.

    \b
    plenum fleet import openb openb_node_list_gpu_node.csv --out fleet.yaml
    kubectl get nodes -o json | plenum fleet import kubernetes - -o yaml
    """


@command.command()
@click.argument("file", type=FILE)
@click.option("--name", default="openb", show_default=True, help="Name of the fleet.")
@choose_writing
def openb(file: Path, name: str, out: str | None, output: str) -> None:
    """A node list of Alibaba's openb traces (CSV)."""
    from plenum.adapters.imports.openb import read_fleet

    write_fleet(read_fleet(file, name=name), out, output)


@command.command()
@click.argument("file", type=FILE)
@click.option("--name", default="lingjun", show_default=True, help="Name of the fleet.")
@click.option(
    "--template", default="", help="What each host is, such as dgx-h100; default: eight GPUs and nothing else known."
)
@choose_writing
def lingjun(file: Path, name: str, template: str, out: str | None, output: str) -> None:
    """The topology of Alibaba's Lingjun cluster (CSV): a three-tier Clos."""
    from plenum.adapters.imports.lingjun import PLAIN, read_fleet
    from plenum.graph.templates import TEMPLATES

    if template and template not in TEMPLATES:
        raise FieldError("--template", f"there is no template {template!r}; there are {', '.join(TEMPLATES)}")
    fleet = read_fleet(file, name=name, template=TEMPLATES[template] if template else PLAIN)
    write_fleet(fleet, out, output)


@command.command()
@click.option("--topology", type=FILE, help="topology.conf: SwitchName or BlockName lines.")
@click.option("--gres", type=FILE, help="gres.conf.")
@click.option("--slurm-conf", type=FILE, help="slurm.conf: its NodeName lines.")
@click.option("--name", default="slurm", show_default=True, help="Name of the fleet.")
@click.option("--block-level", default="scaleup.nvlink", show_default=True, help="What a block of topology/block is.")
@choose_writing
def slurm(
    topology: Path | None,
    gres: Path | None,
    slurm_conf: Path | None,
    name: str,
    block_level: str,
    out: str | None,
    output: str,
) -> None:
    """Slurm's topology.conf, gres.conf and slurm.conf; any of them will do."""
    from plenum.adapters.imports.slurm import read_fleet

    if not (topology or gres or slurm_conf):
        raise click.UsageError("give at least one of --topology, --gres and --slurm-conf")
    write_fleet(read_fleet(topology, gres, slurm_conf, name=name, block_level=block_level), out, output)


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--name", default="kubernetes", show_default=True, help="Name of the fleet.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="LEVEL=LABEL",
    help="Label that names a level: place.rack=acme.com/rack.",
)
@click.option("--trait", "traits", multiple=True, metavar="LABEL", help="Label that becomes a trait, LABEL=value.")
@choose_writing
def kubernetes(
    file: Path, name: str, labels: tuple[str, ...], traits: tuple[str, ...], out: str | None, output: str
) -> None:
    """What `kubectl get nodes -o json` prints; - reads standard input."""
    from plenum.adapters.imports.kubernetes import read_fleet

    pairs = [(level, key) for level, _, key in (label.partition("=") for label in labels)]
    for level, key in pairs:
        if not level or not key:
            raise FieldError("--label", f"{level!r} must be LEVEL=LABEL, such as place.rack=acme.com/rack")
    write_fleet(read_fleet(file, name=name, level_labels=dict(pairs), traits=traits), out, output)


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--name", default="lstopo", show_default=True, help="Name of the fleet.")
@click.option("--node", default="", help="Name of the node; default: the host name in the file.")
@_copies[0]
@_copies[1]
@choose_writing
def lstopo(
    file: Path, name: str, node: str, count: int | None, names: str | None, out: str | None, output: str
) -> None:
    """A host as `lstopo --of xml` writes it; - reads standard input."""
    from plenum.adapters.imports.lstopo import read_fleet

    write_fleet(read_fleet(file, name=name, names=_names(node, count, names)), out, output)


@command.command("nvidia-smi")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--name", default="nvidia-smi", show_default=True, help="Name of the fleet.")
@click.option("--node", default="host", show_default=True, help="Name of the node.")
@click.option("--model", default="", help="GPU model, such as H100: the matrix does not say.")
@click.option("--gpu-memory", help="Memory of a GPU, such as 80GB.")
@click.option("--memory", help="Memory of the host, such as 2TiB.")
@_copies[0]
@_copies[1]
@choose_writing
def nvidia_smi(
    file: Path,
    name: str,
    node: str,
    model: str,
    gpu_memory: str | None,
    memory: str | None,
    count: int | None,
    names: str | None,
    out: str | None,
    output: str,
) -> None:
    """The matrix that `nvidia-smi topo -m` prints; - reads standard input."""
    from plenum.adapters.imports.nvidia_smi import read_fleet
    from plenum.model.units import parse

    fleet = read_fleet(
        file,
        name=name,
        names=_names(node, count, names),
        model=model,
        gpu_memory_bytes=parse(gpu_memory, "bytes", "--gpu-memory") if gpu_memory else 0,
        memory_bytes=parse(memory, "bytes", "--memory") if memory else None,
    )
    write_fleet(fleet, out, output)


def _names(node: str, count: int | None, names: str | None) -> list[str]:
    """Return the names of the copies to make; empty: the one that the file names."""
    from plenum.adapters.imports.hostlist import expand

    if count and names:
        raise click.UsageError("give --count or --names, not both")
    if names:
        return expand(names, "--names")
    if count:
        return [f"{node or 'host'}{i}" for i in range(count)]
    return [node] if node else []
