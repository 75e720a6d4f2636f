"""``plenum simulate``: which subcommands there are."""

from __future__ import annotations

from typing import ClassVar

import click

from plenum.cli.root import LazyGroup


class _SimulateGroup(LazyGroup):
    table: ClassVar[dict[str, tuple[str, str]]] = {
        "chaos": (
            "plenum.cli.simulate_chaos",
            "Run the whole control plane on a virtual clock while everything goes wrong.",
        ),
    }


@click.group(cls=_SimulateGroup)
def command() -> None:
    """Try the control plane on virtual machines in virtual time."""
