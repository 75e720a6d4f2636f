"""What each fact about a job, its units and its runs changes in the state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plenum.control.events import (
    Event,
    JobChanged,
    JobEnded,
    JobForgotten,
    JobScaled,
    JobStopRequested,
    JobSubmitted,
    JobWaiting,
    RunReported,
    UnitBound,
    UnitReleased,
    UnitStopped,
)
from plenum.control.records import (
    DELETED,
    Job,
    Unit,
    Waiting,
)
from plenum.control.units import (
    is_wanted,
    may_drain,
    run_of,
    unit_keys,
)
from plenum.model.errors import InvariantError
from plenum.ports.nodes import RUNNING, STARTING
from plenum.ports.store import Record

if TYPE_CHECKING:
    from plenum.control.endpoints.state import Revision
    from plenum.control.state import State


def _submitted(state: State, event: JobSubmitted, record: Record) -> None:
    state.ended.pop(event.job, None)  # a job of the same name that ended makes room
    job = Job(
        id=event.job,
        uid=state.uid_at(record.position),
        version=record.position,
        generation=1,
        workload=event.workload,
        process=event.process,
        manifest=event.manifest,
        submitted_at=record.at,
        asked=record.position,
        actor=record.actor,
        trace=record.trace,
        owner=event.owner,
        units={key: Unit(key=key) for key in unit_keys(event.workload)},
    )
    state.jobs[job.id] = job
    state.live[job.id] = None
    state.touched[job.id] = None
    state.waiting[job.id] = None


def _changed(state: State, event: JobChanged, record: Record) -> None:
    job = state.jobs[event.job]
    if event.restart:
        job.generation += 1
        wanted = unit_keys(event.workload)
        bound = {key: unit for key, unit in job.units.items() if unit.phase == "bound"}
        job.before = (job.workload, job.process) if bound else None
        gone = [unit.attempt for key, unit in job.units.items() if key not in wanted and key not in bound]
        job.attempts = max([job.attempts, *gone])
        tried = {key: unit.attempt for key, unit in job.units.items()}
        fresh = {key: Unit(key=key, attempt=tried.get(key, job.attempts)) for key in wanted if key not in bound}
        job.units = {**bound, **fresh}
        job.waiting, job.yielded, job.shrink_to = None, False, 0
    job.workload, job.process, job.manifest = event.workload, event.process, event.manifest
    job.asked = record.position
    state.settle(job, record)


def _scaled(state: State, event: JobScaled, record: Record) -> None:
    job = state.jobs[event.job]
    (role,) = job.workload.roles
    job.workload = replace(job.workload, roles=(replace(role, replicas=event.replicas),))
    wanted = dict.fromkeys(unit_keys(job.workload))
    for key, unit in list(job.units.items()):
        if key not in wanted and unit.phase != "bound":
            job.attempts = max(job.attempts, unit.attempt)
            del job.units[key]
    for key in wanted:
        if key not in job.units:
            job.units[key] = Unit(key=key, attempt=job.attempts)
    _wait_no_longer(job)
    job.asked = record.position
    state.settle(job, record)


def _stop_requested(state: State, event: JobStopRequested, record: Record) -> None:
    job = state.jobs[event.job]
    job.stop, job.asked = event.why, record.position
    state.settle(job, record)


def _waiting(state: State, event: JobWaiting, record: Record) -> None:
    job = state.jobs[event.job]
    job.version = record.position
    job.waiting = Waiting(
        code=event.code,
        constraint=event.constraint,
        sentence=event.sentence,
        decision=event.decision,
        since=record.at,
    )


def _bound(state: State, event: UnitBound, record: Record) -> None:
    job = state.jobs[event.job]
    unit = job.units[event.unit]
    if unit.phase != "waiting":
        raise InvariantError(f"{event.job} {event.unit} is bound at {record.position} while it is {unit.phase}")
    unit.phase, unit.attempt, unit.generation, unit.stop = "bound", event.attempt, event.generation, ""
    unit.inside, unit.given_up, unit.relative_cost = event.inside, event.given_up, event.relative_cost
    unit.runs = {b.run: run_of(b) for b in event.bindings}
    job.shrink_to = 0
    job.yielded = job.yielded and job.workload.gang and len(unit.runs) < job.workload.replicas
    _wait_no_longer(job)
    state.index(job, unit)
    for run in unit.runs.values():
        state.agent_version[state.agent_of(run.node)] = record.position
    state.settle(job, record)


def _wait_no_longer(job: Job) -> None:
    """Forget why a job waits once nothing of it does."""
    if all(unit.phase != "waiting" for unit in job.units.values()):
        job.waiting = None


def _stopped(state: State, event: UnitStopped, record: Record) -> None:
    job = state.jobs[event.job]
    unit = job.units[event.unit]
    unit.stop, unit.drains = event.why, may_drain(unit, event.why)
    job.yielded = job.yielded or event.why == "preempted"
    job.shrink_to = event.shrink_to
    state.unorder(job, unit, record.position)
    state.settle(job, record)


def _reported(state: State, event: RunReported, record: Record) -> None:
    job = state.jobs[event.job]
    unit = job.units[event.unit]
    run = unit.runs[event.run]
    run.phase, run.exit_code, run.cause, run.message = event.phase, event.exit_code, event.cause, event.message
    run.url, run.weights_digest, run.certificate_sha256 = event.url, event.weights_digest, event.certificate_sha256
    if event.weights_digest and (revision := state.revision_of(job)) is not None and not revision.weights_digest:
        revision.weights_digest = _first_served(state, job, revision, record)
    if job.process.notify:  # of others the same records still make the same snapshot as before there was any notice
        run.reported_at = record.at
        run.ready_at = run.ready_at or (record.at if event.phase == RUNNING else 0.0)
    if job.owner and all(each.phase == RUNNING for each in unit.runs.values()):
        job.message = ""
    if event.phase in (STARTING, RUNNING):
        run.started_at = run.started_at or record.at
    else:
        run.ended_at = record.at
        if event.ran_s:
            run.started_at = record.at - event.ran_s
            job.started_at = job.started_at or run.started_at
        state.orders.get(state.agent_of(run.node), {}).pop(run.id, None)
        if unit.stop and len(unit.runs) > 1:
            state.unorder(job, unit, record.position)
    state.settle(job, record)


def _first_served(state: State, job: Job, revision: Revision, record: Record) -> str:
    """Return what a revision's oldest replica serves: most may have run since before anybody noted what a revision is to serve."""
    jobs = [state.jobs.get(state.endpoints[job.owner].child(revision.number, pool)) for pool in revision.pools]
    runs = [run for each in jobs if each is not None for run in each.runs() if run.weights_digest]
    return min(runs, key=lambda run: (run.started_at or record.at, run.id)).weights_digest


