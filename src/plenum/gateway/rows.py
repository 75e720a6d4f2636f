"""Files of usage rows that outlive the process that writes them: fixed places in a memory-mapped file.

What a killed process has stored in a mapping stays in the page cache, in the order in which it was stored; so a row is written first and
its state last, and there is no moment at which a kill loses one or shows half of one. Space is taken from the disk when the file is made,
so that a full disk is noticed there and never in the middle of a stream.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from functools import lru_cache
from pathlib import Path

from plenum.model.errors import FieldError
from plenum.ports.gateway import Usage

FREE, OPEN, FINISHED = 0, 1, 2
"""States of a row."""

OUTCOMES = ("done", "cancelled", "broken", "interrupted")

MAGIC = b"plenum-usage-1\0\0"
HEAD_BYTES = 4_096
ROW_BYTES = 896

_COUNTS = struct.Struct("<qqq")
_COUNTS_AT = 16
_FIXED = struct.Struct("<BBBxI8xqqqdq")
"""State, outcome, whether it is estimated, checksum of what follows once it is final, (its own line), three counts, time, revision."""

_TEXTS = {"request": 128, "tenant": 96, "key": 96, "endpoint": 192, "model": 300}
"""Names in a row, in this order, and the bytes that each may have."""

_TEXTS_AT = _FIXED.size

assert _TEXTS_AT + sum(_TEXTS.values()) + 2 * len(_TEXTS) <= ROW_BYTES


class Rows:
    """A file of places for rows.

    Parameters
    ----------
    path
        The file; made, with all the space that it will need, where it is not there.
    places
        Rows that it holds.

    Raises
    ------
    OSError
        It cannot be made or opened: the disk is full, for one.
    ValueError
        It is a file of something else.
    """

    def __init__(self, path: Path, places: int) -> None:
        self.path, self.places = path, places
        size = HEAD_BYTES + places * ROW_BYTES
        if not path.exists():
            _make(path, size)
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._file, 0)
        if self._map[: len(MAGIC)] != MAGIC or len(self._map) < size:
            self.close()
            raise ValueError(f"{path} is no file of usage rows, or was cut off")

    def write(self, place: int, usage: Usage, state: int) -> None:
        """Fill a place; a kill before the end leaves it as free as it was.

        Raises
        ------
        FieldError
            A name is too long.
        """
        at = HEAD_BYTES + place * ROW_BYTES
        row = _packed(usage)
        self._map[at + 1 : at + ROW_BYTES] = memoryview(row)[1:]
        self._map[at] = state

    def count(self, place: int, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """Change an open row's counts."""
        _COUNTS.pack_into(
            self._map, HEAD_BYTES + place * ROW_BYTES + _COUNTS_AT, prompt_tokens, cached_tokens, output_tokens
        )

    def free(self, place: int) -> None:
        """Empty a place."""
        self._map[HEAD_BYTES + place * ROW_BYTES] = FREE

    def state(self, place: int) -> int:
        """Return whether a place is free, open or finished."""
        return self._map[HEAD_BYTES + place * ROW_BYTES]

    def read(self, place: int) -> Usage:
        """Return a row.

        Raises
        ------
        ValueError
            It is not as it was written (the machine went down before all of it was on the disk).
        """
        at = HEAD_BYTES + place * ROW_BYTES
        row = self._map[at : at + ROW_BYTES]
        _, outcome, estimated, checksum, prompt, cached, output, when, revision = _FIXED.unpack_from(row)
        if row[0] == FINISHED and checksum != _checksum(row):
            raise ValueError(f"row {place} of {self.path} is damaged")
        texts: dict[str, str] = {}
        position = _TEXTS_AT
        for name in _TEXTS:
            size = int.from_bytes(row[position : position + 2], "little")
            texts[name] = row[position + 2 : position + 2 + size].decode()
            position += 2 + size
        return Usage(
            **texts,
            at=when,
            revision=revision,
            prompt_tokens=prompt,
            cached_tokens=cached,
            output_tokens=output,
            outcome=OUTCOMES[outcome],
            estimated=bool(estimated),
        )

    def sync(self) -> None:
        """Have it written to the disk; takes as long as that does, and lets other threads run meanwhile (msync does not)."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Close the mapping; the file stays."""
        self._map.close()
        os.close(self._file)


def _packed(usage: Usage) -> bytearray:
    row = bytearray(
        _FIXED.pack(
            0,
            OUTCOMES.index(usage.outcome),
            usage.estimated,
            0,
            usage.prompt_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            usage.at,
            usage.revision,
        )
    )
    row += _text("request", usage.request)
    row += _names(usage.tenant, usage.key, usage.endpoint, usage.model)
    row += bytes(ROW_BYTES - len(row))
    struct.pack_into("<I", row, 4, _checksum(row))
    return row


@lru_cache(1_024)
def _names(*names: str) -> bytes:
    """Return what the rows of a key's requests for a model have alike."""
    return b"".join(_text(field, name) for field, name in zip(list(_TEXTS)[1:], names, strict=True))


def _text(field: str, text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > _TEXTS[field]:
        raise FieldError(field, f"{field} has more than {_TEXTS[field]} bytes, which no row of usage holds")
    return len(encoded).to_bytes(2, "little") + encoded


def _checksum(row: bytes | bytearray) -> int:
    return zlib.crc32(memoryview(row)[8:], row[1] | row[2] << 8)


def _make(path: Path, size: int) -> None:
    """Make a file under its name only once it has all its space."""
    part = path.with_suffix(".part")
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        os.pwrite(descriptor, MAGIC, 0)
        os.fsync(descriptor)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    part.replace(path)
