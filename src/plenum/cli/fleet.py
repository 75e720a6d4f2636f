"""``plenum fleet``: which subcommands there are."""

from __future__ import annotations

from typing import ClassVar

import click

from plenum.cli.root import LazyGroup


class _FleetGroup(LazyGroup):
    table: ClassVar[dict[str, tuple[str, str]]] = {
        "show": ("plenum.cli.fleet_show", "Draw one of a fleet's trees with what it holds and how full it is."),
        "validate": ("plenum.cli.fleet_validate", "Find what is wrong with a fleet and say where."),
        "import": ("plenum.cli.fleet_import", "Turn another system's description into a fleet manifest."),
        "discover": ("plenum.cli.fleet_discover", "Describe this machine as a fleet."),
    }


@click.group(cls=_FleetGroup)
def command() -> None:
    """Describe, import, discover, check and draw fleets."""
