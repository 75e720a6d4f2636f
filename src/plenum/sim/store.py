"""An event log in memory: what simulations and unit suites run on."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from plenum.model.errors import PlenumError
from plenum.ports.batches import SNAPSHOTS_KEPT, check_batch, check_snapshot, missing_snapshot
from plenum.ports.clock import Clock
from plenum.ports.store import CommandKey, ConflictError, FencedError, Lease, Record, Snapshot, StoreError

BEFORE = "before"
AFTER = "after"


class NoFileError(PlenumError):
    """A store that lives in memory was asked for a file."""

    code = "store.memory"


class MemoryStore:
    """An :class:`~plenum.ports.store.EventStore` without a disk; several controllers may share one.

    Parameters
    ----------
    clock
        Leases lapse by its ``monotonic()``.
    fault
        Asked before each operation, by the method's name (``append``, ``read``, ``acquire``, …), what goes wrong: ``""`` nothing,
        ``"before"`` a :class:`StoreError` and nothing done, ``"after"`` a :class:`StoreError` though everything was done. May be set and
        unset at any time. ``wait`` and ``close`` are spared.

    Notes
    -----
    ``wait`` blocks in real time; under a virtual clock ask with a timeout of 0.
    """

    def __init__(self, clock: Clock, fault: Callable[[str], str] | None = None) -> None:
        self.fault = fault
        self._clock = clock
        self._changed = threading.Condition()
        self._records: list[Record] = []
        self._positions: list[int] = []
        self._head = 0
        self._base = 0
        self._keys: dict[str, CommandKey] = {}
        self._snapshots: dict[int, Snapshot] = {}
        self._lease = Lease(term=0, holder="")
        self._lapses_at = 0.0

    def append(
        self,
        records: Sequence[Record],
        *,
        expected: int,
        keys: Sequence[CommandKey] = (),
        term: int | None = None,
    ) -> int:
        """Append records, all or none; a key used again replaces what was noted of it."""
        check_batch(records, keys)
        with self._operation("append"):
            if term is not None and term != self._lease.term:
                raise FencedError(f"term {term} is over; the log is led in term {self._lease.term}")
            if expected != self._head:
                raise ConflictError(expected, self._head)
            for position, record in enumerate(records, self._head + 1):
                self._records.append(msgspec.structs.replace(record, position=position))
                self._positions.append(position)
            self._head += len(records)
            self._keys |= {key.key: key for key in keys}
            self._changed.notify_all()
            return self._head

    def read(self, after: int, limit: int, *, subject: str = "", tenant: str | None = None) -> list[Record]:
        """Return records above a position, oldest first."""
        with self._operation("read"):
            start = bisect_right(self._positions, after)
            if not subject and tenant is None:
                return self._records[start : start + max(0, limit)]
            found = []
            for record in self._records[start:]:
                if len(found) >= limit:
                    break
                if (not subject or record.subject == subject) and tenant in (None, record.tenant):
                    found.append(record)
            return found

    def head(self) -> int:
        """Return the last position."""
        with self._operation("head"):
            return self._head

    def base(self) -> int:
        """Return the position up to which compaction may have removed records."""
        with self._operation("base"):
            return self._base

    def find_keys(self, keys: Sequence[str]) -> dict[str, CommandKey]:
        """Return those keys that were used before."""
        with self._operation("find_keys"):
            return {key: self._keys[key] for key in keys if key in self._keys}

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; the newest few and the one compaction rests on stay."""
        with self._operation("save_snapshot"):
            check_snapshot(snapshot, self._head)
            self._snapshots[snapshot.position] = snapshot
            newest = sorted(self._snapshots)[-SNAPSHOTS_KEPT:]
            self._keep_snapshots({self._base, *newest})

    def snapshot(self, at_most: int | None = None) -> Snapshot | None:
        """Return the newest snapshot, or the newest at or below a position."""
        with self._operation("snapshot"):
            positions = [p for p in self._snapshots if at_most is None or p <= at_most]
            return self._snapshots[max(positions)] if positions else None

    def drop_snapshots(self) -> None:
        """Forget every snapshot but the one that compaction rests on."""
        with self._operation("drop_snapshots"):
            self._keep_snapshots({self._base} if self._base else set())

    def compact(self, upto: int, *, keys_before: float = 0.0) -> int:
        """Remove records at or below ``upto`` that are not audit facts, and keys older than a time."""
        with self._operation("compact"):
            if upto not in self._snapshots:
                raise missing_snapshot(upto)
            self._base = upto
            end = bisect_left(self._positions, upto + 1)
            kept = [record for record in self._records[:end] if record.audit]
            self._records[:end] = kept
            self._positions[:end] = [record.position for record in kept]
            self._keep_snapshots(set(self._snapshots))
            self._keys = {name: key for name, key in self._keys.items() if key.at >= keys_before}
            return end - len(kept)

    def acquire(self, holder: str, ttl_s: float, address: str = "") -> Lease | None:
        """Take or renew leadership; None: somebody else holds it."""
        with self._operation("acquire"):
            now = self._clock.monotonic()
            held = now < self._lapses_at
            if held and holder != self._lease.holder:
                return None
            term = self._lease.term if held else self._lease.term + 1
            self._lease = Lease(term=term, holder=holder, address=address, ttl_s=ttl_s)
            self._lapses_at = now + ttl_s
            return self._lease

    def release(self, holder: str) -> None:
        """Give leadership up at once, if held; what the holder still sends in its term is fenced."""
        with self._operation("release"):
            if holder == self._lease.holder and self._clock.monotonic() < self._lapses_at:
                self._lease = Lease(term=self._lease.term + 1, holder="")
                self._lapses_at = 0.0

    def leader(self) -> Lease | None:
        """Return who leads, if anybody does."""
        with self._operation("leader"):
            return self._lease if self._clock.monotonic() < self._lapses_at else None

    def wait(self, after: int, timeout_s: float) -> bool:
        """Block until the head is above ``after``; False: it was not within the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._head > after, timeout_s)

    def backup(self, path: str) -> None:
        """Refuse: there is nothing on disk."""
        raise NoFileError(
            f"the log is in memory and is not written to {path}; use SQLite or PostgreSQL for what must last"
        )

    def close(self) -> None:
        """Do nothing: others may share the log, and it may be opened again."""

    def _keep_snapshots(self, positions: set[int]) -> None:
        # One below the base is of no use: the records between them are gone.
        self._snapshots = {p: s for p, s in self._snapshots.items() if p in positions and p >= self._base}

    @contextmanager
    def _operation(self, name: str) -> Iterator[None]:
        with self._changed:
            fault = self.fault(name) if self.fault else ""
            if fault == BEFORE:
                raise StoreError(f"simulated: {name} did not reach the store")
            yield
            if fault == AFTER:
                raise StoreError(f"simulated: the answer to {name} was lost")
