"""Making room for endpoints: work that may yield does so while their replicas wait, and gets its devices back after. Pure.

What yields is only ever stopped, and waits again like anything else; who gets the room is decided where everything is decided. Quotas and
fair shares belong into :func:`may_take`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plenum.control import events as ev
from plenum.control.decider import Decider
from plenum.control.endpoints.passing import has_passed
from plenum.control.records import Job, Unit
from plenum.control.state import State
from plenum.control.units import may_start, sized, unit_id, unit_workload
from plenum.model.plan import Placement
from plenum.model.view import Rows
from plenum.model.workload import Kind, Workload
from plenum.placement import Engine
from plenum.placement.beside import place_beside

Giver = tuple[Job, str]
"""A bound unit: its job, and its key."""

PREEMPTED, GROWN = "preempted", "grown"
"""Why a unit is stopped: to make room; to go on with more replicas, now that there is room again."""

MAX_TAKERS = 16
"""Replicas that room is made for at once; the others follow once these have theirs."""

MAX_TRIED = 128
"""Units tried for one replica, the least important first."""

MAX_FAILURES = 3
PATIENCE_S = 600.0
"""A replica that has failed so often waits so long for free room first: each of its attempts costs others their work."""

GROW_AFTER_S = 60.0
"""A gang that was made smaller runs so long before it is stopped to grow again."""


def may_take(taker: Job, giver: Job) -> bool:
    """Tell whether a replica may have the place of some work: work of a lower priority that is preemptible, or elastic."""
    lower = giver.workload.priority < taker.workload.priority
    return lower and not giver.owner and not giver.stop and (giver.workload.preemptible or _is_elastic(giver))


def _is_elastic(job: Job) -> bool:
    return job.workload.gang and any(0 < role.min_replicas < role.replicas for role in job.workload.roles)


def reclaimed(state: State, decider: Decider, now: float) -> list[ev.Event]:
    """Return the orders to stop that make room for replicas of endpoints; or, where nothing waits, that let gangs grow back.

    Parameters
    ----------
    decider
        Brought in line with the state; as before afterwards.
    """
    takers = [(job, unit) for job in _takers(state) for unit in _waiting(job, now)][:MAX_TAKERS]
    if not (takers or state.yielded):
        return []
    engine = decider.engine(state)
    if engine is None:
        return []
    going = [(job, unit) for job, unit in _bound(state) if unit.stop in (PREEMPTED, GROWN)]
    with engine.trial():
        _let_go(engine, going)
        giving = dict(given for job, unit in takers for given in _made_room(state, engine, job, unit))
    found = [_stopped(state, job_id, key, size) for (job_id, key), size in giving.items()]
    may_grow = not (takers or going) and not any(
        may_start(u, now) for name in state.waiting for u in state.jobs[name].units.values()
    )
    return found or (_grown(engine, [state.jobs[name] for name in sorted(state.yielded)], now) if may_grow else [])


def _let_go(engine: Engine, going: list[tuple[Job, Unit]]) -> None:
    """Have room that is on its way count as free, however long its last work takes to end: nobody else has to yield for the same."""
    there = [(job, unit) for job, unit in going if unit_id(job, unit.key) in engine.running]
    engine.release(*(unit_id(job, unit.key) for job, unit in there))
    for job, _ in there:
        if _is_elastic(job) and (job.shrink_to or not job.workload.preemptible):
            sizes = _smaller(job)
            engine.place(next((size for size in sizes if size.replicas == job.shrink_to), sizes[-1]))


def _stopped(state: State, job_id: str, key: str, shrink_to: int) -> ev.Event:
    attempt = state.jobs[job_id].units[key].attempt
    return ev.UnitStopped(job=job_id, unit=key, attempt=attempt, why=PREEMPTED, shrink_to=shrink_to)


def _bound(state: State) -> Iterator[tuple[Job, Unit]]:
    for name in state.bound:
        job_id, _, key = name.partition("#")
        yield state.jobs[job_id], state.jobs[job_id].units[key]


def _takers(state: State) -> list[Job]:
    """Return the endpoints' jobs that wait for room, the most important first."""
    found = [
        job
        for name in state.waiting
        for job in [state.jobs[name]]
        if job.workload.kind is Kind.ENDPOINT and job.waiting is not None and job.waiting.code in _FOR_ROOM
    ]
    return sorted(found, key=lambda job: (-job.workload.priority, job.workload.submitted_s, job.id))


_FOR_ROOM = ("wait.capacity", "wait.partly")


