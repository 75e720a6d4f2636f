from __future__ import annotations

from collections import Counter

import pytest
from tests.unit.control.cloud import Log, imitation, job, log, read_fleet

from plenum.control import commands as c
from plenum.control import decider as module
from plenum.control import events as ev
from plenum.control.decider import Decider, Decision, learned_mix, next_start, rejections
from plenum.control.units import MAX_BACKOFF_S
from plenum.model import Apart, Kind, Request, Role, Together, Workload

NOW = 5000.0


def submit(it: Log, *workloads: Workload) -> None:
    for workload in workloads:
        it.command(c.apply_job(workload, imitation(), {}))


def decided(it: Log, now: float = NOW) -> Decision:
    decision = Decider(read_fleet).decide(it.state, now)
    assert decision is not None
    return decision


def test_nothing_waits_or_nothing_is_there_no_decision() -> None:
    assert Decider(read_fleet).decide(log().state, NOW) is None
    it = Log()
    it.command(c.apply_tenant("red", {}))
    submit(it, job())
    assert Decider(read_fleet).decide(it.state, NOW) is None


def test_nodes_that_are_not_ready_or_are_cordoned_get_nothing() -> None:
    it = log(2, ready=False)
    submit(it, job())
    assert decided(it).bound == ()
    it.write(ev.NodeReady(node="n1"))
    assert decided(it).bound[0].bindings[0].node == "n1"
    it.command(c.cordon("n1", True))
    assert decided(it).bound == ()


def test_a_gang_is_bound_whole_or_waits_with_a_reason() -> None:
    it = log(2)
    submit(it, job("big", Kind.TRAINING_JOB, 3, gpus=8), job("fits", Kind.TRAINING_JOB, 2, gpus=8))
    decision = decided(it)
    (bound,) = decision.bound
    assert (bound.job, bound.unit, len(bound.bindings)) == ("red/fits", "", 2)
    assert [b.run for b in bound.bindings] == [f"{it.job('red/fits').uid}-1-worker-{i}" for i in range(2)]
    (reason,) = decision.reasons
    assert reason.workload == "red/big"
    assert decision.considered == ("red/big", "red/fits")


def test_priority_goes_first_then_age() -> None:
    it = log()
    submit(it, job("a"), job("b"), job("c", priority=1))
    assert decided(it).considered == ("red/c", "red/a", "red/b")


def test_quota_limits_what_is_held_at_once() -> None:
    it = log(2, quota={"gpu_milli": 3000})
    submit(it, job("a", gpus=2), job("b", gpus=2), job("c"))
    decision = decided(it)
    assert [b.job for b in decision.bound] == ["red/a", "red/c"]
    (reason,) = decision.reasons
    assert (reason.workload, reason.code, reason.constraint) == ("red/b", "quota.exceeded", "quota gpu_milli")


def test_quota_leaves_replicas_waiting_one_by_one() -> None:
    it = log(2, quota={"gpu_milli": 2000})
    submit(it, job(replicas=3))
    decision = decided(it)
    assert [b.unit for b in decision.bound] == ["worker-0", "worker-1"]
    assert decision.reasons[0].code == "quota.exceeded"
    assert "2 of 3" in decision.reasons[0].sentence


def elastic(name: str, most: int, least: int) -> Workload:
    return job(name, Kind.TRAINING_JOB, roles=(Role(replicas=most, min_replicas=least, request=Request(gpus=1)),))


def test_an_elastic_gang_shrinks_into_its_quota_and_counts_as_what_it_is() -> None:
    it = log(2, quota={"gpu_milli": 5000})
    submit(it, elastic("g", 8, 2))
    (bound,) = decided(it).bound
    assert len(bound.bindings) == 5


def test_an_elastic_gang_that_found_less_room_leaves_the_rest_of_its_quota_to_others() -> None:
    it = log(1, quota={"cpu_milli": 10_000})
    submit(it, job("other", gpus=6))
    it.bind()
    wide = Role(replicas=9, min_replicas=1, request=Request(gpus=1, cpu_milli=1000))
    submit(it, job("g", Kind.TRAINING_JOB, roles=(wide,)))
    submit(it, job("small", roles=(Role(request=Request(cpu_milli=5000)),)))
    decision = decided(it)
    assert {b.job: len(b.bindings) for b in decision.bound} == {"red/g": 2, "red/small": 1}


def test_replicas_that_must_be_apart_are_and_their_successors_too() -> None:
    it = log(2)
    spread = job(kind=Kind.ENDPOINT, replicas=2, apart=(Apart(level="place.node"),))
    submit(it, spread)
    first = it.bind()
    assert {b.bindings[0].node for b in first} == {"n0", "n1"}
    gone = first[0]
    it.report(gone.bindings[0].run, "exited", 1)
    it.write(ev.UnitReleased(job="red/j", unit=gone.unit, attempt=1, outcome="failed", again=True))
    (again,) = it.bind()
    assert (again.unit, again.attempt, again.bindings[0].node) == (gone.unit, 2, gone.bindings[0].node)


