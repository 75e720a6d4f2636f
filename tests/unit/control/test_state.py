"""The projection: what each event changes, what it refuses, and that its bytes say everything."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from tests.unit.control.cloud import Log, imitation, job, log

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control.handlers import HANDLERS
from plenum.control.state import DamagedError, State
from plenum.control.units import FIRST_PORT, PORTS, unit_keys, unit_workload
from plenum.model import Apart, Kind, Request, Role, Together
from plenum.model.errors import InvariantError
from plenum.ports.store import Snapshot

GANG = job(kind=Kind.TRAINING_JOB, roles=(Role(replicas=2, request=Request(gpus=8)), Role(name="chief")))


def bound(workload=GANG, nodes: int = 2) -> Log:
    it = log(nodes)
    it.command(c.apply_job(workload, imitation(), {}))
    it.bind()
    return it


def indices(state: State) -> dict[str, object]:
    """Everything that is not in the bytes, as plain values."""
    held = {agent: {r: (j.id, u.key) for r, (j, u) in runs.items()} for agent, runs in state.held.items() if runs}
    return {
        "hash": {h: t.id for h, t in state.token_by_hash.items()},
        "by_node": {n: sorted(runs) for n, runs in state.by_node.items()},
        "held": held,
        "orders": {agent: orders for agent, orders in state.orders.items() if orders},
        "called_off": sorted(
            r for runs in state.called_off.values() for r, (_, unit) in runs.items() if unit.runs[r].phase == "bound"
        ),
        "bound": state.bound,
        "waiting": sorted(state.waiting),
        "usage": {t: {r: n for r, n in used.items() if n} for t, used in state.usage.items() if any(used.values())},
        "live": sorted(state.live),
        "ended": list(state.ended),
        "fleet_version": state.fleet_version >= 0,
    }


def again(state: State) -> State:
    return State.from_snapshot(state.snapshot())


def test_every_event_is_taken_in_or_kept_for_people_on_purpose() -> None:
    assert set(ev.EVENTS.values()) - set(HANDLERS) == {ev.Refused}


def test_an_empty_state_has_bytes_and_comes_back() -> None:
    assert again(State()).snapshot() == State().snapshot()
    assert State.from_snapshot(None).position == 0


def test_damaged_bytes_are_refused() -> None:
    snapshot = log().state.snapshot()
    with pytest.raises(DamagedError, match="position 4 is damaged"):
        State.from_snapshot(Snapshot(position=snapshot.position, digest=snapshot.digest, data=snapshot.data + b" "))


def test_records_come_one_after_another() -> None:
    it = log()
    record = it.records[-1]
    for position in (record.position, record.position + 2):
        with pytest.raises(InvariantError, match="does not follow"):
            it.state.apply(msgspec.structs.replace(record, position=position))


def test_a_unit_is_not_bound_twice() -> None:
    it = bound()
    again = ev.UnitBound(job="red/j", attempt=2, bindings=())
    with pytest.raises(InvariantError, match="while it is bound"):
        it.write(again)


def test_what_is_bound_is_held_ordered_and_counted() -> None:
    state = bound().state
    assert state.usage["red"] == {"gpu_milli": 16_000}
    assert sorted(state.orders["a"]) == sorted(state.held["a"]) == sorted(r.id for r in state.jobs["red/j"].runs())
    assert state.jobs["red/j"].phase == "Starting"
    assert state.agent_version["a"] == state.position
    assert not state.waiting


def test_orders_number_the_ranks_for_a_rendezvous() -> None:
    it = bound()
    uid = it.job().uid
    orders = sorted(it.state.orders["a"].values(), key=lambda a: a.global_rank)
    assert [(a.role, a.rank, a.global_rank, a.world_size) for a in orders] == [
        ("worker", 0, 0, 3),
        ("worker", 1, 1, 3),
        ("chief", 0, 2, 3),
    ]
    assert orders[0].gpus == tuple(range(8))
    assert {a.nodes for a in orders} == {2}
    assert [a.slot for a in orders] == ["worker-0", "worker-1", "chief-0"]
    assert all(a.master_port == FIRST_PORT + (uid * 31 + 1) % PORTS for a in orders)
    assert {(a.local_rank, a.local_world_size) for a in orders} == {(0, 2), (1, 2), (0, 1)}


def test_a_stop_takes_the_orders_off_and_keeps_the_devices() -> None:
    it = bound()
    it.write(ev.UnitStopped(job="red/j", attempt=1, why="drained"))
    assert it.state.orders["a"] == {}
    assert len(it.state.called_off["a"]) == 3
    assert it.state.usage["red"] == {"gpu_milli": 16_000}
    assert it.state.agent_version["a"] == it.state.position


def test_a_release_frees_everything_and_a_new_attempt_starts_clean() -> None:
    it = bound()
    it.write(ev.UnitReleased(job="red/j", attempt=1, outcome="failed", again=True, not_before=9.0))
    state, unit = it.state, it.job().units[""]
    assert (unit.phase, unit.failures, unit.attempt, unit.runs, unit.not_before) == ("waiting", 1, 1, {}, 9.0)
    assert not any((state.orders["a"], state.held["a"], state.called_off.get("a"), state.bound))
    assert state.usage["red"] == {"gpu_milli": 0}
    assert list(state.waiting) == ["red/j"]
    assert all(not runs for runs in state.by_node.values())
    assert it.job().phase == "Pending"


def test_a_run_goes_one_way_and_dates_itself() -> None:
    it = bound()
    first = next(it.job().runs())
    it.report(first.id, "starting")
    started = it.state.at
    assert it.job().phase == "Starting"
    it.report(first.id, "running")
    assert (first.started_at, it.job().phase, it.job().started_at) == (started, "Running", it.state.at)
    it.report(first.id, "exited", 3, "")
    assert (first.exit_code, first.ended_at) == (3, it.state.at)
    assert first.id not in it.state.orders["a"]
    assert first.id in it.state.held["a"]


def test_a_lost_node_ends_what_ran_there_and_one_said_to_be_down_does_not() -> None:
    it = bound()
    it.write(ev.NodeLost(node="n0", why="down", gone=False))
    assert {r.phase for r in it.job().runs()} == {"bound"}
    version = it.state.agent_version["a"]
    it.write(ev.NodeLost(node="n0", why="silent"))
    assert {r.node: (r.phase, r.cause) for r in it.job().runs() if r.node == "n0"} == {"n0": ("exited", "node-lost")}
    assert it.state.agent_version["a"] > version
    assert it.state.nodes["n0"].phase == "Lost"
    assert not it.state.nodes["n0"].schedulable
    it.write(ev.NodeReady(node="n0", instance="i1"))
    assert it.state.nodes["n0"].schedulable
    assert it.state.agents == {"a": "i1"}


def test_a_change_keeps_what_is_bound_until_it_is_released() -> None:
    it = bound(job(replicas=3))
    it.write(ev.UnitReleased(job="red/j", unit="worker-1", attempt=1, outcome="succeeded"))
    it.command(c.apply_job(job(replicas=2, gpus=2), imitation(), {"v": 2}))
    made = it.job()
    assert {k: (u.phase, u.generation) for k, u in made.units.items()} == {
        "worker-0": ("bound", 1),
        "worker-2": ("bound", 1),
        "worker-1": ("waiting", 0),
    }
    assert made.before is not None
    assert it.state.usage["red"] == {"gpu_milli": 2000}
    for key in ("worker-0", "worker-2"):
        it.write(ev.UnitReleased(job="red/j", unit=key, attempt=1, outcome="stopped", again=True))
    assert {k: (u.phase, u.attempt) for k, u in made.units.items()} == {
        "worker-0": ("waiting", 1),
        "worker-1": ("waiting", 1),
    }
    assert (made.before, made.attempts) == (None, 1)
    assert it.state.usage["red"] == {"gpu_milli": 0}


def test_only_what_opens_a_chance_asks_for_a_decision() -> None:
    it = bound()
    before = it.state.placeable
    it.report(next(it.job().runs()).id, "running")
    it.write(ev.UnitStopped(job="red/j", attempt=1, why="x"), ev.NodeLost(node="n1", gone=False))
    assert it.state.placeable == before
    it.write(ev.NodeReady(node="n1"))
    assert it.state.placeable == it.state.position


def test_leadership_terms_and_leases_are_kept() -> None:
    it = Log().write(ev.LeaderChanged(term=3, holder="c1", address="x:1", lease_s=12.0))
    assert (it.state.term, it.state.holder, it.state.address, it.state.lease_s) == (3, "c1", "x:1", 12.0)


def story(it: Log) -> None:
    """Write a bit of everything."""
    it.command(c.apply_user("ann", [ev.Grant("member", "red")]))
    it.command(c.issue_token("t", "ann", "h", expires_at=5.0, note="n"))
    small = (Role(replicas=12, request=Request(cpu_milli=100)),)
    it.command(c.apply_job(job("ends", roles=(Role(request=Request(cpu_milli=100)),)), imitation(), {}))
    it.command(c.apply_job(job("tasks", roles=small), imitation(), {}))
    it.bind()
    done = it.job("red/ends")
    it.report(next(done.runs()).id, "exited", 0)
    it.write(ev.UnitReleased(job="red/ends", unit="worker-0", attempt=1, outcome="succeeded"))
    it.write(ev.JobEnded(job="red/ends", phase="Succeeded"))
    it.write(ev.UnitStopped(job="red/tasks", unit="worker-3", attempt=1, why="drained"))
    it.command(c.cordon("n1", True, why="because"))
    it.write(ev.NodeLost(node="n0", why="silent"))
    it.command(c.apply_job(job("tasks", replicas=2), imitation(), {"v": 2}))
    it.write(ev.JobWaiting(job="red/tasks", code="wait.capacity", sentence="…"), ev.MixLearned(mix=((Request(), 1),)))
    it.command(c.delete_job("red/tasks"))


def test_a_state_read_from_its_bytes_is_the_same_in_everything_that_can_be_asked() -> None:
    it = bound(nodes=2)
    story(it)
    copy = again(it.state)
    assert copy.snapshot() == it.state.snapshot()
    assert indices(copy) == indices(it.state)


def test_orders_from_a_snapshot_are_never_taken_for_others_of_the_same_version() -> None:
    it = bound()
    first = again(it.state)
    it.write(ev.UnitStopped(job="red/j", attempt=1, why="drained"))
    second = again(it.state)
    assert first.orders != second.orders
    assert first.agent_version["a"] != second.agent_version["a"]


def test_units_of_a_job() -> None:
    assert unit_keys(GANG) == [""]
    two = job(roles=(Role(name="a-b", replicas=2), Role(name="c")), apart=(Apart(level="place.node", role="c"),))
    assert unit_keys(two) == ["a-b-0", "a-b-1", "c-0"]
    assert unit_workload(GANG, "") is GANG
    one = unit_workload(two, "a-b-1")
    assert (one.name, [r.name for r in one.roles], one.replicas, one.apart) == ("j#a-b-1", ["a-b"], 1, ())
    blocks = job(replicas=4, together=(Together(level="place.rack", block=2),))
    assert unit_workload(blocks, "worker-3").together == (Together(level="place.rack", block=0),)


def test_a_snapshot_of_another_format_is_refused_with_what_to_do() -> None:
    found = State().snapshot()
    for data in (found.data.replace(b'"format":2', b'"format":3'), b'{"position":"seven"}'):
        foreign = Snapshot(position=0, digest=hashlib.sha256(data).hexdigest(), data=data)
        with pytest.raises(DamagedError, match="plenum rebuild"):
            State.from_snapshot(foreign)
