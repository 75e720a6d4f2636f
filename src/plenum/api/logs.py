"""What the replicas of a job wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

from starlette.responses import Response

from plenum.api.call import Call
from plenum.api.jobs import Handler, job_of
from plenum.api.parameters import Parameter
from plenum.api.streams import Stream
from plenum.control import events as ev
from plenum.control.commands import AbsentError
from plenum.control.records import Job
from plenum.control.units import submitted_position
from plenum.model.workload import Kind
from plenum.ports.nodes import LogChunk

CHUNK_BYTES = 65_536
LARGEST_CHUNK_BYTES = 256 * 1024
PAGES = 40
"""Pages of the log that are searched for where an earlier attempt ran."""

SLOT = Parameter(
    name="slot",
    about="Which replica; else the first. Of one over several nodes, ``serve-0`` is the first and ``serve-0.1`` the second.",
    pattern=r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?-[0-9]{1,6}(\.[0-9]{1,4})?",
    example="worker-0",
)
ATTEMPT = Parameter(name="attempt", about="Which attempt; else the present one.", kind="integer", low=1, high=10**6)
STREAM = Parameter(name="stream", about="What it was written to.", choices=("stdout", "stderr"), default="stdout")
OFFSET = Parameter(
    name="offset", about="First byte; below 0: from the end.", kind="integer", default=0, low=-(2**53), example=0
)
LIMIT = Parameter(
    name="limit", about="Most bytes.", kind="integer", default=CHUNK_BYTES, low=1, high=LARGEST_CHUNK_BYTES
)
FOLLOW = Parameter(name="follow", about="Go on as more is written, until the run ends.", kind="boolean", default=False)
PARAMETERS = (SLOT, ATTEMPT, STREAM, OFFSET, LIMIT, FOLLOW)


def read(kind: Kind) -> Handler:
    """Return what reads a piece of a log, or follows it."""

    async def answered(call: Call) -> Response:
        node, run = await _place(call, job_of(call, kind))
        chunk = await _chunk(call, node, run, call.query["offset"], call.query["limit"])
        headers = {
            "x-plenum-run": quote(run),
            "x-plenum-offset": str(chunk.offset),
            "x-plenum-end": "true" if chunk.end else "false",
            "x-plenum-position": str(call.state.position),
            "cache-control": "no-store",
        }
        if not call.query["follow"]:
            return Response(chunk.data, 200, headers, "text/plain; charset=utf-8")
        principal = call.principal
        call.context.open_stream(principal)
        return Stream(
            _follow(call, node, run, chunk),
            media_type="text/plain; charset=utf-8",
            headers=headers,
            settings=call.context.settings,
            done=lambda: call.context.close_stream(principal),
        )

    return answered


async def _chunk(call: Call, node: str, run: str, offset: int, limit: int) -> LogChunk:
    return await call.context.service.logs(node, run, call.query["stream"], offset, limit)


async def _follow(call: Call, node: str, run: str, chunk: LogChunk) -> AsyncIterator[bytes]:
    while True:
        if chunk.data:
            yield chunk.data
        elif chunk.end:
            return
        else:
            yield b""  # lets the stream see that its reader has gone
            await asyncio.sleep(call.context.settings.follow_pause_s)
        await call.still_allowed()
        chunk = await _chunk(call, node, run, chunk.offset + len(chunk.data), LARGEST_CHUNK_BYTES)


async def _place(call: Call, job: Job) -> tuple[str, str]:
    """Return the node and the run that the query means.

    Raises
    ------
    AbsentError
        The job has or had no such replica.
    """
    slot, attempt = call.query["slot"], call.query["attempt"]
    for unit in job.units.values():
        if attempt in (None, unit.attempt):
            for run in unit.runs.values():
                if slot in (None, run.slot):
                    return run.node, run.id
    found = await _earlier(call, job, slot, attempt)
    if found is None:
        ranks = {f"{role.name}-{rank}" for role in job.workload.roles for rank in range(role.replicas)}
        if attempt is None and slot in (None, *ranks):
            of = f"replica {slot} of {job.id}" if slot else f"{job.id}"
            raise AbsentError(f"{of} has had no place yet, and so has written nothing")
        what = f"replica {slot}" if slot else "replica that ran"
        when = f" in attempt {attempt}" if attempt else " so far"
        raise AbsentError(f"{job.id} has no {what}{when}; its status names those it has")
    return found


async def _earlier(call: Call, job: Job, slot: str | None, attempt: int | None) -> tuple[str, str] | None:
    """Look in the log for the last time that a replica was bound: its attempt may be over."""
    found: tuple[str, str] | None = None
    after = submitted_position(job) - 1
    for _ in range(PAGES):
        records = await call.context.service.read(after, 500, subject=f"job/{job.id}")
        for record in records:
            if record.type != ev.UnitBound.__name__:
                continue
            bound = ev.event_of(record)
            assert isinstance(bound, ev.UnitBound)
            if attempt in (None, bound.attempt):
                places = (b for b in bound.bindings if slot in (None, b.slot))
                found = next(((b.node, b.run) for b in places), found)
        if len(records) < 500:
            break
        after = records[-1].position
    return found
