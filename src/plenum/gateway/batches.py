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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from plenum.adapters.nodes.files import make_folder, replace, sync_folder
from plenum.gateway import responses
from plenum.gateway.answers import invalid
from plenum.gateway.batch_lines import CANCELLING, FINALIZING, OVER, WINDOW, Batch, Open
from plenum.gateway.files import Files, Kept
from plenum.gateway.request import RefusedError
from plenum.ports.engine import CHAT, COMPLETIONS, EMBEDDINGS
from plenum.ports.gateway import Key, Usage

PATHS = (CHAT, COMPLETIONS, EMBEDDINGS, responses.PATH)
WINDOW_S = 86_400.0
MAX_OPEN = 20
"""Batches of one tenant that are not over."""

MAX_KEPT = 1_000
"""Of one tenant, those that are over included."""

MAX_METADATA = 16
PREFIX = "batch_"

_LOG = logging.getLogger("plenum.gateway.batches")


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
            id=self.files.peers.prefix(PREFIX) + secrets.token_hex(16),
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
            raise self.files.peers.absent(id, "batch")
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


def _metadata(said: Any) -> dict[str, str]:
    try:
        found = msgspec.convert(said or {}, dict[str, str])
    except msgspec.ValidationError:
        found = None
    if found is None or len(found) > MAX_METADATA or any(len(k) > 64 or len(v) > 512 for k, v in found.items()):
        raise invalid("metadata", f"metadata has at most {MAX_METADATA} texts of 512 characters, named by 64 at most")
    return found
