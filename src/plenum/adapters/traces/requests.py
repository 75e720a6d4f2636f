"""Traces of LLM requests, as CSV or JSON Lines: files in, :class:`~plenum.serving.workload.Requests` out.

Way in: :func:`read_requests`, which tells the layout by the names of the columns. A trace of one's own has

| column | what |
| --- | --- |
| ``arrival_s`` or ``timestamp`` | seconds from the start; or a date and time (ISO 8601), or seconds since 1970 |
| ``prompt_tokens``, ``output_tokens`` | tokens |
| ``priority`` | optional, -100 to 100: larger goes first |
| ``session`` | optional: any text; requests of one session like one replica |
| ``hash_ids`` | optional: of each block of the prompt, in order, a number or text that stands for the whole prefix up to its end; |
| | a list in JSON Lines, separated by spaces in CSV |
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from plenum.adapters.traces.lines import read_objects
from plenum.adapters.traces.table import MAX_ROWS, Row, read_rows
from plenum.model.errors import FieldError, FileError, Where
from plenum.serving.workload import Requests, requests_of

MAX_TOKENS = 16_000_000
MAX_BLOCKS = 10_000_000
"""Block ids of all prompts together: with their names, about a gigabyte."""

MAX_SECONDS = 1e10
MAX_PRIORITY = 100

Clock = Literal["seconds", "milliseconds", "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the columns of a trace are called.

    Parameters
    ----------
    arrival, clock
        Column of the arrival, and what it counts in.
    block_tokens
        Tokens of one block of ``blocks``.
    """

    name: str
    arrival: str
    clock: Clock
    prompt: str
    output: str
    priority: str = ""
    session: str = ""
    blocks: str = ""
    block_tokens: int = 512

    @property
    def required(self) -> tuple[str, ...]:
        """Columns without which it is not this layout."""
        return (self.arrival, self.prompt, self.output)


def _own(arrival: str, clock: Clock) -> Layout:
    return Layout(
        name="own",
        arrival=arrival,
        clock=clock,
        prompt="prompt_tokens",
        output="output_tokens",
        priority="priority",
        session="session",
        blocks="hash_ids",
    )


LAYOUTS: tuple[Layout, ...] = (
    _own("arrival_s", "seconds"),
    _own("timestamp", "time"),
    Layout(name="azure", arrival="TIMESTAMP", clock="time", prompt="ContextTokens", output="GeneratedTokens"),
    Layout(
        name="mooncake",
        arrival="timestamp",
        clock="milliseconds",
        prompt="input_length",
        output="output_length",
        blocks="hash_ids",
    ),
    Layout(name="burstgpt", arrival="Timestamp", clock="seconds", prompt="Request tokens", output="Response tokens"),
)
"""Layouts that are told apart by their columns; the one table to add to. Sources: the file headers as published by Azure
(AzurePublicDataset), Mooncake (FAST25-release) and BurstGPT (HPMLL/BurstGPT)."""


def read_requests(path: Path, layout: Layout | None = None, *, block_tokens: int | None = None) -> Requests:
    """Read a trace; requests are put in order of arrival, and dates count from the first of them.

    Parameters
    ----------
    path
        CSV with a header, or JSON Lines (``.jsonl``, ``.ndjson``, ``.json``); either may end in ``.gz``.
    layout
        None: told by the columns.
    block_tokens
        Tokens of one block of ``hash_ids``, where it is not what the layout says.

    Raises
    ------
    FileError
        Missing, unreadable, empty, or with columns of no known layout.
    FieldError
        A value that cannot be meant: file, line and field are named.
    """
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise FileError("lists no requests", Where(file=str(path)))
    layout = layout or _layout_of(first)
    columns = _Columns(layout, block_tokens or layout.block_tokens)
    columns.add(first)
    for row in rows:
        columns.add(row)
    return columns.requests()


