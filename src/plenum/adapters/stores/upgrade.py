"""Brings a database to the revision that this code works with."""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from plenum.adapters.stores.faults import ForeignError, NewerError, OlderError
from plenum.adapters.stores.tables import REVISIONS, VERSION_TABLE

EMPTY = ""
MIGRATIONS = Path(__file__).parent / "migrations"

# Alembic keeps what it is working on in module globals.
_ONE_AT_A_TIME = threading.Lock()


def revision_of(connection: Connection, place: str) -> str:
    """Return the revision that a database is at; ``""``: it is empty.

    Raises
    ------
    NewerError
        This code does not know the revision.
    ForeignError
        The database holds tables, but none that says a revision.
    """
    tables = inspect(connection).get_table_names()
    if VERSION_TABLE not in tables:
        if "records" in tables or "log_head" in tables:
            raise ForeignError(f"{place} holds tables that Plenum did not make; give it a database of its own")
        return EMPTY
    revision = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) or EMPTY
    if revision and revision not in REVISIONS:
        raise NewerError(
            f"{place} is at revision {revision}, which is newer than this version of Plenum knows ({REVISIONS[-1]}); "
            "run the newer version, or restore a backup from before it"
        )
    return revision


def check_current(connection: Connection, place: str) -> None:
    """Refuse a database that must be migrated first.

    Raises
    ------
    OlderError, NewerError, ForeignError
        It is not at the newest revision.
    """
    revision = revision_of(connection, place)
    if revision == EMPTY:
        raise ForeignError(f"{place} holds no event log; name the database that a server has written")
    if revision != REVISIONS[-1]:
        raise OlderError(
            f"{place} is at revision {revision}, which an older version wrote; start the server on it once to bring it to {REVISIONS[-1]}"
        )


def migrate(connection: Connection, to: str = REVISIONS[-1]) -> None:
    """Run the migrations that a database lacks, in the transaction that the connection is in."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, to)
