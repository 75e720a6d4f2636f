"""PostgreSQL: several servers on one log, of which one leads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection, create_engine, func, select, text
from sqlalchemy.dialects.postgresql import insert

from plenum.adapters.stores.copying import copy_log
from plenum.adapters.stores.faults import ForeignError, UrlError, translated
from plenum.adapters.stores.sql_store import Bell
from plenum.adapters.stores.sqlite import blank_file, new_file
from plenum.adapters.stores.tables import REVISIONS
from plenum.adapters.stores.upgrade import check_current, migrate, revision_of
from plenum.model.errors import MissingExtraError
from plenum.ports.store import CommandKey, Record

if TYPE_CHECKING:
    import psycopg

OLDEST_SERVER = 15
CONNECTIONS_MAX = 10
CONNECTION_WAIT_S = 10.0
STATEMENT_TIMEOUT_MS = 30_000
LOCK_TIMEOUT_MS = 10_000
IDLE_IN_TRANSACTION_MS = 60_000

LISTEN_SLICE_S = 1.0
"""How long the listener sleeps before it looks whether it is to stop."""

LISTEN_AGAIN_S = 1.0
POLL_S = 0.2
"""How often to look at the log while nobody tells of its growth."""

TRUST_S = 5.0
"""How often to look though somebody does: a connection may be dead without knowing."""

CHANNEL = "plenum_log"
MIGRATION_LOCK = 0x504C_454E_554D
"""Advisory lock that servers starting together take turns by."""

CONNECTION_DEFAULTS = {
    "application_name": "plenum",
    "connect_timeout": "5",
    # A server that vanished without a word is noticed in about a quarter of a minute.
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}

# One statement, so one round trip: whoever updates the head first holds its row until the commit, and those after it find that the
# condition no longer holds, whereupon the rest inserts nothing.
_APPEND = """
WITH moved AS (
  UPDATE log_head SET position = %(head)s
  WHERE position = %(expected)s AND term = coalesce(%(term)s::bigint, term)
  RETURNING position
), written AS (
  INSERT INTO records (position, at, type, version, subject, tenant, actor, trace, audit, body)
  SELECT r.position, r.at, r.type, r.version, r.subject, r.tenant, r.actor, r.trace, r.audit, r.body
  FROM moved, json_to_recordset(%(records)s::json) AS r (
    position bigint, at float8, type text, version int, subject text, tenant text, actor text, trace text, audit bool, body text
  )
)
SELECT pg_notify(%(channel)s, position::text) FROM moved
"""

_APPEND_WITH_KEYS = _APPEND.replace(
    "\n)\nSELECT pg_notify",
    """
), noted AS (
  INSERT INTO command_keys (key, digest, position, at)
  SELECT k.key, k.digest, k.position, k.at
  FROM moved, json_to_recordset(%(keys)s::json) AS k (key text, digest text, position bigint, at float8)
  ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, position = excluded.position, at = excluded.at
)
SELECT pg_notify""",
)

_SETTINGS = """
SELECT set_config('statement_timeout', %(statement)s, false), set_config('lock_timeout', %(lock)s, false),
  set_config('idle_in_transaction_session_timeout', %(idle)s, false),
  set_config('default_transaction_read_only', %(read_only)s, false)
