"""``plenum key list``: which keys there are."""

from __future__ import annotations

import time

import click

from plenum.cli.cloud import cloud_options, connected, tenant_of
from plenum.cli.console import choose_output, write_json


@click.command()
@click.option("--all-tenants", "-A", is_flag=True, help="Of every tenant that you may see.")
@choose_output
@cloud_options
def command(all_tenants: bool, output: str, context: str | None, tenant: str | None) -> None:
    """List keys for models, without their secrets."""
    from plenum.cli.get import columns_of, listed
    from plenum.cli.kinds import kind_named
    from plenum.cli.tables import write_table

    kind = kind_named("keys")
    with connected(context) as client:
        listing = listed(client, kind, None if all_tenants else tenant_of(client, tenant), {})
    if output == "json":
        write_json(listing)
    elif listing["items"]:
        write_table(*columns_of(kind, listing["items"], time.time(), wide=False, tenants=all_tenants))
    else:
        click.echo("There are no keys here.", err=True)
