from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from tests.unit.control.cloud import TTL_S, Cloud, imitation, job

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control.commands import LimitError
from plenum.control.controller import NotLeaderError, Outcome
from plenum.control.protocol import SyncRequest
from plenum.model import Kind
from plenum.model.errors import FieldError
from plenum.ports.batches import BatchError
from plenum.ports.nodes import Report
from plenum.ports.store import ConflictError, FencedError, StoreError
from plenum.sim.store import AFTER, BEFORE


@pytest.fixture
def cloud() -> Cloud:
    cloud = Cloud(2)
    cloud.run(1)
    return cloud


def submit(name: str, key: str = "", **more) -> c.Command:
    return c.apply_job(job(name, **more), imitation(), {"name": name}).by("ann", key=key, digest=f"{name}")


# -- commands ---------------------------------------------------------------------------------------


def test_a_command_asked_for_again_is_not_carried_out_again(cloud: Cloud) -> None:
    first = cloud.execute(submit("a", "k1"))
    again = cloud.execute(submit("a", "k1"))
    assert (again.position, again.replayed, again.events) == (first.position, True, ())
    with pytest.raises(FieldError, match="another request"):
        cloud.execute(submit("b", "k1"))


def test_a_command_that_changed_nothing_keeps_its_key_too(cloud: Cloud) -> None:
    cloud.execute(submit("a"))
    nothing = cloud.execute(submit("a", "k1"))
    assert nothing.events == ()
    assert cloud.execute(submit("a", "k1")).replayed


def test_a_lost_answer_is_made_up_for_by_asking_again(cloud: Cloud) -> None:
    cloud.store.fault = lambda operation: AFTER if operation == "append" else ""
    with pytest.raises(StoreError):
        cloud.execute(submit("a", "k1"))
    cloud.store.fault = None
    assert cloud.execute(submit("a", "k1")).replayed
    cloud.controller.catch_up()
    assert list(cloud.state.jobs) == ["red/a"]


@pytest.mark.parametrize("odd", [{"trace": "t" * 2000}, {"actor": "nul\0"}, {"key": "k" * 2000}])
def test_what_no_store_takes_is_refused_alone(cloud: Cloud, odd: dict[str, str]) -> None:
    commands = [submit("a"), replace(submit("b"), **odd), submit("c")]
    batch = cloud.controller.propose(commands, {})
    first, second, third = (outcome for _, outcome in batch.done)
    assert isinstance(second, BatchError)
    cloud.controller.append(batch.records, batch.keys)
    assert list(cloud.state.jobs) == ["red/a", "red/c"]
    assert isinstance(first, Outcome)
    assert isinstance(third, Outcome)
    assert third.position == cloud.state.position


def test_what_did_not_reach_the_store_did_not_happen(cloud: Cloud) -> None:
    cloud.store.fault = lambda operation: BEFORE if operation == "append" else ""
    with pytest.raises(StoreError):
        cloud.execute(submit("a", "k1"))
    assert not cloud.state.jobs
    cloud.store.fault = None
    assert not cloud.execute(submit("a", "k1")).replayed


def done(cloud: Cloud, *commands: c.Command) -> tuple[list[object], list[c.Command]]:
    batch = cloud.controller.propose(commands, {})
    return [outcome for _, outcome in batch.done], batch.later


def test_a_batch_decides_each_subject_and_each_key_once(cloud: Cloud) -> None:
    outcomes, later = done(cloud, submit("a", "k1"), submit("b", "k2"), submit("a", "k3"), submit("c", "k1"))
    assert [o.position for o in outcomes if isinstance(o, Outcome)] == [
        cloud.state.position + 1,
        cloud.state.position + 2,
    ]
    assert [command.key for command in later] == ["k3", "k1"]


def test_a_refusal_in_a_batch_is_its_own(cloud: Cloud) -> None:
    outcomes, later = done(cloud, submit("a"), submit("UPPER"), submit("b"))
    assert [type(o) for o in outcomes] == [Outcome, FieldError, Outcome]
    assert later == []


def test_a_command_that_stands_alone_waits_and_lets_nothing_pass_it(cloud: Cloud) -> None:
    outcomes, later = done(cloud, submit("a"), c.cordon("n0", True), submit("b"))
    assert (len(outcomes), [command.subject for command in later]) == (2, ["node/n0"])
    outcomes, later = done(cloud, c.cordon("n0", True), submit("b"))
    assert (len(outcomes), [command.subject for command in later]) == (1, ["job/red/b"])


