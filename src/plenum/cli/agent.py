"""``plenum agent``: this host under a control plane somewhere else."""

from __future__ import annotations

import click

from plenum.cli.server_options import log_to_stderr


@click.command()
@click.option(
    "--server",
    "servers",
    multiple=True,
    required=True,
    envvar="PLENUM_SERVER",
    help="Address of a control plane; repeat it for its replicas.",
)
@click.option(
    "--join-token",
    default="",
    envvar="PLENUM_JOIN_TOKEN",
    help="From `plenum token create --join`; needed the first time.",
)
@click.option(
    "--ca",
    type=click.Path(dir_okay=False),
    envvar="PLENUM_CA",
    help="File of the authority that signed the control plane's certificate.",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="Folder of the agent's token and runs.  [default: $PLENUM_HOME or ~/.local/share/plenum, agent/NAME]",
)
@click.option("--name", default="", help="Name of this node.  [default: the host name]")
@click.option(
    "--address", default="", help="Where other nodes reach this one.  [default: as seen on the way to --server]"
)
@click.option("--cpu", default=0.0, type=click.FloatRange(0), help="Cores that jobs may have; 0: all.")
@click.option("--memory", default="", help="Memory that jobs may have, such as 64GiB; empty: all.")
@click.option(
    "--checkpoints", type=click.Path(file_okay=False), help="Folder that all nodes of a gang see, for its checkpoints."
)
@click.option("--verbose", "-v", is_flag=True)
def command(
    servers: tuple[str, ...],
    join_token: str,
    ca: str | None,
    data: str | None,
    name: str,
    address: str,
    cpu: float,
    memory: str,
    checkpoints: str | None,
    verbose: bool,
) -> None:
    """Join this host to a control plane and run what it is told, until interrupted.

    Jobs survive a restart of the control plane and of the agent. When the agent has not heard from the control plane for half a minute, it
    ends them: by then they may have been started elsewhere.

    \b
    plenum agent --server https://control.example:7070 --ca ca.pem --join-token plm_…
    """
    import asyncio
    from pathlib import Path

    from plenum.bootstrap.agent import AgentConfig, run_agent
    from plenum.bootstrap.config import data_home, host_name
    from plenum.model.units import parse

    log_to_stderr(verbose)
    config = AgentConfig(
        servers=tuple(server.rstrip("/") for server in servers),
        data=Path(data) if data else data_home() / "agent" / (name or host_name()),
        ca=Path(ca) if ca else None,
        join_token=join_token,
        name=name,
        address=address,
        cpu_milli=round(cpu * 1000),
        memory_bytes=parse(memory, "bytes", "--memory") if memory else 0,
        checkpoints=Path(checkpoints) if checkpoints else None,
    )
    asyncio.run(run_agent(config, lambda server: click.echo(f"{name or host_name()} has joined {server}.")))