class _Columns:
    """Columns while they grow."""

    def __init__(self, layout: Layout, block_tokens: int) -> None:
        self.layout, self.block_tokens = layout, block_tokens
        self.arrival_s, self.prompt, self.output = array("d"), array("i"), array("i")
        self.priority, self.session = array("b"), array("q")
        self.offset, self.block = array("q", [0]), array("q")
        self.sessions: dict[str, int] = {}
        self.blocks: dict[str, int] = {}

    def add(self, row: Row) -> None:
        layout = self.layout
        missing = [name for name in layout.required if name not in row.values]
        if missing:
            raise row.wrong(missing[0], f"is missing; each request has {', '.join(layout.required)}")
        self.arrival_s.append(_arrival_s(row, layout))
        tokens = row.whole(layout.prompt, 0, MAX_TOKENS)
        self.prompt.append(max(tokens, 1))
        # Some published traces have requests that produced nothing: an engine still computes one token to find that out.
        self.output.append(max(row.whole(layout.output, 0, MAX_TOKENS), 1))
        self.priority.append(
            row.whole(layout.priority, -MAX_PRIORITY, MAX_PRIORITY)
            if layout.priority and row.text(layout.priority)
            else 0
        )
        session = row.text(layout.session) if layout.session else ""
        self.session.append(self.sessions.setdefault(session, len(self.sessions)) if session else -1)
        ids = row.text(layout.blocks).replace(",", " ").split() if layout.blocks else []
        if len(ids) > math.ceil(max(tokens, 1) / self.block_tokens):
            sentence = f"has {len(ids)} blocks of {self.block_tokens} tokens, more than a prompt of {tokens} tokens has"
            raise row.wrong(layout.blocks, sentence)
        if len(self.block) + len(ids) > MAX_BLOCKS:
            raise FileError(f"holds more than {MAX_BLOCKS:,} block ids; split it", Where(file=row.file, line=row.line))
        known = self.blocks
        self.block.extend(known.setdefault(text, len(known)) for text in ids)
        self.offset.append(len(self.block))

    def requests(self) -> Requests:
        arrival_s = np.array(self.arrival_s, np.float64)
        order = np.argsort(arrival_s, kind="stable")
        if self.layout.clock == "time":
            arrival_s = arrival_s - arrival_s[order[0]]
        offset, block = np.array(self.offset, np.int64), np.array(self.block, np.int64)
        counts = np.diff(offset)[order]
        sorted_offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # Of each id in the sorted order, where it stood in the file.
        place = np.repeat(offset[:-1][order] - sorted_offset[:-1], counts) + np.arange(len(block))
        return requests_of(
            arrival_s[order],
            np.array(self.prompt, np.int32)[order],
            np.array(self.output, np.int32)[order],
            priority=np.array(self.priority, np.int8)[order],
            session=np.array(self.session, np.int64)[order],
            block_offset=sorted_offset,
            block_id=block[place],
            block_tokens=self.block_tokens,
        )


def _rows(path: Path) -> Iterator[Row]:
    name = path.name.removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return read_objects(path, (), max_rows=MAX_ROWS)
    return read_rows(path, (), max_rows=MAX_ROWS)


def _layout_of(row: Row) -> Layout:
    for layout in LAYOUTS:
        if all(name in row.values for name in layout.required):
            return layout
    own = LAYOUTS[0]
    sentence = (
        f"has the columns {', '.join(list(row.values)[:12]) or '(none)'}; a trace needs {own.arrival} or timestamp, "
        f"{own.prompt} and {own.output}"
    )
    raise FileError(sentence, Where(file=row.file, line=row.line))


def _arrival_s(row: Row, layout: Layout) -> float:
    if layout.clock == "seconds":
        return row.real(layout.arrival, 0, MAX_SECONDS)
    if layout.clock == "milliseconds":
        return row.real(layout.arrival, 0, 1000 * MAX_SECONDS) / 1000
    text = row.text(layout.arrival)
    if text.replace(".", "", 1).isdigit():
        return row.real(layout.arrival, 0, MAX_SECONDS)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _not_a_time(row, layout.arrival, text) from None
    # Most traces name no zone; differences are all that is used of it.
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _not_a_time(row: Row, field: str, text: str) -> FieldError:
    sentence = f"must be a date and time such as 2023-11-16 18:15:46.68, or seconds, not {text[:40]!r}"
    return row.wrong(field, sentence)
