"""Any course of events: the log replays to the same bytes from any snapshot, and an engine kept up to date decides like a new one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.control.cloud import TTL_S, Cloud, read_fleet

from plenum.control import commands as c
from plenum.control.decider import Decider
from plenum.control.hardware import node_facts
from plenum.control.state import State
from plenum.model import Apart, Kind, Request, Role, Together, Workload
from plenum.model.errors import PlenumError
from plenum.model.process import Process, Simulated

names = st.sampled_from(("a", "b", "c", "d"))
levels = st.sampled_from(("place.rack", "place.node"))
roles = st.builds(
    Role,
    name=st.sampled_from(("worker", "side")),
    replicas=st.integers(1, 12),
    request=st.builds(Request, gpus=st.sampled_from((0, 1, 1, 2, 8)), cpu_milli=st.sampled_from((0, 4000))),
    min_replicas=st.sampled_from((0, 0, 1)),
)


def workload(*, kind: Kind, roles: tuple[Role, ...], nodes: int, **more: Any) -> Workload:
    """Replicas that are independent may have several nodes each."""
    each = 1 if kind is Kind.TRAINING_JOB else nodes
    return Workload(kind=kind, roles=tuple(replace(role, nodes=each) for role in roles), **more)


workloads = st.builds(
    workload,
    name=names,
    kind=st.sampled_from(Kind),
    tenant=st.just("red"),
    priority=st.integers(0, 2),
    roles=st.lists(roles, min_size=1, max_size=2, unique_by=lambda role: role.name).map(tuple),
    together=st.sampled_from(((), (), (Together(level="place.rack"),))),
    apart=st.lists(st.builds(Apart, level=levels, max_per_domain=st.integers(1, 3)), max_size=1).map(tuple),
    nodes=st.sampled_from((1, 1, 2)),
)
processes = st.builds(
    lambda duration_s, exit_code, restarts: Process(
        simulated=Simulated(duration_s=duration_s, exit_code=exit_code), restarts=restarts, grace_s=1.0
    ),
    duration_s=st.sampled_from((0.0, 2.0, 5.0)),
    exit_code=st.sampled_from((0, 0, 1)),
    restarts=st.integers(0, 2),
)
deeds = st.one_of(
    st.tuples(st.just("apply"), workloads, processes),
    st.tuples(st.just("apply"), workloads, processes),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("cordon"), st.sampled_from(("n0", "n1")), st.booleans(), st.booleans()),
    st.tuples(st.just("crash"), st.sampled_from(("n0", "n1"))),
    st.tuples(st.just("reboot"), st.sampled_from(("n0", "n1"))),
    st.tuples(st.just("quota"), st.sampled_from((0, 2000, 9000))),
    st.tuples(st.just("fleet"), st.sampled_from((2, 4))),
    st.tuples(st.just("run"), st.integers(1, 5)),
    st.tuples(st.just("run"), st.integers(1, 5)),
    st.tuples(st.just("lead"), st.sampled_from(("c0", "c1"))),
)


def do(cloud: Cloud, deed: tuple) -> None:
    """Do one thing; what is refused is not done."""
    kind, *what = deed
    try:
        if kind == "apply":
            cloud.execute(c.apply_job(*what, {"text": str(what)}))
        elif kind == "delete":
            cloud.execute(c.delete_job(f"red/{what[0]}"))
        elif kind == "cordon":
            cloud.execute(c.cordon(what[0], what[1], drain=what[2]))
        elif kind == "quota":
            cloud.execute(c.apply_tenant("red", {"gpu_milli": what[0]} if what[0] else {}))
        elif kind == "fleet":
            cloud.execute(c.apply_fleet("lab", f"{what[0]}", node_facts(read_fleet(f"{what[0]}")), agent="a"))
    except PlenumError:
        return
    if kind == "crash":
        cloud.driver.crash(what[0])
    elif kind == "reboot":
        cloud.driver.reboot(what[0])
    elif kind == "run":
        cloud.run(what[0])
    elif kind == "lead" and what[0] != cloud.controller.holder:
        cloud.store.release(cloud.controller.holder)
        cloud.controller = cloud.replica(what[0])
        cloud.controller.lead(TTL_S)


def ordered(state: State) -> dict[str, dict]:
    """Return what each agent is to run, of those that are to run anything."""
    return {agent: orders for agent, orders in state.orders.items() if orders}


class Deciding(Cloud):
    """A cloud whose every decision is made again from nothing."""

    def work(self) -> None:
        self.controller.lead(TTL_S)
        while True:
            self.controller.append(self.controller.tend())
            self.controller.append(self.controller.learn())
            now, before = self.clock.now(), State.from_snapshot(self.state.snapshot())
            decision = self.controller.decide()
            if decision is None:
                return
            assert decision == Decider(read_fleet).decide(before, now)
            self.controller.append(self.controller.commit(decision))
            if not decision.bound:
                return


@given(st.lists(deeds, min_size=3, max_size=14), st.data())
def test_any_snapshot_and_the_rest_of_the_log_are_the_log_from_zero(course: list[tuple], data: st.DataObject) -> None:
    cloud = Deciding(2)
    cloud.run(1)
    for deed in course:
        do(cloud, deed)
    cloud.run(3)
    records = cloud.store.read(0, 100_000)
    whole = State()
    cut = data.draw(st.integers(0, len(records)))
    resumed = State()
    for record in records:
        whole.apply(record)
        resumed.apply(record)
        if record.position == cut:
            resumed = State.from_snapshot(resumed.snapshot())
    assert whole.snapshot() == resumed.snapshot() == cloud.state.snapshot()
    assert ordered(whole) == ordered(resumed) == ordered(cloud.state)
    assert whole.bound == resumed.bound
