"""Fills an empty store from a backup: a SQLite file, whichever database it was taken of."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, func, select

from plenum.adapters.stores.copying import copy_log, pages
from plenum.adapters.stores.faults import BackupError, OlderError, translated
from plenum.adapters.stores.opening import open_store
from plenum.adapters.stores.sqlite import SqliteBackend
from plenum.adapters.stores.tables import COMMAND_KEYS, HEAD, RECORDS, SNAPSHOTS
from plenum.ports.store import TERM_GAP


def restore_backup(path: str, url: str) -> int:
    """Fill an empty store from a backup, all or nothing.

    Parameters
    ----------
    path
        A file that :meth:`~plenum.ports.store.EventStore.backup` wrote, of this version or an older one.
    url
        Of the store, as :func:`~plenum.adapters.stores.opening.open_store` takes it; made, where it is a file that does not exist.

    Returns
    -------
    int
        Position that the log is at.

    Raises
    ------
    BackupError
        The backup is damaged, or the store is not empty.
    PlenumError
        Either cannot be opened.

    Notes
    -----
    The term jumps ahead: orders given after the backup was taken stay older than those of the next leader.
    """
    with _opened(Path(path)) as source:
        head = _check_whole(source, path)
        store = open_store(url)
        try:
            place = store.backend.place
            with translated(place), store.backend.writing() as target:
                _check_empty(target, place)
                copy_log(source, target, term_gap=TERM_GAP)
        finally:
            store.close()
    return head


@contextmanager
def _opened(path: Path) -> Iterator[Connection]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            backend = SqliteBackend(path, read_only=True)
        except OlderError:
            copy = Path(folder) / "copy.db"
            shutil.copyfile(path, copy)
            backend = SqliteBackend(copy)
        try:
            with translated(backend.place), backend.reading() as connection:
                yield connection
        finally:
            backend.close()


def _check_whole(source: Connection, path: str) -> int:
    if (damage := source.exec_driver_sql("PRAGMA quick_check(1)").scalar()) != "ok":
        raise BackupError(f"the backup {path} is damaged: {damage}")
    head, base = source.execute(select(HEAD.c.position, HEAD.c.base)).one()
    position = RECORDS.c.position
    lowest, highest = source.execute(select(func.min(position), func.max(position))).one()
    above = source.scalar(select(func.count()).where(position > base)) or 0
    if above != head - base or (highest or 0) > head or (lowest or 1) < 1:
        raise BackupError(
            f"the backup {path} is damaged: the log ends at {head} and is whole above {base}, "
            f"which takes {head - base} records, but {above} are there"
        )
    _check_snapshots(source, path, base)
    return head


def _check_snapshots(source: Connection, path: str, base: int) -> None:
    found = {0}
    for rows in pages(source, SNAPSHOTS, 1):
        for row in rows:
            if hashlib.sha256(row["data"]).hexdigest() != row["digest"]:
                raise BackupError(f"the backup {path} is damaged: the snapshot at {row['position']} has another digest")
            found.add(row["position"])
    if base not in found:
        raise BackupError(
            f"the backup {path} is damaged: the snapshot at {base}, which compaction rests on, is missing"
        )


def _check_empty(target: Connection, place: str) -> None:
    head = target.execute(select(HEAD).with_for_update()).one()
    if head.position or target.execute(select(COMMAND_KEYS.c.key).limit(1)).first():
        raise BackupError(f"{place} holds a log already (it is at {head.position}); restore into an empty one")
