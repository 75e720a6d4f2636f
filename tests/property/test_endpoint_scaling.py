"""Scaling of endpoints by reports: whatever the load, constant load settles; limits and budgets are kept."""

from __future__ import annotations

from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from plenum.control import events as ev
from plenum.control.endpoints import events as ep
from plenum.control.endpoints.loads import Loads
from plenum.control.endpoints.scale import EVERY_S, scaled
from plenum.control.endpoints.sustained import Sustained
from plenum.control.state import State
from plenum.model.endpoint import DECODE, PREFILL, SERVE, Endpoint, Pool, Promise
from plenum.model.workload import Request
from plenum.ports.gateway import LoadReport, PoolLoad
from plenum.serving import scaling


class Scaled:
    """One endpoint whose replicas are there as soon as they are wanted; only the numbers move."""

    def __init__(self, *pools: Pool, slots: int, budget: int = 0) -> None:
        self.state, self.loads, self.now_s = State(), Loads(), 0.0
        spec = Endpoint(name="chat", model="m", pools=pools, slots=slots, promise=Promise(), budget_gpus=budget)
        self.spec = spec
        self.write(ep.EndpointApplied(endpoint=spec.id, spec=spec), ep.RevisionStarted(endpoint=spec.id, revision=1))
        self.changes: list[tuple[float, int]] = []

    def write(self, *events: ev.Event) -> None:
        for event in events:
            record = ev.record_of(event, self.now_s, "test")
            self.state.apply(msgspec.structs.replace(record, position=self.state.position + 1))

    def run(self, seconds: float, loads: list[tuple[int, int, int]]) -> None:
        """Let time pass; of each step what arrived, waits and runs in each pool, over and over."""
        end_s, step = self.now_s + seconds, 0
        while self.now_s < end_s:
            turn = loads[step * len(self.spec.pools) % len(loads) :]
            seen = [
                PoolLoad(
                    endpoint="default/chat",
                    revision=1,
                    pool=pool.name,
                    arrived=arrived,
                    waiting=waiting,
                    running=running,
                )
                for pool, (arrived, waiting, running) in zip(self.spec.pools, turn, strict=False)
            ]
            self.loads.take(LoadReport(gateway="g", seconds=EVERY_S, table=0, pools=tuple(seen)), self.now_s)
            for event in list(scaled(self.state, self.state.endpoints["default/chat"], self.loads)):
                assert isinstance(event, ep.EndpointScaled)
                assert event.before != event.after
                self.write(event)
                self.changes.append((self.now_s, event.after))
            self.now_s += EVERY_S
            step += 1


def one(limit: tuple[int, int], name: str = SERVE, gpus: int = 1) -> Pool:
    return Pool(name=name, min_replicas=limit[0], max_replicas=limit[1], request=Request(gpus=gpus))


limits = st.tuples(st.integers(0, 3), st.integers(1, 12)).filter(lambda pair: pair[0] <= pair[1])
counts = st.integers(0, 60)


@settings(max_examples=60)
@given(limits, st.integers(1, 32), counts, counts, st.integers(1, 50))
def test_constant_load_settles_at_one_number(
    limit: tuple[int, int], slots: int, waiting: int, running: int, arrived: int
) -> None:
    it = Scaled(one(limit), slots=slots)
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
    it = Scaled(one(limit), slots=slots)
    it.run(7200, loads)
    sizes = [after for _, after in it.changes]
    turns = sum(b < a and c > b for a, b, c in zip(sizes, sizes[1:], sizes[2:], strict=False))
    assert turns <= limit[1]
    assert all(limit[0] <= size <= limit[1] for size in sizes)


@given(limits, st.integers(1, 8), counts)
def test_none_are_left_where_nothing_is_asked_and_one_wakes(limit: tuple[int, int], slots: int, running: int) -> None:
    it = Scaled(one(limit), slots=slots)
    it.run(120, [(5, 0, running)])
    it.run(1200, [(0, 0, 0)])
    wanted = it.state.endpoints["default/chat"].wanted
    assert wanted["serve"] == limit[0]
    it.run(EVERY_S, [(1, 1, 0)])
    assert wanted["serve"] >= 1


sizes = st.tuples(st.integers(1, 4), st.integers(1, 4))
pairs = st.lists(st.tuples(st.just(10), counts, counts), min_size=2, max_size=8).filter(
    lambda loads: len(loads) % 2 == 0
)


@settings(max_examples=60)
@given(limits, limits, sizes, st.integers(0, 20), st.integers(1, 8), pairs)
def test_pools_never_have_more_than_their_budget_together_and_settle_under_constant_load(
    first: tuple[int, int],
    second: tuple[int, int],
    gpus: tuple[int, int],
    spare: int,
    slots: int,
    loads: list[tuple[int, int, int]],
) -> None:
    pools = one(first, PREFILL, gpus[0]), one(second, DECODE, gpus[1])
    budget = spare + sum(max(pool.min_replicas, 1) * pool.request.gpus for pool in pools)
    it = Scaled(*pools, slots=slots, budget=budget)
    wanted = it.state.endpoints["default/chat"].wanted
    for _ in range(120):
        it.run(EVERY_S, loads)
        assert sum(wanted[pool.name] * pool.request.gpus for pool in pools) <= budget
    it.run(2400, loads[:2])
    settled = len(it.changes)
    it.run(1800, loads[:2])
    assert len(it.changes) == settled


@settings(max_examples=30)
@given(
    st.integers(2, 12),
    st.floats(0.5, 5.0),
    st.floats(1.0, 30.0),
    st.sampled_from([0.0, 0.3, 0.8, 1.2, 4.0]),
    st.integers(0, 999),
)
def test_what_is_measured_may_be_noisy_and_constant_load_settles_all_the_same(
    most: int, bears_rps: float, rate_rps: float, model: float, seed: int
) -> None:
    limit, noise = scaling.limits(1, most, window_s=120.0, max_step=8), Random(seed)
    history, seen, current, direction, turns = scaling.history_of(limit), Sustained(basis=None), 1, 0, 0
    for tick in range(300):
        now_s, each = 30.0 * tick, rate_rps / current
        late = each > bears_rps * noise.uniform(0.8, 1.2)
        seen.note(now_s, min(each, bears_rps) * noise.uniform(0.8, 1.2), model * bears_rps, late=late)
        rps = seen.bears(now_s, model * bears_rps).rps
        wanted = scaling.wanted_for_slo(rate_rps, rps, 0.0, 10.0) if rps else 0.0
        wanted = max(wanted, current * 1.25, current + 1.0) if late else wanted
        after = scaling.desired(limit, history, now_s, current, wanted, rate_rps, 0.0)
        turns += after > current and direction < 0
        direction = direction if after == current else 1 if after > current else -1
        current = after
        if model and rps:
            assert 0.5 <= rps / (model * bears_rps) <= 2.0
    assert turns <= most
    assert current == most or rate_rps / current <= 1.2 * bears_rps
