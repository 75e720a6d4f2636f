"""The application: routes from a table, the same steps for each of them. ASGI, without a framework between.

What it is given: a :class:`~plenum.gateway.request.Dispatch`, a :class:`~plenum.gateway.journal.Journal`, and with :meth:`Gateway.use` a
table. :func:`plenum.gateway.server.serve` puts it on a port.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from typing import Any

import msgspec

from plenum.gateway.answers import client_id, is_loopback, overloaded
from plenum.gateway.call import Call, GoneError, Receive, Send
from plenum.gateway.experiment_routes import EXPERIMENTS
from plenum.gateway.inference import Inference
from plenum.gateway.journal import Journal
from plenum.gateway.limits import Failures, Room
from plenum.gateway.measures import CONTENT_TYPE, Measures
from plenum.gateway.refusals import Refusals
from plenum.gateway.request import Dispatch, RefusedError
from plenum.gateway.routes import Route, Router
from plenum.gateway.settings import GatewaySettings
from plenum.model.errors import PlenumError
from plenum.ports.engine import CHAT, COMPLETIONS, EMBEDDINGS
from plenum.ports.gateway import Served, Table

SYNC_S = 1.0
"""How often the journal is written to the disk: what a machine that goes down may lose."""

_LOG = logging.getLogger("plenum.gateway")


class Gateway:
    """An ASGI application.

    Parameters
    ----------
    dispatch
        Gets requests to engines.
    journal
        Keeps what they are billed.
    routes
        Those of other modules, beside the ones here.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        journal: Journal,
        settings: GatewaySettings | None = None,
        *,
        routes: Iterable[Route] = (),
    ) -> None:
        self.settings = settings or GatewaySettings()
        self.measures = Measures()
        self.journal = journal
        self.inference = Inference(dispatch, journal, self.settings, self.measures)
        self._routes = (*_ROUTES, *EXPERIMENTS, *routes)
        self._router = Router(self._routes)
        self._refusals = Refusals(self.measures)
        self._failures = Failures(self.settings.failures_per_minute)
        self.room = Room(self.settings.bodies_bytes, self.settings.tenant_bodies_bytes)
        self._open = 0
        self._tabled = False

    def add(self, routes: Iterable[Route]) -> None:
        """Add routes of modules that need this gateway themselves."""
        self._routes = (*self._routes, *routes)
        self._router = Router(self._routes)

    def use(self, table: Table) -> None:
        """Go by another table from the next request on; requests in flight go on as they began."""
        self.inference.use(table)
        self._tabled = True

    @property
    def ready(self) -> bool:
        """Whether it knows a table and takes requests."""
        return self._tabled and not self.inference.closing

    @property
    def in_flight(self) -> int:
        """Requests that are open."""
        return self._open

    def close(self) -> None:
        """Take no new requests; those that are open go on."""
        self.inference.closing = True

    async def keep_journal(self) -> None:
        """Write the journal to the disk every second, until cancelled."""
        while True:
            await asyncio.sleep(SYNC_S)
            with suppress(OSError):
                await asyncio.to_thread(self.journal.sync)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the gateway speaks HTTP, not {scope['type']}")
        call = Call(self, scope, receive, send)
        self._open += 1
        try:
            await self._answer(call)
        except GoneError:
            pass
        except RefusedError as error:
            await self._refuse(call, error)
        except PlenumError as error:
            _LOG.error("%s: %s: %s", call.id, error.code, error.sentence)
            await self._refuse(call, _fault(error.code))
        except Exception:
            _LOG.exception("%s failed", call.id)
            await self._refuse(call, _fault("gateway.fault"))
        finally:
            self._open -= 1
            if call.held_bytes:
                self.room.give_back(call.key.tenant, call.held_bytes)

    async def _answer(self, call: Call) -> None:
        given = client_id(call.header(b"x-client-request-id") or call.header(b"x-request-id"))
        if given:
            call.extra = [(b"x-client-request-id", given)]
        route = self._router.find(call)
        if route.open:
            await route.handler(call)
            return
        if self._open > self.settings.in_flight:
            raise overloaded("gateway.busy", "too many requests are open here; try again in a moment")
        if not self.ready:
            raise overloaded("gateway.not_ready", "this gateway is not ready, or about to end; try again in a moment")
        self._identify(call)
        await route.handler(call)

    def _identify(self, call: Call) -> None:
        now_s = time.monotonic()
        try:
            call.key = self.inference.directory.key_of(call.header(b"authorization"), time.time())
        except RefusedError:
            # Who has a key is served, whoever guesses behind the same proxy.
            self._failures.check(call.address, now_s)
            self._failures.note(call.address, now_s)
            raise

    async def _refuse(self, call: Call, error: RefusedError) -> None:
        self._refusals.note(call, error, time.monotonic())
        with suppress(GoneError):
            await call.refuse(error)


