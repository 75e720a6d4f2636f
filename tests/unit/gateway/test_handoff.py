"""Prompts computed by one replica and decoded by another."""

import asyncio

from tests.unit.gateway.scripted import Script, replica, run, stage

from plenum.gateway.handoff import CROSSING_TOKENS, Link
from plenum.model.endpoint import DECODE, PREFILL, Endpoint, Pool

APART = Endpoint(
    name="m", model="m", engine="emulated", pools=(Pool(name=PREFILL), Pool(name=DECODE)), prefill_threshold_tokens=512
)
REPLICAS = (replica("p", pool=PREFILL), replica("d", pool=DECODE))


def _scripts(**fields):
    return {"p": Script(handoff=True, **fields), "d": Script(handoff=True)}


def test_long_prompts_are_prefilled_apart_and_short_ones_are_not():
    async def work():
        async with stage(_scripts(), APART, REPLICAS) as on:
            await asyncio.sleep(0.1)
            assert (await on.take(on.ask("long", prompt_tokens=512)))[0] == "d"
            assert (await on.take(on.ask("short", prompt_tokens=511)))[0] == "d"
            assert on.engines["p"].prefilled == on.engines["d"].decoded == [b"long"]
            assert on.engines["p"].opened == []
            loads = {load.pool: load for load in on.dispatcher.loads().pools}
            assert (loads["prefill"].arrived, loads["prefill"].finished) == (1, 1)
            assert (loads["decode"].arrived, loads["decode"].finished) == (2, 2)

    run(work())


def test_a_prompt_whose_beginning_is_where_it_is_decoded_stays_there():
    async def work():
        async with stage(_scripts(), APART, REPLICAS) as on:
            await asyncio.sleep(0.1)
            text = "a long story " * 200
            await on.take(on.ask(prompt=text, prompt_tokens=800))
            await on.take(on.ask(prompt=text + "and one more line " * 20, prompt_tokens=900))
            assert len(on.engines["p"].prefilled) == 1

    run(work())


def test_a_prefill_that_fails_or_a_handle_that_is_refused_costs_nobody_an_answer():
    async def work():
        for scripts in (
            _scripts(dead=True),
            {"p": Script(handoff=True), "d": Script(handoff=True, bad_handles=True)},
            {"p": Script(), "d": Script()},  # it cannot
        ):
            async with stage(scripts, APART, REPLICAS) as on:
                await asyncio.sleep(0.1)
                for _ in range(8):
                    name, chunks = await on.take(on.ask(prompt_tokens=2000))
                    assert (name, len(chunks)) == ("d", 10)
                assert on.engines["d"].decoded == []
                loads = {load.pool: load for load in on.dispatcher.loads().pools}
                assert loads["decode"].failed == 0
                assert on.dispatcher._fleet.groups("default/m")[1].targets[0].own == 0

    run(work())


def test_a_prefill_elsewhere_must_be_worth_the_link():
    async def work():
        sites = (replica("p", pool=PREFILL, site="far"), replica("d", pool=DECODE, site="near"))
        async with stage(_scripts(), APART, sites) as on:
            await asyncio.sleep(0.1)
            await on.take(on.ask(prompt_tokens=CROSSING_TOKENS - 1))
            assert on.engines["p"].prefilled == []
            await on.take(on.ask(prompt_tokens=CROSSING_TOKENS))
            assert len(on.engines["p"].prefilled) == 1

    run(work())


def test_the_link_between_sites_is_as_wide_as_the_narrower_uplink():
    async def work():
        sites = (replica("p", pool=PREFILL, site="far"), replica("d", pool=DECODE, site="near"))
        async with stage(_scripts(), APART, sites) as on:
            handoffs = on.dispatcher._handoffs
            handoffs.reach({"far": 8 * 10**6, "near": 10**12})
            await asyncio.sleep(0.1)
            for _ in range(2):
                await on.take(on.ask(prompt_tokens=CROSSING_TOKENS))
            assert handoffs._links["far", "near"]._bps == 1e6

    run(work())


def test_a_busy_link_carries_only_long_prompts():
    at_s = [0.0]
    link = Link(lambda: at_s[0], bps=1e9)
    idle = link.threshold_tokens(512)
    link.carried(int(6e9))
    assert idle == CROSSING_TOKENS
    assert link.threshold_tokens(512) > 10 * idle
    at_s[0] = 60.0
    assert link.threshold_tokens(512) == idle
