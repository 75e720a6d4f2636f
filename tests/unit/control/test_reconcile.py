"""Each rule as a small case: the state by hand, what follows by the code."""

from __future__ import annotations

import pytest
from tests.unit.control.cloud import Log, imitation, job, log

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control import reconcile
from plenum.control.reconcile import KEEP_ENDED, overdue, tend, to_forget
from plenum.control.units import MAX_BACKOFF_S
from plenum.model import Kind
from plenum.model.process import Process

GANG = job(kind=Kind.TRAINING_JOB, replicas=2)


def running(workload=GANG, process: Process | None = None, nodes: int = 2) -> Log:
    it = log(nodes)
    it.command(c.apply_job(workload, process or imitation(), {}))
    it.bind()
    for run in list(it.job(workload.id).runs()):
        it.report(run.id, "running")
    return it


def follows(it: Log, now: float = 6000.0) -> list[ev.Event]:
    return tend(it.state, list(it.state.jobs), now)


def runs(it: Log) -> list[str]:
    return [run.id for run in it.job().runs()]


def test_nothing_follows_where_all_is_as_it_should_be() -> None:
    assert follows(running()) == []


def test_a_failed_member_stops_the_gang_and_the_gang_goes_again_once_all_have_ended() -> None:
    it = running()
    first, second = runs(it)
    it.report(first, "exited", 1)
    (stopped,) = follows(it)
    assert stopped == ev.UnitStopped(job="red/j", attempt=1, why="failed")
    it.write(stopped)
    assert follows(it) == []
    it.report(second, "exited", 143, "stopped")
    (released,) = follows(it)
    assert (released.outcome, released.again) == ("failed", True)
    assert released.not_before == 6000.0 + 1.0
    assert "worker-0" in released.why
    it.write(released)
    assert it.job().units[""].failures == 1


def test_a_gang_that_fails_more_often_than_it_may_has_failed() -> None:
    it = running(process=imitation(restarts=0))
    for run in runs(it):
        it.report(run, "exited", 1)
    released, ended = follows(it)
    assert (released.outcome, released.again) == ("failed", False)
    assert (ended.phase, ended.job) == ("Failed", "red/j")


def test_a_job_of_which_all_ended_well_has_succeeded() -> None:
    it = running()
    for run in runs(it):
        it.report(run, "exited", 0)
    released, ended = follows(it)
    assert (released.outcome, released.again, ended.phase) == ("succeeded", False, "Succeeded")


def test_a_replica_that_ends_leaves_the_others_alone() -> None:
    it = running(job(replicas=3))
    it.report(runs(it)[1], "exited", 0)
    (released,) = follows(it)
    assert (released.unit, released.outcome) == ("worker-1", "succeeded")
    it.write(released)
    assert follows(it) == []


def test_one_replica_that_failed_for_good_fails_the_job_when_the_rest_is_done() -> None:
    it = running(job(replicas=2), imitation(restarts=0))
    first, second = runs(it)
    it.report(first, "exited", 1)
    it.write(*follows(it))
    it.report(second, "exited", 0)
    released, ended = follows(it)
    assert (released.outcome, ended.phase) == ("succeeded", "Failed")
    assert "1 of 2 replicas" in ended.message


def test_an_endpoint_goes_again_however_it_ended() -> None:
    it = running(job(kind=Kind.ENDPOINT), imitation(restarts=0))
    it.report(runs(it)[0], "exited", 0)
    (released,) = follows(it)
    assert (released.outcome, released.again) == ("failed", True)


def test_a_lost_node_is_not_the_jobs_fault() -> None:
    it = running(process=imitation(restarts=0), nodes=4)
    node = next(it.job().runs()).node
    it.write(ev.NodeLost(node=node, why="silent"))
    events = follows(it)
    if isinstance(events[0], ev.UnitStopped):
        it.write(events[0])
        for run in it.job().runs():
            if run.phase != "exited":
                it.report(run.id, "exited", 143, "stopped")
        events = follows(it)
    (released,) = events
    assert (released.outcome, released.again) == ("lost", True)
    it.write(released)
    assert it.job().units[""].failures == 0


def test_a_node_said_to_be_down_stops_what_is_on_it_but_ends_nothing_by_itself() -> None:
    it = running()
    it.write(ev.NodeLost(node=next(it.job().runs()).node, why="down", gone=False))
    (stopped,) = follows(it)
    assert stopped.why == "lost"
    it.write(stopped)
    assert follows(it) == []


def test_a_drained_node_moves_its_work_without_blame() -> None:
    it = running()
    it.command(c.cordon(next(it.job().runs()).node, True, drain=True))
    (stopped,) = follows(it)
    assert stopped.why == "drained"
    it.write(stopped)
    for run in runs(it):
        it.report(run, "exited", 143, "stopped")
    (released,) = follows(it)
    assert (released.outcome, released.again, released.not_before) == ("stopped", True, 6000.0)


