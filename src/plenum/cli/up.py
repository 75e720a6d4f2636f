"""``plenum up``: a whole cloud on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from plenum.cli.server_options import log_to_stderr, server_config, server_options

if TYPE_CHECKING:
    from plenum.bootstrap.server import Running

PATIENCE_S = 2.0
"""To load compiled code takes less; to compile it takes more."""


SHOWN = 6
"""Manifests named as new or changed; of the others only the number is told."""


@click.command()
@server_options
@click.option(
    "--apply",
    "-f",
    "manifests",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Manifests to apply once it is up: fleets, tenants, jobs.",
)
@click.option(
    "--until-done", is_flag=True, help="Stop once every job that ends by itself has ended; exit with 1 if one failed."
)
@click.option(
    "--keep-jobs",
    is_flag=True,
    help="At the end, let this host's jobs go on until their lease ends: a restart within it takes them up again.",
)
@click.option(
    "--gateway-port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Where models are asked; another one is taken if that is taken. 0: any free one.",
)
@click.option(
    "--gateway-host", default="127.0.0.1", show_default=True,
    help="Address that the gateway listens on; beyond this host it speaks TLS, with --certificate or one from this cloud's own CA.",
)  # fmt: skip
@click.option("--gateway-plain-http", is_flag=True, help="The gateway speaks plain HTTP beyond this host too.")
@click.option("--gateway-settings", type=click.Path(dir_okay=False), help="TOML file of the gateway's limits.")
@click.option("--no-gateway", is_flag=True, help="Start no gateway here: models are asked through others.")
@click.option("--quiet", "-q", is_flag=True, help="Do not tell what becomes of the jobs.")
def command(
    manifests: tuple[str, ...],
    until_done: bool,
    keep_jobs: bool,
    gateway_port: int,
    gateway_host: str,
    gateway_plain_http: bool,
    gateway_settings: str | None,
    no_gateway: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Bring an AI cloud up on this machine: API, log, scheduler, this host's own cores, and any simulated fleets.

    Everything is kept in the data folder: the next `plenum up` comes back with it. Ctrl-C stops cleanly: jobs on this host get their
    grace, and start again with the next `plenum up`.

    \b
    plenum up
    plenum up -f examples/fleet-lab.yaml -f examples/first-jobs.yaml
    """
    import asyncio
    import sys
    from pathlib import Path

    from plenum.bootstrap.apply import apply_files, nodes_ready
    from plenum.bootstrap.loop import run
    from plenum.bootstrap.server import OPERATOR, serve
    from plenum.cli.news import News
    from plenum.cli.up_models import tell_how_to_ask

    log_to_stderr(options["verbose"])
    settings = Path(gateway_settings).absolute() if gateway_settings else None
    port = None if no_gateway else gateway_port
    config = server_config(
        options, local_node=True, gateway_port=port, gateway_host=gateway_host, gateway_plain=gateway_plain_http,
        gateway_settings=settings,
    )  # fmt: skip
    failed: list[str] = []

    async def started(server: Running) -> None:
        news = News(server.service, quiet=quiet)
        changed = await apply_files(server.service, manifests, OPERATOR)
        await nodes_ready(server.service)
        context = _greet(server)
        if manifests:
            click.echo(_filled(f"Applied {', '.join(manifests)}:") + f"\n{_listed(changed)}\n")
        await _compiled(server)
        telling = asyncio.create_task(tell_how_to_ask(server, "" if quiet else context))
        try:
            failed.extend(await news.follow(until_done=until_done))
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)

    run(serve(config, started, new_token=options["new_token"], stop_local_work=not keep_jobs))
    click.echo("Stopped. The next `plenum up` comes back with everything.")
    sys.exit(1 if failed else 0)


def _greet(server: Running) -> str:
    """Say where it is and what it has, and log this user in; returns the name of their context, or nothing."""
    from plenum.adapters.contexts import Context, contexts, save_context
    from plenum.cli.news import invocation

    state, (known, _) = server.service.state, contexts()
    ca = str(server.ca or "")
    # A cloud is known by its CA, which lies in its data folder: another one must not take this one's place, nor its token.
    name = next((name for name, saved in known.items() if saved.ca == ca), "")
    others = not name and "local" in known
    name = name or (f"local-{server.port}" if others else "local")
    token = server.operator_token or (known[name].token if name in known else "")
    if token:
        save_context(Context(name=name, server=server.address, token=token, ca=ca), use=not others)
    click.echo(f"\n{click.style('Plenum is up', bold=True)} at {server.address}")
    for fleet in sorted(state.fleets.values(), key=lambda f: (f.agent != server.local_agent, f.name)):
        click.echo(f"  {'this host' if fleet.agent == server.local_agent else fleet.name:<10} {_has(server, fleet)}")
    click.echo(f"  {'data':<10} {server.config.data}")
    if server.operator_token:
        click.echo(f"\nOperator token, shown this once ({invocation()} has it already):\n  {server.operator_token}")
    if token and others:
        click.echo(
            f"\nAnother cloud is the one in use; this one is the context {name}: plenum context {name} turns to it."
        )
    if not token:
        click.echo(
            f"\n{invocation()} has no token for it here: log in with one (plenum login), or start with --new-token."
        )
    click.echo("")
    return name if token else ""


def _has(server: Running, fleet: Any) -> str:
    """Return what a fleet has, in a line."""
    from plenum.model.units import counted, show

    nodes = [server.service.state.nodes[name] for name in fleet.nodes]
    gpus = sum(node.facts.gpus for node in nodes)
    has = [
        f"{len(nodes):,} nodes{', imitated' if fleet.driver == 'simulated' else ''}"
        if len(nodes) > 1
        else nodes[0].name,
        counted(gpus, "GPU") if gpus else "",
        counted(sum(node.facts.cpu_milli for node in nodes) // 1000, "core"),
        show(sum(node.facts.memory_bytes for node in nodes), "memory_bytes"),
    ]
    return " · ".join(part for part in has if part)


def _listed(changed: list[str]) -> str:
    more = [f"{len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
    text = ", ".join((*changed[:SHOWN], *more)) or "all of it is so already"
    return _filled(text, "  ")


def _filled(text: str, indent: str = "") -> str:
    from textwrap import fill

    return fill(
        text,
        78,
        initial_indent=indent,
        subsequent_indent=indent or " " * len("Applied "),
        break_long_words=False,
        break_on_hyphens=False,
    )


async def _compiled(server: Running) -> None:
    """Wait until decisions are made, and say what takes so long if it does."""
    import asyncio
    from contextlib import suppress

    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            await server.warm.wait()
    if not server.warm.is_set():
        click.echo("Compiling the scoring loops: about half a minute, once; later starts take seconds …")
        await server.warm.wait()
