"""``plenum token list``: which tokens there are."""

from __future__ import annotations

import time

import click

from plenum.cli.cloud import choose_context, connected
from plenum.cli.console import choose_output, write_json


@click.command()
@choose_output
@choose_context
def command(output: str, context: str | None) -> None:
    """List the tokens that you may see, without their secrets."""
    from plenum.cli.get import columns_of
    from plenum.cli.kinds import kind_named
    from plenum.cli.tables import write_table

    with connected(context) as client:
        listing = client.listed("/tokens")
    if output == "json":
        write_json(listing)
    elif listing["items"]:
        write_table(*columns_of(kind_named("tokens"), listing["items"], time.time(), wide=False, tenants=False))
    else:
        click.echo("There are no tokens.", err=True)
