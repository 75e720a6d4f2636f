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


def held(state: State, found: EndpointRecord, serving: Revision) -> dict[str, int]:
    """Return how many replicas of each pool a rollout begins with: as are wanted or, where some wait for room, as have found it.

    A revision could not make way for another with replicas that nobody has. No fewer than a pool is to have at least.
    """
    least = {pool.name: pool.min_replicas for pool in found.spec.pools}
    room: dict[str, int] = {}
    for pool in serving.spec.pools:
        asked, job = asked_of(found, serving, pool), job_of(state, found, serving, pool.name)
        placed = max(_placed(state, found, pool), least.get(pool.name, pool.min_replicas), 1)
        room[pool.name] = min(asked, placed) if job is not None and _is_for_room(job) else asked
    return room


def found_since(state: State, found: EndpointRecord) -> dict[str, int]:
    """Return how many replicas of each pool are reckoned with from now on while a rollout lasts.

    What was reckoned with, and more once as many have places at the same time: load that rises while the fleet is full must not have the
    revision before give way less than the next one needs. Fewer once fewer are wanted: their places may be others' by now.
    """
    *before, newest = found.active()
    room: dict[str, int] = {}
    for old in before:
        for pool in old.spec.pools:
            asked = asked_of(found, old, pool)
            placed = max(_placed(state, found, pool), 1)
            room[pool.name] = min(asked, max(newest.room.get(pool.name, asked), placed))
    return room


def _placed(state: State, found: EndpointRecord, pool: Pool) -> int:
    """Return how many replicas of a pool have places, over all revisions; those that are larger or smaller count as what they take."""
    taken = 0
    for revision in found.active():
        for other in revision.spec.pools:
            job = job_of(state, found, revision, other.name) if other.name == pool.name else None
            units = () if job is None else job.units.values()
            stays = revision.pools[other.name].replicas
            here = (u.phase == "bound" and not u.stop and int(u.key.rpartition("-")[2]) < stays for u in units)
            taken += sum(here) * _size(other)
    return taken // _size(pool)


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
    """Return how many replicas of a revision's pool there are to be: while another replaces it, no more than are reckoned with."""
    asked, active = asked_of(found, revision, pool), found.active()
    if len(active) < 2:
        return asked
    room = active[-1].room
    if revision is not active[-1]:
        return min(asked, room.get(pool.name, asked))
    before = {old.name: old for each in active[:-1] for old in each.spec.pools}
    if pool.name in before and _size(before[pool.name]) == _size(pool):
        return min(asked, room.get(pool.name, asked))
    together = [pool] if pool.name in before else revision.spec.pools
    others = [before[each.name] for each in together if each.name in before] or before.values()
    return min(asked, in_place_of(pool, together, [(old, room.get(old.name, asked)) for old in others]))


def asked_of(found: EndpointRecord, revision: Revision, pool: Pool) -> int:
    """Return how many replicas of a revision's pool would be right; of one that is not asked for any more, in place of those that are."""
    if pool.name in found.wanted:
        return found.wanted[pool.name]
    return in_place_of(
        pool, revision.spec.pools, [(other, found.wanted.get(other.name, 0)) for other in found.spec.pools]
    )


def lent(state: State, found: EndpointRecord, old: Revision, newer: Revision, pool: Pool) -> int:
    """Return how many replicas of a pool the old revision is to go short of, so that a newer one finds room.

    As many as make room for ``max_unavailable`` replicas of each pool that waits, and of several the last one stays; none where that
    would not do for a newer one that does not serve either: what is let go has to suffice for it to come up.
    """
    missing = unplaced(state, found, newer)
    waiting = missing or waits(state, found, newer)
    if not waiting or old.spec.attached or newer.spec.attached:
        return 0
    if missing and not _may_suffice(found, old, waiting):
        return 0
    return _most(found, old, pool, waiting)


def at_once(state: State, found: EndpointRecord, newer: Revision, pool: Pool) -> int:
    """Return how many replicas of a pool a newer revision may ask for while it waits for room: as many as may come next.

    Else one pool would take what was let go for all of them, and the other wait for ever.
    """
    if not waits(state, found, newer):
        return max(asked_of(found, newer, pool), 1)
    parts = [
        sum(unit.phase == "bound" for unit in job.units.values()) / max(wanted_of(found, newer, other), 1)
        for other, job in _jobs(state, found, newer)
    ]
    there = int(min(parts, default=0.0) * wanted_of(found, newer, pool) + 1e-9)
    return there + max(found.spec.rollout.max_unavailable, 1)


def most_lent(found: EndpointRecord, old: Revision, newer: Revision, pool: Pool) -> int:
    """Return how many replicas of a pool may be gone for a newer revision, once they are."""
    return _most(found, old, pool, newer.spec.pools)


def held_up(state: State, found: EndpointRecord) -> Iterator[str]:
    """Yield why a revision that waits for room goes on waiting, and what would help."""
    for newer in found.active():
        if _is_kept_waiting(state, found, newer) and newer.phase != REPLACED:
            waiting = unplaced(state, found, newer)
            needs = " and ".join(f"a replica of {pool.name}" for pool in waiting)
            told = (job.waiting.sentence for pool, job in _jobs(state, found, newer) if pool in waiting and job.waiting)
            yield (
                f"revision {newer.number} waits for room for {needs}, and the one before has no replica to spare for it: free as "
                f"much, give the endpoint more replicas or a larger rollout.maxUnavailable, or let it be without any for a moment: write "
                f"rollout.maxUnavailable: {max(found.spec.rollout.max_unavailable, 1)}, and requests wait meanwhile. {next(told, '')}"
            ).rstrip()


def _is_kept_waiting(state: State, found: EndpointRecord, newer: Revision) -> bool:
    """Return whether a revision waits for room, and none before it has any to spare."""
    before = [old for old in found.active() if old.number < newer.number]
    spared = any(lent(state, found, old, newer, pool) for old in before for pool in old.spec.pools)
    return bool(before) and not spared and bool(unplaced(state, found, newer))


def _most(found: EndpointRecord, old: Revision, pool: Pool, waiting: Iterable[Pool]) -> int:
    each = _in_place_of_one(old, waiting)
    return min(found.spec.rollout.max_unavailable * each, _spare(found, old, pool, each))


def _may_suffice(found: EndpointRecord, old: Revision, waiting: Iterable[Pool]) -> bool:
    each = _in_place_of_one(old, waiting)
    return all(_most(found, old, pool, waiting) >= each for pool in old.spec.pools)


def _in_place_of_one(old: Revision, waiting: Iterable[Pool]) -> int:
    """Return how many replicas of each of its pools make room for one of each pool that waits."""
    has, needs = (_amounts(pools) for pools in (old.spec.pools, waiting))
    ratios = [needs[name] / has[name] for name in needs if name in has]
    return math.ceil(max(ratios, default=1.0) - 1e-9)


def _spare(found: EndpointRecord, old: Revision, pool: Pool, each: int) -> int:
    """Return how many replicas of a pool may be gone: the last one only if the endpoint may be without any and nothing less will do."""
    rollout, all_of_them = found.spec.rollout, wanted_of(found, old, pool)
    may_be_none = not (rollout.canary or any(pool.min_replicas for pool in found.spec.pools))
    if may_be_none or (rollout.may_pause and all_of_them <= each):
        return all_of_them
    return max(all_of_them - 1, 0)


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
