"""Replicas over several nodes, whatever becomes of the nodes: all of a replica has a place or nothing, and only a whole one is ready."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.control.endpoints.city import City
from tests.unit.control.endpoints.test_spread import JOB, wide

from plenum.control import commands as c
from plenum.control.state import State
from plenum.ports.nodes import RUNNING

NODES = 4
nodes = st.sampled_from([f"n{i}" for i in range(NODES)])
deeds = st.one_of(
    st.tuples(st.just("run"), st.integers(1, 6)),
    st.tuples(st.just("crash"), nodes),
    st.tuples(st.just("reboot"), nodes),
    st.tuples(st.just("drain"), nodes, st.booleans()),
    st.tuples(st.just("replicas"), st.integers(1, 2)),
)


def do(city: City, spread: int, deed: tuple) -> None:
    match deed:
        case ("run", seconds):
            city.run(seconds)
        case ("crash", node):
            city.driver.crash(node)
        case ("reboot", node):
            city.driver.reboot(node)
        case ("drain", node, on):
            city.execute(c.cordon(node, on, drain=on))
        case ("replicas", n):
            city.apply(wide(n, n, spread))
    city.run(1)


def check(city: City, spread: int) -> None:
    job = city.state.jobs.get(JOB)
    units = {} if job is None else {run: unit for unit in job.units.values() for run in unit.runs}
    told = Counter(tuple(sorted(units[replica.run].runs)) for replica in city.served().replicas)
    assert set(told.values()) <= {1}, "a replica stands in the table once"
    for replica in city.served().replicas:
        parts = list(units[replica.run].runs.values())
        assert [part.part for part in parts] == list(range(spread))
        assert len({part.node for part in parts}) == spread
        assert replica.phase != "ready" or {part.phase for part in parts} == {RUNNING}
    again = State.from_snapshot(city.state.snapshot())
    assert {a: o for a, o in again.orders.items() if o} == {a: o for a, o in city.state.orders.items() if o}


@settings(max_examples=15)
@given(spread=st.integers(2, 3), todo=st.lists(deeds, max_size=10))
def test_a_replica_is_whole_or_not_there(spread: int, todo: list[tuple]) -> None:
    city = City(NODES)
    city.apply(wide(1, 1, spread))
    city.run(6)
    for deed in todo:
        do(city, spread, deed)
        check(city, spread)
    for i in range(NODES):
        city.driver.reboot(f"n{i}")
        city.execute(c.cordon(f"n{i}", False))
    city.run(90)

    check(city, spread)
    fits = min(city.endpoint().wanted["serve"], NODES // spread)
    assert len(city.replicas()) == fits
