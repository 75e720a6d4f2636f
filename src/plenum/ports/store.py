"""The event log: an append-only, totally ordered sequence of records, with leases, command keys and snapshots beside it.

Every method may block; callers on an event loop run it in a thread. A store may be used from several threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from plenum.model.errors import PlenumError

TERM_GAP = 1_000_000
"""What a restored log's term is ahead of its backup's: nodes have seen terms after the backup, and refuse older orders."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One fact.

    Parameters
    ----------
    position
        1, 2, 3, … without gaps; 0 until appended.
    at
        Seconds since the epoch, by the writer's clock.
    type, version
        Which event, and which form of its body.
    subject
        What it is about, for example ``job/research/pretrain``; empty: the control plane itself.
    tenant
        Whose; empty: the operator's.
    actor
        Who caused it: a user, ``node/NAME`` or ``control``.
    trace
        W3C trace id (32 hex digits) of the request or job; may be empty.
    audit
        Kept by compaction.
    body
        JSON.
    """

    position: int = 0
    at: float
    type: str
    version: int = 1
    subject: str = ""
    tenant: str = ""
    actor: str = ""
    trace: str = ""
    audit: bool = False
    body: bytes = b"{}"


class CommandKey(msgspec.Struct, frozen=True, kw_only=True):
    """A client's key of a command that was carried out.

    Parameters
    ----------
    key
        Scoped by the caller (``user:key``), at most 300 characters.
    digest
        Of the request; the same key with another request is an error of the client's.
    position
        Of the last record the command wrote (or the log's head, had it nothing to write).
    """

    key: str
    digest: str
    position: int = 0
    at: float = 0.0


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Leadership.

    Parameters
    ----------
    term
        The fencing token: grows by at least one whenever the holder changes.
    address
        Where the holder can be reached; empty: nowhere.
    """

    term: int
    holder: str
    address: str = ""
    ttl_s: float = 0.0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state at a position, as bytes, with their SHA-256 in hexadecimal."""

    position: int
    digest: str
    data: bytes


class StoreError(PlenumError):
    """The store cannot be reached or did not answer; whether an append took place is then unknown."""

    code = "store.unavailable"


class ConflictError(PlenumError):
    """The log has moved on since the position that was expected."""

    code = "store.conflict"

    def __init__(self, expected: int, head: int) -> None:
        super().__init__(f"the log is at {head}, not at {expected}; catch up and decide again")
        self.expected, self.head = expected, head


class FencedError(PlenumError):
    """A newer leader has taken over."""

    code = "store.fenced"


class EventStore(Protocol):
    """The port. Implementations: memory, SQLite, PostgreSQL."""

    def append(
        self,
        records: Sequence[Record],
        *,
        expected: int,
        keys: Sequence[CommandKey] = (),
        term: int | None = None,
    ) -> int:
        """Append records durably, all or none.

        Parameters
        ----------
        records
            Their ``position`` is ignored; they get ``expected + 1, …``.
        expected
            Position that the writer has seen the log at.
        keys
            Noted in the same transaction, with the positions they carry.
        term
            The writer leads in this term; None: leadership does not matter.

        Returns
        -------
        int
            The new head.

        Raises
        ------
        ConflictError
            The head is not at ``expected``.
        FencedError
            ``term`` is not the current term.
        StoreError
            Unreachable or failed; the append may or may not have taken place.
        """
        ...

    def read(self, after: int, limit: int, *, subject: str = "", tenant: str | None = None) -> list[Record]:
        """Return records above a position, oldest first, at most ``limit``; optionally of one subject, of one tenant."""
        ...

    def head(self) -> int:
        """Return the last position; 0: the log is empty."""
        ...

    def base(self) -> int:
        """Return the position up to which records may be missing because of compaction; 0: none are."""
        ...

    def find_keys(self, keys: Sequence[str]) -> dict[str, CommandKey]:
        """Return those keys that were used before."""
        ...

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; older ones beyond the newest few, and any that compaction does not need, go."""
        ...

    def snapshot(self, at_most: int | None = None) -> Snapshot | None:
        """Return the newest snapshot, or the newest at or below a position."""
        ...

    def drop_snapshots(self) -> None:
        """Forget every snapshot that can be made again from the records (all but the one compaction rests on)."""
        ...

    def compact(self, upto: int, *, keys_before: float = 0.0) -> int:
        """Remove records at or below ``upto`` that are not audit facts, and command keys older than a time.

        There must be a snapshot at ``upto`` exactly; it is kept from then on and replaying starts there. Returns the number removed.

        Raises
        ------
        PlenumError
            There is no snapshot at ``upto``.
        """
        ...

    def acquire(self, holder: str, ttl_s: float, address: str = "") -> Lease | None:
        """Take or renew leadership; None: somebody else holds it. The same holder keeps its term while its lease has not lapsed."""
        ...

    def release(self, holder: str) -> None:
        """Give leadership up at once, if held."""
        ...

    def leader(self) -> Lease | None:
        """Return who leads; None: nobody, or the lease has lapsed."""
        ...

    def wait(self, after: int, timeout_s: float) -> bool:
        """Block until the head is above ``after``; False: it was not within the timeout."""
        ...

    def backup(self, path: str) -> None:
        """Write a consistent copy of everything to a new file."""
        ...

    def close(self) -> None:
        """Release connections and locks."""
        ...
