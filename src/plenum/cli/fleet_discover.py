"""``plenum fleet discover``: this machine as a fleet."""

from __future__ import annotations

import click

from plenum.cli.fleet_written import choose_writing, write_fleet


@click.command()
@click.option("--name", default="", help="Name of the node; default: the host name.")
@click.option("--sysfs", default="/sys", show_default=True, help="Where sysfs is mounted.")
@choose_writing
def command(name: str, sysfs: str, out: str | None, output: str) -> None:
    """Describe this machine as a fleet of one node.

    NUMA nodes, PCIe switches, GPUs, NICs and drives come from sysfs; models, memory, watts and NVLinks of NVIDIA
    GPUs from NVML where there is one.

    \b
    plenum fleet discover
    plenum fleet discover --out host.yaml
    """
    from plenum.adapters.discover import discover

    write_fleet(discover(sysfs, name=name), out, output)
