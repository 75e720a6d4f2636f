"""SQLite: one file, one server at a time, every commit on the disk before it is acknowledged."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from sqlalchemy import Connection, Engine, NullPool, Pool, QueuePool, create_engine, event, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DBAPIError

from plenum.adapters.stores.faults import BackupError, ForeignError, LockedError, UrlError, first_line, translated
from plenum.adapters.stores.sql_store import Bell
from plenum.adapters.stores.tables import HEAD, REVISIONS
from plenum.adapters.stores.upgrade import check_current, migrate, revision_of
from plenum.model.errors import FileError
from plenum.ports.store import CommandKey, Record, StoreError

BUSY_TIMEOUT_S = 10.0
CONNECTIONS_MAX = 8
POLL_S = 0.1
"""How often a store that was opened for reading looks whether another process has written."""

TRUST_S = 5.0
"""How long a writer trusts its bell: nobody else can write."""

_ADVANCE = "UPDATE log_head SET position = ? WHERE position = ? AND term = coalesce(?, term)"
_INSERT = (
    "INSERT INTO records (position, at, type, version, subject, tenant, actor, trace, audit, body) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_NOTE = "INSERT OR REPLACE INTO command_keys (key, digest, position, at) VALUES (?, ?, ?, ?)"


class SqliteBackend:
    """A :class:`~plenum.adapters.stores.sql_store.Backend` over one SQLite file.

    Parameters
    ----------
    path
        Made, with its folder, where it does not exist and is opened for writing.
    read_only
        Take no lock, change nothing; a server may be running on it.

    Raises
    ------
    LockedError
        A server works on it already.
    FileError
        It cannot be opened.
    NewerError, OlderError, ForeignError
        It is not a log of this version, and cannot be made one.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.place = f"the database {path}"
        self.bell = Bell()
        self._read_only = read_only
        self._path = path
        self._one_writer = threading.Lock()
        self._closed = False
        if read_only and not path.is_file():
            raise FileError(f"there is no database {path}; name the file that a server has written")
        self._lock = None if read_only else FileLock(path)
        mode, configure = ("ro", _configure_read_only) if read_only else ("rw", _configure)
        self._engine = _engine(path, mode, QueuePool, pool_size=CONNECTIONS_MAX, max_overflow=0)
        event.listen(self._engine, "connect", configure)
        try:
            with translated(self.place):
                self._prepare()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Return a connection on which every statement stands alone."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Return a connection in a transaction that commits at the end."""
        # SQLite lets one write at a time and makes the others sleep and try again; a lock wakes them at once.
        with self._turn(), self._engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def append(self, records: Sequence[Record], keys: Sequence[CommandKey], expected: int, term: int | None) -> bool:
        """Append in one transaction; False: the head or the term is another, and nothing was done."""
        rows = [
            (p, r.at, r.type, r.version, r.subject, r.tenant, r.actor, r.trace, r.audit, r.body.decode())
            for p, r in enumerate(records, expected + 1)
        ]
        with self._driver() as driver:
            driver.execute("BEGIN IMMEDIATE")
            if not driver.execute(_ADVANCE, (expected + len(rows), expected, term)).rowcount:
                return False
            driver.executemany(_INSERT, rows)
            driver.executemany(_NOTE, [(k.key, k.digest, k.position, k.at) for k in keys])
            driver.commit()
        return True

    def insert_or_replace(self, connection: Connection, table: Any, row: dict[str, Any]) -> None:
        """Insert a row, in place of the one with the same primary key."""
        connection.execute(insert(table).values(row).on_conflict_do_update(index_elements=table.primary_key, set_=row))

    def now_s(self, connection: Connection) -> float:
        """Return the machine's monotonic clock: every opening voids the lease, so none outlives a boot."""
        return time.monotonic()

    def poll_s(self) -> float:
        """Return how long to trust the bell."""
        return POLL_S if self._read_only else TRUST_S

    def backup(self, path: str) -> None:
        """Write a consistent copy into a new file, while appends go on."""
        with new_file(Path(path)) as part, self._engine.connect() as connection:
            source: Any = connection.connection.driver_connection
            try:
                target = sqlite3.connect(part)
                try:
                    source.backup(target)
                    target.execute("PRAGMA journal_mode = DELETE")  # one file, nothing beside it
                finally:
                    target.close()
            except sqlite3.Error as error:
                raise BackupError(f"the backup {path} could not be written: {first_line(error)}") from error

    def close(self) -> None:
        """Wait for a write under way, then let go of the file and of the lock beside it."""
        with self._one_writer:
            self._closed = True
            self._engine.dispose()
            if self._lock:
                self._lock.release()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self._one_writer:
            if self._closed:  # while this one waited; the lock beside the file may be another server's by now
                raise StoreError(f"{self.place} has been closed; open it again")
            yield

    @contextmanager
    def _driver(self) -> Iterator[sqlite3.Connection]:
        # The hot path goes past SQLAlchemy, which takes as long as the disk does. The pool rolls back what was not committed.
        try:
            with self._turn(), closing(self._engine.raw_connection()) as pooled:
                yield cast(sqlite3.Connection, pooled.driver_connection)
        except sqlite3.Error as error:
            raise StoreError(f"{self.place} did not answer as it should: {first_line(error)}") from error

    def _prepare(self) -> None:
        try:
            if self._read_only:
                with self.reading() as connection:
                    check_current(connection, self.place)
            else:
                self._prepare_for_writing()
        except DBAPIError as error:
            if getattr(error.orig, "sqlite_errorname", "") != "SQLITE_NOTADB":
                raise
            raise ForeignError(f"{self._path} is not a database of SQLite; name another file") from None

    def _prepare_for_writing(self) -> None:
        _make_file(self._path)
        with self.writing() as connection:
            if revision_of(connection, self.place) != REVISIONS[-1]:
                migrate(connection)
            # Whoever led has let go of the lock, so is gone, whatever its lease says.
            connection.execute(update(HEAD).values(holder="", address="", ttl_s=0.0, lapses_at=0.0))