def test_work_that_was_done_before_the_drain_reached_it_is_not_done_again() -> None:
    it = running()
    it.command(c.cordon(next(it.job().runs()).node, True, drain=True))
    it.write(*follows(it))
    for run in runs(it):
        it.report(run, "exited", 0)
    released, ended = follows(it)
    assert (released.outcome, ended.phase) == ("succeeded", "Succeeded")


def test_cordon_alone_moves_nothing() -> None:
    it = running()
    it.command(c.cordon(next(it.job().runs()).node, True))
    assert follows(it) == []


def test_a_deleted_job_is_stopped_then_gone() -> None:
    it = running()
    it.command(c.delete_job("red/j"))
    (stopped,) = follows(it)
    assert stopped.why == "deleted"
    it.write(stopped)
    for run in runs(it):
        it.report(run, "exited", 137, "stopped")
    released, ended = follows(it)
    assert (released.again, ended.phase) == (False, "Deleted")
    it.write(released, ended)
    assert not it.state.jobs


def test_a_deleted_job_that_waits_is_gone_at_once() -> None:
    it = log()
    it.command(c.apply_job(GANG, imitation(), {}))
    it.command(c.delete_job("red/j"))
    assert follows(it) == [ev.JobEnded(job="red/j", phase="Deleted", message="deleted")]


def test_what_runs_for_too_long_is_stopped_and_has_failed() -> None:
    it = running(process=imitation(timeout_s=60))
    started = next(it.job().runs()).started_at
    assert overdue(it.state, started + 60) == []
    assert overdue(it.state, started + 61) == ["red/j"]
    (stopped,) = tend(it.state, ["red/j"], started + 61)
    assert stopped.why == "timeout"
    it.write(stopped)
    for run in runs(it):
        it.report(run, "exited", 137, "stopped")
    (released,) = follows(it)
    assert released.outcome == "failed"


def test_a_change_replaces_what_runs_and_counts_its_attempts_on() -> None:
    it = running()
    it.command(c.apply_job(job(kind=Kind.TRAINING_JOB, replicas=3), imitation(), {"new": 1}))
    (stopped,) = follows(it)
    assert stopped.why == "changed"
    it.write(stopped)
    for run in runs(it):
        it.report(run, "exited", 143, "stopped")
    it.write(*follows(it))
    (bound,) = it.bind(now=7000.0)
    assert (bound.generation, bound.attempt, len(bound.bindings)) == (2, 2, 3)
    assert it.job().before is None


@pytest.mark.parametrize(
    ("failures", "expected"), [(0, 2.0), (1, 4.0), (5, 64.0), (20, MAX_BACKOFF_S), (10_000, MAX_BACKOFF_S)]
)
def test_the_wait_doubles_up_to_a_limit(failures: int, expected: float) -> None:
    it = running(process=imitation(backoff_s=2.0, restarts=20_000))
    it.job().units[""].failures = failures
    for run in runs(it):
        it.report(run, "exited", 1)
    (released,) = follows(it)
    assert released.not_before - 6000.0 == expected


@pytest.mark.parametrize(
    ("kind", "notify", "ran_s", "failures"),
    [
        (Kind.ENDPOINT, False, 599, 10),
        (Kind.ENDPOINT, False, 600, 1),
        (Kind.ENDPOINT, True, 600, 10),
        (Kind.TRAINING_JOB, False, 600, 10),
    ],
)
def test_failures_of_long_ago_count_no_more_once_a_server_ran_well(
    kind: Kind, notify: bool, ran_s: float, failures: int
) -> None:
    it = running(job(kind=kind), imitation(restarts=9, notify=notify))
    (unit,) = it.job().units.values()
    unit.failures = 9
    for run in it.job().runs():
        run.started_at, run.ready_at = 5000.0, 5000.0 if not notify else 0.0
        it.report(run.id, "exited", 1)
        run.ended_at = 5000.0 + ran_s
    released, *_ = follows(it)
    assert isinstance(released, ev.UnitReleased)
    assert released.again == (kind is Kind.ENDPOINT)
    it.write(released)
    (unit,) = it.job().units.values()
    assert unit.failures == failures


def test_the_longest_ended_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "KEEP_ENDED", 2)
    it = log()
    for name in ("a", "b", "c"):
        it.command(c.apply_job(job(name), imitation(), {}))
        it.write(ev.JobEnded(job=f"red/{name}", phase="Succeeded"))
    assert to_forget(it.state) == [ev.JobForgotten(job="red/a")]
    assert KEEP_ENDED > 2


def test_to_look_twice_does_no_harm() -> None:
    it = running()
    it.report(runs(it)[0], "exited", 1)
    assert follows(it) == follows(it)
