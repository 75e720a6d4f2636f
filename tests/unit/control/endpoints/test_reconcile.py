"""Endpoints on a virtual clock: how they come, grow, shrink and go."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.control.cloud import TTL_S
from tests.unit.control.endpoints.city import CHAT, City, chat

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control.commands import TakenError
from plenum.control.endpoints import commands as ec
from plenum.control.endpoints import events as ep
from plenum.control.endpoints.process import COMMAND, engine_process
from plenum.model.endpoint import Pool
from plenum.model.workload import Request
from plenum.ports.nodes import RUNNING


@pytest.fixture
def city() -> City:
    return City(2)


def test_an_endpoint_that_is_applied_is_served_by_a_ready_replica(city: City) -> None:
    city.apply(chat())
    city.run(1)
    assert [(r.phase, r.revision, r.pool) for r in city.served().replicas] == [("starting", 1, "serve")]
    assert city.served().woken
    city.run(4)
    (replica,) = city.replicas()
    assert replica.run in city.alive()
    assert city.served().revisions == {1: 1.0}
    assert city.state.jobs["red/chat-r1"].owner == CHAT


def test_more_replicas_leave_those_that_run_alone_and_make_no_revision(city: City) -> None:
    city.apply(chat())
    city.run(5)
    first = city.replicas()
    city.apply(chat(3))
    city.run(5)
    assert len(city.replicas()) == 3
    assert first[0] in city.replicas()
    assert list(city.endpoint().revisions) == [1]


def test_fewer_replicas_drain_first_and_those_that_stay_are_not_touched(city: City) -> None:
    city.apply(chat(3))
    city.run(5)
    before = city.replicas()
    city.gateway.open = {before[1].run: 1}
    city.apply(chat(1, 1))
    city.run(10)
    assert city.replicas() == before[:1]
    assert [r.run for r in city.replicas("draining")] == [before[1].run]
    assert before[1].run in city.alive()
    city.gateway.open = {}
    city.run(3)
    assert city.served().replicas == tuple(before[:1])
    assert city.alive() == [before[0].run]


def test_a_replica_that_drains_is_taken_back_when_it_is_wanted_again(city: City) -> None:
    city.apply(chat(2))
    city.run(5)
    before = city.replicas()
    city.gateway.open = {before[1].run: 1}
    city.apply(chat(1, 1))
    city.run(3)
    city.apply(chat(2))
    city.run(3)
    assert [r.run for r in city.replicas()] == [r.run for r in before]


def test_a_gateway_that_has_not_read_the_table_holds_a_drain_up_but_not_for_ever(city: City) -> None:
    city.apply(chat(2))
    city.run(5)
    city.gateway.table = 1
    city.apply(chat(1, 1))
    city.run(30)
    assert len(city.alive()) == 2
    city.run(40)
    assert len(city.alive()) == 1


def test_a_deleted_endpoint_drains_and_goes(city: City) -> None:
    city.apply(chat(2))
    city.run(5)
    (first, second) = city.replicas()
    city.gateway.open = {first.run: 1}
    city.execute(ec.delete_endpoint(CHAT))
    city.run(5)
    assert city.alive() == [first.run]
    assert city.served().revisions == {}
    city.gateway.open = {}
    city.run(5)
    assert CHAT not in city.state.endpoints
    assert city.alive() == []
    assert second.run not in city.alive()
    city.apply(chat())
    city.run(5)
    assert len(city.replicas()) == 1


def test_prefill_and_decode_have_jobs_of_their_own(city: City) -> None:
    pools = (Pool(name="prefill", request=Request(gpus=1)), Pool(name="decode", min_replicas=2, max_replicas=2))
    city.apply(replace(chat(), pools=pools))
    city.run(5)
    assert sorted(r.pool for r in city.replicas()) == ["decode", "decode", "prefill"]
    assert {"red/chat-r1-prefill", "red/chat-r1-decode"} <= set(city.state.jobs)


def test_servers_that_run_already_are_replicas_at_once_and_nothing_is_started(city: City) -> None:
    urls = ("http://10.0.0.1:8000", "http://10.0.0.2:8000")
    city.apply(replace(chat(), attached=urls))
    city.run(2)
    assert [r.url for r in city.replicas()] == list(urls)
    assert not city.state.jobs
    city.apply(replace(chat(), attached=urls[:1]))
    city.run(3)
    assert [r.url for r in city.replicas()] == list(urls[:1])
    assert city.served().revisions == {2: 1.0}
    assert city.replicas("draining") == []  # nobody would ever stop them


def test_servers_that_run_already_serve_on_until_replicas_take_over(city: City) -> None:
    city.apply(replace(chat(), attached=("http://10.0.0.1:8000",)))
    city.run(2)
    city.apply(chat(2, 2))
    for _ in range(60):
        city.run(1)
        assert city.replicas()
        assert sum(city.served().revisions.values()) == pytest.approx(1.0)
    assert [r.revision for r in city.replicas()] == [2, 2]


def test_one_server_that_runs_already_takes_over_from_several_replicas(city: City) -> None:
    city.apply(chat(3, 3))
    city.run(5)
    city.apply(replace(chat(), attached=("http://10.0.0.1:8000",)))
    city.run(10)
    assert city.served().revisions == {2: 1.0}
    assert city.alive() == []


def test_a_leader_that_comes_back_does_not_take_silence_for_drained(city: City) -> None:
    city.apply(chat(2))
    city.run(20)
    city.gateway.silent = True
    city.controller.term = 0
    city.store.release("c0")
    city.controller.lead(TTL_S)
    city.apply(chat(1, 1))
    city.run(8)
    assert len(city.alive()) == 2
    city.run(20)
    assert len(city.alive()) == 1


def test_a_replica_that_dies_comes_back(city: City) -> None:
    city.apply(chat())
    city.run(5)
    (first,) = city.replicas()
    city.driver.crash(first.node)
    city.run(60)
    city.driver.reboot(first.node)
    city.run(30)
    (second,) = city.replicas()
    assert second.run != first.run


def test_nobody_changes_the_jobs_of_an_endpoint_but_itself(city: City) -> None:
    city.apply(chat())
    city.run(5)
    with pytest.raises(TakenError, match="endpoint red/chat"):
        city.execute(c.delete_job("red/chat-r1"))
    with pytest.raises(TakenError, match="has 1 live jobs"):
        city.execute(c.delete_tenant("red"))


def test_the_engine_host_is_told_what_to_serve_and_runs_on_real_nodes_only() -> None:
    spec = chat()
    process = engine_process(spec, spec.pools[0])
    assert process.command == COMMAND
    assert process.notify
    assert dict(process.env)["PLENUM_POOL"] == "serve"
    assert not process.imitated


def test_an_unchanged_endpoint_is_not_written_again(city: City) -> None:
    city.apply(chat())
    city.run(5)
    before = city.state.position
    city.apply(chat())
    city.run(20)
    assert city.state.position == before
    assert len(city.said(ep.EndpointApplied)) == 1


def tell_weights(city: City, run: str, digest: str) -> None:
    job = city.state.jobs["red/chat-r1"]
    (unit,) = (unit for unit in job.units.values() if run in unit.runs)
    told = ev.RunReported(
        job=job.id, unit=unit.key, run=run, node=unit.runs[run].node, phase=RUNNING, weights_digest=digest
    )
    city.controller.append([ev.record_of(told, city.clock.now(), "test")])


def test_replicas_from_before_anybody_noted_their_weights_are_not_stopped_for_those_of_one_that_comes(
    city: City,
) -> None:
    city.apply(chat(low=3))
    city.run(10)
    runs = sorted(run.id for run in city.state.jobs["red/chat-r1"].runs())
    for run in runs[:2]:
        tell_weights(city, run, "sha256:a")
    city.endpoint().revisions[1].weights_digest = ""
    tell_weights(city, runs[2], "sha256:b")
    city.run(20)
    assert set(runs[:2]) <= set(city.alive())
    assert city.endpoint().revisions[1].weights_digest == "sha256:a"


def test_all_replicas_of_a_revision_serve_the_weights_of_its_first(city: City) -> None:
    city.apply(chat(low=2))
    city.run(10)
    job = city.state.jobs["red/chat-r1"]
    runs = sorted(run.id for run in job.runs())
    for run, digest in zip(runs, ("sha256:a", "sha256:b"), strict=True):  # a tag moved while both were being staged
        tell_weights(city, run, digest)
    city.run(20)
    now = {run.id: run.phase for run in city.state.jobs[job.id].runs()}
    assert runs[0] in now
    assert runs[1] not in now
    orders = [order for each in city.state.orders.values() for order in each.values() if order.run not in runs]
    assert [order.weights_digest for order in orders] == ["sha256:a"]