def test_a_spread_over_too_few_domains_leaves_the_rest_waiting() -> None:
    it = log(2)
    submit(it, job(kind=Kind.ENDPOINT, replicas=3, apart=(Apart(level="place.node"),)))
    decision = decided(it)
    assert len(decision.bound) == 2
    assert "2 of 3" in decision.reasons[0].sentence


def test_replicas_that_must_be_together_join_those_that_run() -> None:
    it = log(4)
    submit(it, job(kind=Kind.ENDPOINT, replicas=3, gpus=4, together=(Together(level="place.rack"),)))
    bound = it.bind()
    racks = {int(b.bindings[0].node[1:]) // 2 for b in bound}
    assert len(bound) == 3
    assert len(racks) == 1


def test_one_role_that_does_not_fit_leaves_the_other_its_place() -> None:
    it = log(1)
    big, small = Role(name="big", request=Request(gpus=8)), Role(name="small", replicas=2, request=Request(gpus=1))
    submit(it, job("first", gpus=4))
    it.bind()
    submit(it, job(roles=(big, small)))
    decision = decided(it)
    assert [b.unit for b in decision.bound] == ["small-0", "small-1"]
    assert "2 of 3" in decision.reasons[0].sentence


def test_replicas_are_taken_in_their_order_whatever_the_order_of_the_state() -> None:
    it = log(2)
    submit(it, job(replicas=12))
    bound = [b.unit for b in decided(it).bound]
    assert bound == [f"worker-{i}" for i in range(12)]
    again = type(it.state).from_snapshot(it.state.snapshot())
    decision = Decider(read_fleet).decide(again, NOW)
    assert decision is not None
    assert decision == decided(it)


def test_a_decision_stops_at_its_limit_and_says_that_there_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BOUND", 3)
    it = log(2)
    submit(it, job(replicas=5))
    decision = decided(it)
    assert (len(decision.bound), decision.more) == (3, True)
    it.write(*decision.bound)
    rest = decided(it)
    assert (len(rest.bound), rest.more) == (2, False)


def test_shares_and_budgets_hold_over_several_decisions() -> None:
    it = log(2, power_w=700 * 5)
    decider = Decider(read_fleet)
    for i in range(8):
        submit(it, job(f"j{i}"))
        it.bind(decider)
    power = Counter(run.node for j in it.state.jobs.values() for run in j.runs())
    assert sum(power.values()) == 5


def test_backoff_is_waited_out_but_not_longer_than_the_longest() -> None:
    it = log()
    submit(it, job())
    it.bind()
    it.report(next(it.job().runs()).id, "exited", 1)
    it.write(ev.UnitReleased(job="red/j", unit="worker-0", outcome="failed", again=True, not_before=NOW + 10))
    decider = Decider(read_fleet)
    assert decider.decide(it.state, NOW) is None
    assert next_start(it.state, NOW) == NOW + 10
    assert decider.decide(it.state, NOW + 10) is not None
    set_back = NOW - 2 * MAX_BACKOFF_S
    assert next_start(it.state, set_back) is None
    assert decider.decide(it.state, set_back) is not None


@pytest.mark.parametrize(
    ("overtake", "why"),
    [
        (lambda it: it.command(c.delete_job("red/j")), "gone or going"),
        (lambda it: it.command(c.apply_job(job(replicas=2), imitation(), {})), "was changed"),
        (lambda it: it.command(c.cordon("n0", True)), "n0 takes no work"),
        (lambda it: it.write(ev.NodeLost(node="n0")), "n0 takes no work"),
        (lambda it: it.bind(), "does not wait"),
        (
            lambda it: (
                it.command(c.delete_job("red/j")),
                it.write(ev.JobEnded(job="red/j", phase="Deleted")),
                it.command(c.apply_job(job(), imitation(), {})),
            ),
            "another of the same name",
        ),
    ],
)
def test_what_the_state_has_overtaken_is_rejected(overtake, why: str) -> None:
    it = log(1)
    submit(it, job())
    decision = decided(it)
    assert rejections(it.state, decision) == {}
    overtake(it)
    assert why in rejections(it.state, decision)["red/j", "worker-0"]


def test_the_mix_is_learned_from_requests_not_seen_before() -> None:
    it = log()
    assert learned_mix(it.state, NOW) is None
    submit(it, job("a"), job("b"), job("c", gpus=2))
    mix = learned_mix(it.state, NOW)
    assert mix is not None
    assert [(request.gpus, times) for request, times in mix] == [(1, 2), (2, 1)]
    it.write(ev.MixLearned(mix=mix))
    assert learned_mix(it.state, NOW) is None


def test_a_run_never_gets_the_name_of_another() -> None:
    it = log(2)
    seen: list[str] = []
    for replicas in (3, 1, 3, 2):
        it.command(c.apply_job(job(replicas=replicas), imitation(), {"replicas": replicas}))
        for key, unit in list(it.job().units.items()):
            if unit.phase == "bound" and unit.generation != it.job().generation:
                it.write(ev.UnitReleased(job="red/j", unit=key, attempt=unit.attempt, outcome="stopped", again=True))
        for bound in it.bind():
            seen += [b.run for b in bound.bindings]
    assert len(seen) == len(set(seen)) == 9
