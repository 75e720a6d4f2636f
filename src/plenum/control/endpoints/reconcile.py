"""Tending endpoints: from what is asked for, what runs and what gateways saw, to what is to change. Pure but for the memory in ``loads``.

Level-triggered, a stage at a time: revisions, then the sizes of their pools, then the jobs that hold their replicas. A replica that is to
go is first marked as draining (its revision's size is lowered, which gateways are told), and stopped once nothing is open there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from plenum.control import events as ev
from plenum.control.commands import labelled
from plenum.control.endpoints import events as ep
from plenum.control.endpoints.canary import watched
from plenum.control.endpoints.loads import Loads
from plenum.control.endpoints.passing import has_passed
from plenum.control.endpoints.process import DRAIN_S, ProcessOf, child_workload, engine_process
from plenum.control.endpoints.replicas import count, job_of, ready_of
from plenum.control.endpoints.revisions import started_as
from plenum.control.endpoints.room import (
    asked_of,
    at_once,
    found_since,
    held,
    in_place_of,
    lent,
    most_lent,
    unplaced,
    wanted_of,
)
from plenum.control.endpoints.scale import scaled
from plenum.control.endpoints.state import CANARY, REPLACED, SERVING, EndpointRecord, Revision
from plenum.control.fact import Event
from plenum.control.records import ENDED, Job, Run
from plenum.control.state import State
from plenum.model.endpoint import Pool
from plenum.ports.nodes import EXITED, RUNNING

START_LIMIT_S = 1_800.0
"""A revision that has no ready replica after so long is rolled back, if there is one to go back to: weights can be large."""

SURGE = 0.25
"""Part of the replicas that a rollout adds before it takes the old ones away, at least one."""


@dataclass(slots=True)
class _Tending:
    state: State
    loads: Loads
    now: float
    process_of: ProcessOf


def tend_endpoints(state: State, loads: Loads, now: float, *, process_of: ProcessOf = engine_process) -> list[Event]:
    """Return what follows for the endpoints.

    Parameters
    ----------
    loads
        What gateways saw, brought up to now.
    now
        Seconds since the epoch.
    process_of
        What a replica runs.
    """
    loads.keep({name: found.revisions for name, found in state.endpoints.items()})
    t = _Tending(state, loads, now, process_of)
    return [event for name in sorted(state.endpoints) for event in _tend(t, state.endpoints[name])]


def _tend(t: _Tending, found: EndpointRecord) -> list[Event]:
    jobs = [event for revision in found.listed() for event in _jobs(t, found, revision)]
    if found.stop:
        gone = not any(job_of(t.state, found, r, pool) for r in found.listed() for pool in r.pools)
        return [ep.EndpointDeleted(endpoint=found.id)] if gone else jobs
    moved = list(_revisions(t, found))
    if moved:
        return [*moved, *jobs]
    scale = list(scaled(t.state, found, t.loads)) if found.serving else []
    return [*scale, *_sizes(t, found), *jobs]


# -- revisions --------------------------------------------------------------------------------------


def _revisions(t: _Tending, found: EndpointRecord) -> Iterator[Event]:
    """Yield the next step between revisions, if one is due."""
    active = found.active()
    wanted = started_as(found.spec)
    latest = active[-1] if active else None
    if latest is None or started_as(latest.spec) != wanted:
        if latest is not None and latest.phase == CANARY:
            yield _back(found, latest, "changed", "the endpoint was asked for differently before it had proved itself")
        elif found.failed is None:
            yield from _start(t, found)
        return
    judged = list(_judged(t, found, latest)) if latest.phase == CANARY else []
    yield from judged or _replacing(t, found, active)


def _start(t: _Tending, found: EndpointRecord) -> Iterator[Event]:
    serving = found.revisions.get(found.serving)
    proves = serving is not None and serving.phase == SERVING and _has_served(t, found, serving)
    canary = proves and found.spec.rollout.canary > 0 and not found.spec.attached and any(found.wanted.values())
    why = "" if serving is None else "changed"
    room: dict[str, int] = {}
    if serving is not None and proves and not serving.spec.attached:
        room = held(t.state, found, serving)
        yield from _reshaped(found, serving, {**found.wanted, **room})
    yield ep.RevisionStarted(endpoint=found.id, revision=found.last + 1, canary=canary, why=why, room=room)


def _reshaped(found: EndpointRecord, serving: Revision, wanted: dict[str, int]) -> Iterator[Event]:
    """Yield how many replicas pools begin with that the revision before did not have: together they take what its pools take."""
    before = [(pool, wanted.get(pool.name, 0)) for pool in serving.spec.pools]
    for pool in found.spec.pools:
        if pool.name not in serving.pools and not found.spec.attached:
            size, was = in_place_of(pool, found.spec.pools, before), found.wanted.get(pool.name, 0)
            sentence = f"{pool.name}: {was} → {size} replicas, in place of {' and '.join(serving.pools)}"
            if size != was:
                yield ep.EndpointScaled(
                    endpoint=found.id, pool=pool.name, before=was, after=size, why="changed", sentence=sentence
                )


def _has_served(t: _Tending, found: EndpointRecord, revision: Revision) -> bool:
    """Whether a revision's replicas have ever been ready, as far as anything of them is left."""
    if revision.spec.attached:
        return True
    jobs = [job_of(t.state, found, revision, pool) for pool in revision.pools]
    return all(job is not None and job.started_at > 0 for job in jobs)


