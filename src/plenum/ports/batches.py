"""What every store asks of an append before it looks at the log."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from plenum.model.errors import PlenumError
from plenum.ports.store import CommandKey, Record, Snapshot

RECORDS_MAX = 5_000
KEYS_MAX = 1_000
KEY_CHARACTERS_MAX = 300
NAME_CHARACTERS_MAX = 1_000
BODY_BYTES_MAX = 16 * 2**20

SNAPSHOTS_KEPT = 3
"""Newest snapshots that a store keeps, beside the one that compaction rests on."""


class BatchError(PlenumError):
    """An append, or a part of it, that no store takes; trying again cannot help."""

    code = "store.batch"


def check_batch(records: Sequence[Record], keys: Sequence[CommandKey]) -> None:
    """Refuse what is too large for any store, or cannot be written to all of them.

    Raises
    ------
    BatchError
        Too many records or keys, a name or body that is too long, a NUL character, a body that is not UTF-8, a time that is none.
    """
    if len(records) > RECORDS_MAX or len(keys) > KEYS_MAX:
        raise BatchError(
            f"{len(records)} records and {len(keys)} keys are too many for one append; "
            f"at most {RECORDS_MAX} and {KEYS_MAX} go together"
        )
    for record in records:
        _check_record(record)
    for key in keys:
        _check_name(key.key, "key", KEY_CHARACTERS_MAX)
        _check_name(key.digest, "digest", KEY_CHARACTERS_MAX)


class SnapshotError(PlenumError):
    """A snapshot that is not there, or cannot be right."""

    code = "store.snapshot"


def check_snapshot(snapshot: Snapshot, head: int) -> None:
    """Refuse a snapshot of what the log does not say yet: starting from it would skip records.

    Raises
    ------
    SnapshotError
        Its position is not one of the log's.
    """
    if not 0 < snapshot.position <= head:
        raise SnapshotError(f"a snapshot at {snapshot.position} cannot be of a log that is at {head}")


def missing_snapshot(upto: int) -> SnapshotError:
    """Return the error of a compaction that nothing would rest on."""
    return SnapshotError(f"there is no snapshot at {upto}; save one there, then compact up to it")


def _check_record(record: Record) -> None:
    if not isfinite(record.at):
        raise BatchError(f"the time of {record.type!r} is {record.at}; seconds since the epoch are needed")
    if len(record.body) > BODY_BYTES_MAX:
        raise BatchError(f"the body of {record.type!r} has {len(record.body)} bytes; at most {BODY_BYTES_MAX} are kept")
    try:
        record.body.decode()
    except UnicodeDecodeError:
        raise BatchError(f"the body of {record.type!r} is not UTF-8; JSON is") from None
    if b"\0" in record.body:
        raise BatchError(f"the body of {record.type!r} holds a NUL byte; JSON writes it as \\u0000")
    for field in ("type", "subject", "tenant", "actor", "trace"):
        _check_name(getattr(record, field), field, NAME_CHARACTERS_MAX)


def _check_name(name: str, field: str, characters_max: int) -> None:
    if len(name) > characters_max:
        raise BatchError(f"a {field} of {len(name)} characters is too long; at most {characters_max} are kept")
    if "\0" in name or not _encodes(name):
        raise BatchError(f"{field} {name!r} holds a character that cannot be stored (NUL or half of a surrogate pair)")


def _encodes(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