def _released(state: State, event: UnitReleased, record: Record) -> None:
    job = state.jobs[event.job]
    unit = job.units[event.unit]
    state.unindex(job, unit, record.position)
    unit.phase = "waiting" if event.again else "succeeded" if event.outcome == "succeeded" else "failed"
    unit.failures = (0 if event.well else unit.failures) + (event.outcome == "failed")
    unit.not_before, unit.stop, unit.drains, unit.hopeless = event.not_before, "", False, event.hopeless
    if job.owner and event.outcome == "failed":
        job.message = event.why  # a server is started again for ever, so this is the only place to say why
    if event.again:
        unit.runs, unit.inside, unit.given_up, unit.relative_cost = {}, (), (), None
    if unit.generation != job.generation or not is_wanted(job, unit):
        _renew(job, unit)
    state.settle(job, record)


def _renew(job: Job, unit: Unit) -> None:
    """Put a unit of the generation before aside once it is released; its place in the new one, if it has one, waits afresh."""
    del job.units[unit.key]
    wanted = unit_keys(job.workload)
    if unit.key in wanted:
        job.units[unit.key] = Unit(key=unit.key, attempt=unit.attempt)
    else:
        job.attempts = max(job.attempts, unit.attempt)
    if all(u.phase != "bound" or u.generation == job.generation for u in job.units.values()):
        job.before = None


def _ended(state: State, event: JobEnded, record: Record) -> None:
    job = state.jobs[event.job]
    job.phase, job.message, job.ended_at, job.waiting = event.phase, event.message, record.at, None
    job.version = record.position
    for index in (state.live, state.touched, state.waiting, state.yielded):
        index.pop(job.id, None)
    if event.phase == DELETED:
        del state.jobs[job.id]
        state.ended.pop(job.id, None)
    else:
        state.ended[job.id] = None


def _forgotten(state: State, event: JobForgotten, record: Record) -> None:
    del state.jobs[event.job]
    state.ended.pop(event.job, None)


HANDLERS: dict[type[Event], Callable[[State, Any, Record], None]] = {
    JobSubmitted: _submitted,
    JobChanged: _changed,
    JobStopRequested: _stop_requested,
    JobWaiting: _waiting,
    UnitBound: _bound,
    UnitStopped: _stopped,
    RunReported: _reported,
    UnitReleased: _released,
    JobEnded: _ended,
    JobForgotten: _forgotten,
    JobScaled: _scaled,
}
"""What each fact about a job changes."""
