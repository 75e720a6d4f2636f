"""The way of a request: where it goes, what is tried again, what is told."""

import asyncio
from contextlib import suppress

import pytest
from tests.unit.gateway.scripted import Script, replica, run, stage

from plenum.gateway.breakers import FAILURES
from plenum.gateway.dispatch import revision_of
from plenum.gateway.fairness import OUTPUT_WEIGHT, PROMPT_WEIGHT
from plenum.gateway.request import RefusedError
from plenum.model.endpoint import Endpoint
from plenum.ports.engine import EngineError
from plenum.ports.gateway import Served


def test_requests_are_spread_and_counted():
    async def work():
        async with stage({"a": Script(), "b": Script()}) as on:
            runs = [run async for run in _runs(on, 10)]
            assert {runs.count("a"), runs.count("b")} == {5}
            (load,) = on.dispatcher.loads().pools
            assert (load.endpoint, load.revision, load.pool) == ("default/m", 1, "serve")
            assert (load.arrived, load.finished, load.failed, load.running, load.waiting) == (10, 10, 0, 0, 0)
            assert (load.prompt_tokens, load.output_tokens) == (1000, 100)
            assert load.ttft_s == pytest.approx([0.1] * 10)
            assert load.tpot_s == pytest.approx([0.01] * 10)
            assert on.dispatcher.loads().pools[0].arrived == 0

    run(work())


async def _runs(on, count):
    for _ in range(count):
        yield (await on.take(on.ask()))[0]


def test_what_fails_before_its_first_byte_goes_to_another_replica_once_each():
    async def work():
        async with stage({"a": Script(dead=True), "b": Script(status=500), "c": Script()}) as on:
            for _ in range(6):
                served_by, chunks = await on.take(on.ask())
                assert served_by == "c"
                assert len(chunks) == 10
            asked = on.engines["b"].opened
            assert len(asked) == len(set(asked))
            assert on.dispatcher.loads().pools[0].failed >= 6

    run(work())


def test_a_tenant_is_charged_for_what_it_got_not_for_attempts():
    async def work():
        async with stage({"a": Script(dead=True), "b": Script(status=500), "c": Script()}) as on:
            for _ in range(6):
                await on.take(on.ask())
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):  # leaves before anything came
                    await on.take(on.ask())
            queue = on.dispatcher._fleet.groups("default/m")[1].queue
            assert queue.served["default"] == 6 * (100 * PROMPT_WEIGHT + 10 * OUTPUT_WEIGHT)

    run(work())


def test_nothing_is_sent_twice_after_its_first_byte():
    async def work():
        async with stage({"a": Script(breaks_after=3), "b": Script(breaks_after=3)}) as on:
            with pytest.raises(EngineError):
                await on.take(on.ask("once"))
            assert on.engines["a"].opened + on.engines["b"].opened == [b"once"]

    run(work())


def test_a_replica_that_keeps_failing_is_left_alone_and_comes_back():
    async def work():
        scripts = {"a": Script(dead=True), "b": Script()}
        async with stage(scripts) as on:
            for _ in range(30):
                await on.take(on.ask())
            assert on.dispatcher.loads().pools[0].failed <= FAILURES + 2
            scripts["a"].dead = False
            await asyncio.sleep(5)
            runs = [name async for name in _runs(on, 10)]
            assert runs.count("a") == 5

    run(work())


def test_a_client_error_is_the_clients_and_is_passed_on():
    async def work():
        async with stage({"a": Script(status=400), "b": Script(status=400)}) as on:
            async with on.dispatcher.send(on.ask()) as flight:
                assert flight.answer.status == 400
                assert b"script" in b"".join([chunk async for chunk in flight.answer.chunks()])
            assert on.dispatcher.loads().pools[0].failed == 0

    run(work())


def test_what_no_engine_of_a_model_does_is_refused_and_held_against_none():
    async def work():
        async with stage({"a": Script()}) as on:
            await on.take(on.ask())  # the engine has said by now what it can do
            ask = on.ask()
            ask.path = "/v1/embeddings"
            with pytest.raises(RefusedError, match="has no /v1/embeddings; it has /v1/chat/completions") as refused:
                await on.take(ask)
            assert (refused.value.status, refused.value.code) == (400, "model.cannot")
            assert on.dispatcher.loads().pools[0].failed == 0

    run(work())


def test_a_single_replica_is_tried_again_after_a_while():
    async def work():
        script = Script(dead=True)
        async with stage({"a": script}) as on:
            sending = asyncio.ensure_future(on.take(on.ask()))
            await asyncio.sleep(0.5)
            script.dead = False
            assert (await sending)[0] == "a"
            script.dead = True
            with pytest.raises(RefusedError) as refused:
                await on.take(on.ask())
            assert (refused.value.status, refused.value.code) == (503, "engine.failed")
            assert refused.value.retry_after_s > 0

    run(work())


def test_the_first_request_waits_for_a_replica_to_wake_and_no_longer_than_told():
    async def work():
        async with stage({"a": Script()}, Endpoint(name="m", model="m", engine="emulated", wake_wait_s=20)) as on:
            on.replicas(replica("a", phase="starting"))
            sending = asyncio.ensure_future(on.take(on.ask()))
            await asyncio.wait_for(on.dispatcher.calling.wait(), 1)
            assert on.dispatcher.loads().pools[0].waiting == 1
            await asyncio.sleep(10)
            on.replicas(replica("a"))
            assert (await sending)[0] == "a"
            on.replicas()
            start = on.now()
            with pytest.raises(RefusedError) as refused:
                await on.take(on.ask())
            assert refused.value.code == "endpoint.waking"
            assert refused.value.retry_after_s > 0
            assert on.now() - start == pytest.approx(20)

    run(work())


