"""Scaling by what gateways report: up under load, down after it, to none and back; never to and fro."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.control.cloud import TTL_S
from tests.unit.control.endpoints.city import CHAT, City, chat

from plenum.control import commands as c
from plenum.control.endpoints import events as ep
from plenum.control.endpoints import loads as loads_module
from plenum.control.endpoints.capacity import replica_rps
from plenum.control.endpoints.loads import Loads
from plenum.control.endpoints.scale import scaled
from plenum.control.endpoints.status import status_of
from plenum.control.endpoints.sustained import Sustained
from plenum.model.endpoint import Pool, Promise
from plenum.model.workload import Request
from plenum.ports.gateway import LoadReport, PoolLoad
from plenum.serving.calibration import Calibration, shipped


def sizes(city: City) -> list[tuple[int, int, str]]:
    return [(e.before, e.after, e.why) for e in city.said(ep.EndpointScaled) if isinstance(e, ep.EndpointScaled)]


def test_what_waits_and_runs_calls_for_replicas_and_they_go_again() -> None:
    city = City(2)
    city.apply(chat(1, 6))
    city.run(5)
    city.see(1, arrived=10, waiting=8, running=4)
    city.run(30)
    assert len(city.replicas()) == 4  # 12 at once, 4 slots a replica, 80 % of them in use
    (event,) = city.said(ep.EndpointScaled)
    assert isinstance(event, ep.EndpointScaled)
    assert event.why == "load"
    assert event.signals["waiting"] == 8
    assert event.sentence.startswith("serve: 1 → 4 replicas: 8 requests wait and 4 run on 1 replicas")
    city.see(1, arrived=1, running=1)
    city.run(60)
    assert len(city.replicas()) == 4  # not before the window is over
    city.run(200)
    assert len(city.replicas()) == 1
    assert [after for _, after, _ in sizes(city)][-1] == 1


def test_a_full_cache_calls_for_replicas_too() -> None:
    city = City(2)
    city.apply(chat(1, 6))
    city.run(5)
    city.see(1, arrived=1, running=2, cache_used=1.0)
    city.run(8)
    assert len(city.replicas()) == 2


@pytest.mark.parametrize("engine", ["llamacpp", "vllm"])
def test_constant_load_settles_and_stays(engine: str) -> None:
    city = City(2)
    city.apply(chat(1, 8, engine=engine))
    city.run(5)
    city.see(1, arrived=9, running=13)
    city.run(300)
    settled = len(city.said(ep.EndpointScaled))
    city.run(600)
    assert len(city.said(ep.EndpointScaled)) == settled <= 2


def test_an_idle_endpoint_goes_to_none_and_its_first_request_wakes_it() -> None:
    city = City(2)
    city.apply(chat(0, 4, idle_s=20.0))
    city.run(5)
    assert city.replicas() == []
    assert not city.served().woken
    city.see(0, waiting=1, arrived=1)
    city.run(1)
    assert city.served().woken
    city.run(4)
    assert len(city.replicas()) == 1
    city.see(0)
    city.see(1, running=1)
    city.run(60)
    assert len(city.replicas()) == 1
    city.see(1)
    city.run(60)
    assert city.alive() == []
    assert [why for _, _, why in sizes(city)] == ["woken", "idle"]
    city.see(0, waiting=1, arrived=1)
    city.run(6)
    assert len(city.replicas()) == 1


def test_a_new_leader_wakes_nobody_and_takes_nobody_away() -> None:
    city = City(2)
    city.apply(chat(0, 4, idle_s=20.0))
    city.apply(chat(1, 4, name="other", served_as="other"))
    city.run(5)
    city.store.release("c0")
    city.controller = city.replica("c1")
    city.controller.lead(TTL_S)
    city.gateway.silent = True
    city.run(100)
    assert city.said(ep.EndpointScaled) == []
    assert len(city.alive()) == 1


def test_limits_are_kept_at_once() -> None:
    city = City(2)
    city.apply(chat(1, 2))
    city.run(5)
    city.apply(chat(3, 4))
    city.run(4)
    assert len(city.replicas()) == 3
    assert sizes(city) == [(1, 3, "limits")]


def test_promises_that_are_broken_call_for_more_even_where_nothing_waits() -> None:
    city = City(2)
    city.apply(chat(2, 6, promise=Promise(ttft_s=0.5), slots=64))
    city.run(5)
    city.see(1, arrived=5, running=4, finished=5, ttft_s=(0.9,) * 5)
    city.run(20)
    assert sizes(city)[0] == (2, 3, "late")


def test_an_expected_burst_is_met_before_it_comes() -> None:
    city = City(2)
    city.apply(chat(1, 8))
    city.run(5)
    city.see(1, arrived=3, running=3)
    city.run(10)
    city.controller.loads.forecast_rps[CHAT] = 12.0
    city.run(10)
    assert sizes(city)[-1][1:] == (4, "forecast")


def test_the_performance_model_says_what_a_replica_can_do_where_it_knows_both() -> None:
    spec = chat(model="Llama-3.1-8B", engine="vllm", promise=Promise(ttft_s=1.0, tpot_s=0.05))
    rps = replica_rps(spec, spec.pools[0], "H100-80GB-HBM3", 1000.0, 200.0)
    assert 1.0 < rps < 200.0
    assert replica_rps(spec, spec.pools[0], "H100-80GB-HBM3", 4000.0, 200.0) < rps
    assert replica_rps(replace(spec, promise=Promise()), spec.pools[0], "H100-80GB-HBM3", 1000.0, 200.0) == 0
    assert replica_rps(replace(spec, model="smollm2"), spec.pools[0], "Abacus", 1000.0, 200.0) == 0
    prefill = replica_rps(spec, Pool(name="prefill"), "H100", 1000.0, 200.0)
    decode = replica_rps(spec, Pool(name="decode"), "H100", 1000.0, 200.0)
    assert min(prefill, decode) > rps
    slow = Calibration(efficiencies={"": replace(shipped().efficiencies[""], step_s=0.03)})
    assert 0 < replica_rps(spec, spec.pools[0], "H100-80GB-HBM3", 1000.0, 200.0, slow) < rps


def apart(low: int, high: int, gpus: int = 2) -> tuple[Pool, Pool]:
    request = Request(gpus=gpus)
    return (
        Pool(name="prefill", min_replicas=low, max_replicas=high, request=request),
        Pool(name="decode", min_replicas=low, max_replicas=high, request=request),
    )


def test_prefill_and_decode_share_the_gpus_that_there_are() -> None:
    city = City(2)
    city.execute(c.apply_tenant("red", {"gpu_milli": 12_000}))
    city.apply(replace(chat(), pools=apart(1, 6)))
    city.run(5)
    city.see(1, "prefill", arrived=4, waiting=6, running=6)
    city.see(1, "decode", arrived=4, running=6)
    city.run(40)
    pools = [r.pool for r in city.replicas()]
    assert (pools.count("prefill"), pools.count("decode")) == (4, 2)
    assert all(e.after <= 4 for e in city.said(ep.EndpointScaled) if isinstance(e, ep.EndpointScaled))


def test_pools_share_a_budget_by_need_and_the_endpoint_says_so() -> None:
    city = City(2)
    city.apply(replace(chat(), pools=apart(1, 8), budget_gpus=12))
    city.run(5)
    city.see(1, "prefill", arrived=9, running=1)
    city.see(1, "decode", arrived=9, waiting=40)
    city.run(30)
    assert city.endpoint().wanted == {"prefill": 1, "decode": 5}
    assert "prefill and decode share 12 GPUs" in city.endpoint().message
    status = status_of(city.state, city.endpoint())
    assert status.limits == ("prefill and decode have 12 of the 12 GPUs that they may have together (gpuBudget)",)
    city.see(1, "prefill", arrived=9, waiting=40)
    city.see(1, "decode", arrived=9, running=1)
    for _ in range(300):
        city.run(1)
        assert sum(city.endpoint().wanted.values()) <= 6
    assert city.endpoint().wanted == {"prefill": 5, "decode": 1}
    city.apply(replace(chat(), pools=apart(1, 8), budget_gpus=6))
    city.run(1)
    assert city.endpoint().wanted == {"prefill": 2, "decode": 1}
    assert len(city.said(ep.RevisionStarted)) == 1


def test_a_budget_for_smaller_replicas_to_come_leaves_those_that_serve_until_then_at_their_least() -> None:
    city = City(2)
    city.apply(replace(chat(), pools=apart(1, 2, gpus=4), budget_gpus=8))
    city.run(5)
    city.apply(replace(chat(), pools=apart(1, 2, gpus=1), budget_gpus=2))
    assert list(scaled(city.state, city.endpoint(), city.controller.loads)) == []
    city.run(40)
    assert [r.revision for r in city.replicas()] == [2, 2]
    assert city.said(ep.EndpointScaled) == []


def test_both_pools_sleep_and_wake_together() -> None:
    city = City(2)
    city.apply(replace(chat(idle_s=20.0), pools=apart(0, 2)))
    city.run(5)
    assert city.replicas() == []
    city.see(0, "prefill", waiting=1, arrived=1)
    city.run(6)
    assert sorted(r.pool for r in city.replicas()) == ["decode", "prefill"]
    city.see(0, "prefill")
    city.run(80)
    assert city.alive() == []


def test_what_arrived_is_kept_for_forecasts_in_bins() -> None:
    loads = Loads()
    for second in range(0, 1500, 5):
        for gateway in ("g", "h"):
            pool = PoolLoad(endpoint=CHAT, revision=1, pool="serve", arrived=0 if 300 <= second < 600 else 5)
            loads.take(LoadReport(gateway=gateway, seconds=5.0, table=0, pools=(pool,)), float(second))
    assert loads.rates(CHAT) == [2.0, 0.0, 2.0, 2.0]
    assert loads.rates("red/none") == []


def test_gateways_that_fell_silent_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads_module, "MAX_GATEWAYS", 2)
    loads = Loads()
    for n in range(5):
        pool = PoolLoad(endpoint=CHAT, revision=1, pool="serve", waiting=n)
        loads.take(LoadReport(gateway=f"g{n}", seconds=1.0, table=1, pools=(pool,)), 100.0 * n)
    assert loads.now(CHAT, "serve").waiting == 4


def test_what_was_seen_of_revisions_that_are_gone_is_forgotten() -> None:
    loads = Loads()
    pools = tuple(PoolLoad(endpoint=CHAT, revision=n, pool="serve", finished=1) for n in (1, 2))
    loads.take(LoadReport(gateway="g", seconds=1.0, table=1, pools=pools), 1.0)
    loads.keep({CHAT: (2,)})
    assert [loads.tally(CHAT, n, "serve").finished for n in (1, 2)] == [0, 1]


def test_what_replicas_were_seen_to_bear_counts_where_no_model_knows_and_the_decision_says_so() -> None:
    city, promised = City(2), Promise(ttft_s=0.5)
    city.apply(chat(0, 1, promise=promised, slots=64))
    city.see(0, arrived=1, waiting=1)
    city.run(6)
    city.see(0)
    for most, seconds in ((1, 0.9), (2, 0.1)):  # 4 requests a second are too many for one replica, and not for two
        city.see(1, arrived=4, finished=4, running=2, ttft_s=(0.9,) * 4)
        city.apply(chat(0, most, promise=promised, slots=64))
        city.run(12)
        city.see(1, arrived=4, finished=4, running=2, ttft_s=(seconds,) * 4)
        city.run(140)
        assert len(city.replicas()) == most
    city.apply(chat(0, 8, promise=promised, slots=64))
    city.see(1, arrived=12, finished=4, running=2, ttft_s=(0.1,) * 4)
    city.run(40)
    event = city.said(ep.EndpointScaled)[-1]
    assert isinstance(event, ep.EndpointScaled)
    assert (event.why, event.source) == ("promise", "measured")
    assert event.sentence.endswith("within the promise, as measured")
    assert 2.0 <= event.signals["replica_rps"] <= 3.3


def test_what_was_measured_moves_what_the_model_says_by_a_factor_of_two_at_most() -> None:
    def seen(*windows: tuple[float, bool], model_rps: float = 1.0) -> Sustained:
        it = Sustained(basis=None)
        for i, (rps, late) in enumerate(windows):
            it.note(float(i), rps, model_rps, late=late)
        return it

    assert seen().bears(0.0, 3.0) == (3.0, "model")
    assert seen().bears(0.0, 0.0) == (0.0, "")
    assert seen(*[(0.9, False)] * 9).bears(0.0, 3.0) == (3.0, "model"), "that little was borne contradicts nobody"
    assert seen(*[(0.9, False)] * 9).bears(0.0, 0.0) == (0.0, ""), "and says nothing of how much can be"
    assert seen(*[(1.4, False)] * 9).bears(0.0, 3.0) == (pytest.approx(4.2), "measured")
    assert seen(*[(7.0, False)] * 9).bears(0.0, 3.0) == (6.0, "measured")
    assert seen(*[(0.7, True)] * 9).bears(0.0, 3.0) == (pytest.approx(2.1), "measured")
    assert seen(*[(0.1, True)] * 9).bears(0.0, 3.0) == (1.5, "measured")
    assert seen(*[(0.2, True)] * 3, *[(0.9, False)] * 9).bears(0.0, 3.0) == (3.0, "model"), "three late by accident"
    assert seen(*[(2.0, True)] * 9, *[(1.8, False)] * 9).bears(0.0, 0.0) == (1.8, "measured")
    assert seen(*[(2.0, True)] * 9).bears(9_999.0, 3.0) == (3.0, "model"), "long ago"
