"""``plenum context``: which control planes are known, and which is meant."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from plenum.cli.complete import complete_context
from plenum.cli.exits import UNREACHABLE
from plenum.cli.tables import Column, write_table


@click.command()
@click.argument("name", required=False, shell_complete=complete_context)
@click.option("--tenant", "-t", metavar="NAME", help="Whose things are meant there unless a command says so.")
@click.option("--forget", is_flag=True, help="Remove it, and its token.")
def command(name: str | None, tenant: str | None, forget: bool) -> None:
    """List the control planes that you logged in to, or go over to the one called NAME.

    \b
    plenum context lab --tenant research
    """
    from plenum.adapters.contexts import chosen_context, contexts, forget_context, save_context

    if forget:
        if not name:
            raise click.UsageError("say which to forget")
        forget_context(name)
        click.echo(f"Context {name} is forgotten.")
        return
    if name or tenant:
        context = chosen_context(name or "")
        save_context(replace(context, tenant=tenant) if tenant else context)
        click.echo(
            f"Commands now go to {context.name}, {context.server}, tenant {tenant or context.tenant or 'default'}."
        )
        return
    known, current = contexts()
    if not known:
        click.echo("None yet: start one with `plenum up`, or name one with `plenum login URL`.", err=True)
        sys.exit(UNREACHABLE)
    columns = (Column(head=""), Column(head="NAME", fold=True), Column(head="SERVER", fold=True), Column(head="TENANT"))
    rows = [("*" if n == current else "", n, c.server, c.tenant or "default") for n, c in sorted(known.items())]
    write_table(columns, rows)
