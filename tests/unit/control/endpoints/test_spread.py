"""Replicas over several nodes: placed, shown, drained and restarted whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.control.cloud import imitation, job, read_fleet
from tests.unit.control.endpoints.city import CHAT, City, chat

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control.decider import Decider
from plenum.control.endpoints import commands as ec
from plenum.control.history import why
from plenum.control.questions import explained
from plenum.control.records import Run
from plenum.control.state import State
from plenum.model.endpoint import DECODE, PREFILL, Endpoint, Pool
from plenum.model.errors import FieldError
from plenum.model.workload import Apart, Parallelism, Request
from plenum.ports.nodes import EXITED, RUNNING

JOB = "red/chat-r1"


def wide(low: int = 1, high: int = 1, nodes: int = 2, within: str = "", **more: object) -> Endpoint:
    """Return an endpoint whose replicas take several whole nodes of the city."""
    pool = Pool(
        min_replicas=low,
        max_replicas=high,
        request=Request(gpus=8),
        parallelism=Parallelism(tp=8, pp=nodes),
        nodes=nodes,
        within=within,
    )
    return replace(chat(**more), engine="vllm", pools=(pool,))  # type: ignore[arg-type]


def runs(city: City) -> dict[str, Run]:
    """Return the runs of the first revision by slot."""
    return {run.slot: run for run in city.state.jobs[JOB].runs()}


def say(city: City, run: Run, phase: str, **more: object) -> None:
    """Report a phase of a run of the first replica."""
    said = ev.RunReported(job=JOB, unit="serve-0", run=run.id, node=run.node, phase=phase, **more)  # type: ignore[arg-type]
    city.controller.append([ev.record_of(said, city.clock.now(), "test")])


def test_all_nodes_of_a_replica_meet_and_one_answers():
    city = City(2)
    city.apply(wide())
    city.run(10)

    first, second = runs(city)["serve-0"], runs(city)["serve-0.1"]
    assert {first.node, second.node} == {"n0", "n1"}
    (replica,) = city.replicas()
    assert (replica.run, replica.node) == (first.id, first.node)
    orders = [city.state.orders["a"][run.id] for run in (first, second)]
    assert [(order.global_rank, order.world_size) for order in orders] == [(0, 2), (1, 2)]
    assert len({(order.master_addr, order.master_port) for order in orders}) == 1
    assert city.state.usage["red"]["gpu_milli"] == 16_000


def test_why_names_a_replica_with_all_its_nodes():
    city = City(2)
    city.apply(wide())
    city.run(10)

    told = why(city.store, Decider(read_fleet), JOB, None, None)

    assert told.places == (("serve-0", "n0, n1"),)
    assert told.then == f"{JOB} serve-0 gets 1 place on n0, n1"


def test_a_replica_is_ready_once_all_its_nodes_are():
    city = City(2)
    city.run(2)
    city.apply(wide())
    city.run(2, agent=False)
    for part, phase in enumerate(("starting", "ready")):
        run = runs(city)["serve-0.1" if part else "serve-0"]
        say(city, run, RUNNING)
        assert [replica.phase for replica in city.served().replicas] == [phase]


def test_why_a_replica_failed_is_told_until_all_its_nodes_run():
    city = City(2)
    city.run(2)
    city.apply(wide())
    city.run(2, agent=False)
    failed = runs(city)["serve-0"]
    say(city, failed, EXITED, exit_code=1, message="out of memory")
    say(city, runs(city)["serve-0.1"], EXITED, exit_code=-1)
    city.run(5, agent=False)

    for slot, told in (("serve-0.1", True), ("serve-0", False)):
        say(city, runs(city)[slot], RUNNING)
        assert ("out of memory" in city.state.jobs[JOB].message) == told


def test_without_room_for_all_nodes_none_is_taken():
    city = City(2)
    other = city.submit(job("other", gpus=1))
    city.run(5)
    city.apply(wide())
    city.run(5)

    assert runs(city) == {}
    assert city.state.usage["red"]["gpu_milli"] == 1_000
    reason = explained(city.state, city.controller.decider, JOB, city.clock.now())
    assert reason.code == "wait.gpus", reason
    assert "2 nodes" in reason.sentence, reason
    assert "chat-r1#" not in reason.sentence
    city.execute(c.delete_job(other))
    city.run(10)
    assert len(city.replicas()) == 1


@pytest.mark.parametrize(("within", "ready"), [("place.rack", 0), ("", 1)])
def test_all_nodes_of_a_replica_are_within_one_domain_where_that_is_asked(within: str, ready: int):
    city = City(4)  # two nodes a rack, of which each has one taken
    city.submit(job("other", replicas=2, gpus=8, apart=(Apart(level="place.rack"),)))
    city.run(5)
    city.apply(wide(within=within))
    city.run(10)

    assert len(city.replicas()) == ready


@pytest.mark.parametrize("slot", ["serve-0", "serve-0.1"])
def test_when_one_node_dies_the_whole_replica_is_gone_at_once_and_starts_anew(slot: str):
    city = City(2)
    city.apply(wide())
    city.run(10)
    lost = runs(city)[slot]

    city.driver.crash(lost.node)
    city.driver.reboot(lost.node)
    city.sync()
    assert city.served().replicas == ()
    city.run(20)

    assert len(city.replicas()) == 1
    assert {run.id.split("-")[1] for run in runs(city).values()} == {"2"}


def draining():
    """A city whose replica has been told to make way, before anything has ended, and its first and its second run."""
    city = City(2)
    city.apply(wide())
    city.run(10)
    first, second = runs(city)["serve-0"], runs(city)["serve-0.1"]
    city.execute(c.cordon(second.node, True, drain=True))
    city.controller.lead(10.0)
    while city.controller.step():
        pass
    return city, first, second


def test_a_replica_drains_from_its_first_node_on():
    city, first, second = draining()

    assert [replica.phase for replica in city.served().replicas] == ["draining"]
    assert set(city.state.orders["a"]) == {second.id}, "what the first still answers needs the second"
    again = State.from_snapshot(city.state.snapshot())
    assert {agent: set(orders) for agent, orders in again.orders.items()} == {"a": {second.id}}
    city.run(20)
    assert city.alive() == []
    assert first.id not in city.state.orders["a"]


def test_a_replica_that_drains_ends_where_its_first_node_is_lost():
    city, first, second = draining()
    assert set(city.state.orders["a"]) == {second.id}

    lost = ev.NodeLost(node=first.node, why="its agent is silent")
    city.controller.append([ev.record_of(lost, city.clock.now(), "test")])

    assert city.state.orders["a"] == {}, "nobody answers that would need the second"
    city.run(10)
    assert runs(city) == {}


def test_a_replica_that_was_not_whole_ends_whatever_is_heard_of_its_nodes_later():
    city = City(2)
    city.run(2)
    city.apply(wide())
    city.run(2, agent=False)
    first, second = runs(city)["serve-0"], runs(city)["serve-0.1"]
    say(city, second, RUNNING)
    city.execute(c.cordon(second.node, True, drain=True))
    city.controller.lead(10.0)
    while city.controller.step():
        pass

    say(city, first, RUNNING)

    again = State.from_snapshot(city.state.snapshot())
    assert [orders for state in (city.state, again) for orders in state.orders.values() if orders] == []


def test_scaling_counts_replicas_not_nodes():
    city = City(4)
    city.apply(wide(2, 2))
    city.run(10)
    assert len(city.replicas()) == 2
    assert sorted(runs(city)) == ["serve-0", "serve-0.1", "serve-1", "serve-1.1"]

    city.apply(wide(1, 1))
    city.run(30)

    assert sorted(runs(city)) == ["serve-0", "serve-0.1"]
    assert len(city.replicas()) == 1


def test_work_that_may_yield_makes_room_for_a_whole_replica():
    city = City(2)
    for name in "xy":
        city.submit(job(name, gpus=8, preemptible=True), imitation())
    city.run(10)
    city.apply(replace(wide(), priority=5))
    city.run(30)

    assert len(city.replicas()) == 1
    assert {city.state.jobs[f"red/{name}"].phase for name in "xy"} == {"Pending"}


def test_a_budget_counts_the_gpus_of_all_nodes():
    pools = (
        Pool(name=PREFILL, request=Request(gpus=8)),
        Pool(name=DECODE, request=Request(gpus=8), parallelism=Parallelism(tp=16), nodes=2),
    )
    spec = replace(wide(), pools=pools, budget_gpus=23)

    with pytest.raises(FieldError, match="24 GPUs"):
        City(1).apply(spec)


def test_llamacpp_stays_on_one_node():
    with pytest.raises(FieldError, match=r"llama\.cpp"):
        replace(wide(), engine="llamacpp")


def test_gpus_of_all_nodes_are_what_the_model_is_split_over():
    with pytest.raises(FieldError, match="make them equal"):
        Pool(request=Request(gpus=8), parallelism=Parallelism(tp=8), nodes=2)


def test_a_deleted_endpoint_takes_all_nodes_along():
    city = City(2)
    city.apply(wide())
    city.run(10)
    city.execute(ec.delete_endpoint(CHAT))
    city.run(30)

    assert city.alive() == []
    assert CHAT not in city.state.endpoints
