"""Options that ``up`` and ``server`` share."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import click


def _from_file(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Take options that are not given on the command line from a TOML file."""
    if value:
        try:
            with open(value, "rb") as stream:
                given = tomllib.load(stream)
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise click.BadParameter(f"cannot be read: {error}") from None
        known = {p.name for p in ctx.command.params}
        for name in given:
            if name.replace("-", "_") not in known:
                raise click.BadParameter(
                    f"there is no option {name!r}; the options are {', '.join(sorted(n for n in known if n))}"
                )
        ctx.default_map = {name.replace("-", "_"): value for name, value in given.items()}
    return value


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a control plane needs to know."""
    for option in reversed(
        (
            click.option(
                "--config",
                is_eager=True,
                callback=_from_file,
                expose_value=False,
                type=click.Path(dir_okay=False),
                help="TOML file of these options.",
            ),
            click.option(
                "--data",
                type=click.Path(file_okay=False),
                help="Folder of the log, keys and runs.  [default: $PLENUM_HOME or ~/.local/share/plenum]",
            ),
            click.option(
                "--store",
                default="",
                envvar="PLENUM_STORE",
                help="postgresql://… to share the log with other replicas; default: SQLite in the data folder.",
            ),
            click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
            click.option(
                "--port", default=7070, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one."
            ),
            click.option("--public", default="", help="Host name or address that agents and other replicas use."),
            click.option("--name", default="", help="Name of this replica among all."),
            click.option("--tls/--no-tls", default=True, help="Plain HTTP goes with loopback only."),
            click.option("--certificate", type=click.Path(dir_okay=False), help="Certificate of your own, in PEM."),
            click.option("--key", type=click.Path(dir_okay=False), help="Its key."),
            click.option(
                "--api-settings", type=click.Path(dir_okay=False), help="TOML file with rate limits and JWT issuers."
            ),
            click.option(
                "--lease",
                default="30s",
                show_default=True,
                help="How long nodes and their jobs may go on without an answer.",
            ),
            click.option(
                "--engine-secret",
                type=click.Path(dir_okay=False),
                help="File of the secret that keys of engines come from; one for all replicas.  [default: made in the data folder]",
            ),
            click.option("--new-token", is_flag=True, help="Print another operator token, if the first was lost."),
            click.option("--verbose", "-v", is_flag=True, help="Log every request."),
        )
    ):
        command = option(command)
    return command


def server_config(options: dict[str, Any], **more: Any) -> Any:
    """Return the configuration that the options say.

    Raises
    ------
    PlenumError
        Two options contradict each other.
    """
    from pathlib import Path

    from plenum.bootstrap.config import ServerConfig, data_home
    from plenum.model.units import parse_duration

    def path(name: str) -> Path | None:
        return Path(options[name]) if options[name] else None

    return ServerConfig(
        data=path("data") or data_home(),
        store=options["store"],
        name=options["name"],
        host=options["host"],
        port=options["port"],
        public=options["public"],
        tls=options["tls"],
        certificate=path("certificate"),
        key=path("key"),
        api_settings=path("api_settings"),
        engine_secret=path("engine_secret"),
        lease_s=parse_duration(options["lease"], "--lease"),
        **more,
    )


def log_to_stderr(verbose: bool) -> None:
    """Send warnings (and with ``verbose`` everything) to stderr, a line each."""
    import logging

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    if verbose:
        logging.getLogger("plenum").setLevel(logging.INFO)
