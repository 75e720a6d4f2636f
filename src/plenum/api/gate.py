"""The outermost part: counts requests, adds headers, and lets no fault of ours out as anything but a problem document."""

from __future__ import annotations

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plenum.api import problems
from plenum.api.context import ApiContext
from plenum.api.errors import BusyError
from plenum.api.streams import STREAMING

ROUTE = "plenum.route"
"""Key of a request's scope under which its route's template stands."""

UNROUTED = "unrouted"

_METHODS = frozenset({"GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"})
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]

_LOG = logging.getLogger("plenum.api")


class Gate:
    """ASGI middleware without a framework's: it runs for every request."""

    def __init__(self, app: ASGIApp, context: ApiContext) -> None:
        self._app = app
        self._context = context
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        metrics = self._context.metrics
        started, status = time.perf_counter(), 0

        async def out(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        self._open += 1
        metrics.in_flight.set(self._open)
        try:
            if self._open > self._context.settings.in_flight:
                answer = problems.answer_of(
                    BusyError("too many requests are open; try again in a second"), scope["path"]
                )
                await answer(scope, receive, out)
                return
            await self._app(scope, receive, out)
        except Exception:
            _LOG.exception("a fault of ours at %s %r", scope["method"], scope.get(ROUTE, UNROUTED))
            if status:
                raise  # part of an answer is out: the server closes the connection
            await problems.internal(scope["path"])(scope, receive, out)
        finally:
            self._open -= 1
            metrics.in_flight.set(self._open)
            route = scope.get(ROUTE, UNROUTED)
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            metrics.requests.labels(method, route, str(status)).inc()
            if STREAMING not in scope:
                metrics.request_s.labels(method, route).observe(time.perf_counter() - started)
