"""The server itself: health, metrics, use, backups."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from starlette.responses import Response

import plenum
from plenum.api import shapes
from plenum.api.call import ENCODER, JSON, Call
from plenum.api.context import ApiContext
from plenum.api.errors import RateError
from plenum.api.metrics import CONTENT_TYPE
from plenum.api.redact import camel
from plenum.api.streams import Stream
from plenum.control.questions import Utilisation

CHUNK_BYTES = 256 * 1024


def health(context: ApiContext) -> Response:
    """Say that the server answers."""
    return _plain(shapes.Health(status="ok", leading=context.service.leading), 200)


def readiness(context: ApiContext) -> Response:
    """Say whether the server has its state and can be asked."""
    ready = context.service.ready
    return _plain(
        shapes.Health(status="ready" if ready else "starting", leading=context.service.leading), 200 if ready else 503
    )


def _plain(shape: shapes.Health, status: int) -> Response:
    return Response(ENCODER.encode(shape), status, {"cache-control": "no-store"}, JSON)


async def version(call: Call) -> Response:
    """Say which Plenum this is."""
    service = call.context.service
    return call.answer(
        shapes.Version(version=plenum.__version__, leading=service.leading, position=call.state.position)
    )


async def metrics(call: Call) -> Response:
    """Show the metrics, for Prometheus."""
    text = call.context.metrics.exposition()
    return Response(text, 200, {"cache-control": "no-store"}, CONTENT_TYPE)


async def utilisation(call: Call) -> Response:
    """Show what is in use; to a tenant's people only their own part of it."""
    return call.answer(_use(call, call.context.service.utilisation()))


def _use(call: Call, told: Utilisation) -> dict[str, Any]:
    visible, state = call.visible, call.state
    shown: dict[str, Any] = {"apiVersion": shapes.API_VERSION, "kind": "Utilisation"}
    shown |= {"position": told.position, "at": shapes.timestamp(told.at)}
    if visible is None:
        shown |= {"resources": told.resources, "jobs": told.jobs, "nodes": told.nodes, "waiting": told.waiting}
        return shown | {"oldestWaitS": told.oldest_wait_s, "tenants": told.tenants}
    phases = [job.phase for job in state.jobs.values() if job.workload.tenant in visible]
    waits = [told.at - state.jobs[key].submitted_at for key in state.waiting if key.partition("/")[0] in visible]
    return shown | {
        "jobs": {phase: phases.count(phase) for phase in sorted(set(phases))},
        "waiting": len(waits),
        "oldestWaitS": max(waits, default=0.0),
        "tenants": [row for row in told.tenants if row.name in visible],
    }


async def verify(call: Call) -> Response:
    """Build the state anew from the log and compare it with the one in use."""
    found = await call.context.service.verify()
    return call.answer({**camel(msgspec.to_builtins(found)), "same": found.same})


async def backup(call: Call) -> Response:
    """Send a consistent copy of the log; one at a time."""
    context = call.context
    if context.backing_up.locked():
        raise RateError("a backup is being made already; wait for it to end", 10)
    await context.backing_up.acquire()
    folder: tempfile.TemporaryDirectory[str] | None = None
    try:
        folder = await asyncio.to_thread(
            tempfile.TemporaryDirectory, prefix="plenum-backup-", dir=context.settings.backup_folder or None
        )
        path = Path(folder.name) / "backup"
        await context.service.backup(str(path))
        size = (await asyncio.to_thread(os.stat, path)).st_size
    except BaseException:
        _end_backup(context, folder)
        raise
    return Stream(
        _pieces(path),
        media_type="application/octet-stream",
        headers={
            "content-disposition": 'attachment; filename="plenum-backup"',
            "x-plenum-bytes": str(size),
            "x-plenum-position": str(call.state.position),
            "cache-control": "no-store",
        },
        settings=context.settings,
        done=lambda: _end_backup(context, folder),
    )


def _end_backup(context: ApiContext, folder: tempfile.TemporaryDirectory[str] | None) -> None:
    if folder is not None:
        with contextlib.suppress(OSError):
            folder.cleanup()
    context.backing_up.release()


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as stream:
        while piece := await asyncio.to_thread(stream.read, CHUNK_BYTES):
            yield piece