async def _infer(call: Call) -> None:
    raw = await call.body()
    inference = call.gateway.inference
    async with (
        call.while_there(),
        inference.ask(call.key, call.path, raw, id=call.id, wishes=call.wishes()) as answering,
    ):
        call.id = answering.id
        await call.begin(answering.status, answering.content_type, answering.headers)
        async for data in answering.chunks():
            await call.write(data)
    await call.end()


async def _models(call: Call) -> None:
    inference = call.gateway.inference
    found = dict(inference.directory.models(call.key))
    for name, model in inference.variants.models(call.key.tenant).items():
        known = name in found or not inference.directory.has(call.key.tenant, model)
        if not known and (not call.key.models or name in call.key.models):
            found[name] = inference.directory.served(call.key, model, name)
    models = [_model(name, served) for name, served in sorted(found.items())]
    await call.answer(200, msgspec.json.encode({"object": "list", "data": models}))


async def _one_model(call: Call) -> None:
    name = call.values["model"]
    served = call.gateway.inference.directory.served(call.key, name)
    await call.answer(200, msgspec.json.encode(_model(name, served)))


def _model(name: str, served: Served) -> dict[str, Any]:
    since = min((replica.since for replica in served.replicas), default=0.0)
    return {"id": name, "object": "model", "created": int(since), "owned_by": served.spec.tenant}


async def _healthz(call: Call) -> None:
    await call.answer(200, b'{"status":"ok"}')


async def _readyz(call: Call) -> None:
    ready = call.gateway.ready
    await call.answer(200 if ready else 503, b'{"ready":true}' if ready else b'{"ready":false}')


async def _metrics(call: Call) -> None:
    gateway = call.gateway
    if not _may_read_metrics(call):
        # Endpoints of all tenants stand in it.
        raise RefusedError(
            401, "authentication_error", "key.missing", "metrics are read from this host, or with their token"
        )
    gateway.measures.in_flight.set(gateway.in_flight)
    await call.answer(200, gateway.measures.exposition(), CONTENT_TYPE)


def _may_read_metrics(call: Call) -> bool:
    wanted = call.gateway.settings.metrics_hash
    scheme, _, token = call.header(b"authorization").partition(b" ")
    if wanted and scheme.lower() == b"bearer":
        return hmac.compare_digest(hashlib.sha256(token.strip()).hexdigest(), wanted)
    # What a proxy on this host passes on comes from elsewhere.
    passed_on = call.header(b"x-forwarded-for") or call.header(b"forwarded") or call.header(b"via")
    return is_loopback(call.address) and not passed_on


def _fault(code: str) -> RefusedError:
    return RefusedError(
        500, "server_error", code, "something went wrong here; the request id helps whoever looks into it"
    )


_ROUTES = (
    Route(method="POST", path=CHAT, handler=_infer),
    Route(method="POST", path=COMPLETIONS, handler=_infer),
    Route(method="POST", path=EMBEDDINGS, handler=_infer),
    Route(method="GET", path="/v1/models", handler=_models),
    Route(method="GET", path="/v1/models/{model}", handler=_one_model),
    Route(method="GET", path="/healthz", handler=_healthz, open=True),
    Route(method="GET", path="/readyz", handler=_readyz, open=True),
    Route(method="GET", path="/metrics", handler=_metrics, open=True),
)
