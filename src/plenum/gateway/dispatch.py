"""The way of a request to a replica: :class:`Dispatcher` implements :class:`~plenum.gateway.request.Dispatch`.

    revision (canary) → place at a replica (queue, routing) → first bytes (retry elsewhere) → the client

Way in: ``async with Dispatcher(name, connect) as dispatcher``, :meth:`Dispatcher.update` with each new table, :meth:`Dispatcher.send`, and
:meth:`Dispatcher.loads` every second or two, at once when :attr:`Dispatcher.calling` is set.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self

from plenum.gateway.flight import Flight, TurnedAwayError
from plenum.gateway.group import Group, MovedError, Seat, Ticket
from plenum.gateway.request import Ask, RefusedError
from plenum.gateway.targets import READY, Target
from plenum.model.errors import PlenumError
from plenum.ports.engine import Engine, EngineError
from plenum.ports.gateway import LoadReport, PoolLoad, Replica, Served, Table, engine_key

MAX_TRIES = 4
"""Replicas that one request is sent to before it is given up; each is another one while there are others."""

AGAIN_S = 0.25
"""Before the same replica is tried again; doubles each time."""

MAX_MOVES = 8
"""Times that a request looks for another revision because its own is gone."""

POLL_S = 1.0
"""How often engines are asked for their metrics."""

POLL_TIMEOUT_S, LEARN_TIMEOUT_S = 5.0, 60.0

Connect = Callable[[Replica, str], Engine]
"""Gives the engine of a replica, with the key that it asks for."""


class Dispatcher:
    """Decides where requests go, and gets them there.

    Parameters
    ----------
    name
        Of this gateway.
    connect
        Gives engines; called once for each replica.
    now
        Monotonic clock, the one of :attr:`Ask.arrived_s`.

    Attributes
    ----------
    calling
        Set when a request finds no replica; whoever reports loads waits for it, and clears it.
    """

    def __init__(self, name: str, connect: Connect, *, now: Callable[[], float] = time.monotonic) -> None:
        self.name, self.calling = name, asyncio.Event()
        self._connect, self._now = connect, now
        self._groups: dict[str, dict[int, Group]] = {}
        self._served: dict[str, Served] = {}
        self._version, self._turn, self._reported_s = 0, 0, now()
        self._tasks: set[asyncio.Task[None]] = set()
        self._secret = ""

    async def __aenter__(self) -> Self:
        self._spawn(self._poll())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for groups in self._groups.values():
            for group in groups.values():
                for target in group.targets:
                    await target.engine.close()

    def update(self, table: Table) -> None:
        """Go by another table from now on; requests in flight go on where they are."""
        self._version, self._secret = table.version, table.engine_secret
        served = {one.spec.id: one for one in table.served}
        for endpoint in self._groups.keys() - served.keys():
            for group in self._groups.pop(endpoint).values():
                self._retire(group.targets)
                group.dissolve()
        self._served = served
        for one in table.served:
            self._update_groups(one, self._groups.setdefault(one.spec.id, {}))

    @asynccontextmanager
    async def send(self, ask: Ask) -> AsyncIterator[Flight]:
        """Give a request's answer while the context is open; see :class:`~plenum.gateway.request.Dispatch`."""
        flight = await self._launch(ask)
        try:
            yield flight
        finally:
            await flight.close()

    def loads(self) -> LoadReport:
        """Return what was seen since the report before, pool by pool."""
        now_s = self._now()
        seconds, self._reported_s = now_s - self._reported_s, now_s
        groups = [group for groups in self._groups.values() for group in groups.values()]
        pools = tuple(_pool_load(group, pool.name) for group in groups for pool in group.spec.pools)
        return LoadReport(gateway=self.name, seconds=seconds, table=self._version, pools=pools)

    async def _launch(self, ask: Ask) -> Flight:
        """Try until first bytes have come."""
        ticket, moves, last = Ticket(ask), 0, ""
        self._group_for(ask, ticket.tried).tally.arrived += 1
        while len(ticket.tried) < MAX_TRIES and moves < MAX_MOVES:
            group = self._group_for(ask, ticket.tried)
            try:
                seat = await group.seat(ticket)
            except MovedError:
                moves += 1
                continue
            except RefusedError:
                group.tally.refused += 1
                raise
            try:
                return await self._begin(ask, seat)
            except EngineError as error:
                last = str(error)
                if not (isinstance(error, TurnedAwayError) and error.busy):
                    group.failed(seat.target)
            again = seat.target.replica.run in ticket.tried or not group.usable({seat.target.replica.run})
            ticket.tried.add(seat.target.replica.run)
            if again:
                moves += 1
                await asyncio.sleep(AGAIN_S * 2 ** (moves - 1))
        sentence = f"no replica of model {ask.model} could answer; the last one: {last[:200] or 'it went away'}"
        raise RefusedError(503, "overloaded_error", "engine.failed", sentence, retry_after_s=2.0)

    async def _begin(self, ask: Ask, seat: Seat) -> Flight:
        flight = Flight(ask, seat, self._now)
        try:
            async with asyncio.timeout(max(Ticket(ask).until_s - self._now(), 0.0)):
                await flight.begin(seat.target.engine.open(ask.path, ask.raw))
        except TimeoutError as error:
            await flight.close()
            raise EngineError("the engine gave nothing in time") from error
        except BaseException:
            await flight.close()
            raise
        return flight

    def _group_for(self, ask: Ask, tried: set[str]) -> Group:
        """Return the revision for a request: by a hash of its session or id, or another one where that has nobody to offer."""
        groups = self._groups.get(ask.served.spec.id, {})
        served = self._served.get(ask.served.spec.id)
        if not groups or served is None:
            sentence = f"model {ask.model} is not served any more"
            raise RefusedError(404, "invalid_request_error", "model.gone", sentence, field="model")
        wanted = groups.get(revision_of(served, ask.session or ask.id))
        order = [wanted] if wanted else []
        order += sorted((g for g in groups.values() if g is not wanted), key=lambda g: g.revision)
        for group in order:
            if group.usable(tried):
                return group
        return next((group for group in order if group.ready()), order[0])

    def _pick(self, group: Group, ticket: Ticket, roomy: list[Target]) -> Target | None:
        self._turn += 1
        return roomy[self._turn % len(roomy)]

    def _update_groups(self, served: Served, groups: dict[int, Group]) -> None:
        specs = served.specs or dict.fromkeys(served.revisions, served.spec) or {0: served.spec}
        wanted = specs.keys() | {replica.revision for replica in served.replicas}
        for revision in sorted(wanted):
            spec = specs.get(revision, served.spec)
            if revision not in groups:
                groups[revision] = Group(spec, revision, self._now, self._pick, self.calling.set)
            group = groups[revision]
            group.spec = spec
            self._update_targets(group, [r for r in served.replicas if r.revision == revision])
        for revision in groups.keys() - wanted:
            group = groups.pop(revision)
            self._retire(group.targets)
            group.dissolve()
        for group in groups.values():
            group.pump()

    def _update_targets(self, group: Group, replicas: list[Replica]) -> None:
        known = {target.replica.run: target for target in group.targets}
        targets: list[Target] = []
        for replica in sorted(replicas, key=lambda r: r.run):
            target = known.get(replica.run)
            if target is None or target.replica.url != replica.url:
                if not replica.url:
                    continue  # it has no address yet
                engine = self._connect(replica, engine_key(self._secret, replica.run))
                target = Target(replica, engine, group.spec.slots or engine.capabilities.slots)
                self._spawn(_learn(target, group))
            target.replica = replica
            targets.append(target)
        group.targets = targets
        self._retire([target for target in known.values() if target not in targets])

    def _retire(self, targets: list[Target]) -> None:
        for target in targets:
            self._spawn(_close(target))

    def _spawn(self, work: object) -> None:
        try:
            task = asyncio.get_running_loop().create_task(work)  # pyright: ignore[reportArgumentType]
        except RuntimeError:  # no loop runs yet: nothing was connected either
            work.close()  # pyright: ignore[reportAttributeAccessIssue]
            return
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _poll(self) -> None:
        while True:
            targets = [t for groups in self._groups.values() for g in groups.values() for t in g.targets]
            await asyncio.gather(*(_ask_metrics(t) for t in targets if t.replica.phase == READY))
            for groups in self._groups.values():
                for group in groups.values():
                    group.pump()
            await asyncio.sleep(POLL_S)


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


def _pool_load(group: Group, pool: str) -> PoolLoad:
    targets = [target for target in group.targets if target.replica.pool == pool]
    answers = pool == group.spec.pools[-1].name
    return group.tallies[pool].report(
        group.spec.id,
        group.revision,
        pool,
        waiting=len(group.queue) if answers else 0,
        running=sum(target.own for target in targets),
        cache_used=sum(target.cache_used for target in targets) / len(targets) if targets else 0.0,
    )


async def _ask_metrics(target: Target) -> None:
    with suppress(PlenumError, TimeoutError):
        async with asyncio.timeout(POLL_TIMEOUT_S):
            target.take_metrics(await target.engine.metrics())


async def _learn(target: Target, group: Group) -> None:
    """Let the engine find out what it can do, and how much at once."""
    with suppress(PlenumError, TimeoutError):
        async with asyncio.timeout(LEARN_TIMEOUT_S):
            await target.engine.start()
        target.sized(group.spec.slots or target.engine.capabilities.slots)
        group.pump()


async def _close(target: Target) -> None:
    """Close a replica's connections once nothing of it is in flight."""
    while target.own:
        await asyncio.sleep(POLL_S)
    await target.engine.close()
