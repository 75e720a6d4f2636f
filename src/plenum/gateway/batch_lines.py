"""One batch on disk: what is asked of it, the requests of its input, and the results that are there."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from plenum.gateway.meter import UNREADABLE, Details

WINDOW = "24h"
MAX_LINES = 50_000
MAX_LINE_BYTES = 8 * 2**20
MAX_ERRORS = 100
"""Of a file that is no batch, told to its sender."""

VALIDATING, RUNNING, FINALIZING, CANCELLING = "validating", "in_progress", "finalizing", "cancelling"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"
OVER = frozenset({COMPLETED, FAILED, EXPIRED, CANCELLED})


class Wrong(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a line of the input."""

    code: str
    message: str
    line: int
    param: str | None = None


class Batch(msgspec.Struct, kw_only=True):
    """One batch, as it is on disk.

    Parameters
    ----------
    key
        Id of the key that it was made with, under which its lines run.
    ends_as
        Of one that is being finalized: what it will be.
    """

    id: str
    tenant: str
    key: str
    endpoint: str
    input_file_id: str
    created_at: int
    expires_at: int
    status: str = VALIDATING
    ends_as: str = ""
    metadata: dict[str, str] = {}
    moments: dict[str, int] = {}
    errors: list[Wrong] = []
    total: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    output_file_id: str = ""
    error_file_id: str = ""

    def shown(self) -> dict[str, Any]:
        """Return it as OpenAI's clients read it."""
        names = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": WINDOW,
            "status": self.status,
            "output_file_id": self.output_file_id or None if self.status in OVER else None,
            "error_file_id": self.error_file_id or None if self.status in OVER else None,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **{f"{name}_at": self.moments.get(name) for name in names},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": {
                "input_tokens": self.prompt_tokens,
                "input_tokens_details": {"cached_tokens": self.cached_tokens},
                "output_tokens": self.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.prompt_tokens + self.output_tokens,
            },
            "metadata": self.metadata,
        }


class Line(msgspec.Struct, frozen=True):
    """One request of a batch."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Said(msgspec.Struct):
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Written(msgspec.Struct):
    id: str
    response: _Said | None = None


class _Result(msgspec.Struct):
    id: str
    custom_id: str
    response: dict[str, Any] | None
    error: dict[str, str] | None


class _Took(msgspec.Struct):
    """Usage, as chats tell it and as responses do."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: Details | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: Details | None = None


class _Told(msgspec.Struct):
    usage: _Took | None = None


_told = msgspec.json.Decoder(_Told)
_line = msgspec.json.Decoder(Line)
_written = msgspec.json.Decoder(_Written)


