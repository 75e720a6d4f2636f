"""What a run wrote: rotated files, each named after the offset of its first byte."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from plenum.ports.nodes import LogChunk

STREAMS = ("stdout", "stderr")
MAX_CHUNK_BYTES = 1 << 20
"""Most that one answer holds."""


def read_output(folder: Path, stream: str, offset: int, limit: int, *, exited: bool) -> LogChunk:
    """Return a piece of a stream.

    Parameters
    ----------
    offset
        Of the first byte wanted; below 0, from the end. Where it is gone, the next byte that is there.
    exited
        Whether the run had exited before this call.
    """
    pieces = _pieces(folder, stream)
    total = pieces[-1][0] + pieces[-1][1] if pieces else 0
    start = min(max(total + offset, 0) if offset < 0 else offset, total)
    left = min(max(limit, 0), MAX_CHUNK_BYTES)
    data = b""
    for first, size, path in pieces:
        if first + size <= start + len(data):
            continue
        if first > start + len(data):
            if data:  # a gap: what follows it is for the next call
                break
            start = first
        part = _read(path, start + len(data) - first, left - len(data))
        data += part
        if len(data) >= left or start + len(data) < first + size:
            break
    return LogChunk(offset=start, data=data, end=exited and start + len(data) >= total)


def _pieces(folder: Path, stream: str) -> list[tuple[int, int, Path]]:
    """Return (offset, bytes, path) of each file, in order."""
    name = re.compile(re.escape(stream) + r"\.(\d{20})")
    pieces: list[tuple[int, int, Path]] = []
    for path in folder.iterdir():
        match = name.fullmatch(path.name)
        if match:
            with suppress(FileNotFoundError):  # rotated away meanwhile
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    pieces.append((int(match[1]), status.st_size, path))
    return sorted(pieces)


def _read(path: Path, position: int, limit: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, limit, position) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
