"""Tending what is bound: what is to stop, what is over, what goes again and when. Pure: a state in, facts out.

Level-triggered: it looks at what is so, never at what just happened, so to run it twice does no harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from plenum.control import events as ev
from plenum.control.endpoints.process import HOPELESS
from plenum.control.records import DELETED, ENDED, FAILED, SUCCEEDED, Job, Run, Unit
from plenum.control.state import State
from plenum.control.units import MAX_BACKOFF_S, is_wanted
from plenum.model.workload import Kind
from plenum.ports.nodes import EXITED

LOST_BACKOFF_S = 1.0
"""Wait before another attempt after a node was lost; doubles with the attempts too, so that a job cannot spin."""

KEEP_ENDED = 1_000
"""Ended jobs kept in the lists; the longest ended are forgotten first."""

WELL_S = 600.0
"""A server that ran for so long, or was ready for so long, starts anew with its failures: those of months ago must not make it wait."""

LOST_CAUSES = ("node-lost", "lease-lost", "vanished")
"""Ends that are not the job's doing."""

AGAIN = ("lost", "drained", "changed", "scaled", "preempted", "grown", "shutdown", "weights")
"""Reasons to stop after which a unit goes back to waiting without it counting as a failure."""


def tend(state: State, jobs: Iterable[str], now: float) -> list[ev.Event]:
    """Return what follows from the present state of some jobs.

    Parameters
    ----------
    jobs
        Ids; those that are gone or have ended are skipped.
    now
        Seconds since the epoch, the clock of ``not_before``.
    """
    found: list[ev.Event] = []
    for job_id in jobs:
        job = state.jobs.get(job_id)
        if job is not None and job.phase not in ENDED:
            found += _tend_job(state, job, now)
    return found


def overdue(state: State, now: float) -> list[str]:
    """Return the live jobs with a run that has gone on for longer than it may."""
    return [
        job.id
        for job_id in state.live
        if (job := state.jobs[job_id]).process.timeout_s
        and any(_timed_out(job, unit, now) for unit in job.units.values())
    ]


def to_forget(state: State) -> list[ev.Event]:
    """Return the farewell to the ended jobs beyond those that are kept."""
    surplus = len(state.ended) - KEEP_ENDED
    return [ev.JobForgotten(job=job) for job, _ in zip(state.ended, range(max(surplus, 0)), strict=False)]


def _tend_job(state: State, job: Job, now: float) -> Iterator[ev.Event]:
    after: dict[str, str] = {}
    for unit in job.units.values():
        after[unit.key] = unit.phase
        if unit.phase != "bound":
            continue
        runs = list(unit.runs.values())
        why = unit.stop or _why_stop(state, job, unit, now)
        if why and not unit.stop and not _over(runs):
            yield ev.UnitStopped(job=job.id, unit=unit.key, attempt=unit.attempt, why=why)
        elif _over(runs):
            released = _released(job, unit, why or _fault(runs), now)
            after[unit.key] = "waiting" if released.again else "over" if job.stop else _end_phase(released)
            if unit.generation != job.generation or not is_wanted(job, unit):
                after[unit.key] = "waiting" if is_wanted(job, unit) else "succeeded"
            yield released
    yield from _ending(job, list(after.values()), _first_told(job))


def _over(runs: list[Run]) -> bool:
    return all(run.phase == EXITED for run in runs)


def _fault(runs: list[Run]) -> str:
    """Return what went wrong among runs: ``lost`` before ``failed``; empty: nothing did."""
    bad = [run for run in runs if run.phase == EXITED and run.exit_code != 0]
    if any(run.cause in LOST_CAUSES for run in bad):
        return "lost"
    return "failed" if bad else ""


def _why_stop(state: State, job: Job, unit: Unit, now: float) -> str:
    """Return why a unit that runs should not; empty: it should."""
    if job.stop:
        return "deleted"
    if unit.generation != job.generation:
        return "changed"
    if not is_wanted(job, unit):
        return "scaled"
    if fault := _fault(list(unit.runs.values())):
        return fault
    pinned = state.weights_of(job)
    if pinned and any(run.weights_digest not in ("", pinned) for run in unit.runs.values()):
        return "weights"  # it was staged before the first one was ready
    nodes = [state.nodes[run.node] for run in unit.runs.values() if run.phase != EXITED and run.node in state.nodes]
    if any(node.phase == "Lost" for node in nodes):
        return "lost"
    if any(node.draining for node in nodes):
        return "drained"
    return "timeout" if _timed_out(job, unit, now) else ""


