"""Reads a file of another system within a limit, and says where in it a fault lies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plenum.model.errors import FieldError, FileError, Where

STDIN = Path("-")


def shown(path: Path) -> str:
    """Return what errors call the file."""
    return "stdin" if path == STDIN else str(path)


def read_bytes(path: Path, limit_bytes: int) -> bytes:
    """Return the contents of a file, or of standard input where ``path`` is ``-``.

    Raises
    ------
    FileError
        Missing, unreadable, empty, or longer than the limit.
    """
    where = Where(file=shown(path))
    try:
        if path == STDIN:
            data = sys.stdin.buffer.read(limit_bytes + 1)
        else:
            with path.open("rb") as stream:
                data = stream.read(limit_bytes + 1)
    except FileNotFoundError:
        raise FileError("there is no such file", where) from None
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", where) from None
    if len(data) > limit_bytes:
        raise FileError(f"is larger than {limit_bytes // 2**20} MiB, the most that is read", where)
    if not data.strip():
        raise FileError("is empty", where)
    return data


def read_text(path: Path, limit_bytes: int) -> str:
    """Return the contents of a UTF-8 text file.

    Raises
    ------
    FileError
        See :func:`read_bytes`; or not text.
    """
    data = read_bytes(path, limit_bytes)
    try:
        text = data.decode("utf-8-sig")
        bad = data.find(b"\0")
    except UnicodeDecodeError as error:
        text, bad = "", error.start
    if bad >= 0:
        raise FileError("is not UTF-8 text", Where(file=shown(path), line=data.count(b"\n", 0, bad) + 1))
    return text


@contextmanager
def located(file: str, line: int = 0, prefix: str = "") -> Iterator[None]:
    """Give errors raised inside, where they name no file yet, this file, line and field prefix."""
    try:
        yield
    except FieldError as error:
        if error.where.file:
            raise
        raise error.located(file=file, line=line, prefix=prefix) from None
