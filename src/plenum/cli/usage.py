"""``plenum usage``: what requests to models took."""

from __future__ import annotations

import click

from plenum.cli.cloud import cloud_options, connected, tenant_of
from plenum.cli.complete import complete_endpoint
from plenum.cli.console import choose_output, write_json
from plenum.cli.tables import Column, write_table

BY = ("tenant", "endpoint", "model", "key", "day")
GONE_WRONG = ("cancelled", "broken", "interrupted")


def _day(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    import re

    if value is not None and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise click.BadParameter(f"{value[:60]!r} is no day such as 2026-01-31")
    return value


@click.command()
@click.option("--by", multiple=True, type=click.Choice(BY), help="What is told apart.  [default: endpoint, day]")
@click.option("--endpoint", metavar="NAME", shell_complete=complete_endpoint, help="Only of this endpoint.")
@click.option("--model", metavar="NAME", help="Only of what was asked for under this name.")
@click.option("--since", metavar="YYYY-MM-DD", callback=_day, help="First day (UTC).")
@click.option("--until", metavar="YYYY-MM-DD", callback=_day, help="Last day (UTC).")
@click.option("--all-tenants", "-A", is_flag=True, help="Of every tenant that you may see.")
@choose_output
@cloud_options
def command(
    by: tuple[str, ...],
    endpoint: str | None,
    model: str | None,
    since: str | None,
    until: str | None,
    all_tenants: bool,
    output: str,
    context: str | None,
    tenant: str | None,
) -> None:
    """Sum up the tokens of requests to models: prompts, what of them was found in a cache, and outputs.

    The key `judge` stands for what judges of experiments were asked. Estimated are requests that ended before the engine told the length
    of their prompt, which the gateway then reckons.

    \b
    plenum usage --by model --since 2026-01-01
    plenum usage --by key --endpoint chat
    plenum usage -A --by tenant
    """
    from plenum.adapters.client import part

    apart = by or ("endpoint", "day", *(("tenant",) if all_tenants else ()))
    asked = {"by": apart, "endpoint": endpoint, "model": model, "since": since, "until": until}
    with connected(context) as client:
        whose = "" if all_tenants else f"/tenants/{part(tenant_of(client, tenant))}"
        found = client.get(f"{whose}/usage", **asked)
    if output == "json":
        write_json(found)
        return
    if not found["items"]:
        click.echo("Nothing was asked of models in that time.", err=True)
        return
    numbers = ("REQUESTS", "CUT SHORT", "ESTIMATED", "PROMPT TOKENS", "CACHED", "OUTPUT TOKENS")
    columns = [
        *(Column(head=name.upper(), fold=name in ("endpoint", "model")) for name in BY if name in apart),
        *(Column(head=head, right=True) for head in numbers),
    ]
    rows = [
        (
            *(item[name] for name in BY if name in apart),
            f"{sum(item['requests'].values()):,}",
            f"{sum(item['requests'].get(outcome, 0) for outcome in GONE_WRONG):,}",
            f"{item['estimated']:,}",
            f"{item['promptTokens']:,}",
            f"{item['cachedTokens']:,}",
            f"{item['outputTokens']:,}",
        )
        for item in found["items"]
    ]
    write_table(columns, rows)
