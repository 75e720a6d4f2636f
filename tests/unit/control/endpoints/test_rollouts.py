"""Canaries, rollouts and rollbacks on a virtual clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.control.cloud import imitation, job
from tests.unit.control.endpoints.city import CHAT, City, changed, chat

from plenum.control.endpoints import events as ep
from plenum.control.endpoints import reconcile
from plenum.control.endpoints.reconcile import START_LIMIT_S
from plenum.control.endpoints.status import ROLLED_BACK_TOLD_S, status_of
from plenum.control.endpoints.table import served
from plenum.control.state import State
from plenum.model.endpoint import Pool, Rollout
from plenum.model.workload import Request


def serving(replicas: int = 4, nodes: int = 2, **more: object) -> City:
    city = City(nodes)
    city.apply(chat(replicas, 2 * replicas, **more))
    city.run(5)
    assert len(city.replicas()) == replicas
    return city


def latencies(seconds: float) -> dict[str, object]:
    """Return what a gateway sees in a second of requests that take about so long."""
    samples = tuple(seconds * (1 + 0.02 * k) for k in range(5))
    return {"arrived": 5, "finished": 5, "ttft_s": samples, "tpot_s": samples}


def test_a_canary_gets_its_part_and_is_promoted_when_it_does_as_well() -> None:
    city = serving()
    city.apply(changed(chat(4, 8)))
    city.see(1, **latencies(0.1))
    city.run(4)
    assert city.served().revisions == {1: 0.9, 2: pytest.approx(0.1)}
    assert len(city.replicas(revision=2)) == 1
    city.see(2, **latencies(0.1))
    city.run(60)
    assert city.served().revisions == {2: 1.0}
    assert len(city.replicas()) == 4
    assert len(city.alive()) == 4
    (promoted,) = city.said(ep.RevisionPromoted)
    assert promoted.evidence["requests"] >= 12


def test_a_canary_twice_as_slow_is_rolled_back_by_itself_and_the_old_one_goes_on() -> None:
    city = serving()
    first = {r.run for r in city.replicas()}
    city.apply(changed(chat(4, 8)))
    city.see(1, **latencies(0.1))
    city.see(2, **latencies(0.2))
    city.run(20)
    (back,) = city.said(ep.RevisionRolledBack)
    assert back.why == "slower-ttft"
    assert "2 times that of the revision before" in back.sentence
    assert city.served().revisions == {1: 1.0}
    assert {r.run for r in city.replicas()} == first
    assert city.said(ep.RevisionPromoted) == []
    status = status_of(city.state, city.endpoint())
    assert (status.phase, status.revision, status.failed) == ("Ready", 1, 2)
    assert "rolled back" in status.message
    city.run(60)
    assert set(city.alive()) == first
    assert len(city.said(ep.RevisionStarted)) == 2
    city.state.at += ROLLED_BACK_TOLD_S
    status = status_of(city.state, city.endpoint())
    assert (status.message, status.failed) == ("", 2), "after a day nobody needs telling"


def test_latencies_beyond_all_measure_stop_nobody() -> None:
    city = serving()
    city.apply(changed(chat(4, 8)))
    city.see(1, **latencies(0.1))
    city.see(2, **latencies(1.5e308))  # the sum of two is infinite, which no event can say
    city.run(20)
    assert city.served().revisions == {1: 0.9, 2: pytest.approx(0.1)}


def test_a_canary_gets_no_more_than_its_part_though_the_one_before_is_down_for_a_moment() -> None:
    city = serving(1)
    city.apply(changed(chat(1, 2)))
    while not city.replicas("starting", 2):
        city.run(1)
    (old,) = city.replicas(revision=1)
    city.driver.crash(old.node)
    city.driver.reboot(old.node)
    while not city.replicas(revision=2):
        city.run(1)
        assert not city.replicas(revision=1)
    city.run(5)
    assert len(city.replicas()) == 2
    assert city.served().revisions == {1: 0.9, 2: pytest.approx(0.1)}


def test_a_canary_may_prove_itself_for_longer_than_replicas_may_take_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "START_LIMIT_S", 60.0)
    rollout = Rollout(hold_s=90.0)
    city = serving(4, rollout=rollout)
    city.apply(changed(chat(4, 8, rollout=rollout)))
    city.run(180)
    assert len(city.said(ep.RevisionPromoted)) == 1
    assert city.said(ep.RevisionRolledBack) == []
    assert [r.revision for r in city.replicas()] == [2] * 4


def test_a_canary_whose_requests_fail_is_rolled_back() -> None:
    city = serving()
    city.apply(changed(chat(4, 8)))
    city.see(1, **latencies(0.1))
    city.see(2, arrived=5, failed=5)
    city.run(15)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["fails"]


def test_one_that_failed_is_tried_again_when_it_is_applied_again() -> None:
    city = serving()
    city.apply(changed(chat(4, 8), "broken"))
    city.run(60)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["crashed"]
    city.run(60)
    assert city.endpoint().last == 2
    city.apply(changed(chat(4, 8), "broken"))
    city.run(2)
    assert city.endpoint().last == 3


def test_one_that_never_gets_ready_is_rolled_back() -> None:
    city = serving()
    city.apply(changed(chat(4, 8), "slow"))
    city.run(1795)
    assert len(city.replicas(revision=1)) == 4
    assert not city.said(ep.RevisionRolledBack)
    city.run(30)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["not-ready"]
    assert len(city.alive()) == 4


def test_without_traffic_a_canary_is_promoted_after_the_time_it_is_held() -> None:
    city = serving()
    city.apply(changed(chat(4, 8)))
    city.run(25)
    assert city.said(ep.RevisionPromoted) == []
    city.run(60)
    assert len(city.said(ep.RevisionPromoted)) == 1
    assert city.served().revisions == {2: 1.0}


def test_a_rollout_keeps_as_many_ready_as_are_wanted_all_the_time() -> None:
    city = serving(8)
    city.apply(changed(chat(8, 16), "x"))
    sizes = []
    for _ in range(100):
        city.run(1)
        sizes.append(len(city.replicas()))
        assert len(city.alive()) <= 8 + 2 + 2  # two beyond, and two that are on their way out
        assert sum(city.served().revisions.values()) == pytest.approx(1.0)
    assert min(sizes) >= 8
    assert city.served().revisions == {2: 1.0}
    assert all(r.revision == 2 for r in city.replicas())


def test_a_rollout_waits_for_streams_to_finish() -> None:
    city = serving(2)
    old = [r.run for r in city.replicas()]
    city.gateway.open = dict.fromkeys(old, 1)
    city.apply(changed(replace(chat(2, 4), rollout=Rollout(canary=0.0))))
    city.run(40)
    assert len(city.replicas(revision=2)) == 2
    assert set(old) <= set(city.alive())
    city.gateway.open = {}
    city.run(10)
    assert not set(old) & set(city.alive())


def test_where_there_is_no_room_for_both_one_that_needs_no_proof_replaces_replica_by_replica() -> None:
    city = City(1)
    spec = replace(chat(8, 8), rollout=Rollout(canary=0.0))
    city.apply(spec)
    city.run(5)
    assert len(city.replicas()) == 8
    city.apply(changed(spec))
    for _ in range(80):
        city.run(1)
        assert len(city.replicas()) >= 7
    assert [r.revision for r in city.replicas()] == [2] * 8


def test_on_a_full_fleet_a_canary_gets_room_and_is_followed_replica_by_replica() -> None:
    city = serving(8, nodes=1)
    city.apply(changed(chat(8, 8)))
    city.see(1, **latencies(0.1))
    city.see(2, **latencies(0.1))
    for _ in range(150):
        city.run(1)
        assert len(city.replicas()) >= 7
    assert [r.revision for r in city.replicas()] == [2] * 8
    assert city.served().revisions == {2: 1.0}


@pytest.mark.parametrize("canary", [0.0, 0.1])
def test_an_endpoint_that_wants_more_than_there_is_room_for_changes_all_the_same(canary: float) -> None:
    spec = chat(1, 8, gpus=2, rollout=Rollout(canary=canary))
    city = City(1)
    city.apply(spec)
    city.run(5)
    for revision in (1, 2):
        city.see(revision, waiting=30, running=16, **latencies(0.1))
    city.run(20)
    assert (city.endpoint().wanted, len(city.replicas())) == ({"serve": 8}, 4)
    city.apply(changed(spec))
    for _ in range(60):
        city.run(1)
        assert len(city.replicas()) >= 3
    assert [r.revision for r in city.replicas()] == [2] * 4
    assert city.endpoint().wanted == {"serve": 8}


def test_a_rollback_on_a_full_fleet_gives_the_old_one_its_place_again() -> None:
    city = serving(8, nodes=1)
    city.apply(changed(chat(8, 8), "broken"))
    city.run(60)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["crashed"]
    assert [r.revision for r in city.replicas()] == [1] * 8


@pytest.mark.parametrize("canary", [0.0, 0.1])
def test_a_full_fleet_changes_between_one_pool_and_two_and_goes_on_serving(canary: float) -> None:
    def gpus_ready() -> int:
        return sum(len([r for r in city.replicas() if r.pool in pools]) for pools in ("serve", "prefill decode"))

    rollout = Rollout(canary=canary)
    city = serving(8, nodes=1, rollout=rollout)
    pools = tuple(
        Pool(name=name, min_replicas=4, max_replicas=4, request=Request(gpus=1)) for name in ("prefill", "decode")
    )
    for spec in (chat(pools=pools, rollout=rollout), chat(8, 8, rollout=rollout)):
        city.apply(spec)
        for _ in range(150):
            city.run(1)
            assert gpus_ready() >= 5
        assert not city.said(ep.RevisionRolledBack)
        assert gpus_ready() == 8
        assert {r.revision for r in city.replicas()} == {city.endpoint().last}
        assert status_of(city.state, city.endpoint()).phase == "Ready"


def test_a_last_replica_makes_no_room_and_its_endpoint_says_what_would() -> None:
    city = serving(1, nodes=1, gpus=8)
    city.apply(changed(chat(1, 2, gpus=8)))
    city.run(START_LIMIT_S + 60)
    assert not city.said(ep.RevisionRolledBack)
    assert [r.revision for r in city.replicas()] == [1]
    status = status_of(city.state, city.endpoint())
    assert status.message.startswith(
        "revision 2 waits for room for a replica of serve, and the one before has no replica to spare"
    )
    assert status.limits
    city.apply(changed(chat(0, 2, gpus=8, rollout=Rollout(canary=0.0))))
    city.see(1, **latencies(0.1), running=1)
    city.run(40)
    assert [r.revision for r in city.replicas()] == [2]


@pytest.mark.parametrize("canary", [0.0, 0.1])
def test_one_that_waits_for_the_room_of_a_last_replica_goes_on_waiting(
    monkeypatch: pytest.MonkeyPatch, canary: float
) -> None:
    monkeypatch.setattr(reconcile, "START_LIMIT_S", 60.0)
    rollout = Rollout(canary=canary)
    city = serving(1, nodes=1, gpus=8, rollout=rollout)
    city.apply(changed(chat(1, 1, gpus=8, rollout=rollout)))
    city.run(150)
    assert city.said(ep.RevisionRolledBack) == []
    assert "waits for room" in status_of(city.state, city.endpoint()).message
    assert [r.revision for r in city.replicas()] == [1]


@pytest.mark.parametrize("canary", [0.0, 0.1])
def test_a_last_replica_makes_way_where_that_is_asked_for_and_requests_wait(canary: float) -> None:
    rollout = Rollout(canary=canary, max_unavailable=1, may_pause=True)
    city = serving(1, nodes=1, gpus=8, rollout=rollout)
    city.gateway.open = {city.replicas()[0].run: 1}
    city.apply(changed(chat(1, 2, gpus=8, rollout=rollout)))
    city.run(10)
    assert len(city.alive()) == 1, "what streams is let finish"
    city.gateway.open = {}
    for _ in range(8):
        city.run(1)
        assert city.served().woken
    assert [r.revision for r in city.replicas()] == [2]
    assert city.served().revisions == {2: 1.0}
    city.run(60)
    assert [r.phase for r in city.endpoint().listed()] == ["retired", "serving"]
    assert status_of(city.state, city.endpoint()).phase == "Ready"


@pytest.mark.parametrize("canary", [0.0, 0.1])
def test_a_last_replica_comes_back_where_its_successor_does_not_come_up(canary: float) -> None:
    rollout = Rollout(canary=canary, max_unavailable=1, may_pause=True)
    city = serving(1, nodes=1, gpus=8, rollout=rollout)
    city.apply(changed(chat(1, 1, gpus=8, rollout=rollout), "broken"))
    city.run(60)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["crashed"]
    assert [r.revision for r in city.replicas()] == [1]


def test_a_rollout_that_others_took_the_room_of_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "START_LIMIT_S", 120.0)
    rollout = Rollout(canary=0.0)
    city = serving(4, nodes=1, gpus=2, rollout=rollout)
    city.apply(changed(chat(4, 4, gpus=2, rollout=rollout)))
    while not city.replicas(revision=2):
        city.run(1)
    city.submit(job("rival", priority=100, gpus=2), imitation())
    city.run(100)
    assert len(city.endpoint().active()) == 2
    city.run(60)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["not-ready"]
    assert [r.revision for r in city.replicas()] == [1, 1, 1]


def test_one_whose_room_others_take_is_rolled_back() -> None:
    city = serving(8, nodes=1)
    city.submit(job("rival", priority=100), imitation())
    city.run(2)
    city.apply(changed(chat(8, 8)))
    city.run(START_LIMIT_S)
    assert city.state.jobs["red/rival"].phase == "Running"
    assert [len(city.replicas(revision=n)) for n in (1, 2)] == [7, 0]
    city.run(60)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["not-ready"]


def test_after_a_change_of_pools_that_failed_the_old_one_is_scaled_as_before() -> None:
    rollout = Rollout(canary=0.0)
    city = serving(4, rollout=rollout)
    pools = tuple(Pool(name=name, request=Request(gpus=1)) for name in ("prefill", "decode"))
    city.apply(chat(pools=pools, rollout=rollout, arguments=("broken",)))
    city.run(60)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["crashed"]
    assert len(city.replicas()) >= 2
    city.see(1, arrived=9, waiting=25)
    city.run(40)
    assert len(city.replicas()) == 8


def test_what_was_replaced_goes_while_a_newer_one_is_on_trial() -> None:
    city = serving(2)
    city.gateway.open = {r.run: 1 for r in city.replicas()}
    city.apply(changed(chat(2, 4), "x"))
    city.run(40)
    assert city.endpoint().serving == 2
    city.apply(changed(chat(2, 4), "y"))
    city.run(10)
    assert [r.phase for r in city.endpoint().listed()] == ["retired", "serving", "canary"]


def test_a_change_of_mind_ends_the_canary_and_starts_no_other() -> None:
    city = serving()
    city.apply(changed(chat(4, 8)))
    city.run(6)
    city.apply(chat(4, 8))
    city.run(10)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["changed"]
    assert city.served().revisions == {1: 1.0}
    assert city.endpoint().last == 2


def test_a_first_revision_that_does_not_come_up_gives_way_to_the_next_at_once() -> None:
    city = City(2)
    city.apply(chat(2, 2, arguments=("slow",)))
    city.run(10)
    city.apply(chat(2, 2))
    city.run(10)
    assert [r.revision for r in city.replicas()] == [2, 2]
    assert len(city.alive()) == 2


def test_a_rollout_without_canary_that_does_not_come_up_goes_back() -> None:
    city = serving(2, rollout=Rollout(canary=0.0))
    city.apply(changed(chat(2, 4, rollout=Rollout(canary=0.0)), "broken"))
    city.run(90)
    assert [e.why for e in city.said(ep.RevisionRolledBack)] == ["crashed"]
    assert city.served().revisions == {1: 1.0}
    assert len(city.replicas()) == 2
    assert status_of(city.state, city.endpoint()).failed == 2


def test_what_is_changed_in_place_makes_no_revision_and_reaches_gateways() -> None:
    city = serving()
    city.apply(replace(chat(4, 8), idle_s=17.0, priority=5, routing="round-robin"))
    city.run(3)
    assert list(city.endpoint().revisions) == [1]
    assert city.served().specs[1].routing == "round-robin"
    assert city.state.jobs[f"{CHAT}-r1"].workload.priority == 5
    assert len(city.alive()) == 4


def test_an_endpoint_of_many_revisions_is_the_same_from_a_snapshot() -> None:
    spec = chat(1, 1, rollout=Rollout(canary=0.0))
    city = City(2)
    city.apply(spec)
    for i in range(12):
        city.run(12)
        city.apply(changed(spec, str(i)))
    city.run(12)
    assert list(city.served().revisions) == [13]
    assert len(city.endpoint().revisions) <= 10
    again = State.from_snapshot(city.state.snapshot())
    assert [r.number for r in again.endpoints[CHAT].active()] == [13]
    assert served(again, again.endpoints[CHAT]) == city.served()