def test_a_batch_does_not_overrun_a_tenants_limit(cloud: Cloud) -> None:
    cloud.execute(c.apply_tenant("red", {}, max_jobs=1))
    outcomes, later = done(cloud, submit("a"), submit("b"))
    assert (len(outcomes), len(later)) == (1, 1)
    cloud.execute(submit("a"))
    assert isinstance(done(cloud, submit("b"))[0][0], LimitError)


# -- leading ----------------------------------------------------------------------------------------


def test_a_follower_writes_nothing_and_says_who_leads(cloud: Cloud) -> None:
    other = cloud.replica("c1")
    assert not other.lead(TTL_S)
    with pytest.raises(NotLeaderError):
        other.execute(submit("a"))
    with pytest.raises(NotLeaderError):
        other.append([ev.record_of(ev.NodeReady(node="n0"), 0.0, "x")])


def test_a_successor_starts_from_what_is_written_and_fences_the_one_before(cloud: Cloud) -> None:
    cloud.execute(submit("a"))
    successor = cloud.replica("c1")
    cloud.clock.advance(TTL_S + 1)
    assert successor.lead(TTL_S)
    assert successor.term > cloud.controller.term
    assert list(successor.state.jobs) == ["red/a"]
    cloud.controller.catch_up()
    with pytest.raises(FencedError):
        cloud.controller.append([ev.record_of(ev.NodeReady(node="n0"), 0.0, "x")])
    assert cloud.controller.term == 0


def test_who_could_not_read_the_log_does_not_lead(cloud: Cloud) -> None:
    cloud.clock.advance(TTL_S + 1)
    cloud.store.fault = lambda operation: BEFORE if operation == "read" else ""
    with pytest.raises(StoreError):
        cloud.controller.lead(TTL_S)
    assert not cloud.controller.leading
    with pytest.raises(NotLeaderError):
        cloud.controller.answer(cloud.agent.request())
    cloud.store.fault = None
    assert cloud.controller.lead(TTL_S)


def test_a_stale_decision_is_not_written(cloud: Cloud) -> None:
    other = cloud.replica("c1")
    cloud.execute(submit("a"))
    other.term = cloud.controller.term
    with pytest.raises(ConflictError):
        other.append([ev.record_of(ev.NodeReady(node="n0"), 0.0, "x")])


def test_longer_leases_of_leaders_before_are_waited_out(cloud: Cloud) -> None:
    cloud.controller.lease_s = 60.0
    cloud.clock.advance(TTL_S + 1)
    cloud.controller.lead(TTL_S)
    cloud.sync()
    for holder in ("c1", "c2"):
        cloud.clock.advance(TTL_S + 1)
        cloud.controller = cloud.replica(holder)
        cloud.controller.lease_s = 10.0
        cloud.controller.lead(TTL_S)
    ready_until = cloud.clock.monotonic() + 60
    while cloud.state.nodes["n0"].phase == "Ready":
        cloud.clock.advance(1)
        cloud.work()
    assert cloud.clock.monotonic() > ready_until
    assert cloud.state.lease_s == 10.0


# -- catching up ------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 3])
def test_a_follower_finds_its_way_past_a_compaction(cloud: Cloud, more: int) -> None:
    follower = cloud.replica("c1")
    for _ in range(3):  # nothing that an audit keeps
        cloud.controller.append([ev.record_of(ev.NodeLost(node="n0", gone=False), 0.0, "x")])
    cloud.controller.save_snapshot(force=True)
    cloud.store.compact(cloud.state.position)
    for i in range(more):
        cloud.execute(submit(f"j{i}"))
    follower.catch_up()
    assert follower.state.snapshot() == cloud.state.snapshot()


def test_a_snapshot_saves_reading_the_log(cloud: Cloud) -> None:
    cloud.submit(job())
    assert not cloud.controller.save_snapshot()
    assert cloud.controller.save_snapshot(force=True)
    assert not cloud.controller.save_snapshot(force=True)
    cloud.submit(job("k"))
    taken: list[int] = []
    late = cloud.replica("c1")
    late.on_record = lambda record: taken.append(record.position)
    late.load()
    assert taken == [cloud.state.position]
    assert late.state.snapshot() == cloud.state.snapshot()


