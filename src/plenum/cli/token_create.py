"""``plenum token create``: issue a token."""

from __future__ import annotations

import click

from plenum.cli.cloud import choose_context, connected
from plenum.cli.console import choose_output, write_json
from plenum.cli.times import clock


@click.command()
@click.argument("user", required=False)
@click.option(
    "--join", is_flag=True, help="A token that lets hosts join as nodes; USER is then the only one that it lets in."
)
@click.option("--gateway", is_flag=True, help="A token for the gateway of the name USER.")
@click.option(
    "--expires",
    metavar="DURATION",
    help="For how long it is valid, such as 12h or 90d; default: for ever, with --join a day.",
)
@click.option("--note", default="", metavar="TEXT", help="What it is for.")
@choose_output
@choose_context
def command(
    user: str | None, join: bool, gateway: bool, expires: str | None, note: str, output: str, context: str | None
) -> None:
    """Issue a token for USER (default: yourself). The secret is printed once, on standard output, and kept nowhere.

    \b
    plenum token create ada --expires 90d --note laptop
    plenum token create --join --expires 1h
    plenum token create --gateway edge-1
    """
    from plenum.model.units import parse_duration

    if gateway and (join or not user):
        raise click.UsageError("--gateway goes with the gateway's name, and without --join")
    lasts = expires or ("1d" if join else "0")
    body = {
        "kind": "join" if join else "gateway" if gateway else "user",
        "expiresInS": parse_duration(lasts, "--expires"),
        "note": note,
    }
    with connected(context) as client:
        body["user"] = user or ("" if join else client.get("/whoami")["name"])
        token = client.post("/tokens", {key: value for key, value in body.items() if value})
    if output == "json":
        write_json(token)
        return
    spec = token["spec"]
    until = f"until {clock(spec['expiresAt'])}" if spec.get("expiresAt") else "for ever"
    whose = f"for {'gateway ' if gateway else ''}{spec.get('user')}"
    if join:
        whose = f"that lets {spec.get('user') or 'hosts'} join"
    click.echo(
        f"Token {token['metadata']['name']} {whose}, valid {until}. Keep it now, it is not shown again:", err=True
    )
    click.echo(token["secret"])
