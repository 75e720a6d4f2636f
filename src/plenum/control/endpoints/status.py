"""How an endpoint is, for people."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import msgspec

from plenum.control.endpoints import room
from plenum.control.endpoints.passing import has_passed
from plenum.control.endpoints.replicas import DRAINING, READY, STARTING, count, job_of, replicas_of
from plenum.control.endpoints.scale import limited
from plenum.control.endpoints.state import CANARY, REPLACED, ROLLED_BACK, EndpointRecord, Revision
from plenum.control.endpoints.table import weights_of
from plenum.control.records import ENDED
from plenum.control.state import State
from plenum.control.units import MAX_BACKOFF_S

ROLLED_BACK_TOLD_S = 86_400.0
"""How long an endpoint's message is that a revision was rolled back, where another one serves; the revision itself goes on saying it."""

PENDING, STARTING_UP, FAILED, SERVING, UPDATING, IDLE, DEGRADED, STOPPING = (
    "Pending", "Starting", "Failed", "Ready", "Updating", "Idle", "Degraded", "Stopping",
)  # fmt: skip
"""Phases: nothing has a place; nothing is ready; nothing will be, unless something is done about it; all is; a revision comes into use;
scaled to zero; less is ready than wanted; it goes."""


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Replicas of a pool, over all revisions."""

    name: str
    wanted: int
    ready: int
    starting: int
    draining: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How an endpoint is.

    Parameters
    ----------
    revision, canary, failed
        That serves; that is on trial; that was rolled back and would be tried again if the endpoint were applied again; 0: none.
    parts
        Revision to its part of the requests.
    limits
        What keeps it from more replicas, or a change of it from coming into use, a sentence each.
    """

    phase: str
    message: str = ""
    revision: int = 0
    canary: int = 0
    failed: int = 0
    parts: dict[int, float] = msgspec.field(default_factory=dict)
    pools: tuple[PoolStatus, ...] = ()
    limits: tuple[str, ...] = ()


def status_of(state: State, found: EndpointRecord) -> Status:
    """Return how an endpoint is."""
    active = found.active()
    serving = found.revisions[found.serving].spec if found.serving in found.revisions else found.spec
    pools = {pool.name: _pool(state, found, pool.name) for spec in (serving, found.spec) for pool in spec.pools}
    held_up = tuple(room.held_up(state, found))
    return Status(
        phase=_phase(state, found, [pools[pool.name] for pool in serving.pools]),
        message=next(chain(held_up, _messages(state, found)), ""),
        revision=found.serving,
        canary=next((r.number for r in active if r.phase == CANARY), 0),
        failed=found.failed.number if found.failed else 0,
        parts=weights_of(state, found),
        pools=tuple(pools.values()),
        limits=() if found.stop else (*held_up, *limited(found)),
    )


def _pool(state: State, found: EndpointRecord, name: str) -> PoolStatus:
    phases = [
        replica.phase
        for revision in found.listed()
        for pool in revision.spec.pools
        if pool.name == name
        for replica in replicas_of(state, found, revision, pool)
    ]
    wanted = len(found.spec.attached) or found.wanted.get(name, 0)
    counts = [phases.count(phase) for phase in (READY, STARTING, DRAINING)]
    return PoolStatus(name=name, wanted=wanted, ready=counts[0], starting=counts[1], draining=counts[2])


def _phase(state: State, found: EndpointRecord, pools: list[PoolStatus]) -> str:
    if found.stop:
        return STOPPING
    if not any(pool.wanted for pool in pools):
        return IDLE if found.serving else PENDING
    if not all(pool.ready for pool in pools):
        if any(count(state, found, r, pool).hopeless for r in found.active() for pool in r.spec.pools):
            return FAILED
        return STARTING_UP if any(pool.starting or pool.ready for pool in pools) else PENDING
    if any(revision.phase in (CANARY, REPLACED) for revision in found.active()):
        return UPDATING
    return SERVING if all(pool.ready >= pool.wanted for pool in pools) else DEGRADED


def _messages(state: State, found: EndpointRecord) -> Iterator[str]:
    """Yield what there is to say, the most pressing first."""
    told = {revision.why for revision in found.listed() if _is_old(state, found, revision)}
    if found.failed is not None and found.failed.why not in told:
        yield found.failed.why
    for revision in reversed(found.active()):
        for pool in revision.pools:
            other = state.jobs.get(found.child(revision.number, pool))
            if other is not None and other.owner != found.id and other.phase not in ENDED:
                yield f"the job {other.id} has the name that its replicas need; delete that first"
            job = job_of(state, found, revision, pool)
            if job is None:
                continue
            if job.waiting is not None:
                yield job.waiting.sentence
            if job.message:
                failures = max((unit.failures for unit in job.units.values()), default=0)
                if any(unit.hopeless for unit in job.units.values()):
                    again = f"cannot start as it is, and is tried again every {MAX_BACKOFF_S / 60:.0f} minutes"
                else:
                    often = {0: "", 1: ", once so far"}.get(failures, f", {failures} times so far")
                    again = f"did not start{often}; it is tried again"
                yield f"{again}. {job.message}"
            yield from (run.message for run in job.runs() if run.phase == "starting" and run.message)
    if found.message and found.message not in told:
        yield found.message


def _is_old(state: State, found: EndpointRecord, revision: Revision) -> bool:
    """Whether nobody needs telling any more that a revision was rolled back: another has served for a day since."""
    return (
        revision.phase == ROLLED_BACK
        and found.serving > 0
        and has_passed(state.at, revision.ended_at, ROLLED_BACK_TOLD_S)
    )
