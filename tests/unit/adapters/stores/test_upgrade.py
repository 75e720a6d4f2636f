"""Migrations lead to the tables that the code works with, from wherever a database is."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from tests.patience import PATIENCE_S

from plenum.adapters.stores.backups import restore_backup
from plenum.adapters.stores.faults import ForeignError, NewerError, OlderError
from plenum.adapters.stores.opening import open_store
from plenum.adapters.stores.sqlite import blank_file
from plenum.adapters.stores.tables import METADATA, REVISIONS, VERSION_TABLE
from plenum.adapters.stores.upgrade import MIGRATIONS, migrate
from plenum.ports.store import Record

RECORD = Record(at=0.0, type="tested")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path}/plenum.db"


def execute(url: str, *statements: str) -> None:
    """Run statements on a database that a store has made."""
    store = open_store(url)
    with store.backend.writing() as connection:
        for statement in statements:
            connection.execute(text(statement))
    store.close()


def test_the_code_knows_every_revision():
    scripts = ScriptDirectory(str(MIGRATIONS))
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == REVISIONS
    assert scripts.get_heads() == [REVISIONS[-1]]


def test_migrated_is_what_the_code_says(url):
    store = open_store(url)
    try:
        with store.backend.reading() as connection:
            context = MigrationContext.configure(
                connection, opts={"version_table": VERSION_TABLE, "compare_server_default": True}
            )
            assert compare_metadata(context, METADATA) == []
    finally:
        store.close()


def test_from_the_first_revision(url):
    store = open_store(url)
    with store.backend.writing() as connection:
        for table in (*METADATA.tables, VERSION_TABLE):
            connection.execute(text(f"DROP TABLE {table}"))
        migrate(connection, REVISIONS[0])
        connection.execute(
            text("INSERT INTO records VALUES (1, 0.5, 'tested', 1, 's', 't', 'a', '', :yes, '{}')"), {"yes": True}
        )
        connection.execute(text("UPDATE log_head SET position = 1, term = 4"))
    store.close()
    with pytest.raises(OlderError, match="revision 0001"):
        open_store(url, read_only=True)
    upgraded = open_store(url)
    try:
        assert upgraded.read(0, 10) == [
            Record(position=1, at=0.5, type="tested", subject="s", tenant="t", actor="a", audit=True)
        ]
        assert (upgraded.base(), upgraded.acquire("b", 9.0).term) == (0, 5)
        assert upgraded.append([RECORD], expected=1) == 2
    finally:
        upgraded.close()


def test_a_backup_of_the_first_revision(url, tmp_path):
    with blank_file(tmp_path / "old.db", REVISIONS[0]) as connection:
        connection.execute(text("INSERT INTO records VALUES (1, 0.5, 'tested', 1, 's', 't', 'a', '', true, '{}')"))
        connection.execute(text("UPDATE log_head SET position = 1, term = 4"))
    before = (tmp_path / "old.db").read_bytes()
    assert restore_backup(str(tmp_path / "old.db"), url) == 1
    assert (tmp_path / "old.db").read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_newer_than_the_code(url, read_only):
    execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(NewerError, match=r"9999, which is newer"):
        open_store(url, read_only=read_only)


def test_somebody_elses(url):
    execute(url, f"DROP TABLE {VERSION_TABLE}")
    with pytest.raises(ForeignError):
        open_store(url)


def test_nothing_there_to_read(postgres_url):
    with pytest.raises(ForeignError, match="no event log"):
        open_store(postgres_url, read_only=True)


def test_servers_that_start_together(postgres_url):
    start = threading.Barrier(4)

    def opened(n: int) -> int:
        start.wait(PATIENCE_S)
        store = open_store(postgres_url)
        try:
            return store.head()
        finally:
            store.close()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(opened, range(4))) == [0] * 4
