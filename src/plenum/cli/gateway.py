"""``plenum gateway``: the address that models are asked at, on any host."""

from __future__ import annotations

import click

from plenum.cli.server_options import log_to_stderr


@click.command()
@click.option(
    "--server", "servers", multiple=True, required=True, envvar="PLENUM_SERVER",
    help="Address of a control plane; repeat it for its replicas.",
)  # fmt: skip
@click.option(
    "--token", default="", envvar="PLENUM_GATEWAY_TOKEN",
    help="From `plenum token create --gateway NAME`; needed the first time, better in the variable than here.",
)  # fmt: skip
@click.option(
    "--ca", type=click.Path(dir_okay=False), envvar="PLENUM_CA",
    help="File of the authority that signed the control plane's certificate.",
)  # fmt: skip
@click.option("--name", required=True, help="Of this gateway, as its token says.")
@click.option("--data", type=click.Path(file_okay=False), help="Folder of its journal and table.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one.")
@click.option("--certificate", type=click.Path(dir_okay=False), help="Certificate for clients, in PEM.")
@click.option("--key", type=click.Path(dir_okay=False), help="Its key.")
@click.option(
    "--plain-http", is_flag=True, help="Speak plain HTTP beyond this host too, behind a proxy that speaks TLS."
)
@click.option("--public", default="", metavar="URL", help="Where clients reach it, such as a proxy.")
@click.option("--settings", type=click.Path(dir_okay=False), help="TOML file of limits.")
@click.option("--verbose", "-v", is_flag=True)
def command(
    servers: tuple[str, ...],
    token: str,
    ca: str | None,
    name: str,
    data: str | None,
    host: str,
    port: int,
    certificate: str | None,
    key: str | None,
    plain_http: bool,
    public: str,
    settings: str | None,
    verbose: bool,
) -> None:
    """Run a gateway until interrupted: OpenAI's API in front of every endpoint.

    It serves on while the control plane is away, from the last table that it got, and keeps what is to be billed until the control plane
    has it. `plenum up` runs one by itself. It speaks plain HTTP on loopback and TLS elsewhere: with the certificate that is given, else
    with one from a CA in `tls` of its folder (put the cloud's ca.pem and ca.key there to have it signed by that).

    \b
    plenum token create --gateway edge-1
    plenum gateway --server https://control.example:7070 --ca ca.pem --name edge-1 --host 0.0.0.0 --public https://edge-1.example:8080
    """
    from pathlib import Path

    from plenum.bootstrap.config import data_home, private_folder, write_private
    from plenum.bootstrap.gateway import GatewayConfig, run_gateway
    from plenum.bootstrap.loop import run
    from plenum.model.errors import FieldError

    log_to_stderr(verbose)
    folder = private_folder(Path(data) if data else data_home() / "gateways" / name)
    if token:
        write_private(folder / "token", token.encode())
    elif not (folder / "token").exists():
        raise FieldError("--token", f"is needed the first time: plenum token create --gateway {name} makes one")
    config = GatewayConfig(
        data=folder,
        servers=tuple(server.rstrip("/") for server in servers),
        ca=Path(ca) if ca else None,
        name=name,
        host=host,
        port=port,
        public=public,
        certificate=Path(certificate) if certificate else None,
        key=Path(key) if key else None,
        plain=plain_http,
        settings=Path(settings) if settings else None,
    )
    run(run_gateway(config, lambda address: click.echo(f"Models are asked at {address.url}/v1")))
