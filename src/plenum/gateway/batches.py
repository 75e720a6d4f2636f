"""Batches: many requests in a file, done in a day, each once; on disk, so that they outlive the process.

A line's result is written before its bill is final, so whatever is killed when, a line is either in the results and billed, or neither:
:meth:`Batches.settle` tells the journal which of the two what a dead process left open is.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from plenum.adapters.nodes.files import make_folder, replace, sync_folder
from plenum.gateway.answers import invalid
from plenum.gateway.files import Files, Kept
from plenum.gateway.meter import usage_of
from plenum.gateway.request import RefusedError
from plenum.ports.engine import CHAT, COMPLETIONS, EMBEDDINGS
from plenum.ports.gateway import Key, Usage

PATHS = (CHAT, COMPLETIONS, EMBEDDINGS)
WINDOW, WINDOW_S = "24h", 86_400.0
MAX_LINES = 50_000
MAX_LINE_BYTES = 8 * 2**20
MAX_ERRORS = 100
"""Of a file that is no batch, told to its sender."""

MAX_OPEN = 20
"""Batches of one tenant that are not over."""

MAX_KEPT = 1_000
"""Of one tenant, those that are over included."""

MAX_METADATA = 16
PREFIX = "batch_"

VALIDATING, RUNNING, FINALIZING, CANCELLING = "validating", "in_progress", "finalizing", "cancelling"
COMPLETED, FAILED, EXPIRED, CANCELLED = "completed", "failed", "expired", "cancelled"
OVER = frozenset({COMPLETED, FAILED, EXPIRED, CANCELLED})

_LOG = logging.getLogger("plenum.gateway.batches")


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
        msgspec.DecodeError
            The body is no JSON.
        """
        said = {"status_code": status, "request_id": request, "body": msgspec.json.decode(body)}
        ok = status == 200
        self._write("output" if ok else "errors", self._result(number, line, said, None))
        self._count(number, ok, body)

    def give_up(self, number: int, line: Line, code: str, sentence: str) -> None:
        """Write that a line was never answered."""
        self._write("errors", self._result(number, line, None, {"code": code, "message": sentence}))
        self._count(number, False, b"")

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
        view = memoryview(line)
        while view:
            view = view[self._files[name].write(view) :]

    def _count(self, number: int, ok: bool, body: bytes) -> None:
        batch = self.batch
        self.done.add(number)
        batch.completed, batch.failed = batch.completed + ok, batch.failed + (not ok)
        if ok and (usage := usage_of(body)) is not None:
            batch.prompt_tokens += usage.prompt_tokens
            batch.cached_tokens += usage.cached_tokens
            batch.output_tokens += usage.completion_tokens or 0

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


