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
        "serving": ("plenum.cli.simulate_serving", "Replay or invent traffic on simulated LLM instances."),
    }


@click.group(cls=_SimulateGroup)
def command() -> None:
    """Try the control plane, or a serving cluster, in virtual time."""