class Open:
    """A batch that is not over, with its files."""

    def __init__(self, batch: Batch, folder: Path) -> None:
        self.batch, self.folder = batch, folder
        self.done: set[int] = set()
        self._spans: list[tuple[int, int]] = []
        self._files: dict[str, BinaryIO] = {}

    def take_up(self) -> None:
        """Count the results that are there."""
        batch = self.batch
        batch.completed = batch.failed = batch.prompt_tokens = batch.cached_tokens = batch.output_tokens = 0
        for name in ("output", "errors"):
            self._read_results(self.folder / f"{name}.jsonl", name)

    def validate(self) -> list[Wrong]:
        """Read the whole input; returns what is wrong with it, and remembers where its lines are."""
        wrong: list[Wrong] = []
        names: set[str] = set()
        self._spans = []
        with (self.folder / "input").open("rb") as stream:
            at = 0
            while text := stream.readline(MAX_LINE_BYTES + 1):
                number = len(self._spans) + 1
                if len(text) > MAX_LINE_BYTES:
                    return [_wrong("line.too_long", f"a line has at most {MAX_LINE_BYTES:,} bytes", number)]
                if text.strip():
                    if number > MAX_LINES:
                        return [_wrong("batch.too_long", f"a batch has at most {MAX_LINES:,} requests", number)]
                    self._spans.append((at, len(text)))
                    if (fault := self._fault(text, number, names)) is not None:
                        wrong.append(fault)
                        if len(wrong) == MAX_ERRORS:
                            return wrong
                at += len(text)
        return wrong or ([] if self._spans else [_wrong("batch.empty", "the file has no requests", 1)])

    def lines(self) -> Generator[tuple[int, Line]]:
        """Yield the lines that have no result yet, with their numbers from 1."""
        with (self.folder / "input").open("rb") as stream:
            for number, (at, size) in enumerate(self._spans, 1):
                if number not in self.done:
                    stream.seek(at)
                    yield number, _line.decode(stream.read(size))

    @property
    def count(self) -> int:
        """Requests of the input."""
        return len(self._spans)

    def record(self, number: int, line: Line, status: int, body: bytes, request: str) -> None:
        """Write a line's result; from here on it is done.

        Raises
        ------
        UnicodeDecodeError, RecursionError, msgspec.MsgspecError
            Its body cannot be read; nothing is written.
        """
        said = {"status_code": status, "request_id": request, "body": msgspec.json.decode(body)}
        ok = status == 200
        self._write("output" if ok else "errors", self._result(number, line, said, None))
        self._count(number, ok, body)

    def give_up(self, number: int, line: Line, code: str, sentence: str) -> None:
        """Write that a line was never answered."""
        self._write("errors", self._result(number, line, None, {"code": code, "message": sentence}))
        self._count(number, False, b"")

    def expire(self) -> None:
        """Give up all lines that have no result."""
        for number, line in self.lines():
            self.give_up(number, line, "batch_expired", "its batch expired before it could be answered")

    def sync(self) -> None:
        """Have the results on the disk."""
        for stream in self._files.values():
            os.fsync(stream.fileno())

    def close(self) -> None:
        """Close its files."""
        for stream in self._files.values():
            stream.close()
        self._files.clear()

    def _fault(self, text: bytes, number: int, names: set[str]) -> Wrong | None:
        try:
            line = _line.decode(text)
            body = msgspec.json.decode(line.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return _wrong("line.json", f"is no request of a batch: {str(error)[:200]}", number)
        if not 0 < len(line.custom_id) <= 512:
            return _wrong("line.custom_id", "custom_id must have 1 to 512 characters", number, "custom_id")
        if line.custom_id in names:
            return _wrong("line.custom_id", f"custom_id {line.custom_id[:100]!r} is given twice", number, "custom_id")
        names.add(line.custom_id)
        if line.method != "POST":
            return _wrong("line.method", f"method must be POST, not {line.method[:20]!r}", number, "method")
        if line.url != self.batch.endpoint:
            sentence = f"url must be {self.batch.endpoint}, as the batch says, not {line.url[:80]!r}"
            return _wrong("line.url", sentence, number, "url")
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            return _wrong("line.body", "body must be an object that names a model", number, "body")
        if body.get("stream"):
            return _wrong("line.stream", "a batch does not stream; leave stream out", number, "body.stream")
        return None

    def _result(self, number: int, line: Line, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
        result = _Result(f"batch_req_{number}", line.custom_id, response, error)
        return msgspec.json.encode(result) + b"\n"

    def _write(self, name: str, line: bytes) -> None:
        if name not in self._files:
            self._files[name] = (self.folder / f"{name}.jsonl").open("ab", buffering=0)
        stream, view = self._files[name], memoryview(line)
        size = os.fstat(stream.fileno()).st_size
        try:
            while view:
                view = view[stream.write(view) :]
        except OSError:
            os.ftruncate(stream.fileno(), size)  # half a line would spoil the one after it
            raise

    def _count(self, number: int, ok: bool, body: bytes) -> None:
        batch = self.batch
        self.done.add(number)
        batch.completed, batch.failed = batch.completed + ok, batch.failed + (not ok)
        took = _took(body) if ok else None
        if took is not None:
            details = took.prompt_tokens_details or took.input_tokens_details
            batch.prompt_tokens += took.prompt_tokens or took.input_tokens
            batch.cached_tokens += (details.cached_tokens or 0) if details else 0
            batch.output_tokens += took.completion_tokens or took.output_tokens

    def _read_results(self, path: Path, name: str) -> None:
        """Count the results of a file, and cut off one that was being written when the process died."""
        if not path.exists():
            return
        whole = 0
        with path.open("r+b") as stream:
            for text in stream:
                if not text.endswith(b"\n"):
                    break
                whole += len(text)
                said = _written.decode(text)
                body = bytes(said.response.body) if said.response else b""
                self._count(int(said.id.removeprefix("batch_req_")), name == "output", body)
            stream.truncate(whole)


def _took(body: bytes) -> _Took | None:
    with suppress(*UNREADABLE):
        return _told.decode(body).usage
    return None


def _wrong(code: str, message: str, line: int, param: str | None = None) -> Wrong:
    return Wrong(code=code, message=message, line=line, param=param)