class Batches:
    """The batches of all tenants.

    Parameters
    ----------
    folder
        Made where it is not there.
    files
        Where inputs come from, and results go.
    now
        Seconds since the epoch.
    """

    def __init__(self, folder: Path, files: Files, *, now: Callable[[], float] = time.time) -> None:
        self._folder, self.files, self.now = make_folder(folder), files, now
        self._batches: dict[str, Batch] = {}
        self.open: dict[str, Open] = {}
        for path in sorted(self._folder.glob(f"{PREFIX}*/about.json")):
            self._load(path)

    def create(self, key: Key, said: dict[str, Any]) -> Batch:
        """Make a batch of a file.

        Raises
        ------
        RefusedError
            It cannot be meant, or the tenant has as many as it may.
        """
        endpoint, window = said.get("endpoint"), said.get("completion_window")
        if endpoint not in PATHS:
            raise invalid("endpoint", f"endpoint must be one of {', '.join(PATHS)}")
        if window != WINDOW:
            raise invalid("completion_window", f"completion_window must be {WINDOW}")
        file = self.files.get(key.tenant, str(said.get("input_file_id")))
        if file.purpose != "batch":
            raise invalid("input_file_id", "the file must have been uploaded with purpose batch")
        metadata = _metadata(said.get("metadata"))
        mine = [batch for batch in self._batches.values() if batch.tenant == key.tenant]
        if sum(batch.status not in OVER for batch in mine) >= MAX_OPEN:
            sentence = f"this tenant has {MAX_OPEN} batches that are not over, as many as it may"
            raise RefusedError(429, "rate_limit_error", "batch.too_many", sentence, retry_after_s=60.0)
        self._prune(mine)
        now = self.now()
        batch = Batch(
            id=PREFIX + secrets.token_hex(16),
            tenant=key.tenant,
            key=key.id,
            endpoint=endpoint,
            input_file_id=file.id,
            created_at=int(now),
            expires_at=int(now + WINDOW_S),
            metadata=metadata,
        )
        self._begin(batch, file)
        return batch

    def get(self, tenant: str, id: str) -> Batch:
        """Return a batch of a tenant's.

        Raises
        ------
        RefusedError
            It has none of that id.
        """
        batch = self._batches.get(id)
        if batch is None or batch.tenant != tenant:
            raise RefusedError(404, "invalid_request_error", "batch.unknown", "there is no such batch", field="id")
        return batch

    def listed(self, tenant: str) -> list[Batch]:
        """Return a tenant's batches, newest first."""
        mine = [batch for batch in self._batches.values() if batch.tenant == tenant]
        return sorted(mine, key=lambda batch: (-batch.created_at, batch.id))

    def cancel(self, tenant: str, id: str) -> Batch:
        """Have a batch end with what is done.

        Raises
        ------
        RefusedError
            There is none of that id, or it is over.
        """
        batch = self.get(tenant, id)
        if batch.status in OVER or batch.status == FINALIZING:
            raise invalid("id", f"the batch is {batch.status} already", code="batch.over", status=409)
        if batch.status != CANCELLING:
            self.mark(batch, CANCELLING)
        return batch

    def mark(self, batch: Batch, status: str) -> None:
        """Set a batch's status, for good."""
        batch.status = status
        batch.moments[status] = int(self.now())
        self._save(batch)

    def finalize(self, holder: Open, ends_as: str) -> None:
        """End a batch: its results become files of its tenant's. Done again after a kill in the middle, it comes to the same."""
        batch = holder.batch
        holder.sync()
        holder.close()
        if batch.status != FINALIZING:
            batch.ends_as = ends_as
            batch.output_file_id = self.files.new_id() if batch.completed else ""
            batch.error_file_id = self.files.new_id() if batch.failed else ""
            self.mark(batch, FINALIZING)
        for name, id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
            if id:
                filename = f"{batch.id}_{name}.jsonl"
                self.files.adopt(batch.tenant, holder.folder / f"{name}.jsonl", filename, "batch_output", id=id)
        self.mark(batch, batch.ends_as)
        (holder.folder / "input").unlink(missing_ok=True)
        self.open.pop(batch.id, None)

    def settle(self, usage: Usage) -> Usage | None:
        """Return what a dead process's open row is billed as: a batch's line all of it if its result is there, else nothing."""
        id, _, rest = usage.request.partition("-")
        if not id.startswith(PREFIX):
            return msgspec.structs.replace(usage, outcome="interrupted")
        holder = self.open.get(id)
        number = rest.partition("-")[0]
        if holder is not None and number.isdigit() and int(number) in holder.done:
            return msgspec.structs.replace(usage, outcome="done")
        return None

    def _begin(self, batch: Batch, file: Kept) -> None:
        folder = make_folder(self._folder / batch.id)
        os.link(self.files.path(file), folder / "input")  # it may be deleted as a file while the batch runs
        self._save(batch)
        sync_folder(self._folder)
        self._batches[batch.id] = batch
        self.open[batch.id] = Open(batch, folder)

    def _save(self, batch: Batch) -> None:
        replace(self._folder / batch.id / "about.json", msgspec.json.encode(batch), durably=True)

    def _load(self, about: Path) -> None:
        try:
            batch = msgspec.json.decode(about.read_bytes(), type=Batch)
            self._batches[batch.id] = batch
            if batch.status in OVER:
                return
            holder = self.open[batch.id] = Open(batch, about.parent)
            if batch.status != FINALIZING:  # then the counts are final, and the results may have gone where they belong
                holder.take_up()
        except (msgspec.DecodeError, OSError, ValueError) as error:
            _LOG.error("a batch cannot be taken up again and is left out: %s: %s", about.parent.name, error)

    def _prune(self, mine: list[Batch]) -> None:
        over = sorted((batch for batch in mine if batch.status in OVER), key=lambda batch: batch.created_at)
        for batch in over[: max(0, len(mine) - MAX_KEPT + 1)]:
            shutil.rmtree(self._folder / batch.id, ignore_errors=True)
            del self._batches[batch.id]


def _wrong(code: str, message: str, line: int, param: str | None = None) -> Wrong:
    return Wrong(code=code, message=message, line=line, param=param)


def _metadata(said: Any) -> dict[str, str]:
    try:
        found = msgspec.convert(said or {}, dict[str, str])
    except msgspec.ValidationError:
        found = None
    if found is None or len(found) > MAX_METADATA or any(len(k) > 64 or len(v) > 512 for k, v in found.items()):
        raise invalid("metadata", f"metadata has at most {MAX_METADATA} texts of 512 characters, named by 64 at most")
    return found
