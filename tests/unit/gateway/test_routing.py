"""Which replica: prefixes, sessions, predictions."""

import asyncio

import pytest
from tests.unit.gateway.scripted import Script, ScriptedEngine, replica, run, stage

from plenum.gateway.choosing import choose, hits_of, session_number
from plenum.gateway.forecast import Forecast
from plenum.gateway.prefixes import BLOCK_BYTES, PrefixIndex, blocks_of
from plenum.gateway.targets import Target
from plenum.model.endpoint import Endpoint
from plenum.serving import routing


def _targets(count):
    return [Target(replica(f"run-{n}"), ScriptedEngine("", Script()), 0) for n in range(count)]


def test_equal_beginnings_have_equal_blocks_and_tenants_share_none():
    text = "once upon a time " * 100
    long = blocks_of(text + "x" * 600, "a")
    assert blocks_of(text, "a") == long[: len(text) // BLOCK_BYTES]
    assert not set(blocks_of(text, "a")) & set(blocks_of(text, "b"))
    assert len(set(long)) == len(long)


def test_an_index_finds_leading_blocks_only_and_forgets_the_ends_first():
    index = PrefixIndex(remembered=8)
    index.note("a", (1, 2, 3, 4))
    assert index.found("a", (1, 2, 9, 4)) == 2
    assert index.found("b", (1,)) == 0
    index.note("a", (1, 2, 5, 6, 7, 8))
    assert index.found("a", (1, 2, 3, 4)) == 4
    index.note("a", (1, 2, 10))
    assert index.found("a", (1, 2, 3, 4)) == 3
    index.keep(["b"])
    assert index.found("a", (1,)) == 0


def test_an_index_remembers_less_once_a_cache_has_lost_what_it_expected():
    index = PrefixIndex()
    for n in range(2000):
        index.note("a", (n,))
    for _ in range(20):
        index.learn("a", 1000, 0)
        index.note("a", (5000,))
    assert index.found("a", (0,)) == 0
    assert index.found("a", (1999,)) == 1


def test_a_prompt_follows_its_prefix():
    async def work():
        spec = Endpoint(name="m", model="m", routing="prefix-aware")
        async with stage({name: Script() for name in "abcd"}, spec) as on:
            chats = [f"{n} talks about {n} " * 200 for n in range(8)]
            first = [(await on.take(on.ask(prompt=text, prompt_tokens=800)))[0] for text in chats]
            assert len(set(first)) == 4
            for _ in range(3):
                chats = [text + "and so it goes on " * 20 for text in chats]
                again = [(await on.take(on.ask(prompt=text, prompt_tokens=800)))[0] for text in chats]
                assert again == first

    run(work())


def test_another_tenant_finds_nothing_of_it():
    async def work():
        async with stage({"a": Script()}) as on:
            text = "the same words " * 200
            await on.take(on.ask(prompt=text, prompt_tokens=800, tenant="one"))
            group = on.dispatcher._fleet.groups("default/m")[1]
            assert group.index.found("a", blocks_of(text, "one\0")) > 0
            assert group.index.found("a", blocks_of(text, "two\0")) == 0

    run(work())


def test_two_gateways_send_a_session_to_the_same_replica_whatever_order_they_learnt_them_in():
    targets = _targets(5)
    for n in range(200):
        session = session_number("t", f"chat {n}")
        one = targets[choose(routing.SESSION, targets, [0] * 5, Forecast(), 100, session, n)]
        turned = targets[::-1]
        other = turned[choose(routing.SESSION, turned, [0] * 5, Forecast(), 100, session, n + 17)]
        assert one is other
        if one is not targets[2]:  # one that goes takes only its own sessions along
            fewer = targets[:2] + targets[3:]
            assert fewer[choose(routing.SESSION, fewer, [0] * 4, Forecast(), 100, session, 0)] is one
    assert session_number("t", "x") != session_number("u", "x")


def test_hits_are_tokens_of_the_prompt():
    index, targets = PrefixIndex(), _targets(2)
    text = "words " * 1000
    blocks = blocks_of(text, "")
    index.note("run-1", blocks[: len(blocks) // 2])
    nothing, half = hits_of(index, targets, blocks, len(text), 1500)
    assert nothing == 0
    assert half == pytest.approx(750, rel=0.1)
    assert hits_of(index, targets, (), 0, 10) == [0, 0]


def test_predicted_latency_sends_to_the_emptier_queue_or_the_longer_hit():
    targets, forecast = _targets(2), Forecast()
    targets[0].queued_tokens = 5000
    assert choose(routing.PREDICTED_LATENCY, targets, [0, 0], forecast, 1000, -1, 0) == 1
    targets[0].queued_tokens = 0
    assert choose(routing.PREDICTED_LATENCY, targets, [900, 0], forecast, 1000, -1, 1) == 0


@pytest.mark.parametrize("policy", [*routing.POLICIES, "no such policy"])
def test_every_policy_serves_everybody(policy):
    async def work():
        async with stage({"a": Script(), "b": Script()}, Endpoint(name="m", model="m", routing=policy)) as on:
            sending = [on.take(on.ask(prompt="hello " * 100, session=f"s{n % 3}")) for n in range(20)]
            assert {name for name, _ in await asyncio.gather(*sending)} == {"a", "b"}

    run(work())


def test_a_forecast_learns_what_a_prompt_costs():
    forecast = Forecast()
    for n in range(200):
        tokens, queued, running = 100.0 * (n % 17 + 1), 300.0 * (n % 5), float(n % 11)
        forecast.learn_ttft((tokens, 0.0, queued, 0.0, running), 0.5 + 7e-3 * (tokens + queued) + 0.02 * running)
        forecast.learn_tpot(running, 0.03 + 0.002 * running)
    assert forecast.knows_ttft
    assert forecast.ttft_s(2000, 500, 1000, 1, 4) == pytest.approx(0.5 + 7e-3 * 2500 + 0.08, rel=0.05)
    assert forecast.tpot_s(20) == pytest.approx(0.07, rel=0.05)
    assert forecast.ttft_errors.high < 1.2
    assert forecast.places_for(0.0501, 64) == 10
    assert forecast.places_for(1.0, 64) == 64


def test_a_forecast_follows_a_replica_that_becomes_slower():
    forecast = Forecast()
    for n in range(300):
        factor = 1.0 if n < 100 else 3.0
        forecast.learn_ttft((500.0 + n % 7, 0.0, 0.0, 0.0, 0.0), factor)
    assert forecast.ttft_s(500, 0, 0, 0, 0) == pytest.approx(3.0, rel=0.1)
