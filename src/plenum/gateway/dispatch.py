"""The way of a request to a replica: :class:`Dispatcher` implements :class:`~plenum.gateway.request.Dispatch`.

    revision (canary) → admission → place at a replica (queue, routing) → hand-off → first bytes (retry, hedge) → the client

Way in: ``async with Dispatcher(name, connect) as dispatcher``, :meth:`Dispatcher.update` with each new table, :meth:`Dispatcher.send`, and
:meth:`Dispatcher.loads` every second or two, at once when :attr:`Dispatcher.calling` is set.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from plenum.gateway import admitting, choosing, foresight, handoff
from plenum.gateway.admitting import OUTPUT_CAP, Outlook
from plenum.gateway.fleet import Connect, Fleet, Foresee
from plenum.gateway.flight import Flight, TurnedAwayError
from plenum.gateway.group import Group
from plenum.gateway.handoff import Handoffs
from plenum.gateway.incidents import HEDGED, RETRIED, Incidents
from plenum.gateway.read import keep_apart
from plenum.gateway.request import Ask, RefusedError
from plenum.gateway.seats import MovedError, Seat, Ticket
from plenum.ports.engine import CHAT, COMPLETIONS, EMBEDDINGS, EngineError
from plenum.ports.gateway import LoadReport, Served, Table
from plenum.serving import admission

_LOG = logging.getLogger("plenum.gateway.dispatch")

_NEEDS = {CHAT: "chat", COMPLETIONS: "completions", EMBEDDINGS: "embeddings"}
"""Path to the capability that it takes."""

MAX_TRIES = 4
"""Times that one request is sent to replicas before it is given up; each is another one while there are others."""

AGAIN_S = 0.25
"""Before the same replica is tried again; doubles each time."""

TOKENIZE_TIMEOUT_S = 0.5
"""For a prompt's tokens: without them it goes by what was sent where."""

LATE = 2.0
"""A first token is unusually late from so many times the upper end of its prediction on: short of that it is queues, not accidents, and
asking twice makes them longer."""

MAX_MOVES = 8
"""Times that a request looks for another revision because its own is gone."""


