"""JSON Lines, plain or gzipped, read object by object as rows of text, with errors that name file, line and field."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from plenum.adapters.traces.table import MAX_ROWS, Row
from plenum.model.errors import FieldError, FileError, Where

MAX_LINE_BYTES = 2**20
"""A prompt of a million tokens in blocks of 16 has ids of half of this."""


def read_objects(path: Path, required: Sequence[str], *, max_rows: int = MAX_ROWS) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file; numbers as text, lists as text with spaces between.

    Parameters
    ----------
    path
        Plain, or gzipped where the name ends in ``.gz``.
    required
        Fields that every object must have.

    Raises
    ------
    FileError
        Missing, unreadable, not what the suffix says, or too long.
    FieldError
        A line that is no object, or lacks a required field.
    """
    file = str(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            stream = cast(BinaryIO, opened)
            number = 0
            while raw := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number > max_rows:
                    raise FileError(f"holds more than {max_rows:,} lines; split it", Where(file=file, line=number))
                if len(raw) > MAX_LINE_BYTES:
                    sentence = f"has a line of more than {MAX_LINE_BYTES:,} bytes"
                    raise FileError(sentence, Where(file=file, line=number))
                if raw.strip():
                    yield _row(raw, file, number, required)
    except FileNotFoundError:
        raise FileError("there is no such file", Where(file=file)) from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise FileError("is not a complete gzip file", Where(file=file)) from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", Where(file=file)) from None


def _row(raw: bytes, file: str, line: int, required: Sequence[str]) -> Row:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise FieldError("line", "is not JSON; each line is one object", file=file, line=line) from None
    if not isinstance(value, dict):
        raise FieldError("line", "is not an object; each line is one", file=file, line=line)
    values = {str(key): _text(item) for key, item in cast("dict[str, object]", value).items()}
    missing = [name for name in required if name not in values]
    if missing:
        raise FieldError(missing[0], f"is missing; each line must have {', '.join(required)}", file=file, line=line)
    return Row(file=file, line=line, values=values)


def _text(item: object) -> str:
    if isinstance(item, list):
        return " ".join(map(str, cast("list[object]", item)))
    return "" if item is None else str(item)
