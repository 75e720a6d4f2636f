"""Fetches the files of a listing into a folder: several at once, each from where it stopped, checked before it counts."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from plenum.adapters.nodes.files import make_folder
from plenum.adapters.weights.digests import MAX_FILES, READ_BYTES, Entry, Progress, hash_file
from plenum.adapters.weights.listings import BrokenError, Item, Listing, check_name
from plenum.adapters.weights.references import DigestError, WeightsError

PARALLEL = 4
MAX_TRIES = 6
PAUSE_S = 0.2
"""Before the second try; doubles each time."""

MAX_UNPACKED_RATIO = 20
"""Of an archive's files to the archive: weights do not get smaller when they are packed."""


def fetch(listing: Listing, folder: Path, progress: Progress) -> list[Entry]:
    """Fetch all files into ``folder/files``; what an earlier call left there is gone on with.

    Parameters
    ----------
    folder
        Of this version of this reference alone; nobody else writes there.

    Raises
    ------
    DigestError
        A file is not what the store says; it is thrown away.
    BrokenError
        A transfer breaks off again and again.
    """
    make_folder(folder / "parts")
    files = make_folder(folder / "files")
    told = _Told(progress, listing.size_bytes)
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="weights") as pool:
        working = [pool.submit(_fetch_one, item, folder / "parts", files, told) for item in listing.items]
        try:
            found = [entry for each in working for entry in each.result()]
        except BaseException:
            told.stopped = True
            pool.shutdown(cancel_futures=True)
            raise
    names = [entry.name for entry in found]
    if twice := next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None:
        raise WeightsError(f"{twice!r} is there twice, in different archives")
    return found


class _Told:
    """Progress of all files together."""

    def __init__(self, progress: Progress, total_bytes: int) -> None:
        self._progress, self._total_bytes = progress, total_bytes
        self._lock = threading.Lock()
        self._done_bytes = 0
        self.stopped = False

    def add(self, read_bytes: int) -> None:
        with self._lock:
            self._done_bytes += read_bytes
            if self.stopped:
                raise WeightsError("another file could not be fetched")
            self._progress(self._done_bytes, self._total_bytes)


def _fetch_one(item: Item, parts: Path, files: Path, told: _Told) -> list[Entry]:
    name = hashlib.sha256(f"{item.name}\0{item.version}".encode()).hexdigest()
    part = parts / name[:40]
    whole = files / item.name
    if item.archive or not whole.exists():
        sha256 = _download(item, part, told)
    else:  # moved there before a kill
        sha256 = hash_file(whole, told.add)
        _check(item, whole, sha256)
    if item.archive:
        return _unpack(part, files, item)
    if not whole.exists():
        whole.parent.mkdir(parents=True, exist_ok=True)
        part.chmod(0o444)
        os.replace(part, whole)
    return [Entry(name=item.name, size_bytes=item.size_bytes, sha256=sha256)]


def _download(item: Item, part: Path, told: _Told) -> str:
    """Return the digest of a file once all of it is in ``part``."""
    digest, had = hashlib.sha256(), 0
    with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+b") as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
            had += len(piece)
        told.add(had)
        for attempt in range(MAX_TRIES):
            try:
                had = _go_on(item, stream, had, digest.update, told)
                break
            except BrokenError:
                had = stream.tell()
                if attempt + 1 == MAX_TRIES:
                    raise
                time.sleep(PAUSE_S * 2**attempt)
        stream.flush()
        os.fsync(stream.fileno())
    _check(item, part, digest.hexdigest())
    return digest.hexdigest()


def _go_on(item: Item, stream: BinaryIO, had: int, update: Callable[[bytes], None], told: _Told) -> int:
    if had >= item.size_bytes:
        return had
    with item.read(had) as pieces:
        for piece in pieces:
            had += len(piece)
            if had > item.size_bytes:
                break
            stream.write(piece)
            update(piece)
            told.add(len(piece))
    if had < item.size_bytes:
        raise BrokenError(f"{item.name} broke off after {had:,} of {item.size_bytes:,} bytes")
    return had


def _check(item: Item, path: Path, sha256: str) -> None:
    size_bytes = path.stat().st_size
    if size_bytes == item.size_bytes and (not item.sha256 or item.sha256 == sha256):
        return
    path.unlink()  # so that the next try does not go on with it
    what = f"{size_bytes:,} bytes of {item.size_bytes:,}" if size_bytes != item.size_bytes else f"sha256:{sha256}"
    raise DigestError(f"{item.name} came as {what}, not as published; it was thrown away, so try again")


def _unpack(part: Path, files: Path, item: Item) -> list[Entry]:
    """Unpack the plain files of an archive; links, devices and paths that leave the folder end it."""
    entries: list[Entry] = []
    try:
        with tarfile.open(part, "r:*") as archive:
            for member, name in _members(archive, item):
                target = files / name
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(member)
                assert source is not None
                with contextlib.closing(source), open(_new(target), "wb") as stream:
                    while piece := source.read(READ_BYTES):
                        stream.write(piece)
                    stream.flush()
                    os.fsync(stream.fileno())
                target.chmod(0o444)
                entries.append(Entry(name=name, size_bytes=member.size, sha256=hash_file(target)))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise WeightsError(f"the archive {item.name} cannot be unpacked: {error}") from None
    part.unlink()
    return entries


def _members(archive: tarfile.TarFile, item: Item) -> Iterator[tuple[tarfile.TarInfo, str]]:
    room = item.size_bytes * MAX_UNPACKED_RATIO
    for number, member in enumerate(archive):
        name = member.name.removeprefix("./")
        if member.isdir():
            continue
        if not member.isreg():
            raise WeightsError(f"the archive {item.name} has {name[:100]!r}, which is no plain file")
        check_name(name)
        room -= member.size
        if room < 0 or number >= MAX_FILES:
            raise WeightsError(f"the archive {item.name} holds far more than its size; it is not unpacked")
        yield member, name


def _new(target: Path) -> int:
    target.unlink(missing_ok=True)  # what an earlier try left
    return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
