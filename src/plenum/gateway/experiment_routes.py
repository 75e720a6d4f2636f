"""Addresses of experiments: what was measured of each arm, and what clients thought of answers."""

from __future__ import annotations

import msgspec

from plenum.gateway.answers import invalid
from plenum.gateway.call import Call
from plenum.gateway.read import read_object
from plenum.gateway.routes import Route


async def _list(call: Call) -> None:
    body = {"object": "list", "data": call.gateway.inference.variants.shown(call.key.tenant)}
    await call.answer(200, msgspec.json.encode(body))


async def _score(call: Call) -> None:
    said = read_object(await call.body())
    request, score = said.get("request_id"), said.get("score")
    if not isinstance(request, str):
        raise invalid("request_id", "request_id must be the x-request-id of an answer")
    if not isinstance(score, int | float) or isinstance(score, bool) or not 0 <= score <= 1:
        raise invalid("score", "score must be a number from 0 to 1")
    chosen = call.gateway.inference.variants.score(call.key.tenant, request, float(score))
    body = {"object": "score", "experiment": chosen.experiment, "arm": chosen.arm.name}
    await call.answer(200, msgspec.json.encode(body))


EXPERIMENTS = (
    Route(method="GET", path="/v1/experiments", handler=_list),
    Route(method="POST", path="/v1/scores", handler=_score),
)
