"""``plenum key create``: issue a key for models."""

from __future__ import annotations

import click

from plenum.cli.cloud import cloud_options, connected, tenant_of
from plenum.cli.complete import complete_endpoint
from plenum.cli.console import choose_output, write_json
from plenum.cli.times import clock


@click.command()
@click.option(
    "--model", "models", multiple=True, metavar="NAME", shell_complete=complete_endpoint,
    help="It may ask this model alone; repeat it for several.  [default: all of the tenant's]",
)  # fmt: skip
@click.option("--requests", type=click.IntRange(0), default=0, help="Most requests a minute; 0: no limit.")
@click.option("--tokens", type=click.IntRange(0), default=0, help="Most tokens a minute; 0: no limit.")
@click.option("--parallel", type=click.IntRange(0), default=0, help="Most requests at once; 0: no limit.")
@click.option("--batch", is_flag=True, help="Its requests give way to others'.")
@click.option("--expires", metavar="DURATION", help="For how long it is valid, such as 90d.  [default: for ever]")
@click.option("--note", default="", metavar="TEXT", help="What it is for.")
@choose_output
@cloud_options
def command(
    models: tuple[str, ...],
    requests: int,
    tokens: int,
    parallel: int,
    batch: bool,
    expires: str | None,
    note: str,
    output: str,
    context: str | None,
    tenant: str | None,
) -> None:
    """Issue a key for a tenant's models. The secret is printed once, on standard output, and kept nowhere.

    Limits hold over all gateways together: each that is alive gives an equal share of them.

    \b
    plenum key create --note chatbot --requests 600 --expires 90d
    """
    from plenum.adapters.client import part
    from plenum.model.units import parse_duration

    body = {
        "models": list(models),
        "requestsPerMinute": requests,
        "tokensPerMinute": tokens,
        "maxParallel": parallel,
        "tier": "batch" if batch else "interactive",
        "expiresInS": parse_duration(expires, "--expires") if expires else 0,
        "note": note,
    }
    with connected(context) as client:
        whose = tenant_of(client, tenant)
        key = client.post(f"/tenants/{part(whose)}/keys", body)
    if output == "json":
        write_json(key)
        return
    spec = key["spec"]
    until = f"until {clock(spec['expiresAt'])}" if spec.get("expiresAt") else "for ever"
    which = ", ".join(spec.get("models", ())) or f"all models of {whose}"
    name = key["metadata"]["name"]
    if late := key["status"].get("unknownTo"):
        click.echo(
            f"Not known yet at gateway {', '.join(late)}; it will be a moment after that one is heard of.", err=True
        )
    for model, close in key["status"].get("unserved", {}).items():
        hint = f" (did you mean {close!r}?)" if close else ""
        click.echo(
            f"Nothing of {whose} serves {model!r} yet{hint}; the key will be good for it once something does.", err=True
        )
    click.echo(f"Key {name} for {which}, valid {until}. Keep it now, it is not shown again:", err=True)
    click.echo(key["secret"])
