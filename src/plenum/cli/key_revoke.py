"""``plenum key revoke``: end keys."""

from __future__ import annotations

import click

from plenum.cli.cloud import cloud_options, connected, tenant_of
from plenum.cli.complete import complete_key


@click.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=complete_key)
@cloud_options
def command(ids: tuple[str, ...], context: str | None, tenant: str | None) -> None:
    """End keys at once, by their ids (`plenum key list`); gateways know of it a moment later."""
    from plenum.adapters.client import part

    with connected(context) as client:
        whose = tenant_of(client, tenant)
        for ident in ids:
            client.delete(f"/tenants/{part(whose)}/keys/{part(ident)}")
            click.echo(f"key/{whose}/{ident} is revoked")
