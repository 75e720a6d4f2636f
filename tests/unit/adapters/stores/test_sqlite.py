"""What only SQLite does: one file, one server at a time."""

import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.stores.backups import restore_backup
from plenum.adapters.stores.faults import BackupError, ForeignError, LockedError
from plenum.adapters.stores.opening import open_store
from plenum.model.errors import FileError
from plenum.ports.store import Record, Snapshot, StoreError

RECORD = Record(at=0.0, type="tested")
HOLDER = """
import sys
from plenum.adapters.stores.opening import open_store
store = open_store(sys.argv[1])
store.acquire("gone", 3600.0)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/data/plenum.db"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "data" / "plenum.db"


@pytest.fixture
def holder(url):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.communicate()


def test_one_server_a_folder(url, holder):
    with pytest.raises(LockedError, match=f"process {holder.pid}") as refused:
        open_store(url)
    assert refused.value.code == "store.locked"
    reader = open_store(url, read_only=True)
    assert reader.leader() is not None
    reader.close()


def test_leadership_of_the_dead_is_void(url, holder):
    """Nobody waits for the lease of a server that crashed: its lock is free, so it is gone."""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    store = open_store(url)
    try:
        assert store.leader() is None
        lease = store.acquire("next", 10.0)
        assert lease is not None
        assert lease.term == 2
    finally:
        store.close()


def test_the_same_holder_in_another_process_has_another_term(url):
    for term in (1, 2):
        store = open_store(url)
        assert store.acquire("server", 3600.0).term == term
        store.close()


def test_locked_within_one_process(url):
    store = open_store(url)
    with pytest.raises(LockedError):
        open_store(url)
    store.close()
    open_store(url).close()


def test_durable_and_private(url, file):
    store = open_store(url)
    with store.backend.reading() as connection:
        pragma = lambda name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()  # noqa: E731
        assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == ("wal", 2, 1)
    store.append([RECORD], expected=0)
    files = list(file.parent.iterdir())
    store.close()
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_not_a_database(url, file):
    file.parent.mkdir()
    file.write_text("once upon a time" * 100)
    for read_only in (False, True):
        with pytest.raises(ForeignError, match="not a database"):
            open_store(url, read_only=read_only)


def test_nothing_to_read(url):
    with pytest.raises(FileError, match="no database"):
        open_store(url, read_only=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError):
        open_store(f"sqlite:///{tmp_path}/file/plenum.db")


def test_a_path_of_odd_characters(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/50% off?#ü/plenum.db")
    store.append([RECORD], expected=0)
    store.close()
    assert (tmp_path / "50% off?#ü" / "plenum.db").is_file()


def test_closing_waits_for_the_append_under_way(url):
    """Whatever races with closing was either appended or says that the store is closed; the lock is free only after it."""
    for _ in range(5):
        store = open_store(url)
        first = store.head()

        def write(store=store, head=first) -> int:
            try:
                while True:
                    head = store.append([RECORD], expected=head)
            except StoreError:
                return head

        with ThreadPoolExecutor(1) as pool:
            acknowledged = pool.submit(write)
            store.wait(first, PATIENCE_S)
            store.close()
            again = open_store(url)
            assert again.head() == acknowledged.result(PATIENCE_S)
            again.close()


def test_an_append_whose_turn_comes_after_closing(url):
    """It passed the first check before the store was closed; by its turn the file may be another server's."""
    store = open_store(url)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.backend.append([RECORD], [], 0, None)
    again = open_store(url)
    assert again.head() == 0
    again.close()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM records WHERE position = 2", "records"),
        ("UPDATE log_head SET position = 2", "records"),
        ("UPDATE records SET position = -1 WHERE position = 1", "records"),
        ("UPDATE snapshots SET data = x'00'", "digest"),
        ("UPDATE log_head SET base = 2; DELETE FROM records WHERE position < 3", "missing"),
    ],
)
def test_a_damaged_backup(url, tmp_path, damage, said):
    store = open_store(url)
    store.append([RECORD] * 3, expected=0)
    data = b"state"
    store.save_snapshot(Snapshot(position=1, digest=hashlib.sha256(data).hexdigest(), data=data))
    store.backup(str(tmp_path / "backup.db"))
    store.close()
    with sqlite3.connect(tmp_path / "backup.db") as connection:
        connection.executescript(damage)
    connection.close()
    with pytest.raises(BackupError, match=said):
        restore_backup(str(tmp_path / "backup.db"), f"sqlite:///{tmp_path}/new.db")


def test_a_backup_that_is_cut_off(url, tmp_path):
    store = open_store(url)
    store.append([RECORD] * 1000, expected=0)
    store.backup(str(tmp_path / "backup.db"))
    store.close()
    os.truncate(tmp_path / "backup.db", 50_000)
    with pytest.raises((BackupError, StoreError)):
        restore_backup(str(tmp_path / "backup.db"), f"sqlite:///{tmp_path}/new.db")
