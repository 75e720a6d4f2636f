"""The log, as a list and as a stream of server-sent events; and the decisions in it."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator

from starlette.responses import Response

from plenum.api import lists, views
from plenum.api.call import ENCODER, Call
from plenum.api.errors import HiddenError, ParameterError
from plenum.api.jobs import TENANT
from plenum.api.parameters import MAX_INTEGER, Parameter
from plenum.api.redact import Tenants
from plenum.api.shapes import Event
from plenum.api.streams import Stream
from plenum.control.events import EVENTS, DecisionMade
from plenum.ports.store import Record

MAX_TENANTS = 32
"""Tenants of one person whose logs are put together; with more, they name one."""

PAGES = 20
"""Pages of the log that one request searches; the cursor says where to go on."""

AFTER = Parameter(name="after", about="Only what stands behind this position.", kind="integer", default=0, example=0)
SUBJECT = Parameter(
    name="subject",
    about="Only about this, for example job/research/pretrain; of an endpoint, about its replicas too.",
    default="",
)
TYPE = Parameter(name="type", about="Only of one of these types.", choices=tuple(sorted(EVENTS)), many=True)
WATCH = Parameter(
    name="watch",
    about="Answer with server-sent events that go on, as with Accept: text/event-stream.",
    kind="boolean",
    default=False,
)
LISTING = (AFTER, SUBJECT, TENANT, TYPE, WATCH, *lists.PAGING)
DECISIONS = (AFTER, TENANT, *lists.PAGING)


async def events(call: Call) -> Response:
    """List facts, or stream them as they come."""
    tenants = call.wanted_tenants()
    accept = call.request.headers.get("accept", "")
    if call.query["watch"] or "text/event-stream" in accept:
        return _watch(call)
    if tenants is not None and len(tenants) > MAX_TENANTS:
        raise ParameterError("tenant", f"name one: you may see more than {MAX_TENANTS} tenants")
    after, limit, types = _start(call), call.query["limit"], call.query["type"]
    found: list[Record] = []
    more = True
    for _ in range(PAGES):
        records = await _read(call, after, limit + 1, tenants)
        found += [r for r in records if not types or r.type in types]
        more = len(records) > limit
        if records:
            after = records[-1].position
        if not more or len(found) > limit:
            break
    more = more or len(found) > limit
    shown = found[:limit]
    upto = shown[-1].position if len(found) > limit else after
    state, seen = call.state, call.visible
    items = [views.event(record, state, seen) for record in shown]
    return lists.answer(call, "Event", items, lists.cursor(call, str(upto)) if more else "", dated=False)


async def _read(call: Call, after: int, limit: int, tenants: Tenants) -> list[Record]:
    """Return records that the tenants may see, asked of the store by tenant: others' never leave it."""
    service = call.context.service
    pages = [
        await service.read(after, limit, subject=subject, tenant=name)
        for subject in _subjects(call)
        for name in (sorted(tenants) if tenants is not None else (None,))
    ]
    return list(heapq.merge(*pages, key=lambda record: record.position))[:limit]


def _subjects(call: Call) -> tuple[str, ...]:
    """Return what is asked about: of an endpoint, also the jobs that hold its replicas."""
    subject = call.query.get("subject", "")
    kind, _, name = subject.partition("/")
    if kind not in ("endpoint", "job"):
        return (subject,)
    endpoint, job = call.state.endpoints.get(name), call.state.jobs.get(name)
    if endpoint is not None:
        children = [f"job/{endpoint.child(r.number, pool)}" for r in endpoint.listed() for pool in r.pools]
        return tuple(dict.fromkeys((f"endpoint/{name}", *children)))
    # One with a command of its own is a job, under whatever kind it is asked for.
    return (f"job/{name}" if job is not None else subject,)


def _start(call: Call) -> int:
    key = lists.cursor_of(call)
    if key is None:
        return call.query["after"]
    return _position(key, "continue")


def _position(text: str, name: str) -> int:
    # Digits of other scripts are digits to str.isdigit, too.
    if not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise ParameterError(name, f"must be a position of the log, not {text[:60]!r}")
    return min(int(text), MAX_INTEGER)


async def event(call: Call) -> Response:
    """Show one fact."""
    position, visible = call.path["position"], call.visible
    records = await call.context.service.read(position - 1, 1)
    if records and records[0].position == position and (visible is None or records[0].tenant in visible):
        return call.answer(views.event(records[0], call.state, visible), version=position)
    raise HiddenError(f"there is no event at {position}, or it is not yours to see")


def _watch(call: Call) -> Response:
    last = call.request.headers.get("last-event-id", "").strip()
    after = _position(last, "Last-Event-ID") if last else call.query["after"]
    principal = call.principal
    call.context.open_stream(principal)
    return Stream(
        _pieces(call, after),
        media_type="text/event-stream",
        headers={
            "cache-control": "no-store",
            "x-accel-buffering": "no",  # a proxy that buffers would hold events back
            "x-plenum-position": str(call.state.position),
        },
        settings=call.context.settings,
        done=lambda: call.context.close_stream(principal),
    )


async def _pieces(call: Call, after: int) -> AsyncIterator[bytes]:
    """Yield server-sent events; before each the right to see it is looked at anew, as it may be withdrawn while the stream lasts."""
    yield b"retry: 2000\n\n"
    tenants = call.wanted_tenants()
    one = next(iter(tenants)) if tenants is not None and len(tenants) == 1 else None
    types = call.query["type"]
    # The jobs of an endpoint come and go, so which they are is looked at anew with each record.
    several = len(_subjects(call)) > 1
    watched = call.context.service.watch(after, subject="" if several else _subjects(call)[0], tenant=one)
    try:
        async for record in watched:
            await call.still_allowed()
            if record is None:
                yield f": at {call.state.position}\n\n".encode()
                continue
            tenants = call.wanted_tenants()
            if (types and record.type not in types) or (tenants is not None and record.tenant not in tenants):
                continue
            if several and record.subject not in _subjects(call):
                continue
            yield sse(record, views.event(record, call.state, call.visible))
    finally:
        close = getattr(watched, "aclose", None)
        if close is not None:
            await close()


def sse(record: Record, event: Event) -> bytes:
    """Return a fact as a server-sent event. The data is JSON on one line: a line break in it would begin another field."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (record.position, record.type.encode("ascii"), ENCODER.encode(event))


async def decisions(call: Call) -> Response:
    """List decisions; to a tenant's people those that were about their jobs."""
    tenants = call.wanted_tenants()
    after, limit = _start(call), call.query["limit"]
    shown = []
    more = True
    for _ in range(PAGES):
        records = await call.context.service.read(after, 500, subject="decisions")
        for record in records:
            if len(shown) == limit:
                break
            after = record.position
            if record.type == DecisionMade.__name__:
                decision = views.decision(record, call.state, tenants)
                shown += [decision] if decision is not None else []
        more = len(shown) == limit or len(records) == 500
        if len(shown) == limit or not more:
            break
    return lists.answer(call, "Decision", shown, lists.cursor(call, str(after)) if more else "", dated=False)


async def decision(call: Call) -> Response:
    """Show one decision."""
    position = call.path["position"]
    records = await call.context.service.read(position - 1, 1, subject="decisions")
    if records and records[0].position == position and records[0].type == DecisionMade.__name__:
        found = views.decision(records[0], call.state, call.visible)
        if found is not None:
            return call.answer(found, version=position)
    raise HiddenError(f"there is no decision at {position}, or it was about nothing of yours")