"""

_TIMEOUTS = {
    "statement": str(STATEMENT_TIMEOUT_MS),
    "lock": str(LOCK_TIMEOUT_MS),
    "idle": str(IDLE_IN_TRANSACTION_MS),
}


class PostgresBackend:
    """A :class:`~plenum.adapters.stores.sql_store.Backend` over a PostgreSQL database.

    Parameters
    ----------
    url
        Whatever libpq takes; what it leaves open is set for a server that must notice lost connections.
    read_only
        Change nothing, migrate nothing.

    Raises
    ------
    UrlError
        The url cannot be parsed.
    StoreError
        The server cannot be reached, or lets nobody in.
    ForeignError
        The server is too old, or the database is somebody else's.
    NewerError, OlderError
        The database is not of this version's revision, and cannot be brought to it.
    MissingExtraError
        psycopg is not installed.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        options = _options(url)
        self.place = f"PostgreSQL database {options.get('dbname', '')!r} on {options.get('host') or 'this machine'}"
        self.bell = Bell()
        self._options = CONNECTION_DEFAULTS | options
        self._read_only = read_only
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            pool_size=CONNECTIONS_MAX,
            max_overflow=0,
            pool_timeout=CONNECTION_WAIT_S,
            use_native_hstore=False,
            hide_parameters=True,
        )
        self._standalone = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._listener = Listener(self._connect, self.bell)
        try:
            with translated(self.place):
                self._prepare()
        except BaseException:
            self._engine.dispose()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Return a connection on which every statement stands alone."""
        with self._standalone.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Return a connection in a transaction that commits at the end."""
        with self._engine.begin() as connection:
            yield connection

    def append(self, records: Sequence[Record], keys: Sequence[CommandKey], expected: int, term: int | None) -> bool:
        """Append in one statement; False: the head or the term is another, and nothing was done."""
        # As JSON, which takes one pass each way however many there are; arrays a column take several times as long to write and parse.
        values: dict[str, Any] = {
            "channel": CHANNEL,
            "expected": expected,
            "head": expected + len(records),
            "term": term,
        }
        values["records"] = msgspec.json.encode(
            [
                msgspec.structs.asdict(record) | {"position": position, "body": record.body.decode()}
                for position, record in enumerate(records, expected + 1)
            ]
        ).decode()
        if keys:
            values["keys"] = msgspec.json.encode(list({key.key: key for key in keys}.values())).decode()
        with self.reading() as connection:
            return connection.exec_driver_sql(_APPEND_WITH_KEYS if keys else _APPEND, values).first() is not None

    def insert_or_replace(self, connection: Connection, table: Any, row: dict[str, Any]) -> None:
        """Insert a row, in place of the one with the same primary key."""
        connection.execute(insert(table).values(row).on_conflict_do_update(index_elements=table.primary_key, set_=row))

    def now_s(self, connection: Connection) -> float:
        """Return the database's clock: the one that all servers share."""
        return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())

    def poll_s(self) -> float:
        """Return how long to trust the bell; start listening, if nobody does."""
        return TRUST_S if self._listener.listen() else POLL_S

    def backup(self, path: str) -> None:
        """Write a consistent copy into a new SQLite file, while appends go on."""
        with new_file(Path(path)) as part, blank_file(part) as target, self._engine.connect() as connection:
            source = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            copy_log(source, target)

    def close(self) -> None:
        """Stop listening and let go of every connection."""
        self._listener.stop(self._wake_listener)
        self._engine.dispose()

    def _wake_listener(self) -> None:
        try:
            with self.reading() as connection:
                connection.execute(select(func.pg_notify(CHANNEL, "")))
        except Exception:  # a listener whose server is gone wakes by itself, a little later
            return

    def _connect(self) -> psycopg.Connection[Any]:
        import psycopg
        from psycopg.conninfo import make_conninfo

        connection = psycopg.connect(make_conninfo(**self._options), autocommit=True)
        try:
            # Not by libpq's "options", which a pooler may refuse and the url may hold already.
            connection.execute(_SETTINGS, _TIMEOUTS | {"read_only": "on" if self._read_only else "off"})
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self) -> None:
        with self.reading() as connection:
            version = connection.scalar(text("SELECT current_setting('server_version_num')::int / 10000"))
            if version < OLDEST_SERVER:
                raise ForeignError(f"{self.place} runs PostgreSQL {version}; {OLDEST_SERVER} or newer is needed")
            if self._read_only:
                check_current(connection, self.place)
                return
            if revision_of(connection, self.place) == REVISIONS[-1]:
                return
        with self.writing() as connection:
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            if revision_of(connection, self.place) != REVISIONS[-1]:
                migrate(connection)


class Listener:
    """A thread that rings a bell whenever PostgreSQL tells that the log has grown; begun when first asked for.

    Parameters
    ----------
    connect
        Makes a connection of its own.
    bell
        What to ring; also once it listens, since the log may have grown before.
    """

    def __init__(self, connect: Any, bell: Bell) -> None:
        self._connect = connect
        self._bell = bell
        self._listening = False
        self._stopped = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def listen(self) -> bool:
        """Start, if need be; False: it has no connection at the moment."""
        with self._starting:
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(target=self._run, name="plenum-listener", daemon=True)
                self._thread.start()
        return self._listening

    def stop(self, wake: Any) -> None:
        """End the thread; ``wake`` is called to make its connection say something."""
        with self._starting:
            self._stopped.set()
        if self._thread is not None:
            if self._listening:
                wake()
            self._thread.join()

    def _run(self) -> None:
        import psycopg

        while not self._stopped.is_set():
            try:
                with self._connect() as connection:
                    connection.autocommit = True
                    connection.execute("LISTEN " + CHANNEL)
                    self._listening = True
                    self._bell.ring()
                    while not self._stopped.is_set():
                        for _ in connection.notifies(timeout=LISTEN_SLICE_S, stop_after=1):
                            self._bell.ring()
            except psycopg.Error:
                self._stopped.wait(LISTEN_AGAIN_S if not self._listening else 0.0)
            finally:
                self._listening = False


def _options(url: str) -> dict[str, Any]:
    try:
        import psycopg
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:
        raise MissingExtraError(
            "PostgreSQL needs psycopg, which is not installed; run: pip install 'plenum-os[postgres]'"
        ) from error
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        # Not quoted, and not chained: libpq repeats the part it could not parse, which may be the password.
        raise UrlError(
            "the url of the PostgreSQL database cannot be parsed; write postgresql://user:password@host:5432/database, "
            "with special characters percent-encoded"
        ) from None
