"""Opens the store that a url names."""

from __future__ import annotations

from plenum.adapters.stores.faults import UrlError
from plenum.adapters.stores.sql_store import SqlStore


def open_store(url: str, *, read_only: bool = False) -> SqlStore:
    """Open a store, and migrate it where it is to be written.

    Parameters
    ----------
    url
        ``sqlite:///relative/plenum.db``, ``sqlite:////absolute/plenum.db``, or any ``postgresql://…`` that libpq takes.
    read_only
        Change nothing, migrate nothing. A SQLite store may then have a server running on it.

    Raises
    ------
    UrlError
        The url cannot be meant.
    LockedError
        SQLite: another server works on the file.
    NewerError, OlderError, ForeignError
        The database is not a log of this version, and cannot be made one.
    StoreError
        It cannot be reached.
    MissingExtraError
        PostgreSQL: psycopg is not installed.
    """
    kind = url.partition("://")[0]
    if kind == "sqlite":
        from plenum.adapters.stores.sqlite import SqliteBackend, sqlite_path

        return SqlStore(SqliteBackend(sqlite_path(url), read_only=read_only), read_only=read_only)
    if kind in ("postgresql", "postgres"):
        from plenum.adapters.stores.postgres import PostgresBackend

        return SqlStore(PostgresBackend(url, read_only=read_only), read_only=read_only)
    # Not quoted: what was meant as a url may hold a password.
    raise UrlError("a store's url begins with sqlite:/// (then a path) or with postgresql://")
