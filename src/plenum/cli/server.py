"""``plenum server``: a control plane, and nothing else."""

from __future__ import annotations

from typing import Any

import click

from plenum.cli.server_options import log_to_stderr, server_config, server_options


@click.command()
@server_options
def command(**options: Any) -> None:
    """Run a control plane until interrupted; nodes join it with `plenum agent`.

    Several over one PostgreSQL share the work: one leads, another takes over within seconds. They need certificates that their agents
    trust: share the folder `tls` of the data folder, or give --certificate and --key.

    \b
    plenum server --host 0.0.0.0 --public control.example
    plenum server --store postgresql://plenum@db/plenum --name a --port 7071
    """
    import asyncio

    from plenum.bootstrap.loop import run
    from plenum.bootstrap.server import Running, serve

    log_to_stderr(options["verbose"])
    config = server_config(options)

    async def started(server: Running) -> None:
        role = "leads" if server.service.leading else f"follows {server.service.state.holder}"
        click.echo(f"The control plane answers at {server.address} and {role}. Data: {config.data}")
        if server.operator_token:
            click.echo("Operator token, shown this once (plenum login takes it):", err=True)
            click.echo(server.operator_token)
        await asyncio.Event().wait()

    run(serve(config, started, new_token=options["new_token"]))
