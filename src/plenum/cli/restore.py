"""``plenum restore``: fill an empty store from a backup."""

from __future__ import annotations

import click


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--data",
    type=click.Path(file_okay=False),
    help="Data folder to fill.  [default: $PLENUM_HOME or ~/.local/share/plenum]",
)
@click.option("--store", default="", help="Or the URL of an empty store, such as postgresql://plenum@db/plenum.")
def command(file: str, data: str | None, store: str) -> None:
    """Fill an empty store from FILE, which `plenum backup` wrote; nothing is overwritten.

    \b
    plenum restore monday.plenum --data /srv/plenum
    """
    from plenum.adapters.stores.backups import restore_backup
    from plenum.cli.stores import store_url

    url = store_url(data, store)
    records = restore_backup(file, url)
    where = f" --store {store}" if store else f" --data {data}" if data else ""
    click.echo(f"Restored {records:,} records. Check them: plenum rebuild{where or ' --data FOLDER'}")
    click.echo(
        "Keys and certificates are not in a backup: without the old folder `tls`, clients and agents must be given the new CA."
    )
