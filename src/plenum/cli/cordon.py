"""``plenum cordon``: keep new work off nodes."""

from __future__ import annotations

import click

from plenum.cli.cloud import choose_context, connected
from plenum.cli.complete import complete_node


@click.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=complete_node)
@click.option("--why", default="", metavar="TEXT", help="Told to whoever looks at the node.")
@choose_context
def command(nodes: tuple[str, ...], why: str, context: str | None) -> None:
    """Keep new work off nodes; what runs there goes on. `plenum drain` moves that away, too."""
    from plenum.adapters.client import part

    with connected(context) as client:
        for node in nodes:
            client.post(f"/nodes/{part(node)}/cordon", {"why": why, "drain": False})
            click.echo(f"node/{node} takes no new work")