def _timed_out(job: Job, unit: Unit, now: float) -> bool:
    limit = job.bound_as(unit)[1].timeout_s
    return bool(limit) and any(
        run.phase != EXITED and run.started_at and now - run.started_at > limit for run in unit.runs.values()
    )


def _released(job: Job, unit: Unit, why: str, now: float) -> ev.UnitReleased:
    """Return what becomes of a unit of which nothing runs any more."""
    if why == "drained" and all(run.exit_code == 0 and not run.cause for run in unit.runs.values()):
        why = ""  # it was done before the order to stop could reach it
    outcome = {"": "succeeded", "failed": "failed", "timeout": "failed", "lost": "lost"}.get(why, "stopped")
    endless = job.workload.kind is Kind.ENDPOINT
    well = endless and _ran_well(job, unit, now)  # the restarts of what is meant to end are counted all
    failures = 0 if well else unit.failures
    if endless and outcome == "succeeded":
        outcome = "failed"  # a server is not meant to end
    may_again = {
        "succeeded": False,
        "failed": endless or failures < job.process.restarts,
        "lost": True,
        "stopped": why in AGAIN,
    }[outcome]
    again = may_again and not job.stop
    hopeless = bool(job.owner) and outcome == "failed" and any(run.exit_code in HOPELESS for run in unit.runs.values())
    return ev.UnitReleased(
        job=job.id,
        unit=unit.key,
        attempt=unit.attempt,
        outcome=outcome,
        why=why if why != outcome else _told(unit),
        again=again,
        not_before=now + (MAX_BACKOFF_S if hopeless else _backoff_s(job, unit, outcome, failures)) if again else 0.0,
        well=well,
        hopeless=hopeless,
    )


def _ran_well(job: Job, unit: Unit, now: float) -> bool:
    notify = job.bound_as(unit)[1].notify
    since = [run.ready_at if notify else run.started_at for run in unit.runs.values()]
    ended = [run.ended_at or now for run in unit.runs.values()]
    return all(start and end - start >= WELL_S for start, end in zip(since, ended, strict=True))


def _told(unit: Unit) -> str:
    """Return a sentence on the first run that went wrong."""
    for run in sorted(unit.runs.values(), key=lambda r: r.ended_at):
        if run.exit_code:
            what = run.message or run.cause or f"exit code {run.exit_code}"
            return f"{run.slot} on {run.node}: {what}"
    return ""


def _backoff_s(job: Job, unit: Unit, outcome: str, failures: int) -> float:
    if outcome == "failed":
        return min(job.process.backoff_s * 2.0 ** min(failures, 32), MAX_BACKOFF_S)
    if outcome == "lost":
        return min(LOST_BACKOFF_S * 2.0 ** min(unit.attempt - 1, 32), MAX_BACKOFF_S)
    return 0.0


def _end_phase(released: ev.UnitReleased) -> str:
    return "succeeded" if released.outcome == "succeeded" else "failed"


def _first_told(job: Job) -> str:
    """Return a sentence on the run that went wrong first, over all units."""
    return next((told for unit in job.units.values() if (told := _told(unit))), "")


def _ending(job: Job, phases: list[str], told: str) -> Iterator[ev.Event]:
    """Yield the end of a job of which nothing is bound and nothing is to be."""
    if "bound" in phases:
        return
    if job.stop:
        yield ev.JobEnded(job=job.id, phase=DELETED, message="deleted")
    elif "waiting" not in phases:
        failed = phases.count("failed")
        if failed:
            what = f"{failed} of {len(phases)} replicas failed" if len(phases) > 1 else "its last attempt failed"
            because = f" ({told})" if told else ""
            yield ev.JobEnded(job=job.id, phase=FAILED, message=f"{what}{because}, and no restarts are left")
        else:
            yield ev.JobEnded(job=job.id, phase=SUCCEEDED)
