"""Addresses of files and batches, as OpenAI's clients ask them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

import msgspec

from plenum.gateway.answers import invalid
from plenum.gateway.batch_runner import Runner
from plenum.gateway.batches import Batches
from plenum.gateway.call import Call
from plenum.gateway.files import Files, Kept, Writing
from plenum.gateway.multipart import Reader, boundary_of
from plenum.gateway.read import read_object
from plenum.gateway.routes import Route

MAX_LIST = 10_000
USUAL_LIST = 100
FORM_BYTES = 64 * 2**10
"""Of an upload beside its file."""


def offline_routes(files: Files, batches: Batches, runner: Runner) -> tuple[Route, ...]:
    """Return the routes of files and batches."""
    offline = _Offline(files, batches, runner)
    return (
        Route(method="POST", path="/v1/files", handler=offline.upload),
        Route(method="GET", path="/v1/files", handler=offline.list_files),
        Route(method="GET", path="/v1/files/{id}", handler=offline.file),
        Route(method="DELETE", path="/v1/files/{id}", handler=offline.delete_file),
        Route(method="GET", path="/v1/files/{id}/content", handler=offline.content),
        Route(method="POST", path="/v1/batches", handler=offline.create),
        Route(method="GET", path="/v1/batches", handler=offline.list_batches),
        Route(method="GET", path="/v1/batches/{id}", handler=offline.batch),
        Route(method="POST", path="/v1/batches/{id}/cancel", handler=offline.cancel),
    )


class _Offline:
    def __init__(self, files: Files, batches: Batches, runner: Runner) -> None:
        self.files, self.batches, self.runner = files, batches, runner

    async def upload(self, call: Call) -> None:
        form = _Form(self.files, call.key.tenant, Reader(boundary_of(call.header(b"content-type"))))
        try:
            async for data in call.pieces(self.files.limits.file_bytes + FORM_BYTES):
                form.feed(data)
            kept = await asyncio.to_thread(form.end)
        finally:
            form.close()
        await _answer(call, kept.shown())

    async def list_files(self, call: Call) -> None:
        asked = _Asked(call)
        files = self.files.listed(call.key.tenant, purpose=asked.text("purpose"))
        await _answer(call, asked.page([file.shown() for file in files]))

    async def file(self, call: Call) -> None:
        await _answer(call, self.files.get(call.key.tenant, call.values["id"]).shown())

    async def delete_file(self, call: Call) -> None:
        id = call.values["id"]
        self.files.delete(call.key.tenant, id)
        await _answer(call, {"id": id, "object": "file", "deleted": True})

    async def content(self, call: Call) -> None:
        file = self.files.get(call.key.tenant, call.values["id"])
        headers = [
            (b"content-length", b"%d" % file.bytes),
            (b"content-disposition", b'attachment; filename="%b"' % file.filename.encode("ascii", "replace")),
        ]
        await call.begin(200, b"application/octet-stream", headers)
        for piece in self.files.pieces(file):
            await call.write(piece)
        await call.end()

    async def create(self, call: Call) -> None:
        said = read_object(await call.body())
        batch = self.batches.create(call.key, said)
        self.runner.wake()
        await _answer(call, batch.shown())

    async def list_batches(self, call: Call) -> None:
        asked = _Asked(call)
        await _answer(call, asked.page([batch.shown() for batch in self.batches.listed(call.key.tenant)]))

    async def batch(self, call: Call) -> None:
        await _answer(call, self.batches.get(call.key.tenant, call.values["id"]).shown())

    async def cancel(self, call: Call) -> None:
        batch = self.batches.cancel(call.key.tenant, call.values["id"])
        self.runner.wake()
        await _answer(call, batch.shown())


class _Form:
    """The form of an upload: its purpose, then its file (in this order, or the file in memory would have no limit)."""

    def __init__(self, files: Files, tenant: str, reader: Reader) -> None:
        self._files, self._tenant, self._reader = files, tenant, reader
        self._purpose = b""
        self._writing: Writing | None = None
        self._early: list[bytes] = []
        self._name: str | None = None

    def feed(self, data: bytes) -> None:
        """Take some of the body."""
        for piece in self._reader.feed(data):
            if piece.name == "purpose":
                self._purpose += piece.data[: 100 - len(self._purpose)]
                if piece.last and self._name is not None:
                    self._begin()
            elif piece.name == "file":
                self._take(piece.filename, piece.data)

    def end(self) -> Kept:
        """Return the file.

        Raises
        ------
        RefusedError
            There is none, or it broke off.
        """
        if not self._reader.over:
            raise invalid("file", "the upload broke off", code="request.multipart")
        if self._name is None:
            raise invalid("file", "the form has no file")
        if self._writing is None:
            self._begin()
        assert self._writing is not None
        return self._writing.end()

    def close(self) -> None:
        """Leave nothing of what was not ended."""
        if self._writing is not None:
            self._writing.__exit__()

    def _take(self, name: str, data: bytes) -> None:
        self._name = name
        if self._writing is None and self._purpose:
            self._begin()
        if self._writing is not None:
            self._writing.write(data)
            return
        self._early.append(data)
        if sum(map(len, self._early)) > FORM_BYTES * 16:
            raise invalid("purpose", "send the field purpose before the field file")

    def _begin(self) -> None:
        if self._writing is None:
            self._writing = self._files.begin(self._tenant, self._name or "", self._purpose.decode("utf-8", "replace"))
            for data in self._early:
                self._writing.write(data)
            self._early.clear()


class _Asked:
    """What a list's address asks for."""

    def __init__(self, call: Call) -> None:
        query = call.scope.get("query_string", b"")[:4_096].decode("ascii", "replace")
        try:
            self._values = parse_qs(query, max_num_fields=16)
        except ValueError as error:
            raise invalid("", "the address asks for more than 16 things") from error

    def text(self, name: str) -> str:
        return self._values.get(name, [""])[0]

    def page(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        limit = self.text("limit") or str(USUAL_LIST)
        if not limit.isascii() or not limit.isdigit() or len(limit) > 6 or not 1 <= int(limit) <= MAX_LIST:
            raise invalid("limit", f"limit must be from 1 to {MAX_LIST:,}")
        if self.text("order") == "asc":
            items = items[::-1]
        if after := self.text("after"):
            places = _ids(items)
            if after not in places:
                raise invalid("after", "there is nothing of that id to go on after")
            items = items[places.index(after) + 1 :]
        shown = items[: int(limit)]
        ids = _ids(shown)
        return {
            "object": "list",
            "data": shown,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": len(items) > len(shown),
        }


def _ids(items: Iterable[dict[str, Any]]) -> list[str]:
    return [item["id"] for item in items]


async def _answer(call: Call, value: dict[str, Any]) -> None:
    await call.answer(200, msgspec.json.encode(value))