def _waiting(job: Job, now: float) -> list[Unit]:
    units = [unit for unit in job.units.values() if may_start(unit, now) and _may_cost(unit, now)]
    return sorted(units, key=lambda unit: int(unit.key.rpartition("-")[2]))


def _may_cost(unit: Unit, now: float) -> bool:
    return unit.failures < MAX_FAILURES or has_passed(now, unit.not_before, PATIENCE_S)


@dataclass(frozen=True, slots=True)
class _Room:
    """One replica that wants room, on an engine to try things on."""

    engine: Engine
    replica: Workload
    siblings: Rows

    def suffices(self, givers: Sequence[Giver]) -> bool:
        """Tell whether the replica fits once some units have given way."""
        with self.engine.trial():
            return self.take(givers) is not None

    def take(self, givers: Sequence[Giver]) -> list[int] | None:
        """Let units give way to the replica.

        Returns
        -------
        list of int
            With how many replicas each goes on, 0 if it goes; None: that is not enough. Gangs that may only be made smaller are put back
            before the replica is placed, as the decision will do it.
        """
        self.engine.release(*(unit_id(job, key) for job, key in givers))
        if len(givers) == 1 and _is_elastic(givers[0][0]):
            shrunk = next((k for k in _smaller(givers[0][0]) if self._go_together([k])), None)
            if shrunk is not None:
                self._put([shrunk])
                return [shrunk.replicas]
        kept = {job.id: _smaller(job)[-1] for job, _ in givers if not job.workload.preemptible}
        if not self._go_together(list(kept.values())):
            return None
        self._put(list(kept.values()))
        return [kept[job.id].replicas if job.id in kept else 0 for job, _ in givers]

    def _go_together(self, gangs: list[Workload]) -> bool:
        with self.engine.trial():
            return self._put(gangs)

    def _put(self, gangs: list[Workload]) -> bool:
        if not all(isinstance(self.engine.place(gang), Placement) for gang in gangs):
            return False
        return isinstance(place_beside(self.engine, self.replica, self.siblings), Placement)


def _smaller(job: Job) -> list[Workload]:
    """Return an elastic gang at each of its sizes below the one that it has now, largest first; as it is if there is none."""
    now = sum(len(unit.runs) for unit in job.units.values())
    found = [size for size in sized(job.workload) if size.replicas < now]
    return found or [job.workload]


def _made_room(state: State, engine: Engine, job: Job, unit: Unit) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield what gives way to a replica, and to what size; the engine is then as it will be."""
    beside = [engine.running[name][1] for u in job.units.values() if (name := unit_id(job, u.key)) in engine.running]
    room = _Room(engine, unit_workload(job.workload, unit.key), Rows.joined(beside))
    givers = [
        (giver, other.key)
        for giver, other in _bound(state)
        if not other.stop and unit_id(giver, other.key) in engine.running and may_take(job, giver)
    ]
    givers.sort(key=lambda g: (g[0].workload.priority, -g[0].workload.submitted_s, g[0].id, g[1]))
    chosen = [] if room.suffices(()) else _chosen(room, givers[:MAX_TRIED])
    if chosen is not None:
        for (giver, key), size in zip(chosen, room.take(chosen) or (), strict=True):
            yield (giver.id, key), size


def _chosen(room: _Room, givers: list[Giver]) -> list[Giver] | None:
    """Return units whose going makes room, the least important: one if one will do, else some of which none is spared; None: none do."""
    for giver in givers:
        if room.suffices([giver]):
            return [giver]
    whole = [giver for giver in givers if giver[0].workload.preemptible]
    going = next((some for some in (givers, whole) if room.suffices(some)), None)
    for giver in list(reversed(going or ())):
        rest = [other for other in going or () if other is not giver]
        going = rest if room.suffices(rest) else going
    return going


def _grown(engine: Engine, shrunk: list[Job], now: float) -> list[ev.Event]:
    """Return the order to stop of one gang that gave room and would now be placed with more replicas."""
    for job in shrunk:
        unit = job.units.get("")
        if unit is None or unit.phase != "bound" or unit.stop or unit.generation != job.generation:
            continue
        runs = list(unit.runs.values())
        if not all(run.started_at and has_passed(now, run.started_at, GROW_AFTER_S) for run in runs):
            continue
        with engine.trial():
            engine.release(job.id)
            again = engine.place(job.workload)
        if isinstance(again, Placement) and len(again.rows) > len(runs):
            return [ev.UnitStopped(job=job.id, unit="", attempt=unit.attempt, why=GROWN)]
    return []
