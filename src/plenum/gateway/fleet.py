"""All revisions of all endpoints as the table has them: replicas come and go, engines are asked how they are, loads are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from plenum.gateway.forecast import Forecast
from plenum.gateway.group import Group
from plenum.gateway.incidents import Incidents
from plenum.gateway.targets import DRAINING, READY, Target
from plenum.model.endpoint import Endpoint
from plenum.model.errors import PlenumError
from plenum.ports.engine import Engine
from plenum.ports.gateway import LoadReport, PoolLoad, Replica, Served, Table, engine_key
from plenum.serving import routing

TICK_S = 0.25
"""How often those that wait are looked at; all else that changes their lot calls for it itself."""

POLL_TICKS = 4
"""Ticks between two questions to engines for their metrics."""

POLL_TIMEOUT_S, CLOSE_S = 5.0, 0.5

_LOG = logging.getLogger("plenum.gateway.fleet")

Connect = Callable[[Replica, str], Engine]
"""Gives the engine of a replica, with the key that it asks for, as :func:`plenum.adapters.engines.table.engine_for` does."""

Foresee = Callable[[Endpoint], Forecast]
"""Gives what predicts for an endpoint's replicas."""


class Fleet:
    """Groups of replicas by endpoint and revision.

    Attributes
    ----------
    calling
        Set when a request finds no replica.
    """

    def __init__(
        self, connect: Connect, foresee: Foresee, now: Callable[[], float], incidents: Incidents | None = None
    ) -> None:
        self.calling = asyncio.Event()
        self.served: dict[str, Served] = {}
        self.version = 0
        self._connect, self._foresee, self._now = connect, foresee, now
        self._incidents = incidents or Incidents()
        self._groups: dict[str, dict[int, Group]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._retired: set[Target] = set()
        self._salts: dict[str, str] = {}
        self._secret, self._reported_s = "", now()

    def groups(self, endpoint: str) -> dict[int, Group]:
        """Return an endpoint's revisions."""
        return self._groups.get(endpoint, {})

    def salt(self, tenant: str) -> str:
        """Return what keeps a tenant's prefixes apart."""
        return self._salts.get(tenant, "")

    def start(self) -> None:
        """Begin to look after the replicas."""
        self._spawn(self._tend())

    async def close(self) -> None:
        """End everything that runs, and close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for group in self._all():
            for target in group.targets:
                await target.engine.close()

    def update(self, table: Table) -> None:
        """Go by another table from now on; requests in flight go on where they are."""
        self.version, self._secret, self._salts = table.version, table.engine_secret, table.salts
        served = {one.spec.id: one for one in table.served}
        for endpoint in self._groups.keys() - served.keys():
            for group in self._groups.pop(endpoint).values():
                self._dissolve(group)
        self.served = served
        for one in table.served:
            self._update_groups(one, self._groups.setdefault(one.spec.id, {}))

    def loads(self, name: str) -> LoadReport:
        """Return what was seen since the report before, pool by pool."""
        now_s = self._now()
        seconds, self._reported_s = now_s - self._reported_s, now_s
        pools = tuple(_pool_load(group, pool.name) for group in self._all() for pool in group.spec.pools)
        leaving = [target for group in self._all() for target in group.targets if target.replica.phase == DRAINING]
        draining = {target.replica.run: target.own for target in (*leaving, *self._retired) if target.own}
        return LoadReport(gateway=name, seconds=seconds, table=self.version, pools=pools, draining=draining)

    def _all(self) -> Iterator[Group]:
        for groups in self._groups.values():
            yield from groups.values()

    def _update_groups(self, served: Served, groups: dict[int, Group]) -> None:
        specs = served.specs or dict.fromkeys(served.revisions, served.spec) or {0: served.spec}
        wanted = specs.keys() | {replica.revision for replica in served.replicas}
        for revision in sorted(wanted):
            spec = specs.get(revision, served.spec)
            group = groups.get(revision)
            if group is None or {pool.name for pool in group.spec.pools} != {pool.name for pool in spec.pools}:
                if group is not None:
                    self._dissolve(group)
                group = groups[revision] = Group(spec, revision, self._now, self.calling.set, self._foresee(spec))
                group.incidents = self._incidents
            group.spec = spec
            self._update_targets(group, [replica for replica in served.replicas if replica.revision == revision])
        for revision in groups.keys() - wanted:
            self._dissolve(groups.pop(revision))
        ready = next((group for group in groups.values() if group.ready()), None)
        for group in groups.values():
            if ready is not None and not group.ready():
                group.send_elsewhere(dict(ready.spec.adapters))  # what made way for another has nobody to wait for
            group.pump()

    def _update_targets(self, group: Group, replicas: list[Replica]) -> None:
        known = {target.replica.run: target for target in group.targets}
        targets: list[Target] = []
        for replica in sorted(replicas, key=lambda each: each.run):
            target = known.get(replica.run)
            if target is None or target.replica.url != replica.url:
                if not replica.url:
                    continue  # it has no address yet
                try:
                    target = self._connected(group, replica)
                except PlenumError as error:  # one endpoint's: the others are served as the table says
                    _LOG.warning("%s cannot be reached: %s", replica.run, error.sentence)
                    continue
            target.replica = replica
            targets.append(target)
        group.targets = targets
        group.index.keep(target.replica.run for target in targets)
        group.kv_index.keep(target.replica.run for target in targets)
        self._retire([target for target in known.values() if target not in targets])

    def _connected(self, group: Group, replica: Replica) -> Target:
        engine = self._connect(replica, engine_key(self._secret, replica.run))
        target = Target(replica, engine, group.spec.slots or engine.capabilities.slots)
        if group.policy == routing.KV_AWARE and (heard := _published_at(group.spec.arguments, replica.url))[0]:
            target.listening = self._spawn(_listen(group, replica.run, *heard))
        return target

    def _dissolve(self, group: Group) -> None:
        self._retire(group.targets)
        group.dissolve()

    def _retire(self, targets: list[Target]) -> None:
        for target in targets:
            self._retired.add(target)
            self._spawn(_close(target)).add_done_callback(lambda _, gone=target: self._retired.discard(gone))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _tend(self) -> None:
        ticks = 0
        while True:
            if ticks % POLL_TICKS == 0:
                for group in self._all():
                    group.adjust()
                    for target in group.targets:
                        if target.replica.phase == READY and not target.asking:
                            self._spawn(_ask(target, group))
            for group in self._all():
                group.pump()
            ticks += 1
            await asyncio.sleep(TICK_S)


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


async def _ask(target: Target, group: Group) -> None:
    """Ask an engine how it is; the first time that it answers, what it can do and how much at once."""
    target.asking = True
    try:
        async with asyncio.timeout(POLL_TIMEOUT_S):
            if not target.learned:
                await target.engine.start()
                target.learned = True
                target.sized(group.spec.slots or target.engine.capabilities.slots)
                group.pump()
            own = target.own
            target.take_metrics(await target.engine.metrics(), own)
    except (PlenumError, TimeoutError):
        pass
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        # It says of itself what cannot be meant; it is asked again.
        _LOG.warning("%s cannot be understood: %r", target.replica.run, error)
    finally:
        target.asking = False


def _published_at(arguments: tuple[str, ...], url: str) -> tuple[str, str]:
    from plenum.adapters.engines.kv_events import published_at  # and ZeroMQ with it

    return published_at(arguments, url)


async def _listen(group: Group, run: str, address: str, replay: str) -> None:
    """Take in what an engine tells of its cache; where that cannot be read, go by what was sent there."""
    from plenum.adapters.engines.kv_events import Cleared, watch

    try:
        async for events in watch(address, replay=replay):
            group.kv_index.take(run, events)
            if any(isinstance(event, Cleared) for event in events):
                group.index.forget(run)
    except PlenumError:
        group.kv_index.forget(run)


async def _close(target: Target) -> None:
    """Close a replica's connections once nothing of it is in flight."""
    if target.listening is not None:
        target.listening.cancel()
    while target.own:
        await asyncio.sleep(CLOSE_S)
    await target.engine.close()