def _once_served(t: _Tending, found: EndpointRecord, revision: Revision) -> bool:
    """Whether there is something to go back to: also a revision that has made way with its last replica, of which nothing is left."""
    jobs = {pool: job_of(t.state, found, revision, pool) for pool in revision.pools}
    served = (revision.pools[pool].served or (job is not None and job.started_at > 0) for pool, job in jobs.items())
    return bool(revision.spec.attached) or all(served)


def _judged(t: _Tending, found: EndpointRecord, canary: Revision) -> Iterator[Event]:
    """Yield a canary's start, or its end one way or the other."""
    old = found.revisions[found.serving]
    ready = ready_of(t.state, found, canary)
    if problem := _trouble(t, found, canary, ready):
        yield _back(found, canary, *problem)
    elif not canary.watched_at:
        if ready and not found.spec.rollout.canary:
            yield ep.RevisionPromoted(endpoint=found.id, revision=canary.number, why="no proof is asked of it any more")
        elif ready:
            # One that found room for few of its replicas gets no more than these can bear; all, where the one before made way for it.
            fair = ready / (ready + ready_of(t.state, found, old))
            part = 1.0 if _made_way(found, old) else min(found.spec.rollout.canary, fair)
            yield ep.CanaryStarted(endpoint=found.id, revision=canary.number, part=part)
    else:
        verdict = watched(found.spec, old, canary, t.loads, t.now)
        if verdict.bad:
            yield _back(found, canary, verdict.why, verdict.sentence, verdict.evidence)
        elif verdict.good and ready:
            yield ep.RevisionPromoted(
                endpoint=found.id, revision=canary.number, why=verdict.sentence, evidence=verdict.evidence
            )


def _made_way(found: EndpointRecord, old: Revision) -> bool:
    """Whether a revision has let the last replica of a pool go; one whose replicas are only down for a moment comes back."""
    pools = () if old.spec.attached else old.spec.pools
    return any(asked_of(found, old, pool) and not old.pools[pool.name].replicas for pool in pools)


CRASHES = 3
"""Failures of one replica after which a canary is given up."""


def _trouble(t: _Tending, found: EndpointRecord, revision: Revision, ready: int) -> tuple[str, str] | None:
    """Return why a new revision cannot come up, as a word and a sentence."""
    counts = [count(t.state, found, revision, pool) for pool in revision.spec.pools]
    failures = max(each.failures for each in counts)
    if (failures >= CRASHES or any(each.hopeless for each in counts)) and not ready:
        jobs = [job_of(t.state, found, revision, pool) for pool in revision.pools]
        last = next((f": {job.message}" for job in jobs if job is not None and job.message), "")
        return "crashed", f"a replica of it failed {failures} time{'s' * (failures > 1)}{last}"
    if not ready and has_passed(t.now, _placed_at(t, found, revision), START_LIMIT_S):
        return "not-ready", f"no replica of it was ready within {START_LIMIT_S:.0f} s"
    return None


