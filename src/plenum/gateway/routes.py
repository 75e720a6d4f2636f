"""The gateway's addresses: a table, to which other modules add theirs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from plenum.gateway.answers import invalid
from plenum.gateway.call import Call

Handler = Callable[[Call], Awaitable[None]]

_VALUE = r"[A-Za-z0-9._:/-]{1,256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An address.

    Parameters
    ----------
    path
        A template: ``{id}`` stands for a name, which the handler finds in :attr:`Call.values`.
    handler
        Answers, or raises :class:`~plenum.gateway.request.RefusedError`.
    open
        Whether it asks for no key.
    """

    method: str
    path: str
    handler: Handler
    open: bool = False


class Router:
    """Finds the route of a request."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._plain: dict[str, dict[str, Route]] = {}
        self._patterns: dict[str, tuple[re.Pattern[str], dict[str, Route]]] = {}
        for route in routes:
            if "{" not in route.path:
                self._plain.setdefault(route.path, {})[route.method] = route
                continue
            if route.path not in self._patterns:
                pattern = re.sub(r"\\{(\w+)\\}", rf"(?P<\1>{_VALUE})", re.escape(route.path))
                self._patterns[route.path] = (re.compile(pattern), {})
            self._patterns[route.path][1][route.method] = route

    def find(self, call: Call) -> Route:
        """Return the route of a request, and give it the values of its path.

        Raises
        ------
        RefusedError
            There is none, or not for this method.
        """
        methods, call.values = self._at(call.path)
        route = methods.get(call.method)
        if route is not None:
            return route
        if not methods:
            raise invalid("", self._elsewhere(call.path), code="route.unknown", status=404)
        allowed = ", ".join(sorted(methods))
        call.extra = [(b"allow", allowed.encode())]
        raise invalid("", f"this address takes {allowed}", code="route.method", status=405)

    def _at(self, path: str) -> tuple[dict[str, Route], dict[str, str]]:
        """Return a path's routes by method, and the values in it; no routes where there is nothing."""
        if path in self._plain:
            return self._plain[path], {}
        # The longest template first: /v1/batches/{id}/cancel before /v1/batches/{id}.
        for template in sorted(self._patterns, key=len, reverse=True):
            pattern, methods = self._patterns[template]
            if found := pattern.fullmatch(path):
                return methods, found.groupdict()
        return {}, {}

    def _elsewhere(self, path: str) -> str:
        """Say that there is nothing at a path; a client's base URL without /v1, or with two of them, is the usual reason."""
        for meant in (f"/v1{path}", path.removeprefix("/v1")):
            if meant != path and self._at(meant)[0]:
                return f"there is nothing at {path}; did you mean {meant}? A client's base URL ends with one /v1"
        return "there is nothing at this address"