# -- what follows by itself -------------------------------------------------------------------------


def test_nothing_is_decided_while_nothing_changes(cloud: Cloud) -> None:
    cloud.submit(job(kind=Kind.TRAINING_JOB, replicas=9, gpus=8))
    cloud.run(3)
    before = cloud.state.position
    assert cloud.controller.decide() is None
    cloud.run(20)
    assert cloud.state.position == before


def test_a_reason_is_told_once(cloud: Cloud) -> None:
    cloud.submit(job(kind=Kind.TRAINING_JOB, replicas=9, gpus=8))
    cloud.submit(job("k"))
    cloud.run(5)
    told = [r for r in cloud.store.read(0, 999) if r.type == "JobWaiting"]
    assert len(told) == 1


def test_a_backoff_ends_though_the_clock_was_set_back(cloud: Cloud) -> None:
    cloud.submit(job(), imitation(1, exit_code=1, backoff_s=8, restarts=1))
    while (
        cloud.state.jobs["red/j"].units["worker-0"].phase != "waiting"
        or not cloud.state.jobs["red/j"].units["worker-0"].attempt
    ):
        cloud.run(1)
    cloud.clock.jump(-7200)
    cloud.run(20)
    assert cloud.state.jobs["red/j"].phase == "Failed"


def test_a_decision_that_was_overtaken_is_rejected_action_by_action(cloud: Cloud) -> None:
    cloud.submit(job("a"))
    cloud.submit(job("b"))
    decision = cloud.controller.decide()
    assert decision is not None
    cloud.execute(c.delete_job("red/a"))
    made, bound = map(ev.event_of, cloud.controller.commit(decision))
    assert isinstance(made, ev.DecisionMade)
    assert [(r.job, r.unit) for r in made.rejected] == [("red/a", "worker-0")]
    assert isinstance(bound, ev.UnitBound)
    assert bound.job == "red/b"


def test_reports_about_what_is_not_held_say_nothing(cloud: Cloud) -> None:
    report = Report(run="9-1-worker-0", phase="running")
    assert cloud.controller.reported(SyncRequest(agent="a", nodes=("n0", "n1"), reports=(report,))) == []


def test_reports_never_go_back(cloud: Cloud) -> None:
    cloud.submit(job())
    cloud.run(2)
    request, _, _ = cloud.sync()
    (run,) = cloud.alive()
    exited = Report(run=run, phase="exited", exit_code=1)
    running = Report(run=run, phase="running")
    said = msgspec.structs.replace(request, reports=(exited,))
    cloud.controller.append(cloud.controller.reported(said))
    assert cloud.controller.reported(said) == []
    assert cloud.controller.reported(msgspec.structs.replace(request, reports=(running,))) == []


@pytest.mark.parametrize(
    ("started_at", "ended_at", "ran_s"),
    [(50.0, 50.25, 0.25), (50.0, 1e12, 3.0), (50.0, 49.0, 1e-6), (50.0, float("nan"), 1e-6), (0.0, 50.0, 0.0)],
)
def test_what_was_over_at_the_first_word_of_it_still_ran_for_a_while(
    cloud: Cloud, started_at: float, ended_at: float, ran_s: float
) -> None:
    cloud.submit(job())
    cloud.work()
    cloud.clock.advance(3.0)
    (bound,) = cloud.state.jobs["red/j"].runs()
    over = Report(run=bound.id, phase="exited", exit_code=0, started_at=started_at, ended_at=ended_at)
    cloud.controller.append(cloud.controller.reported(SyncRequest(agent="a", nodes=("n0", "n1"), reports=(over,))))
    known = cloud.state.jobs["red/j"]
    (run,) = known.runs()
    if ran_s:
        assert run.ended_at - run.started_at == pytest.approx(ran_s, abs=1e-6)
        assert known.started_at == run.started_at
    else:
        assert (run.started_at, known.started_at) == (0.0, 0.0)


def test_a_node_over_work_that_nobody_knows_of_does_not_come_up() -> None:
    cloud = Cloud(2)
    request = SyncRequest(agent="a", nodes=("n0", "n1"), leftover=("7-1-worker-0",))
    assert cloud.controller.reported(request) == []
    assert len(cloud.controller.reported(msgspec.structs.replace(request, leftover=()))) == 2
