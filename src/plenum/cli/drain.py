"""``plenum drain``: empty nodes."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from plenum.cli.cloud import choose_context, connected
from plenum.cli.complete import complete_node
from plenum.cli.exits import NO
from plenum.cli.patience import Patience, choose_timeout
from plenum.model.units import counted

if TYPE_CHECKING:
    from plenum.adapters.client import Client

POLL_S = 0.5


@click.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=complete_node)
@click.option("--why", default="", metavar="TEXT", help="Told to whoever looks at the node.")
@click.option("--wait", is_flag=True, help="Come back when nothing runs there any more.")
@choose_timeout("10m")
@choose_context
def command(nodes: tuple[str, ...], why: str, wait: bool, timeout: str, context: str | None) -> None:
    """Keep new work off nodes and move away what runs there: it is stopped with its grace and placed elsewhere.

    Exits with 1 if --wait took too long; the nodes then go on emptying. `plenum uncordon` lets work on again.
    """
    from plenum.adapters.client import part

    patience = Patience(timeout)
    with connected(context) as client:
        for node in nodes:
            client.post(f"/nodes/{part(node)}/cordon", {"why": why, "drain": True})
            click.echo(f"node/{node} is being drained")
        if wait and not all(_emptied(client, node, patience) for node in nodes):
            sys.exit(NO)


def _emptied(client: Client, node: str, patience: Patience) -> bool:
    from plenum.adapters.client import part

    shown = -1
    while True:
        left = client.get(f"/nodes/{part(node)}")["status"]["runs"]
        if not left:
            click.echo(f"node/{node} is empty")
            return True
        if left != shown:
            click.echo(f"node/{node}: {counted(left, 'replica')} left", err=True)
            shown = left
        if patience.is_over():
            click.echo(f"node/{node} still has {counted(left, 'replica')} after {patience}", err=True)
            return False
        time.sleep(POLL_S)
