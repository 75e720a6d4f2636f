"""What gateways ask and tell: the table, loads, usage."""

from __future__ import annotations

from typing import TypeVar

from starlette.responses import Response

from plenum.adapters.manifests.endpoint_types import url_problem
from plenum.api import shapes
from plenum.api.call import JSON, Call, decoded, media_type
from plenum.api.errors import ForbiddenError, MediaTypeError, ParameterError
from plenum.api.parameters import Parameter
from plenum.api.served_shapes import Gateway
from plenum.control.endpoints.commands import record_usage
from plenum.model.errors import FieldError
from plenum.ports.gateway import LoadReport, Peers, UsageBatch

T = TypeVar("T")
WAIT_S = 30
"""Longest that a gateway's request for its table is held for news."""

VERSION = Parameter(
    name="version", about="Of the table that it has; -1: none.", kind="integer", default=-1, low=-1, example=17
)
WAIT = Parameter(
    name="wait", about="Seconds that the answer may be held back for news.", kind="number", default=0, high=WAIT_S
)
URL = Parameter(name="url", about="Where clients reach the gateway.", default="")


async def table(call: Call) -> Response:
    """Answer with the table once it is another than the gateway has; 304 where it is not for a while."""
    url = call.query["url"]
    if url and (problem := url_problem(url)):
        raise ParameterError("url", problem)
    context = call.context
    service = context.service
    context.gateways.heard(call.path["gateway"], url, call.now, call.query["version"])
    call.request.scope["plenum.streaming"] = True
    found = await service.table(call.query["version"], call.query["wait"])
    if found is None:
        return Response(status_code=304, headers={"cache-control": "no-store"})
    return call.answer(found, headers={"cache-control": "no-store"})


async def loads(call: Call) -> Response:
    """Take in what a gateway saw; the answer says which gateways there are."""
    report: LoadReport = await _told(call, LoadReport)
    _check_sender(call, report.gateway)
    if report.url and (problem := url_problem(report.url)):
        raise FieldError("url", problem)
    service = call.context.service
    service.report(report)
    return call.answer(Peers(api_version=shapes.API_VERSION, gateways=service.controller.loads.alive()))


async def usage(call: Call) -> Response:
    """Write down what a gateway's requests took; once it answers, the gateway may forget the batch."""
    batch: UsageBatch = await _told(call, UsageBatch)
    _check_sender(call, batch.gateway)
    outcome = await call.context.service.execute(record_usage(batch).by(call.principal.actor))
    return call.done(f"batch {batch.number} is in the log", outcome)


async def _told(call: Call, kind: type[T]) -> T:
    given = media_type(call.request)
    if given != JSON:
        raise MediaTypeError(f"send {JSON}, not {given[:60]}")
    return decoded(await call.body(), kind)


def _check_sender(call: Call, sender: str) -> None:
    """Raise ForbiddenError unless what came is from the gateway in the path, or one life of it (``name.…``)."""
    name = call.path["gateway"]
    if sender != name and not sender.startswith(f"{name}."):
        raise ForbiddenError(f"this is the address of gateway {name}, not of {sender[:60]!r}")


async def list_of(call: Call) -> Response:
    """List the gateways that were heard of lately: where models can be asked."""
    items = [
        Gateway(name=name, url=url, seen_at=shapes.timestamp(at), table=version)
        for name, (url, at, version) in sorted(call.context.gateways.lately(call.now).items())
    ]
    return call.answer({"apiVersion": shapes.API_VERSION, "kind": "GatewayList", "metadata": {}, "items": items})
