"""``plenum why``: replay a past decision."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from plenum.cli.cloud import cloud_options, connected, found_job, id_of, path_of
from plenum.cli.complete import complete_job
from plenum.cli.console import choose_output, write_json
from plenum.cli.tables import Column, clean, terminal_width, write_table
from plenum.cli.times import clock, moment, rfc3339, seconds_of

if TYPE_CHECKING:
    from plenum.adapters.client import Client

PLACES = 20


@click.command()
@click.argument("job", shell_complete=complete_job)
@click.option(
    "--at", metavar="TIME", help="The decision then: 2030-01-31T12:00:00Z, -10m, or a position of the log, @123."
)
@choose_output
@cloud_options
def command(job: str, at: str | None, output: str, context: str | None, tenant: str | None) -> None:
    """Replay the last decision about JOB (up to a TIME) with the code of now, and say whether it still agrees.

    The inputs are rebuilt from the log as they were then. Exits with 1 if the code of now decides differently.

    \b
    plenum why pretrain
    plenum why pretrain --at -10m
    """
    with connected(context) as client:
        found = found_job(client, job, tenant)
        told = client.get(f"{path_of(found)}/why", at=_at(client, at))
    if output == "json":
        write_json(told)
    else:
        _print(id_of(found), told)
    sys.exit(0 if told["agrees"] else 1)


def _at(client: Client, text: str | None) -> float | None:
    if text is None:
        return None
    if text.startswith("@") and text[1:].isdigit():
        position = int(text[1:])
        return seconds_of(client.get(f"/events/{position}")["at"]) + 0.001  # shown in whole milliseconds, rounded down
    return seconds_of(moment(text, "--at", time.time()))


def _print(job: str, told: dict[str, Any]) -> None:
    import textwrap

    at = told["at"] if isinstance(told["at"], str) else rfc3339(told["at"])
    click.echo(
        click.style(job, bold=True)
        + f", decision {told['decision']} at {clock(at)} by {told['policy']}, which saw position {told['inputs']}"
    )
    width = min(terminal_width() or 110, 110)
    for head, text in (("then", told["then"]), ("again", told["again"])):
        click.echo(textwrap.fill(clean(text), width, initial_indent=f"  {head:<6} ", subsequent_indent=" " * 9))
    if told["agrees"]:
        click.echo(click.style("  The code of now decides the same.", fg="green"))
    else:
        click.echo(click.style("  The code of now decides differently.", fg="red"))
    places = told.get("places", ())
    if places:
        click.echo()
        write_table((Column(head="REPLICA"), Column(head="NODE", fold=True)), places[:PLACES])
        if len(places) > PLACES:
            click.echo(f"… and {len(places) - PLACES:,} more")
