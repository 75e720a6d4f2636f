"""Reads the header of a GGUF file: its settings and the shapes of its tensors, never the tensors themselves.

The layout is that of the GGUF specification of ggml, versions 2 and 3: magic, version, counts, settings, tensors. Every count and
length is checked against a limit before anything is read or kept, so that a broken or hostile file ends in a sentence.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from plenum.model.errors import FileError, Where

GGUF_MAGIC = b"GGUF"

VERSIONS = (2, 3)
SETTINGS_LIMIT = 10_000
TENSORS_LIMIT = 500_000
STRING_LIMIT_BYTES = 4 * 2**20
"""Chat templates are the longest strings; they take some 100 kB."""
ARRAY_LIMIT = 4_000_000
"""Merges of a tokeniser are the longest arrays; they have some 500,000 entries."""
KEPT_LIMIT = 4096
"""Longer arrays (vocabularies) are counted and skipped, as are arrays of strings; of strings no more bytes are kept."""
HEADER_LIMIT_BYTES = 512 * 2**20

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

Value = int | float | bool | str | list[int | float | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Name, dimensions and type number of a tensor."""

    name: str
    shape: tuple[int, ...]
    kind: int

    @property
    def values(self) -> int:
        """How many values it has."""
        total = 1
        for size in self.shape:
            total *= size
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a GGUF file says before its weights.

    Parameters
    ----------
    settings
        Values by key; arrays longer than :data:`KEPT_LIMIT`, and those of strings, are left out.
    lengths
        Lengths of all arrays by key.
    tensors
        In the order of the file.
    """

    settings: dict[str, Value]
    lengths: dict[str, int]
    tensors: tuple[Tensor, ...]


def read_header(path: Path) -> Header:
    """Read the header of a GGUF file.

    Raises
    ------
    FileError
        Missing, unreadable, cut short, of an unknown version, or with counts and lengths that no model has.
    """
    try:
        with path.open("rb") as stream:
            return _Reader(stream, path).header()
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", Where(file=str(path))) from None


class _Reader:
    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._at = 0

    def header(self) -> Header:
        if self._take(4) != GGUF_MAGIC:
            raise self._wrong("is not a GGUF file")
        version = self._number("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(int(version).to_bytes(4, "little"), "big")
            hint = "; it is big-endian, which is not read" if swapped in VERSIONS else ""
            raise self._wrong(f"is a GGUF file of version {version}; versions 2 and 3 are read{hint}")
        tensors = self._count("tensors", TENSORS_LIMIT)
        count = self._count("settings", SETTINGS_LIMIT)
        settings: dict[str, Value] = {}
        lengths: dict[str, int] = {}
        for _ in range(count):
            key, kind = self._string(), self._number("I")
            if kind == _ARRAY:
                lengths[key], kept = self._array()
                if kept is not None:
                    settings[key] = kept
            else:
                settings[key] = self._scalar(kind)
        return Header(settings=settings, lengths=lengths, tensors=tuple(self._tensor() for _ in range(tensors)))

    def _tensor(self) -> Tensor:
        name, dimensions = self._string(), self._number("I")
        if dimensions > 8:
            raise self._wrong(f"has a tensor of {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        kind = self._number("I")
        self._take(8)  # where its values start
        if any(size > 2**40 for size in shape):
            raise self._wrong(f"has a tensor of shape {shape}")
        return Tensor(name=name, shape=shape, kind=kind)

    def _array(self) -> tuple[int, list[int | float | bool] | None]:
        kind, length = self._number("I"), self._count("array entries", ARRAY_LIMIT)
        if kind == _STRING:
            for _ in range(length):
                self._take(self._length())
            return length, None
        if kind not in _NUMBERS:
            raise self._wrong(f"has an array of type {kind}, which is none")
        size = struct.calcsize("<" + _NUMBERS[kind])
        if length > KEPT_LIMIT:
            for start in range(0, length, KEPT_LIMIT):
                self._take(size * min(KEPT_LIMIT, length - start))
            return length, None
        return length, list(struct.unpack(f"<{length}{_NUMBERS[kind]}", self._take(size * length)))

    def _scalar(self, kind: int) -> Value:
        if kind == _STRING:
            return self._string()
        if kind not in _NUMBERS:
            raise self._wrong(f"has a setting of type {kind}, which is none")
        return struct.unpack("<" + _NUMBERS[kind], self._take(struct.calcsize("<" + _NUMBERS[kind])))[0]

    def _string(self) -> str:
        return self._take(self._length())[:KEPT_LIMIT].decode("utf-8", "replace")

    def _length(self) -> int:
        length = self._number("Q")
        if length > STRING_LIMIT_BYTES:
            raise self._wrong(f"has a string of {length} bytes; at most {STRING_LIMIT_BYTES} are read")
        return length

    def _count(self, what: str, limit: int) -> int:
        count = self._number("Q")
        if count > limit:
            raise self._wrong(f"claims {count} {what}; at most {limit} are read")
        return count

    def _number(self, form: str) -> int:
        return struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))[0]

    def _take(self, count: int) -> bytes:
        if self._at + count > HEADER_LIMIT_BYTES:
            raise self._wrong(f"has a header of more than {HEADER_LIMIT_BYTES // 2**20} MiB")
        data = self._stream.read(count)
        self._at += len(data)
        if len(data) < count:
            raise self._wrong("ends within its header")
        return data

    def _wrong(self, sentence: str) -> FileError:
        return FileError(f"{sentence} (at byte {self._at})", Where(file=str(self._path)))
