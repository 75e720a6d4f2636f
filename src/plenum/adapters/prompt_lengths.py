"""Lengths of prompts from a file of numbers, one a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plenum.model.errors import FieldError, FileError, Where
from plenum.planning.lengths import Lengths, measured_lengths

MAX_FILE_BYTES = 200_000_000


def read_lengths(path: Path) -> Lengths:
    """Read a number of tokens from each line; empty lines and those that start with ``#`` are passed over.

    Raises
    ------
    FileError
        The file is missing, unreadable or too large.
    FieldError
        A line is no number of tokens.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FileError(f"is larger than {MAX_FILE_BYTES:,} bytes", Where(file=str(path)))
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror or error}", Where(file=str(path))) from None
    tokens = [_tokens(line, str(path), number) for number, line in enumerate(lines, 1) if _says(line)]
    if not tokens:
        raise FieldError("lengths", "the file has no numbers; give one prompt's tokens on each line", file=str(path))
    return measured_lengths(np.array(tokens), f"{len(tokens):,} prompts of {path.name}")


def _says(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _tokens(line: str, file: str, number: int) -> int:
    text = line.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) > 0):
        raise FieldError(
            "lengths", f"must be tokens, a whole number above 0, not {text[:40]!r}", file=file, line=number
        )
    return int(text)
