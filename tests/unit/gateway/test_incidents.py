"""What did not go the plain way is counted."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from tests.unit.gateway.scripted import Script, replica, run, stage

from plenum.gateway import incidents
from plenum.gateway.breakers import FAILURES
from plenum.gateway.incidents import HANDED, HEDGED, RETRIED, SHUT_OFF, Incidents
from plenum.model.endpoint import DECODE, PREFILL, Endpoint, Pool

APART = Endpoint(
    name="m", model="m", engine="emulated", pools=(Pool(name=PREFILL), Pool(name=DECODE)), prefill_threshold_tokens=512
)
REPLICAS = (replica("p", pool=PREFILL), replica("d", pool=DECODE))


def test_retries_and_replicas_that_are_shut_off():
    async def work():
        async with stage({"a": Script(dead=True), "b": Script()}) as on:
            for _ in range(4 * FAILURES):
                await on.take(on.ask())
            noted = on.dispatcher.incidents
            failed = on.dispatcher.loads().pools[0].failed
            assert noted.count(RETRIED) == failed >= FAILURES
            # Once it was shut off, each trial that fails shuts it off again.
            assert noted.count(SHUT_OFF, incidents.FAILURES) == failed - FAILURES + 1

    run(work())


def test_second_requests():
    async def work():
        slow, quick = Script(), Script()
        async with stage({"a": slow, "b": quick}) as on:
            for _ in range(60):
                await on.take(on.ask())
            slow.first_s = 60.0
            for _ in range(2):
                await on.take(on.ask())
            opened = [*on.engines["a"].opened, *on.engines["b"].opened]
            assert on.dispatcher.incidents.count(HEDGED) == len(opened) - len({*opened}) > 0

    run(work())


@pytest.mark.parametrize(
    ("prefill", "decode", "outcome"),
    [
        ({}, {}, incidents.DONE),
        ({"dead": True}, {}, incidents.PREFILL_FAILED),
        ({}, {"bad_handles": True}, incidents.HANDLE_REFUSED),
        ({"handoff": False}, {}, incidents.NO_ROOM),
    ],
)
def test_hand_offs_and_why_they_fell_back(prefill, decode, outcome):
    async def work():
        scripts = {"p": Script(**{"handoff": True} | prefill), "d": Script(handoff=True, **decode)}
        async with stage(scripts, APART, REPLICAS) as on:
            await asyncio.sleep(0.1)
            await on.take(on.ask(prompt_tokens=2000))
            await on.take(on.ask(prompt_tokens=10))
            assert on.dispatcher.incidents.count(HANDED, outcome) == 1
            others = {"done", "prefill-failed", "handle-refused", "no-room"} - {outcome}
            assert not any(on.dispatcher.incidents.count(HANDED, other) for other in others)

    run(work())


def test_prometheus_gets_them():
    registry, noted = CollectorRegistry(auto_describe=True), Incidents()
    registry.register(noted)
    noted.note(HANDED, "default/m", incidents.DONE)
    noted.note(RETRIED, "default/m")
    noted.note(RETRIED, "default/m")

    text = generate_latest(registry).decode()

    assert 'plenum_gateway_handoffs_total{endpoint="default/m",outcome="done"} 1.0' in text
    assert 'plenum_gateway_retries_total{endpoint="default/m"} 2.0' in text
    assert "# TYPE plenum_gateway_hedges_total counter" in text
