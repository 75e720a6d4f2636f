"""Finds out which tool wrote a file of measurements, and reads it."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plenum.adapters.imports.source import read_text
from plenum.adapters.measurements.given import OPTIONS, Given, complete, require
from plenum.adapters.measurements.plain import read_table
from plenum.adapters.measurements.tools_json import TOOLS
from plenum.model.errors import FieldError, FileError, Where
from plenum.serving.measurement import Measurement

FILE_LIMIT_BYTES = 128 * 2**20
"""guidellm writes every request into its file; larger ones are written with fewer (``--output-extras``, sampling)."""

RESULTS_LIMIT = 100_000
HEADER_LIMIT_BYTES = 65_536


def read_measurements(path: Path, given: Given | None = None) -> list[Measurement]:
    """Read what a benchmark measured.

    Parameters
    ----------
    path
        JSON, JSON lines or CSV of one of the known tools; CSV also gzipped.
    given
        What the file does not say, or what is to be taken instead of what it says.

    Raises
    ------
    FileError
        Missing, unreadable, too large, or of no known tool.
    FieldError
        A value in it cannot be meant.
    IncompleteError
        It does not say which model ran on which hardware, or (but for tables of many points, whose rows may lack it) over how many
        devices, under which load and with which lengths.
    """
    facts = given or Given()
    header = _header(path)
    if header is None:
        found = [complete(point, facts) for point in _read_json(path)]
        require(found, OPTIONS, str(path))
        return found
    found = [complete(point, facts) for point in read_table(path, header)]
    if not found:
        raise FileError("holds no measurement", Where(file=str(path)))
    require(found, ("model", "hardware", "engine"), str(path))
    return found


def _read_json(path: Path) -> list[Measurement]:
    points: list[Measurement] = []
    for place, result in _results(path):
        try:
            points += _one(result)
        except FieldError as error:
            raise error.located(file=str(path), line=place) from None
        if len(points) > RESULTS_LIMIT:
            raise FileError(f"holds more than {RESULTS_LIMIT:,} results; split it", Where(file=str(path)))
    measured = [p for p in points if p.ttft_s > 0 or p.tpot_s > 0]
    if not measured:
        known = ", ".join(name for name, _, _ in TOOLS)
        sentence = f"holds no latencies of a known tool: {known}, or a CSV table"
        raise FileError(sentence, Where(file=str(path)))
    return measured


def _one(result: Any) -> list[Measurement]:
    if not isinstance(result, Mapping):
        return []
    return next((read(result) for _, is_its, read in TOOLS if is_its(result)), [])


def _results(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield the results in a file with the lines that they stand on: one, a list of them, or one a line."""
    content = read_text(path, FILE_LIMIT_BYTES)
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        yield from _lines(content, path)
        return
    yield from ((0, result) for result in (whole if isinstance(whole, list) else [whole]))


def _lines(content: str, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            raise FileError("is neither JSON, JSON lines nor a CSV table", Where(file=str(path), line=number)) from None


def _header(path: Path) -> list[str] | None:
    """Return the columns of a CSV table; None where the file is JSON."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            first = stream.readline(HEADER_LIMIT_BYTES)
    except FileNotFoundError:
        raise FileError("there is no such file", Where(file=str(path))) from None
    except (OSError, EOFError) as error:
        raise FileError(f"cannot be read: {getattr(error, 'strerror', '') or error}", Where(file=str(path))) from None
    start = first.decode("utf-8-sig", "replace").strip()
    if not start:
        raise FileError("is empty, or starts with an empty line", Where(file=str(path)))
    if start[0] in "{[":
        return None
    try:
        return [name.strip() for name in next(csv.reader([start]), [])]
    except csv.Error:
        raise FileError("is neither JSON nor a CSV table", Where(file=str(path))) from None
