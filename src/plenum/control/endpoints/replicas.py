"""The replicas of an endpoint as the state has them: which run, which take requests, which are on their way out."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from plenum.control.endpoints.state import ACTIVE, EndpointRecord, Revision
from plenum.control.records import ENDED, Job, Run, Unit
from plenum.control.state import State
from plenum.model.endpoint import Pool
from plenum.ports.gateway import Replica
from plenum.ports.nodes import EXITED, RUNNING

STARTING, READY, DRAINING = "starting", "ready", "draining"
"""Phases of replicas."""


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas of a revision's pool.

    Parameters
    ----------
    wanted
        What the revision is to have now.
    held
        Places that its job has or waits for, those of replicas on their way out included.
    failures
        Most times that one of them has failed in a row of attempts.
    hopeless
        Whether one of them waits after an attempt that no other will be better than.
    """

    wanted: int = 0
    held: int = 0
    ready: int = 0
    draining: int = 0
    failures: int = 0
    hopeless: bool = False


def job_of(state: State, found: EndpointRecord, revision: Revision, pool: str) -> Job | None:
    """Return the live job that holds a revision's replicas of a pool."""
    job = state.jobs.get(found.child(revision.number, pool))
    return job if job is not None and job.owner == found.id and job.phase not in ENDED else None


def replicas_of(state: State, found: EndpointRecord, revision: Revision, pool: Pool) -> Iterator[Replica]:
    """Yield the replicas of a revision's pool that run or ought to; of an attached endpoint its servers."""
    if pool.name not in revision.pools:
        return
    wanted = revision.pools[pool.name].replicas
    if revision.spec.attached:
        # Nobody stops them, so nothing would end their draining; what gateways have open there, they let finish.
        for url in revision.spec.attached if revision.phase in ACTIVE else ():
            yield _replica(revision, pool, run=url, url=url, phase=READY, since=revision.started_at)
        return
    job = job_of(state, found, revision, pool.name)
    if job is None:
        return
    lowered_at = revision.pools[pool.name].lowered_at
    for unit in sorted(job.units.values(), key=lambda unit: int(unit.key.rpartition("-")[2])):
        if unit.phase != "bound":
            continue
        run = first_of(unit)
        phases = {part.phase for part in unit.runs.values()}
        going = bool(unit.stop or job.stop) or run.rank >= wanted
        if EXITED in phases or (going and run.phase != RUNNING):
            continue  # without one of its nodes a replica can answer nothing
        yield _replica(
            revision,
            pool,
            run=run.id,
            url=run.url,
            phase=DRAINING if going else READY if phases == {RUNNING} else STARTING,
            node=run.node,
            weights_digest=run.weights_digest,
            certificate_sha256=run.certificate_sha256,
            since=max(lowered_at, run.started_at) if going else run.started_at,
        )


def first_of(unit: Unit) -> Run:
    """Return the run of a bound replica that answers: the one on the first of its nodes."""
    return min(unit.runs.values(), key=lambda run: run.part)


def count(state: State, found: EndpointRecord, revision: Revision, pool: Pool) -> Count:
    """Return how many replicas of a revision's pool there are; none of a pool that the revision does not have."""
    if pool.name not in revision.pools:
        return Count()
    wanted = revision.pools[pool.name].replicas
    phases = [replica.phase for replica in replicas_of(state, found, revision, pool)]
    if revision.spec.attached:
        return Count(wanted=len(phases), held=len(phases), ready=phases.count(READY), draining=phases.count(DRAINING))
    job = job_of(state, found, revision, pool.name)
    units = [] if job is None else list(job.units.values())
    return Count(
        wanted=wanted,
        held=len(units),
        ready=phases.count(READY),
        draining=phases.count(DRAINING),
        failures=max((unit.failures for unit in units), default=0),
        hopeless=any(unit.hopeless and unit.phase == "waiting" for unit in units),
    )


def ready_of(state: State, found: EndpointRecord, revision: Revision) -> int:
    """Return how many requests' paths a revision has: of two pools the smaller number of ready replicas."""
    return min(count(state, found, revision, pool).ready for pool in revision.spec.pools)


def _replica(revision: Revision, pool: Pool, **known: object) -> Replica:
    return Replica(engine=revision.spec.engine, revision=revision.number, pool=pool.name, **known)  # type: ignore[arg-type]
