"""``plenum token revoke``: end tokens."""

from __future__ import annotations

import click

from plenum.cli.cloud import choose_context, connected
from plenum.cli.complete import complete_token


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=complete_token)
@choose_context
def command(ids: tuple[str, ...], context: str | None) -> None:
    """End tokens at once, by their ids (`plenum token list`)."""
    from plenum.adapters.client import part

    with connected(context) as client:
        for ident in ids:
            client.delete(f"/tokens/{part(ident)}")
            click.echo(f"token/{ident} is revoked")