def _stalled(t: _Tending, found: EndpointRecord, revision: Revision, ready: int) -> tuple[str, str] | None:
    """Return why a revision does not come to replace those before it, as a word and a sentence: others may have taken what was let go.

    One that has nothing ready may be waiting for room that nobody has let go yet: see :func:`_trouble`.
    """
    lowered = [pool.lowered_at for old in found.active() if old is not revision for pool in old.pools.values()]
    jobs = [job_of(t.state, found, revision, pool) for pool in revision.pools]
    came = [max(run.started_at, run.ready_at) for job in jobs if job for run in job.runs() if run.phase == RUNNING]
    # Not as where nothing is ready: a clock that is set back must not end what goes well.
    if ready and t.now >= max([revision.started_at, revision.serving_at, *lowered, *came]) + START_LIMIT_S:
        return "not-ready", f"{ready} of its replicas are ready, and no other has been for {START_LIMIT_S:.0f} s"
    return None


def _placed_at(t: _Tending, found: EndpointRecord, revision: Revision) -> float:
    """Return since when a revision has had a place for each of its pools, or room has been made for it; while it has neither, now."""
    if unplaced(t.state, found, revision):
        before = [old for old in found.active() if old.number < revision.number]
        lowered = [pool.lowered_at for old in before for pool in old.pools.values()]
        return max((at for at in lowered if at >= revision.started_at), default=t.now)
    jobs = [job_of(t.state, found, revision, pool) for pool in revision.pools]
    first = [min((run.started_at or t.now for run in job.runs()), default=0.0) for job in jobs if job is not None]
    return max([revision.started_at, *first])


def _back(
    found: EndpointRecord, revision: Revision, why: str, sentence: str, evidence: dict[str, float] | None = None
) -> Event:
    return ep.RevisionRolledBack(
        endpoint=found.id,
        revision=revision.number,
        why=why,
        sentence=f"revision {revision.number} was rolled back: {sentence}",
        evidence=evidence or {},
    )


def _replacing(t: _Tending, found: EndpointRecord, active: list[Revision]) -> Iterator[Event]:
    """Yield the end of revisions that have been replaced; or the return to one, where the next does not come up."""
    serving = found.revisions[found.serving]
    ready = ready_of(t.state, found, serving)
    for old in active:
        if old.phase != REPLACED:
            continue
        empty = not any(pool.replicas for pool in old.pools.values())
        done = empty and (ready or not any(found.wanted.values()))
        if done or not _once_served(t, found, old):
            yield ep.RevisionRetired(endpoint=found.id, revision=old.number)
        elif problem := _trouble(t, found, serving, ready) or _stalled(t, found, serving, ready):
            yield _back(found, serving, *problem)
            return


# -- sizes ------------------------------------------------------------------------------------------


def _sizes(t: _Tending, found: EndpointRecord) -> Iterator[Event]:
    """Yield how many replicas each revision is to have, where that is not what it has."""
    active = found.active()
    room = found_since(t.state, found) if len(active) > 1 else {}
    if room and room != active[-1].room and not any(revision.spec.attached for revision in active):
        yield ep.RoomReckoned(endpoint=found.id, revision=active[-1].number, room=room)
        return
    for revision in active:
        if revision.spec.attached:
            continue
        for pool in revision.spec.pools:
            size = _size(t, found, revision, pool)
            if size != revision.pools[pool.name].replicas:
                yield ep.RevisionSized(endpoint=found.id, revision=revision.number, pool=pool.name, replicas=size)


def _size(t: _Tending, found: EndpointRecord, revision: Revision, pool: Pool) -> int:
    wanted, asked = wanted_of(found, revision, pool), asked_of(found, revision, pool)
    if revision.phase == CANARY:
        size = max(1, math.ceil(found.spec.rollout.canary * wanted - 1e-9))
        return min(size, at_once(t.state, found, revision, pool))
    if revision.phase == REPLACED:
        return _left(t, found, revision, pool, wanted)
    if asked and any(r.phase == REPLACED for r in found.active()):
        # All pools go on together: one that ran ahead could take the room that another needs, without which nothing more is replaced.
        there, step = int(wanted * _progress(t, found, revision) + 1e-9), max(1, int(SURGE * asked))
        asked = min(asked, max(revision.pools[pool.name].replicas, there + step))
        asked = min(asked, at_once(t.state, found, revision, pool))
    canary = next((r for r in found.active() if r.phase == CANARY), None)
    return asked if canary is None else _beside(t, found, revision, canary, pool, asked)