def test_requests_that_wait_for_a_revision_that_made_way_go_to_its_successor():
    async def work():
        spec = Endpoint(name="m", model="m", engine="emulated", wake_wait_s=20)
        async with stage({"old": Script(), "new": Script()}, spec) as on:
            specs = {1: spec, 2: spec}
            on.replicas(replica("old", phase="draining"), specs=specs)
            sending = asyncio.ensure_future(on.take(on.ask()))
            await asyncio.sleep(10)
            on.replicas(replica("new", revision=2, phase="starting"), specs=specs)
            await asyncio.sleep(5)
            assert not sending.done()
            on.replicas(replica("new", revision=2), specs=specs)
            assert (await sending)[0] == "new"

    run(work())


def test_a_draining_replica_finishes_what_it_has_and_gets_nothing_new():
    async def work():
        async with stage({"a": Script(tokens=100), "b": Script()}) as on:
            async with on.dispatcher.send(on.ask()) as flight:
                draining = flight.run
                other = "b" if draining == "a" else "a"
                on.replicas(replica(draining, phase="draining"), replica(other))
                assert {name async for name in _runs(on, 4)} == {other}
                report = on.dispatcher.loads()
                assert (report.table, report.draining) == (2, {draining: 1})
                on.replicas(replica(other))
                assert on.dispatcher.loads().draining == {draining: 1}
                assert len([chunk async for chunk in flight.answer.chunks()]) == on.engines[draining].script.tokens
            await asyncio.sleep(3)
            assert on.engines[draining].closed
            assert on.dispatcher.loads().draining == {}

    run(work())


def test_leaving_early_frees_the_place():
    async def work():
        async with stage({"a": Script(slots=1, tokens=1000)}) as on:
            async with on.dispatcher.send(on.ask()) as flight:
                await anext(flight.answer.chunks())
            assert on.engines["a"].running == 0
            waiting = [asyncio.ensure_future(on.take(on.ask())) for _ in range(2)]
            await asyncio.sleep(0.05)
            for task in waiting:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            assert on.engines["a"].running == 0
            (load,) = on.dispatcher.loads().pools
            assert (load.waiting, load.running) == (0, 0)

    run(work())


def test_a_session_stays_with_its_revision_while_a_canary_grows():
    spec = Endpoint(name="m", model="m")
    names = [f"session-{n}" for n in range(2000)]

    def on_new(part):
        served = Served(spec=spec, uid=1, revisions={1: 1 - part, 2: part})
        return {name for name in names if revision_of(served, name) == 2}

    few, more = on_new(0.1), on_new(0.5)
    assert 0.07 < len(few) / len(names) < 0.13
    assert few < more


def test_a_canary_that_fails_costs_nobody_an_answer_and_is_charged_for_it():
    async def work():
        replicas = (replica("old"), replica("new", revision=2))
        scripts = {"old": Script(), "new": Script(status=500)}
        async with stage(scripts, replicas=replicas, revisions={1: 0.5, 2: 0.5}) as on:
            assert {name async for name in _runs(on, 20)} == {"old"}
            failed = {load.revision: load.failed for load in on.dispatcher.loads().pools}
            assert failed[1] == 0
            assert failed[2] >= FAILURES

    run(work())


def test_an_adapter_is_answered_by_no_revision_without_it():
    plain = Endpoint(name="m", model="m", engine="emulated")
    tuned = Endpoint(name="m", model="m", engine="emulated", adapters=(("poet", "/poet.gguf"),))

    async def work():
        replicas, scripts = (replica("old"), replica("new", revision=2)), {"old": Script(), "new": Script()}
        both = {"revisions": {1: 0.5, 2: 0.5}, "specs": {1: plain, 2: tuned}}
        async with stage(scripts, tuned, replicas, **both) as on:
            assert {(await on.take(on.ask(model="poet")))[0] for _ in range(10)} == {"new"}
            assert {(await on.take(on.ask()))[0] for _ in range(10)} == {"old", "new"}
            on.replicas(replica("old"), revisions={1: 1.0}, specs={1: plain})  # the change went back
            with pytest.raises(RefusedError, match="no replica has the adapter poet now") as refused:
                await on.take(on.ask(model="poet"))
            assert (refused.value.status, refused.value.code) == (503, "adapter.absent")

    run(work())


def test_those_who_wait_for_a_revision_that_goes_move_on():
    async def work():
        async with stage({"a": Script(slots=1, tokens=1000), "b": Script()}, replicas=(replica("a"),)) as on:
            first = asyncio.ensure_future(on.take(on.ask()))
            await asyncio.sleep(0.01)
            waiting = asyncio.ensure_future(on.take(on.ask()))
            await asyncio.sleep(0.01)
            on.replicas(replica("b", revision=2), revisions={2: 1.0})
            assert (await waiting)[0] == "b"
            assert (await first)[0] == "a"

    run(work())


def test_two_gateways_agree_on_sessions_without_talking():
    async def work():
        spec = Endpoint(name="m", model="m", engine="emulated", routing="session")
        names = [f"chat {n}" for n in range(40)]
        async with stage({name: Script() for name in "abcd"}, spec) as one:
            here = [(await one.take(one.ask(session=name)))[0] for name in names]
        async with stage({name: Script() for name in "dcba"}, spec) as other:
            there = [(await other.take(other.ask(session=name)))[0] for name in reversed(names)]
        assert here == there[::-1]
        assert set(here) == set("abcd")

    run(work())
