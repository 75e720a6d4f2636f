"""A burst of an endpoint takes the GPUs of training that may yield, and gives them back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.control.cloud import imitation, job
from tests.unit.control.endpoints.city import City, chat

from plenum.control import events as ev
from plenum.control.agent import Agent
from plenum.control.reclaim import MAX_FAILURES, PATIENCE_S, PREEMPTED
from plenum.model import Kind, Request, Role
from plenum.sim.nodes import SimulatedDriver


def training(name: str = "train", gpus: int = 8, least: int = 0, priority: int = 0, *, preemptible: bool = False):
    role = Role(replicas=gpus, min_replicas=least, request=Request(gpus=1))
    return job(name, Kind.TRAINING_JOB, roles=(role,), priority=priority, preemptible=preemptible)


def city_with(*jobs, nodes: int = 1) -> City:
    city = City(nodes)
    for workload in jobs:
        city.submit(workload, imitation(grace_s=2.0))
    city.run(4)
    assert all(city.state.jobs[w.id].phase == "Running" for w in jobs)
    return city


def trained(city: City, name: str = "red/train") -> int:
    return sum(1 for run in city.state.jobs[name].runs() if run.phase == "running")


def test_elastic_training_gives_gpus_to_a_burst_and_gets_them_back() -> None:
    city = city_with(training(least=2))
    assert trained(city) == 8
    city.apply(chat(1, 3, priority=10))
    city.run(15)
    assert (len(city.replicas()), trained(city)) == (1, 7)
    city.see(1, arrived=9, waiting=9)
    city.run(30)
    assert (len(city.replicas()), trained(city)) == (3, 5)
    city.see(1)
    city.run(300)
    assert (len(city.replicas()), trained(city)) == (1, 7)
    stops = [e.why for e in city.said(ev.UnitStopped) if isinstance(e, ev.UnitStopped) and e.job == "red/train"]
    assert stops == ["preempted", "preempted", "grown"]


def test_one_that_is_elastic_and_preemptible_is_made_smaller_rather_than_ended() -> None:
    city = city_with(training(least=6, preemptible=True))
    city.apply(chat(1, 1, priority=10))
    city.run(15)
    assert (len(city.replicas()), trained(city)) == (1, 7)
    city.apply(chat(3, 3, priority=10))
    city.run(20)
    assert (len(city.replicas()), trained(city)) == (3, 0)


def test_preemptible_training_waits_while_an_endpoint_needs_its_place() -> None:
    city = city_with(training(preemptible=True))
    spec = chat(1, 1, priority=10)
    city.apply(spec)
    city.run(12)
    assert len(city.replicas()) == 1
    assert city.state.jobs["red/train"].phase == "Pending"
    from plenum.control.endpoints.commands import delete_endpoint

    city.execute(delete_endpoint(spec.id))
    city.run(12)
    assert trained(city) == 8
    assert city.state.jobs["red/train"].units[""].failures == 0


@pytest.mark.parametrize(
    "giver",
    [
        training(),
        training(preemptible=True, priority=10),
        training(least=8),
    ],
)
def test_work_that_may_not_yield_does_not(giver) -> None:
    city = city_with(giver)
    city.apply(chat(1, 1, priority=10))
    city.run(20)
    assert trained(city) == 8
    assert city.replicas() == []


def test_elastic_training_at_its_least_keeps_that() -> None:
    city = city_with(training(gpus=8, least=7))
    city.apply(chat(3, 3, priority=10))
    city.run(40)
    assert (len(city.replicas()), trained(city)) == (1, 7)


def test_the_least_important_goes_and_no_more_than_need_to() -> None:
    low = replace(training("low", 4, preemptible=True), submitted_s=1.0)
    high = replace(training("high", 4, priority=5, preemptible=True), submitted_s=2.0)
    city = city_with(low, high)
    city.apply(chat(1, 1, priority=10))
    city.run(15)
    assert trained(city, "red/high") == 4
    assert trained(city, "red/low") == 0
    assert len(city.replicas()) == 1


def test_one_that_takes_long_to_end_keeps_nobody_else_from_room() -> None:
    city = City(1)
    city.driver = SimulatedDriver(list(city.state.nodes), city.clock, stop_s=200.0)
    city.agent = Agent("a", city.driver, city.clock)
    for name, priority, grace_s in (("slow", 0, 300.0), ("quick", 5, 2.0)):
        city.submit(training(name, 4, priority=priority, preemptible=True), imitation(grace_s=grace_s))
    city.run(4)
    city.apply(chat(1, 1, gpus=4, priority=10))
    city.run(10)
    assert preempted(city) == 1
    assert trained(city, "red/quick") == 4
    city.apply(chat(1, 1, gpus=4, priority=10, name="other", served_as="other"))
    city.run(20)
    assert preempted(city) == 2
    assert len([job for job in city.state.jobs.values() if job.owner and job.phase == "Running"]) == 1
    city.run(250)
    assert preempted(city) == 2
    assert len([job for job in city.state.jobs.values() if job.owner and job.phase == "Running"]) == 2


def test_a_large_replica_takes_several_small_ones_but_spares_the_rest() -> None:
    city = city_with(*(training(f"t{i}", 2, preemptible=True) for i in range(4)))
    city.apply(chat(1, 1, gpus=4, priority=10))
    city.run(15)
    assert len(city.replicas()) == 1
    assert sum(trained(city, f"red/t{i}") for i in range(4)) == 4


def test_one_endpoint_does_not_take_from_another() -> None:
    city = City(1)
    city.apply(chat(8, 8, name="first", served_as="first"))
    city.run(5)
    city.apply(chat(1, 1, priority=10))
    city.run(20)
    assert city.replicas() == []


def test_a_replica_that_fails_again_and_again_seldom_takes_anybodys_place() -> None:
    city = city_with(training(preemptible=True))
    city.apply(chat(1, 1, priority=10, arguments=("broken",)))
    city.run(500)
    assert preempted(city) == MAX_FAILURES
    assert trained(city) == 8
    city.run(PATIENCE_S)
    assert preempted(city) == MAX_FAILURES + 1
    assert trained(city) == 8


def preempted(city: City) -> int:
    stops = [e for e in map(ev.event_of, city.store.read(0, 100_000)) if isinstance(e, ev.UnitStopped)]
    return sum(stop.why == PREEMPTED for stop in stops)
