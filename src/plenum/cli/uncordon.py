"""``plenum uncordon``: let work onto nodes again."""

from __future__ import annotations

import click

from plenum.cli.cloud import choose_context, connected
from plenum.cli.complete import complete_node


@click.command()
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=complete_node)
@choose_context
def command(nodes: tuple[str, ...], context: str | None) -> None:
    """Let new work onto nodes again that were cordoned or drained."""
    from plenum.adapters.client import part

    with connected(context) as client:
        for node in nodes:
            client.post(f"/nodes/{part(node)}/uncordon")
            click.echo(f"node/{node} takes work again")
