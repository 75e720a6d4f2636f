"""What weights are known by: SHA-256 of a file, or of the list of a folder's files; remembered, as weights are long to read."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from plenum.adapters.nodes.files import make_folder, replace
from plenum.adapters.weights.references import DigestError, UnknownWeightsError, WeightsError

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and those that there are in all (0: not known yet); what it raises ends the work."""

MAX_FILES = 10_000
MAX_DEPTH = 8
READ_BYTES = 1 << 20


def quiet(done_bytes: int, total_bytes: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of some weights; ``name`` is its path in the folder, with slashes."""

    name: str
    size_bytes: int
    sha256: str


def digest_of(entries: Iterable[Entry]) -> str:
    """Return the digest of a folder: of the sorted list of its files' names, sizes and digests."""
    lines = sorted(f"{entry.name}\0{entry.size_bytes}\0{entry.sha256}\n" for entry in entries)
    return "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_file(path: Path, told: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file in hexadecimal; ``told`` is called with the bytes of each piece read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(READ_BYTES):
            digest.update(piece)
            if told:
                told(len(piece))
    return digest.hexdigest()


def files_of(path: Path) -> dict[str, os.stat_result]:
    """Return the files of some weights by name; a single file has the name ``""``.

    Raises
    ------
    UnknownWeightsError
        Nothing is there.
    WeightsError
        It has links, devices or other things that are no files, too many files, or cannot be read.
    """
    found: dict[str, os.stat_result] = {}
    try:
        there = path.stat()
        if not stat.S_ISDIR(there.st_mode):
            return {"": _plain(path, there)}
        _walk(path, "", 0, found)
    except FileNotFoundError:
        raise UnknownWeightsError(f"there is nothing at {path}") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
    if not found:
        raise UnknownWeightsError(f"{path} is an empty folder")
    return found


class Memory(msgspec.Struct, frozen=True):
    """A digest, and what the files were like when it was taken."""

    digest: str
    seen: list[tuple[str, int, int, int, int]]


def digest_at(path: Path, memory: Path, progress: Progress, *, afresh: bool = False) -> tuple[str, int]:
    """Return digest and bytes of the weights at a path.

    Parameters
    ----------
    memory
        Folder in which digests are remembered, by path; one holds while size, time, inode and device of each file are the same.
    afresh
        Read every byte, whatever is remembered.

    Raises
    ------
    WeightsError
        As :func:`files_of`, or a file changed while it was read.
    """
    files = files_of(path)
    size_bytes = sum(there.st_size for there in files.values())
    seen = _seen(files)
    note = make_folder(memory) / (hashlib.sha256(str(path).encode()).hexdigest() + ".json")
    if not afresh and (known := _remembered(note)) and known.seen == seen:
        progress(size_bytes, size_bytes)
        return known.digest, size_bytes
    digest = _digest(path, files, size_bytes, progress)
    if _seen(files_of(path)) != seen:
        raise DigestError(f"{path} changed while it was read; start again when it is whole")
    replace(note, msgspec.json.encode(Memory(digest, seen)), durably=False)
    return digest, size_bytes


def _digest(path: Path, files: dict[str, os.stat_result], size_bytes: int, progress: Progress) -> str:
    done_bytes = 0

    def told(read_bytes: int) -> None:
        nonlocal done_bytes
        done_bytes += read_bytes
        progress(done_bytes, size_bytes)

    if "" in files:
        return "sha256:" + hash_file(path, told)
    return digest_of(
        Entry(name=name, size_bytes=there.st_size, sha256=hash_file(path / name, told)) for name, there in files.items()
    )


def _walk(folder: Path, prefix: str, depth: int, found: dict[str, os.stat_result]) -> None:
    if depth > MAX_DEPTH:
        raise WeightsError(f"{folder} lies more than {MAX_DEPTH} folders deep")
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):  # what tools leave behind, such as .git or .cache
                continue
            there = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(there.st_mode):
                _walk(folder / entry.name, f"{prefix}{entry.name}/", depth + 1, found)
                continue
            found[prefix + entry.name] = _plain(folder / entry.name, there)
            if len(found) > MAX_FILES:
                raise WeightsError(f"more than {MAX_FILES:,} files are no weights")


def _plain(path: Path, there: os.stat_result) -> os.stat_result:
    if stat.S_ISLNK(there.st_mode):
        raise WeightsError(f"{path} is a link; weights are plain files (copy it with cp -L)")
    if not stat.S_ISREG(there.st_mode):
        raise WeightsError(f"{path} is no plain file")
    return there


def _seen(files: dict[str, os.stat_result]) -> list[tuple[str, int, int, int, int]]:
    return [(name, at.st_size, at.st_mtime_ns, at.st_ino, at.st_dev) for name, at in sorted(files.items())]


def _remembered(note: Path) -> Memory | None:
    try:
        return msgspec.json.decode(note.read_bytes(), type=Memory)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
