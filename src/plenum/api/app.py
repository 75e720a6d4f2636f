"""The application: routes from the table, and the same steps for each of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as Mounted

import plenum
from plenum.api import admin, problems
from plenum.api.authorise import CLUSTER, VISIBLE, Target, account, tenant
from plenum.api.call import ENCODER, JSON, Call
from plenum.api.context import ApiContext, source_of
from plenum.api.errors import HiddenError, MethodError, ParameterError, UnknownRouteError
from plenum.api.gate import ROUTE, UNROUTED, Gate
from plenum.api.identity import Principal
from plenum.api.jwt_issuers import Fetch
from plenum.api.openapi import document
from plenum.api.parameters import PATH, read_query
from plenum.api.refusals import Refusal
from plenum.api.routes import ROUTES, Reach, Route
from plenum.api.settings import ApiSettings
from plenum.api.tracing import JobTracer
from plenum.control.service import Service
from plenum.model.errors import PlenumError

_LOG = logging.getLogger("plenum.api")

_QUIET = frozenset({404, 409, 412, 501, 503})
"""Answers that refuse nobody anything: it is not there, or not now. (What is there and hidden is told apart.)"""


def create_app(service: Service, settings: ApiSettings | None = None, *, fetch: Fetch | None = None) -> FastAPI:
    """Return the API of a service; it is to be served on the event loop that the service runs on.

    Parameters
    ----------
    fetch
        How the keys of issuers of JWTs are read; None: from files and over https.

    Notes
    -----
    ``app.state.context`` is its :class:`~plenum.api.context.ApiContext`. The lifespan writes the refusals that still wait and ends the
    export of traces; it does not start or stop the service.
    """
    context = ApiContext(service, settings or ApiSettings(), fetch)
    tracer = JobTracer.of_environment(service)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await context.refusals.close()
        await asyncio.to_thread(tracer.close)

    app = FastAPI(
        title="Plenum",
        version=plenum.__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # A redirect to the same address with a slash would be built from a Host header that anybody can set.
        redirect_slashes=False,
        lifespan=lifespan,
        # Spans of jobs are made from the log; see plenum.api.tracing.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.context = context
    for route in ROUTES:
        # A plain route: the framework's own reading of parameters would come before the question who asks.
        mounted = Mounted(route.path, _endpoint(context, route), methods=[route.method], name=route.name)
        # GET would bring HEAD along, and with it streams that nobody reads.
        mounted.methods = {route.method}
        app.router.routes.append(mounted)
    _add_open_routes(app, context)

    async def failed(request: Request, error: Exception) -> Response:
        return _unrouted(context, request, error)

    app.add_exception_handler(HTTPException, failed)
    app.add_exception_handler(RequestValidationError, failed)
    app.add_middleware(Gate, context=context)
    return app


def _add_open_routes(app: FastAPI, context: ApiContext) -> None:
    described = document()
    app.openapi = lambda: described
    text = ENCODER.encode(described)

    async def healthz(request: Request) -> Response:
        request.scope[ROUTE] = "/healthz"
        return admin.health(context)

    async def readyz(request: Request) -> Response:
        request.scope[ROUTE] = "/readyz"
        return admin.readiness(context)

    async def openapi(request: Request) -> Response:
        request.scope[ROUTE] = "/openapi.json"
        return Response(text, 200, {"cache-control": "public, max-age=300"}, JSON)

    for path, endpoint in (("/healthz", healthz), ("/readyz", readyz), ("/openapi.json", openapi)):
        app.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False)


def _endpoint(context: ApiContext, route: Route) -> Callable[[Request], Awaitable[Response]]:
    """Return what answers a route: who is it, what do they mean, may they, and only then the work."""
    settings = context.settings
    body_limit = settings.large_body_bytes if route.large else settings.body_bytes

    async def endpoint(request: Request) -> Response:
        request.scope[ROUTE] = route.path
        principal: Principal | None = None
        try:
            principal = await context.identify(request)
            call = Call(context, request, principal, route.action, _path(request), {}, body_limit)
            _admit(call, route)
            call.query = read_query(request.query_params, route.parameters)
            return await route.handler(call)
        except PlenumError as error:
            return _refuse(context, request, principal, route.path, error)

    return endpoint


def _path(request: Request) -> dict[str, object]:
    values: dict[str, object] = {}
    for name, text in request.path_params.items():
        if not text.isprintable():
            raise ParameterError(name, "holds a character that no name has")
        values[name] = PATH[name].read(text)
    return values


def _admit(call: Call, route: Route) -> None:
    """Pass if the caller may do a route's action on what the path names.

    Raises
    ------
    ForbiddenError, AbsentError
        They may not.
    """
    principal = call.principal
    match route.reach:
        case Reach.TENANT:
            call.allow(tenant(call.path["tenant"]))
        case Reach.CLUSTER:
            call.allow(CLUSTER)
        case Reach.SELF:
            call.allow(account(principal.name, frozenset()))
        case Reach.EACH | Reach.ACCOUNT:
            call.allow(VISIBLE)
        case Reach.AGENT:
            call.allow(Target(kind="Agent", name=call.path["agent"]))
        case Reach.GATEWAY:
            call.allow(Target(kind="Gateway", name=call.path["gateway"]))
        case Reach.JOIN:
            # The agent's name stands in the body; what a token can never do is refused before that is read.
            call.context.require(principal, route.action, Target(kind="Agent", name=principal.bound_to or "agent"))


def _refuse(
    context: ApiContext,
    request: Request,
    principal: Principal | None,
    template: str,
    error: PlenumError,
    **headers: str,
) -> Response:
    """Answer with a problem, and note it if somebody was refused something."""
    context.metrics.refusals.labels(error.code).inc()
    if problems.status_of(error) not in _QUIET or isinstance(error, (HiddenError, UnknownRouteError)):
        whose = _tenant_of(request)
        # A tenant's people read of refusals within their tenant; of a stranger's attempt the operator alone.
        inside = (
            principal is not None
            and whose in context.service.state.tenants
            and context.policies.allows(principal, "tenants:read", tenant(whose))
        )
        context.refusals.note(
            Refusal(
                actor=principal.actor if principal else "anonymous",
                source=source_of(request),
                verb=request.method if len(request.method) <= 16 else "*",
                route=template,
                path=request.scope["path"],
                code=error.code,
                sentence=error.sentence,
                tenant=whose if inside else "",
            )
        )
    return problems.answer_of(error, request.scope["path"], headers)


def _tenant_of(request: Request) -> str:
    return str(request.path_params.get("tenant", ""))[:64] or request.query_params.get("tenant", "")[:64]


def _unrouted(context: ApiContext, request: Request, error: Exception) -> Response:
    """Answer what reached no route of ours: an unknown address, a wrong method, a request that the framework did not take."""
    template = request.scope.get(ROUTE, UNROUTED)
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        told: PlenumError = MethodError(
            f"{request.method[:16]} is not for this address; it takes {allowed or 'others'}"
        )
        return _refuse(context, request, None, template, told, allow=allowed)
    if isinstance(error, HTTPException) and error.status_code == 404:
        return _refuse(
            context, request, None, template, UnknownRouteError("there is nothing at this address; see /openapi.json")
        )
    return _refuse(
        context, request, None, template, ParameterError("", f"the request cannot be meant: {str(error)[:200]}")
    )
