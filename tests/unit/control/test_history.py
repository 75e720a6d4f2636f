from __future__ import annotations

import hashlib
from dataclasses import replace

import msgspec
import pytest
from tests.unit.control.cloud import Cloud, imitation, job, read_fleet

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control.commands import AbsentError
from plenum.control.decider import Decider
from plenum.control.history import state_at, verify, why
from plenum.model import Kind
from plenum.placement import POLICIES
from plenum.ports.store import Snapshot


@pytest.fixture
def cloud() -> Cloud:
    cloud = Cloud(2)
    cloud.run(1)
    return cloud


def test_a_binding_is_made_again_the_same(cloud: Cloud) -> None:
    cloud.submit(job(kind=Kind.TRAINING_JOB, replicas=2))
    cloud.run(2)
    answer = why(cloud.store, Decider(read_fleet), "red/j", None, None)
    assert answer.agrees
    assert answer.then == answer.again
    assert [slot for slot, _ in answer.places] == ["worker-0", "worker-1"]
    assert answer.inputs < answer.decision


def test_a_reason_to_wait_is_found_again_the_same(cloud: Cloud) -> None:
    cloud.submit(job(kind=Kind.TRAINING_JOB, replicas=5, gpus=8))
    cloud.run(2)
    answer = why(cloud.store, Decider(read_fleet), "red/j", None, None)
    assert answer.agrees
    assert answer.places == ()
    assert "red/j" in answer.then


def test_the_past_is_asked_by_time_and_by_position(cloud: Cloud) -> None:
    cloud.submit(job(kind=Kind.TRAINING_JOB, replicas=2, gpus=8))
    cloud.submit(job("late", gpus=8))
    cloud.run(3)
    waited_at, waited = cloud.state.at, cloud.state.position
    cloud.execute(c.delete_job("red/j"))
    cloud.run(5)
    late = Decider(read_fleet)
    assert why(cloud.store, late, "red/late", None, None).places
    assert not why(cloud.store, late, "red/late", waited_at, None).places
    assert not why(cloud.store, late, "red/late", None, waited).places


def test_code_that_decides_otherwise_disagrees(cloud: Cloud) -> None:
    cloud.submit(job(gpus=4))
    cloud.submit(job("k", gpus=1))
    cloud.run(2)

    class Contrary(Decider):
        def decide(self, state, now):
            decision = super().decide(state, now)
            assert decision is not None
            return replace(decision, bound=())

    answer = why(cloud.store, Contrary(read_fleet, POLICIES["best-fit"]), "red/k", None, None)
    assert not answer.agrees
    assert "would not be considered" in answer.again


@pytest.mark.parametrize("ask", [("red/none", None, None), ("red/j", 1.0, None), ("red/j", None, 1)])
def test_what_was_never_decided_is_absent(cloud: Cloud, ask: tuple) -> None:
    cloud.submit(job())
    cloud.run(2)
    with pytest.raises(AbsentError):
        why(cloud.store, Decider(read_fleet), *ask)


def test_compaction_takes_inputs_away_and_says_so(cloud: Cloud) -> None:
    cloud.submit(job(), imitation(2))
    cloud.run(6)
    cloud.controller.save_snapshot(force=True)
    cloud.store.compact(cloud.state.position)
    with pytest.raises(AbsentError):
        why(cloud.store, Decider(read_fleet), "red/j", None, None)
    with pytest.raises(AbsentError, match="compacted"):
        state_at(cloud.store, 3)
    types = {record.type for record in cloud.store.read(0, 1000)}
    assert {"JobSubmitted", "JobEnded"} <= types
    assert not types & {"UnitBound", "RunReported"}


def test_the_state_in_use_is_verified_against_the_records_alone(cloud: Cloud) -> None:
    cloud.submit(job(replicas=3))
    cloud.run(3)
    cloud.controller.save_snapshot(force=True)
    cloud.run(2)
    assert verify(cloud.store, cloud.state.snapshot()).same
    cloud.state.jobs["red/j"].phase = "Pending"
    found = verify(cloud.store, cloud.state.snapshot())
    assert not found.same
    assert found.position == cloud.state.position


def test_the_state_at_any_position_is_the_same_with_and_without_snapshots(cloud: Cloud) -> None:
    cloud.submit(job(replicas=2), imitation(3))
    cloud.run(2)
    cloud.controller.save_snapshot(force=True)
    cloud.run(6)
    for position in range(cloud.store.head() + 1):
        here = state_at(cloud.store, position)
        assert here.position == position
        assert here.snapshot() == state_at(cloud.store, position, from_zero=True).snapshot()
    with pytest.raises(AbsentError, match="ends at"):
        state_at(cloud.store, cloud.store.head() + 1)
    assert isinstance(ev.event_of(cloud.store.read(0, 1)[0]), ev.LeaderChanged)


def made_before(found: Snapshot) -> Snapshot:
    """Return a snapshot as code made it that did not know yet when runs became ready."""
    whole = msgspec.json.decode(found.data) | {"format": 1}
    for known in whole["jobs"].values():
        for unit in known["units"].values():
            unit["runs"] = {
                name: {k: v for k, v in run.items() if k != "ready_at"} for name, run in unit["runs"].items()
            }
    data = msgspec.json.encode(whole, order="deterministic")
    return Snapshot(position=found.position, digest=hashlib.sha256(data).hexdigest(), data=data)


@pytest.mark.parametrize("compacted", [False, True])
def test_what_is_in_use_after_an_upgrade_is_what_the_records_say_now(cloud: Cloud, compacted: bool) -> None:
    cloud.submit(job(), imitation(notify=True))
    if compacted:
        cloud.store.save_snapshot(made_before(cloud.state.snapshot()))
        cloud.store.compact(cloud.state.position)
    cloud.run(4)
    (run,) = cloud.state.jobs["red/j"].runs()
    assert run.ready_at > 0
    cloud.store.save_snapshot(made_before(cloud.state.snapshot()))
    later = cloud.replica("c1")
    later.load()
    assert later.state.snapshot() == cloud.state.snapshot()
    assert verify(cloud.store, later.state.snapshot()).same
