"""Copies a log from one database to another, whichever they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Table, select, update

from plenum.adapters.stores.tables import COMMAND_KEYS, HEAD, RECORDS, SNAPSHOTS

ROWS_AT_ONCE = 1_000


def copy_log(source: Connection, target: Connection, *, term_gap: int = 0) -> None:
    """Copy everything but the lease into an empty log, in the target's transaction.

    Parameters
    ----------
    source
        In a transaction that sees one state of the log throughout, or where nobody else writes.
    term_gap
        Added to the term.
    """
    for table, rows_at_once in ((RECORDS, ROWS_AT_ONCE), (COMMAND_KEYS, ROWS_AT_ONCE), (SNAPSHOTS, 1)):
        for rows in pages(source, table, rows_at_once):
            target.execute(table.insert(), rows)
    head = source.execute(select(HEAD)).one()
    target.execute(update(HEAD).values(position=head.position, base=head.base, term=head.term + term_gap))


def pages(connection: Connection, table: Table, rows_at_once: int) -> Iterator[list[dict[str, Any]]]:
    """Yield a table's rows in the order of its primary key, some at a time."""
    (key,) = table.primary_key
    query = select(table).order_by(key).limit(rows_at_once)
    page = query
    while rows := connection.execute(page).mappings().all():
        yield [dict(row) for row in rows]
        page = query.where(key > rows[-1][key.name])
