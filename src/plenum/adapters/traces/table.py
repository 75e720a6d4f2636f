"""CSV tables, plain or gzipped, read row by row with errors that name file, line and field."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from plenum.model.errors import FieldError, FileError, Where

MAX_ROWS = 2_000_000
MAX_LINE_BYTES = 65_536
"""Limits of one table, so that a wrong or hostile file ends in a sentence rather than in swap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One data row and where it stands."""

    file: str
    line: int
    values: dict[str, str]

    def text(self, field: str) -> str:
        """Return a column, stripped; empty where the table has no such column."""
        return self.values.get(field, "").strip()

    def whole(self, field: str, low: int, high: int) -> int:
        """Return a whole number of [low, high].

        Raises
        ------
        FieldError
            It is something else.
        """
        text = self.text(field)
        # The length is checked first: int() of a million digits is a computation.
        if not text.isascii() or not text.removeprefix("-").isdigit() or len(text) > 20 or not low <= int(text) <= high:
            raise self.wrong(field, f"must be a whole number from {low} to {high}, not {text[:40]!r}")
        return int(text)

    def real(self, field: str, low: float, high: float) -> float:
        """Return a number of [low, high].

        Raises
        ------
        FieldError
            It is something else.
        """
        text = self.text(field)
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise self.wrong(field, f"must be a number from {low:g} to {high:g}, not {text[:40]!r}")
        return value

    def wrong(self, field: str, sentence: str) -> FieldError:
        """Return the error that says what is wrong with a column of this row."""
        return FieldError(field, sentence, file=self.file, line=self.line)


def read_rows(path: Path, required: Sequence[str], *, max_rows: int = MAX_ROWS) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header.

    Parameters
    ----------
    path
        Plain, or gzipped where the name ends in ``.gz``.
    required
        Columns that must be in the header.

    Raises
    ------
    FileError
        Missing, unreadable, not text, not what the suffix says, empty, too long, or lacking a required column.
    FieldError
        A row with more or fewer columns than the header.
    """
    file = str(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            table = csv.reader(_lines(cast(BinaryIO, stream), file), strict=True)
            header = [name.strip() for name in next(table, [])]
            _check_header(header, required, file)
            for number, cells in enumerate(table, start=1):
                if number > max_rows:
                    raise FileError(
                        f"holds more than {max_rows:,} rows; split it", Where(file=file, line=table.line_num)
                    )
                if not cells:
                    continue
                if len(cells) != len(header):
                    sentence = f"has {len(cells)} columns where the header has {len(header)}"
                    raise FieldError("row", sentence, file=file, line=table.line_num)
                yield Row(file=file, line=table.line_num, values=dict(zip(header, cells, strict=True)))
    except FileNotFoundError:
        raise FileError("there is no such file", Where(file=file)) from None
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise FileError("is not a complete gzip file", Where(file=file)) from None
    except csv.Error as error:
        raise FileError(f"is not a CSV table: {error}", Where(file=file)) from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", Where(file=file)) from None


def _lines(stream: BinaryIO, file: str) -> Iterator[str]:
    """Decode line by line, so that what is not text is found at its line."""
    number = 0
    while raw := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(raw) > MAX_LINE_BYTES or b"\0" in raw:
            raise FileError("is not a CSV table: a line is too long or holds NUL bytes", Where(file=file, line=number))
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise FileError("is not UTF-8 text", Where(file=file, line=number)) from None


def _check_header(header: list[str], required: Sequence[str], file: str) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        sentence = f"the header lacks {', '.join(missing)}; it must name {', '.join(required)}"
        raise FileError(sentence, Where(file=file, line=1))
    if len(set(header)) != len(header):
        raise FileError("the header names a column twice", Where(file=file, line=1))
