"""The event log in a database: what SQLite and PostgreSQL have in common."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from sqlalchemy import Connection, Row, Select, delete, select, update

from plenum.adapters.stores.faults import ReadOnlyError, translated
from plenum.adapters.stores.tables import COMMAND_KEYS, HEAD, RECORDS, SNAPSHOTS
from plenum.ports.batches import SNAPSHOTS_KEPT, check_batch, check_snapshot, missing_snapshot
from plenum.ports.store import CommandKey, ConflictError, FencedError, Lease, Record, Snapshot, StoreError

KEYS_A_QUERY = 500
COMPACTED_AT_ONCE = 10_000
"""Records that one transaction of a compaction removes; appends get their turn in between."""

ASK_AGAIN_S = 0.2
"""Between questions of ``wait`` to a database that does not answer."""


class Bell:
    """Wakes those who wait for the log to grow."""

    def __init__(self) -> None:
        self._rung = threading.Condition()
        self._count = 0

    def ring(self) -> None:
        """Wake everybody."""
        with self._rung:
            self._count += 1
            self._rung.notify_all()

    def count(self) -> int:
        """Return how often it has rung; take it before looking at the log, so that no ring falls between looking and waiting."""
        with self._rung:
            return self._count

    def wait(self, count: int, timeout_s: float) -> None:
        """Block until it has rung more often than ``count``, or the timeout has passed."""
        with self._rung:
            self._rung.wait_for(lambda: self._count != count, timeout_s)


class Backend(Protocol):
    """One kind of database.

    Parameters
    ----------
    place
        What to call it in sentences; holds no secret.
    bell
        Rung when the log may have grown.
    """

    place: str
    bell: Bell

    def reading(self) -> AbstractContextManager[Connection]:
        """Return a connection on which every statement stands alone."""
        ...

    def writing(self) -> AbstractContextManager[Connection]:
        """Return a connection in a transaction that commits at the end."""
        ...

    def append(self, records: Sequence[Record], keys: Sequence[CommandKey], expected: int, term: int | None) -> bool:
        """Append in one transaction; False: the head or the term is another, and nothing was done."""
        ...

    def insert_or_replace(self, connection: Connection, table: Any, row: dict[str, Any]) -> None:
        """Insert a row, in place of the one with the same primary key."""
        ...

    def now_s(self, connection: Connection) -> float:
        """Return the time that leases are measured by."""
        ...

    def poll_s(self) -> float:
        """Return how long to trust the bell before looking at the log again. Called by whoever is about to wait."""
        ...

    def backup(self, path: str) -> None:
        """Write a consistent copy into a new SQLite file."""
        ...

    def close(self) -> None:
        """Let go of everything; waits for a write under way."""
        ...


class SqlStore:
    """An :class:`~plenum.ports.store.EventStore` in a database.

    Parameters
    ----------
    backend
        The database, migrated.
    read_only
        Refuse to write.
    """

    def __init__(self, backend: Backend, *, read_only: bool = False) -> None:
        self.backend = backend
        self._read_only = read_only
        self._closed = False

    def append(
        self,
        records: Sequence[Record],
        *,
        expected: int,
        keys: Sequence[CommandKey] = (),
        term: int | None = None,
    ) -> int:
        """Append records durably, all or none; a key used again replaces what was noted of it."""
        check_batch(records, keys)
        with self._operation(writes=True):
            appended = self.backend.append(records, keys, expected, term)
        if not appended:
            raise self._refusal(expected, term)
        self.backend.bell.ring()
        return expected + len(records)

    def read(self, after: int, limit: int, *, subject: str = "", tenant: str | None = None) -> list[Record]:
        """Return records above a position, oldest first."""
        query = select(RECORDS).where(RECORDS.c.position > after).order_by(RECORDS.c.position).limit(max(0, limit))
        if subject:
            query = query.where(RECORDS.c.subject == subject)
        if tenant is not None:
            query = query.where(RECORDS.c.tenant == tenant)
        return [_record(row) for row in self._rows(query)]

    def head(self) -> int:
        """Return the last position."""
        return self._rows(select(HEAD.c.position))[0][0]

    def base(self) -> int:
        """Return the position up to which compaction may have removed records."""
        return self._rows(select(HEAD.c.base))[0][0]

    def find_keys(self, keys: Sequence[str]) -> dict[str, CommandKey]:
        """Return those keys that were used before."""
        found = {}
        for start in range(0, len(keys), KEYS_A_QUERY):
            query = select(COMMAND_KEYS).where(COMMAND_KEYS.c.key.in_(keys[start : start + KEYS_A_QUERY]))
            for key, digest, position, at in self._rows(query):
                found[key] = CommandKey(key=key, digest=digest, position=position, at=at)
        return found

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; the newest few and the one compaction rests on stay."""
        row = {"position": snapshot.position, "digest": snapshot.digest, "data": snapshot.data}
        with self._operation(writes=True), self.backend.writing() as connection:
            # Without a lock on the head, so that a large snapshot does not keep appends waiting.
            head, base = connection.execute(select(HEAD.c.position, HEAD.c.base)).one()
            check_snapshot(snapshot, head)
            self.backend.insert_or_replace(connection, SNAPSHOTS, row)
            newest = select(SNAPSHOTS.c.position).order_by(SNAPSHOTS.c.position.desc()).limit(SNAPSHOTS_KEPT)
            _keep_snapshots(connection, base, [base, *connection.scalars(newest)])

    def snapshot(self, at_most: int | None = None) -> Snapshot | None:
        """Return the newest snapshot, or the newest at or below a position."""
        base = select(HEAD.c.base).scalar_subquery()
        query = select(SNAPSHOTS).where(SNAPSHOTS.c.position >= base).order_by(SNAPSHOTS.c.position.desc()).limit(1)
        if at_most is not None:
            query = query.where(SNAPSHOTS.c.position <= at_most)
        rows = self._rows(query)
        return Snapshot(position=rows[0][0], digest=rows[0][1], data=bytes(rows[0][2])) if rows else None

    def drop_snapshots(self) -> None:
        """Forget every snapshot but the one that compaction rests on."""
        with self._operation(writes=True), self.backend.writing() as connection:
            base = connection.scalar(select(HEAD.c.base)) or 0
            _keep_snapshots(connection, base, [base])

    def compact(self, upto: int, *, keys_before: float = 0.0) -> int:
        """Remove records at or below ``upto`` that are not audit facts, and keys older than a time.

        In steps; cut short by a crash, it has removed some, and doing it again removes the rest.
        """
        with self._operation(writes=True):
            with self.backend.writing() as connection:
                head = _locked_head(connection)
                held = connection.scalar(select(SNAPSHOTS.c.position).where(SNAPSHOTS.c.position == upto))
                if held is None or upto < head.base:
                    raise missing_snapshot(upto)
                connection.execute(update(HEAD).values(base=upto))
                connection.execute(delete(SNAPSHOTS).where(SNAPSHOTS.c.position < upto))
                connection.execute(delete(COMMAND_KEYS).where(COMMAND_KEYS.c.at < keys_before))
            return self._remove_records(upto)

    def acquire(self, holder: str, ttl_s: float, address: str = "") -> Lease | None:
        """Take or renew leadership; None: somebody else holds it."""
        with self._operation(writes=True), self.backend.writing() as connection:
            head = _locked_head(connection)
            now = self.backend.now_s(connection)
            # A lease that has longer to go than it was ever given: the clock was set back, and the holder may be long gone.
            held = now < head.lapses_at <= now + 2 * max(head.ttl_s, ttl_s)
            if held and holder != head.holder:
                return None
            lease = Lease(term=head.term if held else head.term + 1, holder=holder, address=address, ttl_s=ttl_s)
            _write_lease(connection, lease, now + ttl_s)
            return lease

    def release(self, holder: str) -> None:
        """Give leadership up at once, if held; what the holder still sends in its term is fenced."""
        with self._operation(writes=True), self.backend.writing() as connection:
            head = _locked_head(connection)
            if holder == head.holder and self.backend.now_s(connection) < head.lapses_at:
                _write_lease(connection, Lease(term=head.term + 1, holder=""), 0.0)

    def leader(self) -> Lease | None:
        """Return who leads, if anybody does."""
        with self._operation(), self.backend.reading() as connection:
            head = connection.execute(select(HEAD)).one()
            if self.backend.now_s(connection) >= head.lapses_at:
                return None
            return Lease(term=head.term, holder=head.holder, address=head.address, ttl_s=head.ttl_s)

    def wait(self, after: int, timeout_s: float) -> bool:
        """Block until the head is above ``after``; False: it was not within the timeout, or the database could not be asked."""
        deadline = time.monotonic() + timeout_s
        while True:
            poll_s, rung = self.backend.poll_s(), self.backend.bell.count()
            try:
                if self.head() > after:
                    return True
            except StoreError:  # whoever waits goes on waiting; its next read says what is wrong
                poll_s = ASK_AGAIN_S
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self._closed:
                return False
            self.backend.bell.wait(rung, min(left_s, poll_s))

    def backup(self, path: str) -> None:
        """Write a consistent copy of everything into a new SQLite file, whichever the database.

        Raises
        ------
        BackupError
            Something is there already, or it cannot be written.
        """
        with self._operation():
            self.backend.backup(path)

    def close(self) -> None:
        """Release connections and locks; may be called again."""
        if self._closed:
            return
        self._closed = True
        self.backend.bell.ring()
        self.backend.close()

    def _refusal(self, expected: int, term: int | None) -> FencedError | ConflictError:
        position, current = self._rows(select(HEAD.c.position, HEAD.c.term))[0]
        if term is not None and term != current:
            return FencedError(f"term {term} is over; the log is led in term {current}")
        return ConflictError(expected, position)

    def _remove_records(self, upto: int) -> int:
        removed, low = 0, 0
        while True:
            with self.backend.writing() as connection:
                doomed = (RECORDS.c.position > low) & (RECORDS.c.position <= upto) & ~RECORDS.c.audit
                batch = select(RECORDS.c.position).where(doomed).order_by(RECORDS.c.position).limit(COMPACTED_AT_ONCE)
                positions = connection.scalars(batch).all()
                if not positions:
                    return removed
                connection.execute(delete(RECORDS).where(doomed & (RECORDS.c.position <= positions[-1])))
            removed += len(positions)
            low = positions[-1]

    def _rows(self, query: Select[*tuple[Any, ...]]) -> Sequence[Row[*tuple[Any, ...]]]:
        with self._operation(), self.backend.reading() as connection:
            return connection.execute(query).all()

    @contextmanager
    def _operation(self, *, writes: bool = False) -> Iterator[None]:
        if self._closed:
            raise StoreError(f"{self.backend.place} has been closed; open it again")
        if writes and self._read_only:
            raise ReadOnlyError(f"{self.backend.place} was opened for reading; open it for writing to change it")
        with translated(self.backend.place):
            yield


def _record(row: Row[*tuple[Any, ...]]) -> Record:
    position, at, type_, version, subject, tenant, actor, trace, audit, body = row
    return Record(
        position=position,
        at=at,
        type=type_,
        version=version,
        subject=subject,
        tenant=tenant,
        actor=actor,
        trace=trace,
        audit=audit,
        body=body.encode(),
    )


def _locked_head(connection: Connection) -> Row[*tuple[Any, ...]]:
    return connection.execute(select(HEAD).with_for_update()).one()


def _write_lease(connection: Connection, lease: Lease, lapses_at: float) -> None:
    connection.execute(
        update(HEAD).values(
            term=lease.term, holder=lease.holder, address=lease.address, ttl_s=lease.ttl_s, lapses_at=lapses_at
        )
    )


def _keep_snapshots(connection: Connection, base: int, positions: Sequence[int]) -> None:
    # One below the base is of no use: the records between them are gone.
    connection.execute(delete(SNAPSHOTS).where(SNAPSHOTS.c.position.not_in(positions) | (SNAPSHOTS.c.position < base)))