def _beside(t: _Tending, found: EndpointRecord, revision: Revision, canary: Revision, pool: Pool, asked: int) -> int:
    """Return the size of the pool of a revision with a canary beside it, for which it may have to make room."""
    lends, sized = lent(t.state, found, revision, canary, pool), revision.pools[pool.name]
    size = min(asked, wanted_of(found, revision, pool)) - lends if lends else asked
    if sized.lowered_at >= canary.started_at:  # what has made room for it takes none of it back
        size = min(size, max(sized.replicas, asked - most_lent(found, revision, canary, pool)))
    return max(size, 0)


def _left(t: _Tending, found: EndpointRecord, revision: Revision, pool: Pool, wanted: int) -> int:
    """Return how many replicas of a revision that another replaces are still to go on."""
    serving = found.revisions[found.serving]
    left = math.ceil(wanted * (1.0 - min(_progress(t, found, serving), 1.0)) - 1e-9)
    left -= lent(t.state, found, revision, serving, pool)
    later = [r for r in found.active() if r.phase == REPLACED and r.number > revision.number and pool.name in r.pools]
    return max(0, min(revision.pools[pool.name].replicas, left - sum(r.pools[pool.name].replicas for r in later)))


def _progress(t: _Tending, found: EndpointRecord, serving: Revision) -> float:
    """Return the part of the wanted replicas that are there in the new revision, in the pool that is furthest behind."""
    if serving.spec.attached:  # there are as many servers as there are, whatever was wanted of those before
        return 1.0
    parts = [
        count(t.state, found, serving, pool).ready / wanted
        for pool in serving.spec.pools
        if (wanted := wanted_of(found, serving, pool))
    ]
    return min(parts, default=1.0)


# -- jobs -------------------------------------------------------------------------------------------


def _jobs(t: _Tending, found: EndpointRecord, revision: Revision) -> Iterator[Event]:
    """Yield what brings a revision's jobs in line with its sizes."""
    if revision.spec.attached:
        return
    for pool in revision.spec.pools:
        size = revision.pools[pool.name].replicas
        job = t.state.jobs.get(found.child(revision.number, pool.name))
        # Somebody's own job that is over gives its name up too: nobody would know that its end in the lists holds anything up.
        if job is None or job.phase in ENDED:
            if size:
                yield from _submitted(t, found, revision, pool, size)
        elif job.owner == found.id and not job.stop:
            yield from _resized(t, found, revision, pool, job, size)


def _submitted(t: _Tending, found: EndpointRecord, revision: Revision, pool: Pool, size: int) -> Iterator[Event]:
    process = t.process_of(revision.spec, pool)
    spec = replace(revision.spec, priority=found.spec.priority)
    workload = labelled(child_workload(spec, pool, revision.number, size), process, t.now)
    if workload.id in t.state.jobs:
        yield ev.JobForgotten(job=workload.id)
    yield ev.JobSubmitted(
        job=workload.id,
        workload=workload,
        process=process,
        manifest={"kind": "Endpoint", "metadata": {"name": workload.name, "labels": {"endpoint": found.spec.name}}},
        owner=found.id,
    )


def _resized(
    t: _Tending, found: EndpointRecord, revision: Revision, pool: Pool, job: Job, size: int
) -> Iterator[Event]:
    (role,) = job.workload.roles
    if job.workload.priority != found.spec.priority and not found.stop:
        workload = replace(job.workload, priority=found.spec.priority)
        yield ev.JobChanged(job=job.id, workload=workload, process=job.process, manifest=job.manifest, restart=False)
        return
    goes_to = role.replicas
    while goes_to > size and _may_go(t, revision, pool, job, goes_to - 1):
        goes_to -= 1
    target = max(goes_to, size)
    if target == 0:
        yield ev.JobStopRequested(job=job.id, why="deleted" if found.stop else "scaled")
    elif target != role.replicas:
        yield ev.JobScaled(job=job.id, replicas=target)


def _may_go(t: _Tending, revision: Revision, pool: Pool, job: Job, rank: int) -> bool:
    """Whether a replica may be stopped: nothing is open there, or it was given long enough."""
    sized = revision.pools[pool.name]
    unit = job.units.get(f"{pool.name}-{rank}")
    runs: list[Run] = [] if unit is None else list(unit.runs.values())
    if unit is None or unit.phase != "bound" or all(run.phase in (EXITED,) or run.phase != RUNNING for run in runs):
        return True
    if has_passed(t.now, sized.lowered_at, DRAIN_S):
        return True
    return all(t.loads.drained(run.id, sized.lowered) for run in runs)
