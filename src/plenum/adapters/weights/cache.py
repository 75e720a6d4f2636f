"""A node's cache of weights: each once, by the digest of its content, held while a process uses it.

models/HEX/…      the files, read-only        models/HEX.json   what they are
used/HEX          a lock that users share; its time says when it was last asked for
names/KEY.json    what a reference was, at which version of the store
parts/KEY/…       what is being fetched       locks/KEY         one downloader for each reference
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from plenum.adapters.nodes.files import make_folder, replace, sync_folder
from plenum.adapters.weights.digests import Entry, Progress, digest_at, digest_of
from plenum.adapters.weights.references import WeightsError

MAX_WAIT_S = 6 * 3_600.0
"""For another process that fetches the same."""

LOOK_S = 0.2
SPARE_BYTES = 64 * 2**20
"""Left free on the disk for others."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Weights in the cache; ``single`` is the name of the file where they are one."""

    size_bytes: int
    single: str = ""


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference was."""

    reference: str
    digest: str
    version: str


class Cache:
    """A node's cache.

    Parameters
    ----------
    folder
        Made if absent.
    cap_bytes
        Of all weights in it; 0: what the disk has room for.
    """

    def __init__(self, folder: Path, cap_bytes: int = 0) -> None:
        self.folder, self._cap_bytes = make_folder(folder), cap_bytes
        for name in ("models", "used", "names", "parts", "locks"):
            make_folder(folder / name)

    def named(self, reference: str) -> Named | None:
        """Return what a reference was when it was last fetched."""
        try:
            return msgspec.json.decode((self.folder / "names" / f"{_key(reference)}.json").read_bytes(), type=Named)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def name(self, reference: str, digest: str, version: str) -> None:
        """Remember what a reference is."""
        named = Named(reference=reference, digest=digest, version=version)
        replace(self.folder / "names" / f"{_key(reference)}.json", msgspec.json.encode(named), durably=True)

    def hold(self, digest: str) -> tuple[Path, int, int] | None:
        """Return path and size of weights if they are here, and a descriptor: until it is closed nobody removes them."""
        hex = digest.removeprefix("sha256:")
        descriptor = os.open(self.folder / "used" / hex, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.utime(descriptor)
        kept, home = self._kept(hex), self.folder / "models" / hex
        if kept is None or not home.is_dir():
            os.close(descriptor)
            return None
        return (home / kept.single if kept.single else home), kept.size_bytes, descriptor

    def verify(self, digest: str, progress: Progress) -> bool:
        """Read weights again; returns whether they are whole. Damaged ones go: who has them open keeps them, nobody gets them anew."""
        hex = digest.removeprefix("sha256:")
        kept, home = self._kept(hex), self.folder / "models" / hex
        if kept is None:
            return False
        found, _ = digest_at(
            home / kept.single if kept.single else home, self.folder / "digests", progress, afresh=True
        )
        if found == digest:
            return True
        self._remove(hex)
        return False

    def publish(self, files: Path, entries: list[Entry], *, single: bool) -> str:
        """Make fetched files the weights of their digest, all at once; returns the digest."""
        digest = f"sha256:{entries[0].sha256}" if single else digest_of(entries)
        hex, home = digest.removeprefix("sha256:"), self.folder / "models" / digest.removeprefix("sha256:")
        kept = Kept(size_bytes=sum(e.size_bytes for e in entries), single=entries[0].name if single else "")
        if home.is_dir() and self._kept(hex) is not None:
            shutil.rmtree(files)  # another reference had the same
            return digest
        shutil.rmtree(home, ignore_errors=True)
        os.replace(files, home)
        sync_folder(self.folder / "models")
        replace(self.folder / "models" / f"{hex}.json", msgspec.json.encode(kept), durably=True)
        return digest

    def make_room(self, need_bytes: int, reference: str) -> None:
        """Remove the weights that were asked for longest ago and that nobody uses, until there is room.

        Raises
        ------
        WeightsError
            There is not enough that may go.
        """
        for hex in self._by_age():
            if self._lack_bytes(need_bytes) <= 0:
                return
            with self._lock_of(hex) as free:
                if free:
                    self._remove(hex)
        if (lack_bytes := self._lack_bytes(need_bytes)) > 0:
            raise WeightsError(
                f"{reference} needs {need_bytes:,} bytes more, {lack_bytes:,} more than this node's cache has beside what is in use"
            )

    @contextmanager
    def alone(self, reference: str, progress: Progress) -> Iterator[None]:
        """Be the only one on this node who fetches a reference; in a wait for another one, progress is that one's.

        Raises
        ------
        WeightsError
            The other one takes too long.
        """
        descriptor = os.open(self.folder / "locks" / _key(reference), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + MAX_WAIT_S
        try:
            while not _take(descriptor):
                if time.monotonic() > until:
                    raise WeightsError(f"another process has been fetching {reference} for too long")
                # It wrote how much there is to fetch into the lock; nothing yet, where it has just begun.
                text = os.pread(descriptor, 32, 0)
                total_bytes = int(text) if text.isdigit() else 0
                progress(min(size_of(self.parts(reference)), total_bytes), total_bytes)
                time.sleep(LOOK_S)
            yield
        finally:
            os.close(descriptor)

    def expect(self, reference: str, total_bytes: int) -> None:
        """Tell those who wait for a reference how much there is to fetch."""
        (self.folder / "locks" / _key(reference)).write_text(str(total_bytes), encoding="ascii")

    def parts(self, reference: str, version: str = "") -> Path:
        """Return the folder of what is being fetched; with a version, all other versions' go."""
        home = self.folder / "parts" / _key(reference)
        if not version:
            return home
        make_folder(home)
        for other in home.iterdir():
            if other.name != version[:40]:
                shutil.rmtree(other, ignore_errors=True)
        return make_folder(home / version[:40])

    def fetched(self, reference: str) -> None:
        """Remove what fetching left."""
        shutil.rmtree(self.folder / "parts" / _key(reference), ignore_errors=True)

    def _lack_bytes(self, need_bytes: int) -> int:
        lack_bytes = need_bytes + SPARE_BYTES - shutil.disk_usage(self.folder).free
        if self._cap_bytes:
            have_bytes = sum(kept.size_bytes for hex in self._by_age() if (kept := self._kept(hex)))
            lack_bytes = max(lack_bytes, have_bytes + need_bytes - self._cap_bytes)
        return lack_bytes

    def _by_age(self) -> list[str]:
        def age(hex: str) -> tuple[float, str]:
            try:
                return (self.folder / "used" / hex).stat().st_mtime, hex
            except FileNotFoundError:
                return 0.0, hex

        return sorted((path.stem for path in (self.folder / "models").glob("*.json")), key=age)

    def _kept(self, hex: str) -> Kept | None:
        try:
            return msgspec.json.decode((self.folder / "models" / f"{hex}.json").read_bytes(), type=Kept)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    @contextmanager
    def _lock_of(self, hex: str) -> Iterator[bool]:
        """Give whether nobody uses some weights; while the context is open, nobody begins to."""
        descriptor = os.open(self.folder / "used" / hex, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield _take(descriptor)
        finally:
            os.close(descriptor)

    def _remove(self, hex: str) -> None:
        gone = self.folder / "models" / f".gone-{hex}"
        (self.folder / "models" / f"{hex}.json").unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            os.replace(self.folder / "models" / hex, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _key(reference: str) -> str:
    return hashlib.sha256(reference.encode()).hexdigest()[:40]


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder, while others may change it."""
    size_bytes = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # it may be moved meanwhile
            size_bytes += path.stat().st_size if path.is_file() else 0
    return size_bytes
