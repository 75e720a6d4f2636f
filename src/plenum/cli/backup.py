"""``plenum backup``: a consistent copy of the log in one file."""

from __future__ import annotations

import click


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="Of a control plane that is stopped: read its data folder instead of asking it.",
)
@click.option("--store", default="", help="Or the URL of its store.")
@click.option("--context", default="", help="Which control plane to ask.")
def command(file: str, data: str | None, store: str, context: str) -> None:
    """Write everything that the control plane knows into FILE, while it runs.

    One format for SQLite and PostgreSQL: `plenum restore` fills either from it.

    \b
    plenum backup monday.plenum
    """
    from pathlib import Path

    from plenum.cli.stores import opened
    from plenum.model.errors import FileError, Where

    if Path(file).exists():
        raise FileError("exists already; a backup does not overwrite", Where(file=file))
    if data or store:
        with opened(data, store, read_only=True) as source:
            source.backup(file)
            head = source.head()
    else:
        head = _downloaded(Path(file), context)
    click.echo(f"Wrote {file}: {Path(file).stat().st_size / 2**20:.1f} MiB, up to position {head}.")


def _downloaded(file: object, context: str) -> int:
    from pathlib import Path

    from plenum.adapters.client import Client
    from plenum.adapters.contexts import chosen_context

    assert isinstance(file, Path)
    with Client(chosen_context(context), timeout_s=600) as client:
        return client.download("/admin/backup", file)