class Dispatcher:
    """Decides where requests go, and gets them there.

    Parameters
    ----------
    name
        Of this gateway.
    connect
        Gives engines; called once for each replica.
    foresee
        Gives what predicts for an endpoint.
    now
        Monotonic clock, the one of :attr:`Ask.arrived_s`.

    Attributes
    ----------
    incidents
        What did not go the plain way.
    """

    def __init__(
        self,
        name: str,
        connect: Connect,
        *,
        foresee: Foresee = foresight.foresee,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._now = now
        self.incidents = Incidents()
        self._fleet = Fleet(connect, foresee, now, self.incidents)
        self._handoffs = Handoffs(now, self.incidents)

    @property
    def calling(self) -> asyncio.Event:
        """Set when a request finds no replica; whoever reports loads waits for it, and clears it."""
        return self._fleet.calling

    async def __aenter__(self) -> Self:
        choosing.warm()
        admitting.warm()
        handoff.warm()
        foresight.warm()
        self._fleet.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._fleet.close()

    def update(self, table: Table) -> None:
        """Go by another table from now on; requests in flight go on where they are."""
        self._fleet.update(table)
        self._handoffs.reach(table.uplinks_bps)

    def loads(self) -> LoadReport:
        """Return what was seen since the report before, pool by pool."""
        return self._fleet.loads(self.name)

    @asynccontextmanager
    async def send(self, ask: Ask) -> AsyncIterator[Flight]:
        """Give a request's answer while the context is open; see :class:`~plenum.gateway.request.Dispatch`.

        Where admission changes what is asked (a shorter output, a cheaper model), ``ask.body`` is changed and encoded anew.
        """
        flight = await self._launch(ask)
        try:
            yield flight
        finally:
            await flight.close()

    async def _launch(self, ask: Ask) -> Flight:
        """Try until first bytes have come."""
        group = self._group_for(ask, set())
        _check_able(ask, group)
        ticket = self._ticket(ask, group)
        group.tally.arrived += 1
        group.hedges.earn()
        try:
            if group.kv_index:
                ticket.tokens = await _tokens(ask, group)
            if ask.path != EMBEDDINGS:
                ticket = self._admit(ticket, group)
            return await self._try(ticket)
        except RefusedError:
            group.tally.refused += 1
            raise

    async def _try(self, ticket: Ticket) -> Flight:
        ask, tries, moves, last = ticket.ask, 0, 0, ""
        while tries < MAX_TRIES and moves < MAX_MOVES:
            group = self._group_for(ask, ticket.tried)
            try:
                seat = await group.seat(ticket)
            except MovedError:
                moves += 1
                continue
            if tries:
                self.incidents.note(RETRIED, group.spec.id)
            tries += 1
            try:
                return await self._begin(ticket, seat)
            except EngineError as error:
                last = str(error)
            if not self._group_for(ask, ticket.tried).usable(ticket.tried) and tries < MAX_TRIES:
                await asyncio.sleep(AGAIN_S * 2 ** (tries - 1))
        # What an engine says of itself names hosts and ports, which are not for clients.
        _LOG.warning("%s: no replica of %s answered: %s", ask.id, ask.served.spec.id, last[:200] or "they went away")
        sentence = f"no replica of model {ask.model} could answer; try again in a moment"
        raise RefusedError(503, "overloaded_error", "engine.failed", sentence, retry_after_s=2.0)

    async def _begin(self, ticket: Ticket, seat: Seat) -> Flight:
        """Wait for first bytes of one replica, or of a second one where the first is unusually late."""
        late_s = self._late_s(ticket, seat)
        if late_s is None:
            return await self._open(ticket, seat)
        first = asyncio.ensure_future(self._open(ticket, seat))
        flying: set[asyncio.Future[Flight]] = {first}
        try:
            await asyncio.wait(flying, timeout=late_s)
            if not first.done() and (second := self._second(ticket, seat)):
                self.incidents.note(HEDGED, seat.group.spec.id)
                flying.add(asyncio.ensure_future(self._open(ticket, second)))
            return await _first_of(flying)
        except BaseException:
            await _give_up(flying)
            raise

    async def _open(self, ticket: Ticket, seat: Seat) -> Flight:
        ask, engine = ticket.ask, seat.target.engine
        flight = Flight(ask, seat, self._now)
        apart = bool(seat.group.prefilling) and ask.path != EMBEDDINGS
        try:
            async with asyncio.timeout(max(ask.deadline_s - self._now(), 0.0) if ask.deadline_s else None):
                await flight.begin(self._handoffs.opened(ticket, seat) if apart else engine.open(ask.path, ask.raw))
        except (EngineError, TimeoutError) as error:
            await flight.close()
            ticket.tried.add(flight.run)
            if not (isinstance(error, TurnedAwayError) and error.busy):
                seat.group.failed(seat.target)
            if isinstance(error, TimeoutError):
                raise EngineError("nothing came in time") from error
            raise
        except BaseException:
            await flight.close()
            raise
        return flight

    def _late_s(self, ticket: Ticket, seat: Seat) -> float | None:
        """Return after how long a second replica is asked; None: never."""
        forecast = seat.group.forecast
        if ticket.tier or not ticket.ask.stream or not forecast.knows_ttft or len(seat.group.answering) < 2:
            return None
        return LATE * forecast.ttft_s(*seat.features) * forecast.ttft_errors.high

    def _second(self, ticket: Ticket, seat: Seat) -> Seat | None:
        if not seat.stuck or not seat.group.hedges.spend():
            return None
        second = seat.group.spare(ticket, seat)
        if second is None:
            seat.group.hedges.give_back()
        return second

    def _admit(self, ticket: Ticket, group: Group) -> Ticket:
        """Walk the ladder; returns the ticket to go on with, another one where another endpoint is to answer."""
        ask = ticket.ask
        other, cheaper = self._cheaper(ask)
        verdict = group.judge(ticket, cheaper)
        if verdict is None:
            return ticket
        ask.verdict = verdict.name
        if verdict.step == admission.SHED:
            sentence = f"model {ask.model} is busy: {verdict.sentence}"
            retry_s = group.retry_after_s(ticket.tier)
            raise RefusedError(503, "overloaded_error", verdict.code, sentence, retry_after_s=retry_s)
        if verdict.step == admission.CAP:
            _cap(ask)
        if verdict.step == admission.CHEAPER and other is not None:
            _redirect(ask, other, self._fleet.salt(ask.key.tenant))
            return self._ticket(ask, self._group_for(ask, set()))
        return ticket

    def _cheaper(self, ask: Ask) -> tuple[Served | None, Outlook | None]:
        """Return the endpoint that may answer instead, and what would become of the request there."""
        spec = ask.served.spec
        other = self._fleet.served.get(f"{spec.tenant}/{spec.cheaper}") if spec.cheaper else None
        if other is None or (ask.key.models and other.spec.model_name not in ask.key.models):
            return None, None
        groups = self._fleet.groups(other.spec.id)
        group = groups.get(revision_of(other, ask.session or ask.id))
        if group is None or not group.usable(set()):
            return None, None
        return other, group.outlook(self._ticket(ask, group), judged=True)

    def _ticket(self, ask: Ask, group: Group) -> Ticket:
        return Ticket(ask, self._fleet.salt(ask.key.tenant), group.policy)

    def _group_for(self, ask: Ask, tried: set[str]) -> Group:
        """Return the revision for a request: by a hash of its session or id, or another one where that has nobody to offer."""
        groups, served = self._fleet.groups(ask.served.spec.id), self._fleet.served.get(ask.served.spec.id)
        if not groups or served is None:
            sentence = f"model {ask.model} is not served any more"
            raise RefusedError(404, "invalid_request_error", "model.gone", sentence, field="model")
        groups = _with_adapter(ask, groups)
        wanted = groups.get(revision_of(served, ask.session or ask.id))
        order = [wanted] if wanted else []
        order += sorted((group for group in groups.values() if group is not wanted), key=lambda group: group.revision)
        for group in order:
            if group.usable(tried):
                return group
        return next((group for group in order if group.ready()), order[0])


def _with_adapter(ask: Ask, groups: dict[int, Group]) -> dict[int, Group]:
    """Return the revisions that have the adapter that is asked for: another would answer as the model itself.

    One that has just been added is only in the newest revision, and in none that serves once that went back.
    """
    if ask.model not in dict(ask.served.spec.adapters):
        return groups
    found = {revision: group for revision, group in groups.items() if ask.model in dict(group.spec.adapters)}
    if not found:
        sentence = f"no replica has the adapter {ask.model} now; try again later"
        raise RefusedError(503, "overloaded_error", "adapter.absent", sentence, field="model", retry_after_s=10.0)
    return found


def revision_of(served: Served, name: str) -> int:
    """Return the revision that a session or request goes to.

    A hash spreads them as the weights say; the old revision keeps its part from below, so that a growing canary takes sessions and
    gives none back.
    """
    if not served.revisions:
        return max(served.specs, default=0)
    point = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2.0**64
    total = sum(served.revisions.values()) or 1.0
    reached = 0.0
    for revision in sorted(served.revisions):
        reached += served.revisions[revision] / total
        if point < reached:
            return revision
    return max(served.revisions)


async def _first_of(flying: set[asyncio.Future[Flight]]) -> Flight:
    """Return the first that begins, and end the others.

    Raises
    ------
    EngineError
        None of them does.
    """
    left = set(flying)
    while True:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        good = [one for one in done if one.exception() is None]
        if good:
            await _give_up(flying - {good[0]})
            return good[0].result()
        if not left:
            return next(iter(done)).result()


async def _give_up(flying: set[asyncio.Future[Flight]]) -> None:
    """End those that are still on their way, and those that have come and are not wanted."""
    for one in flying:
        one.cancel()
    for one in await asyncio.gather(*flying, return_exceptions=True):
        if isinstance(one, Flight):
            await one.close()


def _check_able(ask: Ask, group: Group) -> None:
    """Refuse what no engine of the model does, before it is tried and counted against them."""
    known = [target.engine.capabilities for target in group.answering if target.learned]
    if known and not any(getattr(able, _NEEDS[ask.path]) for able in known):
        does = [path for path, need in _NEEDS.items() if any(getattr(able, need) for able in known)]
        sentence = f"model {ask.model} has no {ask.path}; it has {' and '.join(does) or 'nothing that is known here'}"
        raise RefusedError(400, "invalid_request_error", "model.cannot", sentence, field="model")


async def _tokens(ask: Ask, group: Group) -> Sequence[int]:
    """Return a prompt's tokens, from any replica that will say them soon; none where nobody does."""
    given = ask.body.get("prompt")
    if isinstance(given, list) and all(type(token) is int for token in given):
        return given
    for target in group.answering[:1]:
        with suppress(Exception):  # whatever it answers: it goes by what was sent where, then
            async with asyncio.timeout(TOKENIZE_TIMEOUT_S):
                return await target.engine.tokenize(ask.prompt)
    return ()


def _cap(ask: Ask) -> None:
    named = [name for name in ("max_completion_tokens", "max_tokens") if ask.body.get(name)]
    for name in named or ["max_tokens"]:
        ask.body[name] = OUTPUT_CAP
    ask.output_tokens = OUTPUT_CAP
    ask.raw = msgspec.json.encode(ask.body)


def _redirect(ask: Ask, other: Served, salt: str) -> None:
    ask.served, ask.model = other, other.spec.model_name
    body: dict[str, Any] = ask.body
    body["model"] = ask.model
    keep_apart(body, other.spec.engine, salt, shared=bool(other.spec.attached))  # to whom else it is, nobody says here
    ask.raw = msgspec.json.encode(body)
