"""The gateway's decisions beside plain oracles, and whole dispatchers under random faults."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.gateway.scripted import Script, replica, run, stage

from plenum.gateway.breakers import FAILURES, OPEN_MOST_S, OPEN_S, Breaker
from plenum.gateway.dispatch import MAX_TRIES
from plenum.gateway.fairness import FairQueue
from plenum.gateway.prefixes import PrefixIndex
from plenum.gateway.request import RefusedError
from plenum.model.endpoint import Endpoint
from plenum.ports.engine import EngineError

STEPS = st.lists(st.tuples(st.floats(0, 20), st.sampled_from(["send", "answer", "fail", "abandon"])), max_size=60)


@given(STEPS)
def test_a_breaker_lets_through_what_its_history_allows(steps):
    breaker, now_s, flying = Breaker(), 0.0, 0
    failures, opened_s, testing = 0, None, False
    for wait_s, what in steps:
        now_s += wait_s
        allowed = breaker.allows(now_s)
        if opened_s is None:
            assert allowed
        else:
            assert not (testing and allowed)
            if now_s - opened_s < OPEN_S:
                assert not allowed
            if now_s - opened_s > OPEN_MOST_S and not testing:
                assert allowed
        if what == "send" and allowed:
            breaker.sent(now_s)
            flying += 1
            testing = opened_s is not None
        if not flying or what == "send":
            continue
        flying -= 1
        if what == "answer":
            breaker.succeeded()
            failures, opened_s, testing = 0, None, False
        elif what == "abandon":
            breaker.abandoned()
            testing = False
        else:
            half_open = breaker.state == "half-open"
            breaker.failed(now_s)
            failures += 1
            if half_open or (opened_s is None and failures >= FAILURES):
                opened_s, testing = now_s, False


@dataclass(eq=False)
class One:
    tenant: str
    tier: int
    cost: float


ONES = st.builds(One, st.sampled_from("abc"), st.sampled_from([0, 1]), st.floats(1, 100))


@given(st.lists(st.one_of(ONES, st.sampled_from(["take", "drop"])), max_size=150))
def test_a_queue_keeps_everyone_once_in_their_tenants_order(steps):
    queue: FairQueue[One] = FairQueue(20)
    plain: dict[tuple[int, str], deque[One]] = defaultdict(deque)
    for step in steps:
        if isinstance(step, One):
            waiting = sum(len(each) for (tier, _), each in plain.items() if tier == step.tier)
            room = waiting < 20 and len(plain[step.tier, step.tenant]) < 10
            assert queue.takes(step.tenant, step.tier) == room
            if room:
                queue.push(step)
                plain[step.tier, step.tenant].append(step)
        else:
            tier = 0 if queue.waiting(0) else 1
            one = queue.peek(tier) if step == "take" else next(iter(queue.everyone()), None)
            if one is None:
                assert not any(plain.values())
                continue
            if step == "take":
                assert plain[one.tier, one.tenant][0] is one
                queue.charge(one.tenant, one.cost)
            queue.leave(one)
            queue.leave(one)
            plain[one.tier, one.tenant].remove(one)
        assert len(queue) == sum(map(len, plain.values())) == len(queue.everyone())


@given(st.lists(st.floats(1, 100), min_size=20, max_size=200), st.lists(st.floats(1, 100), min_size=20, max_size=200))
def test_two_tenants_that_always_wait_are_served_the_same_but_for_two_requests(costs, others):
    queue: FairQueue[One] = FairQueue(1000)
    for each in costs:
        queue.push(One("a", 0, each))
    for each in others:
        queue.push(One("b", 0, each))
    served, most = {"a": 0.0, "b": 0.0}, max(*costs, *others)
    left = {"a": len(costs), "b": len(others)}
    while left["a"] and left["b"]:
        one = queue.peek(0)
        assert one is not None
        queue.leave(one)
        queue.charge(one.tenant, one.cost)
        served[one.tenant] += one.cost
        left[one.tenant] -= 1
        assert abs(served["a"] - served["b"]) <= 2 * most


@given(st.integers(1, 50), st.floats(1, 1000))
def test_who_was_idle_has_saved_nothing_up(rounds, cost):
    queue: FairQueue[One] = FairQueue(1000)
    for _ in range(rounds):
        one = One("busy", 0, cost)
        queue.push(one)
        queue.leave(one)
        queue.charge("busy", cost)
    queue.push(One("busy", 0, cost))
    queue.push(One("idle", 0, cost))
    assert queue.served["idle"] >= queue.served["busy"] - cost


class PlainIndex:
    """Blocks of one replica, most recent last."""

    def __init__(self, room: int) -> None:
        self.room, self.blocks = room, OrderedDict()

    def note(self, blocks):
        for block in reversed(blocks):
            self.blocks.pop(block, None)
            self.blocks[block] = None
        while len(self.blocks) > self.room:
            self.blocks.popitem(last=False)

    def found(self, blocks):
        there = [block in self.blocks for block in blocks]
        return there.index(False) if False in there else len(there)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 30), max_size=12, unique=True)), max_size=60))
def test_an_index_finds_what_a_plain_one_finds(steps):
    index, plain = PrefixIndex(remembered=16), {"a": PlainIndex(16), "b": PlainIndex(16)}
    for name, blocks in steps:
        for which, each in plain.items():
            assert index.found(which, blocks) == each.found(blocks)
        index.note(name, blocks)
        plain[name].note(blocks)


FAULTS = st.lists(
    st.tuples(
        st.floats(0, 3),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["dead", "well", "500", "slow", "breaks", "leaves", "drains", "comes"]),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(FAULTS, st.lists(st.tuples(st.floats(0, 0.5), st.booleans()), min_size=1, max_size=60))
def test_whatever_fails_nobody_is_lost_or_answered_twice_and_everything_is_given_back(faults, requests):
    run(_under(faults, requests))


async def _under(faults, requests):
    scripts = {name: Script(tokens=5) for name in "abc"}
    phases = dict.fromkeys("abc", "ready")
    spec = Endpoint(name="m", model="m", engine="emulated", slots=4, wake_wait_s=5)
    async with stage(scripts, spec) as on:

        async def misbehave():
            for wait_s, name, what in faults:
                await asyncio.sleep(wait_s)
                script = scripts[name]
                if what in ("dead", "well"):
                    script.dead = what == "dead"
                script.status = 500 if what == "500" else 200
                script.breaks_after = 2 if what == "breaks" else -1
                script.first_s = 3.0 if what == "slow" else 0.1
                if what in ("leaves", "drains", "comes"):
                    phases[name] = {"leaves": "", "drains": "draining", "comes": "ready"}[what]
                    on.replicas(*(replica(each, phase=phase) for each, phase in phases.items() if phase))

        async def one(name, impatient):
            ask = on.ask(name, deadline_s=on.now() + 30)
            try:
                if not impatient:
                    return len((await on.take(ask))[1])
                async with asyncio.timeout(0.15):
                    return len((await on.take(ask))[1])
            except TimeoutError:
                return "left"
            except EngineError:
                return "broken"
            except RefusedError as error:
                return "refused" if error.retry_after_s > 0 else "not told when"

        misbehaving, sending = asyncio.ensure_future(misbehave()), []
        for number, (wait_s, impatient) in enumerate(requests):
            await asyncio.sleep(wait_s)
            sending.append(asyncio.ensure_future(one(f"r{number}", impatient)))
        results = await asyncio.gather(*sending)
        await misbehaving
        await asyncio.sleep(5)
        assert set(results) <= {5, "left", "broken", "refused"}
        sent = [body for engine in on.engines.values() for body in engine.opened]
        assert all(sent.count(f"r{number}".encode()) <= MAX_TRIES + 1 for number in range(len(requests)))
        assert [engine.running for engine in on.engines.values()] == [0, 0, 0]
        (load,) = on.dispatcher.loads().pools
        assert (load.waiting, load.running) == (0, 0)
        assert load.arrived == len(requests)
        assert load.refused == results.count("refused")
        assert load.finished == results.count(5)
        for target in on.dispatcher._fleet.groups("default/m")[1].targets:
            assert (target.prefilling, target.decoding, target.queued_tokens) == (0, 0, 0)
