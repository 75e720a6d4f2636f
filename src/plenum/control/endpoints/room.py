"""Room for a revision beside the one before: how far that one makes way where the fleet is full, and what is said where it may not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from plenum.control.endpoints.replicas import job_of
from plenum.control.endpoints.state import REPLACED, EndpointRecord, Revision
from plenum.control.records import Job
from plenum.control.state import State
from plenum.control.units import amounts_of
from plenum.model.endpoint import Pool


def in_place_of(pool: Pool, beside: Iterable[Pool], others: Iterable[tuple[Pool, int]]) -> int:
    """Return how many replicas of a pool, and as many of those beside it, take what some of other pools take; at least one if those do.

    Parameters
    ----------
    beside
        All pools of its revision.
    others
        Pools, and how many replicas of each.
    """
    together, taken = sum(_size(other) for other in beside), sum(n * _size(other) for other, n in others)
    return min(max(taken // together, min(taken, 1), pool.min_replicas), pool.max_replicas)


def _size(pool: Pool) -> int:
    return pool.nodes * (pool.request.total_gpu_milli or pool.request.cpu_milli or 1)


def scarce(state: State, found: EndpointRecord, serving: Revision) -> dict[str, int]:
    """Return how many replicas have found room of each pool of which more are wanted; no fewer than it is to have at least.

    A revision could not make way for another with replicas that nobody has.
    """
    least = {pool.name: pool.min_replicas for pool in found.spec.pools}
    fits: dict[str, int] = {}
    for pool, job in _jobs(state, found, serving):
        jobs = (job_of(state, found, revision, pool.name) for revision in found.active())
        placed = sum(unit.phase == "bound" for each in jobs if each is not None for unit in each.units.values())
        room = max(placed, least.get(pool.name, pool.min_replicas), 1)
        if _is_for_room(job) and room < found.wanted.get(pool.name, 0):
            fits[pool.name] = room
    return fits


def waits(state: State, found: EndpointRecord, revision: Revision) -> list[Pool]:
    """Return the pools of a revision with replicas that wait for room."""
    return [pool for pool, job in _jobs(state, found, revision) if _is_for_room(job)]


def unplaced(state: State, found: EndpointRecord, revision: Revision) -> list[Pool]:
    """Return the pools that wait for room and have no replica that runs: until they have one, the revision cannot serve."""
    return [
        pool for pool, job in _jobs(state, found, revision) if _is_for_room(job) and not any(True for _ in job.runs())
    ]


def _is_for_room(job: Job) -> bool:
    """Whether a job waits for what others have; not for what the fleet does not have at all."""
    return job.waiting is not None and job.waiting.code.startswith(("wait.", "quota."))


def wanted_of(found: EndpointRecord, revision: Revision, pool: Pool) -> int:
    """Return how many replicas of a revision's pool there are to be: while another replaces it, no more than there was room for before."""
    asked, active = asked_of(found, revision, pool), found.active()
    return min(asked, active[-1].room.get(pool.name, asked)) if len(active) > 1 else asked


def asked_of(found: EndpointRecord, revision: Revision, pool: Pool) -> int:
    """Return how many replicas of a revision's pool would be right; of one that is not asked for any more, in place of those that are."""
    if pool.name in found.wanted:
        return found.wanted[pool.name]
    return in_place_of(
        pool, revision.spec.pools, [(other, found.wanted.get(other.name, 0)) for other in found.spec.pools]
    )


def lent(state: State, found: EndpointRecord, old: Revision, newer: Revision, pool: Pool) -> int:
    """Return how many replicas of a pool the old revision is to go short of, so that a newer one finds room.

    As many as make room for ``max_unavailable`` replicas of each pool that waits; none where that would leave too few to serve and the
    newer one does not serve either: what is let go has to suffice for it to come up.
    """
    missing = unplaced(state, found, newer)
    waiting = missing or waits(state, found, newer)
    if not waiting or old.spec.attached or newer.spec.attached:
        return 0
    lends = _lends(found, old, waiting)
    enough = all(lends <= _spare(found, old, other) for other in old.spec.pools)
    return lends if enough else 0 if missing else min(lends, _spare(found, old, pool))


def most_lent(found: EndpointRecord, old: Revision, newer: Revision, pool: Pool) -> int:
    """Return how many replicas of a pool may be gone for a newer revision, once they are."""
    return min(_lends(found, old, newer.spec.pools), _spare(found, old, pool))


def held_up(state: State, found: EndpointRecord) -> Iterator[str]:
    """Yield why a revision that waits for room goes on waiting, and what would help."""
    for newer in found.active():
        if _is_kept_waiting(state, found, newer) and newer.phase != REPLACED:
            waiting = unplaced(state, found, newer)
            needs = " and ".join(f"a replica of {pool.name}" for pool in waiting)
            told = (job.waiting.sentence for pool, job in _jobs(state, found, newer) if pool in waiting and job.waiting)
            yield (
                f"revision {newer.number} waits for room for {needs}, and the one before has no replica to spare for it: free as "
                f"much, give the endpoint more replicas or a larger rollout.maxUnavailable, or let it be without any for a moment "
                f"(replicas.min 0 and rollout.canary 0). {next(told, '')}"
            ).rstrip()


def _is_kept_waiting(state: State, found: EndpointRecord, newer: Revision) -> bool:
    """Return whether a revision waits for room, and none before it has any to spare."""
    before = [old for old in found.active() if old.number < newer.number]
    spared = any(lent(state, found, old, newer, pool) for old in before for pool in old.spec.pools)
    return bool(before) and not spared and bool(unplaced(state, found, newer))


def _lends(found: EndpointRecord, old: Revision, waiting: Iterable[Pool]) -> int:
    """Return how many replicas of each of its pools make room for those that may come at once."""
    has, needs = (_amounts(pools) for pools in (old.spec.pools, waiting))
    ratios = [needs[name] / has[name] for name in needs if name in has]
    return found.spec.rollout.max_unavailable * math.ceil(max(ratios, default=1.0) - 1e-9)


def _spare(found: EndpointRecord, old: Revision, pool: Pool) -> int:
    """Return how many replicas of a pool may be gone: of several the last one stays, unless the endpoint may be without any."""
    may_be_none = not (found.spec.rollout.canary or any(each.min_replicas for each in found.spec.pools))
    return max(wanted_of(found, old, pool) - (not may_be_none), 0)


def _amounts(pools: Iterable[Pool]) -> dict[str, int]:
    total: dict[str, int] = {}
    for pool in pools:
        for resource, amount in amounts_of(pool.request):
            total[resource] = total.get(resource, 0) + pool.nodes * amount
    return total


def _jobs(state: State, found: EndpointRecord, revision: Revision) -> Iterator[tuple[Pool, Job]]:
    for pool in revision.spec.pools:
        job = job_of(state, found, revision, pool.name)
        if job is not None:
            yield pool, job