class FileLock:
    """An exclusive lock beside a database, held from opening to closing; the system frees it when the process dies.

    Parameters
    ----------
    path
        Of the database.

    Raises
    ------
    LockedError
        Somebody holds it.
    FileError
        The folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        lock = path.with_name(path.name + ".lock")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise FileError(f"{lock} cannot be written: {error.strerror}; choose a folder of yours") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise LockedError(
                f"{path} is in use by another server{f' (process {holder})' if holder.isdigit() else ''}; "
                "stop that one first, or give this one a data folder of its own"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. The file stays: removing it could take it from under somebody who is just locking it."""
        os.ftruncate(self._file, 0)
        os.close(self._file)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give an unfinished file to write to, which becomes ``path`` when it is whole, on the disk, and ``path`` is still free.

    Raises
    ------
    BackupError
        ``path`` exists, or its folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.exists():
            raise FileExistsError
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            yield part
            _sync(part)
            if path.exists():
                raise FileExistsError
            part.rename(path)
        finally:
            part.unlink(missing_ok=True)
        _sync(path.parent)
    except FileExistsError:
        raise BackupError(f"{path} exists already; a backup is written to a new file") from None
    except OSError as error:
        raise BackupError(f"the backup {path} cannot be written: {error.strerror}") from None


@contextmanager
def blank_file(path: Path, revision: str = REVISIONS[-1]) -> Iterator[Connection]:
    """Give a connection to an empty log in an empty file, in a transaction that commits at the end. Nothing is left beside it."""
    engine = _engine(path, "rwc", NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA synchronous = OFF")  # whoever asked for the file syncs it when it is whole
        connection.exec_driver_sql("BEGIN")
        migrate(connection, revision)
        yield connection


def sqlite_path(url: str) -> Path:
    """Return the file that a ``sqlite:///…`` url names.

    Raises
    ------
    UrlError
        It names none.
    """
    path = url.removeprefix("sqlite:///")
    if path == url or not path or path == ":memory:" or path.endswith("/"):
        raise UrlError(f"{url!r} names no file; write sqlite:///relative/plenum.db or sqlite:////absolute/plenum.db")
    return Path(path)


def _make_file(path: Path) -> None:
    # Tenants' names and jobs are in it; what SQLite puts beside it takes over the same permissions. A file that exists is never opened
    # here: closing it again would free the locks that SQLite holds on it in this process.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        _sync(path.parent)
    except FileExistsError:
        return
    except OSError as error:
        raise FileError(f"{path} cannot be made: {error.strerror}; choose a folder of yours") from None


def _engine(path: Path, mode: str, pool: type[Pool], **pooled: int) -> Engine:
    file = f"file:{quote(str(path.absolute()))}?mode={mode}"
    return create_engine(
        "sqlite://",
        # Transactions are begun by hand, so that the driver does not guess where.
        creator=lambda: sqlite3.connect(
            file, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        ),
        poolclass=pool,
        hide_parameters=True,
        **pooled,
    )


def _configure(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _configure_read_only(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA query_only = ON")


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
