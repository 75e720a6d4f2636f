"""Scaling of endpoints by reports: whatever the load, constant load settles; limits and budgets are kept."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.control import events as ev
from plenum.control.endpoints import events as ep
from plenum.control.endpoints.loads import Loads
from plenum.control.endpoints.scale import EVERY_S, scaled
from plenum.control.state import State
from plenum.model.endpoint import Endpoint, Pool, Promise
from plenum.ports.gateway import LoadReport, PoolLoad


class Scaled:
    """One endpoint of one pool whose replicas are there as soon as they are wanted; only the numbers move."""

    def __init__(self, low: int, high: int, slots: int) -> None:
        self.state, self.loads, self.now_s = State(), Loads(), 0.0
        spec = Endpoint(
            name="chat", model="m", pools=(Pool(min_replicas=low, max_replicas=high),), slots=slots, promise=Promise()
        )
        self.write(ep.EndpointApplied(endpoint=spec.id, spec=spec), ep.RevisionStarted(endpoint=spec.id, revision=1))
        self.changes: list[tuple[float, int]] = []

    def write(self, *events: ev.Event) -> None:
        for event in events:
            record = ev.record_of(event, self.now_s, "test")
            self.state.apply(msgspec.structs.replace(record, position=self.state.position + 1))

    def run(self, seconds: float, loads: list[tuple[int, int, int]]) -> None:
        """Let time pass; of each step what arrived, waits and runs, over and over."""
        end_s, step = self.now_s + seconds, 0
        while self.now_s < end_s:
            arrived, waiting, running = loads[step % len(loads)]
            pool = PoolLoad(
                endpoint="default/chat", revision=1, pool="serve", arrived=arrived, waiting=waiting, running=running
            )
            self.loads.take(LoadReport(gateway="g", seconds=EVERY_S, table=0, pools=(pool,)), self.now_s)
            for event in list(scaled(self.state, self.state.endpoints["default/chat"], self.loads)):
                assert isinstance(event, ep.EndpointScaled)
                assert event.before != event.after
                self.write(event)
                self.changes.append((self.now_s, event.after))
            self.now_s += EVERY_S
            step += 1


limits = st.tuples(st.integers(0, 3), st.integers(1, 12)).filter(lambda pair: pair[0] <= pair[1])
counts = st.integers(0, 60)


@settings(max_examples=60)
@given(limits, st.integers(1, 32), counts, counts, st.integers(1, 50))
def test_constant_load_settles_at_one_number(
    limit: tuple[int, int], slots: int, waiting: int, running: int, arrived: int
) -> None:
    it = Scaled(*limit, slots)
    it.run(600, [(arrived, waiting, running)])
    settled = len(it.changes)
    it.run(1800, [(arrived, waiting, running)])
    assert len(it.changes) == settled
    assert max(limit[0], 1) <= it.state.endpoints["default/chat"].wanted["serve"] <= limit[1]


@settings(max_examples=40)
@given(limits, st.integers(1, 8), st.lists(st.tuples(st.just(10), counts, counts), min_size=1, max_size=6))
def test_load_that_goes_up_and_down_while_as_much_arrives_turns_around_only_so_often(
    limit: tuple[int, int], slots: int, loads: list[tuple[int, int, int]]
) -> None:
    it = Scaled(*limit, slots)
    it.run(7200, loads)
    sizes = [after for _, after in it.changes]
    turns = sum(b < a and c > b for a, b, c in zip(sizes, sizes[1:], sizes[2:], strict=False))
    assert turns <= limit[1]
    assert all(limit[0] <= size <= limit[1] for size in sizes)


@given(limits, st.integers(1, 8), counts)
def test_none_are_left_where_nothing_is_asked_and_one_wakes(limit: tuple[int, int], slots: int, running: int) -> None:
    it = Scaled(*limit, slots)
    it.run(120, [(5, 0, running)])
    it.run(1200, [(0, 0, 0)])
    wanted = it.state.endpoints["default/chat"].wanted
    assert wanted["serve"] == limit[0]
    it.run(EVERY_S, [(1, 1, 0)])
    assert wanted["serve"] >= 1
