"""The planner: what it recommends, within what it is given, and why it recommends nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.planning.serving_cases import predict, question

from plenum.planning.serving.confirm import MAX_FINALISTS, MAX_ROUNDS, REPLAYS
from plenum.planning.serving.layout import Layout, PoolChoice, compiled
from plenum.planning.serving.limits import Limit
from plenum.planning.serving.options import options_of, spreads_of
from plenum.planning.serving.plan import ServingPlan, plan_serving
from plenum.planning.serving.question import Question, steady_traffic
from plenum.planning.serving.search import Search, chunks_of, search
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.instance import Parallelism, weight_bytes_per_device
from plenum.serving.pools import Serving
from plenum.serving.queueing import TPOT_TAIL, TTFT_TAIL
from plenum.serving.report import Latencies, ServingReport
from plenum.serving.roofline import REMOTE_LATENCY, compile_steps
from plenum.serving.steps import AT


def planned(asked: Question) -> ServingPlan:
    answer = plan_serving(asked, predict)
    assert isinstance(answer, ServingPlan), answer
    return answer


def refused(asked: Question) -> Limit:
    answer = plan_serving(asked, predict)
    assert isinstance(answer, Limit)
    return answer


# -- what it recommends --------------------------------------------------------------------------------------------------


def test_a_plan_keeps_its_promises_within_the_stock() -> None:
    plan = planned(question())
    best = plan.recommended
    assert best.meets
    assert best.ttft_s.typical <= 1.0
    assert best.tpot_s.typical <= 0.04
    assert best.devices <= 32
    assert best.ttft_s.low < best.ttft_s.typical < best.ttft_s.high
    assert plan.capacity_rps.low <= plan.capacity_rps.typical <= plan.capacity_rps.high
    assert len(plan.reasons) >= 3
    assert [step.name for step in plan.steps] == ["measure", "model", "verify", "correct"]


def test_no_other_split_of_the_same_options_bears_more() -> None:
    """Every aggregated pool and every split of 16 devices between two pools, tried one by one."""
    asked = question("H200:16")
    options = options_of(asked, asked.stocks[0], predict)
    state = Search(question=asked, options=options)
    most = 0.0
    for option in options:
        for chunk in chunks_of(option, "both"):
            pool = PoolChoice(option=option, count=16 // option.devices, chunk=chunk)
            most = max(most, state.capacity(Layout(pools=(pool,))))
    for first in options:
        for then in options:
            for prefills in range(1, 16 // first.devices):
                decodes = (16 - prefills * first.devices) // then.devices
                if decodes < 1:
                    continue
                for chunk in chunks_of(first, "prefill"):
                    pools = (
                        PoolChoice(option=first, count=prefills, role="prefill", chunk=chunk),
                        PoolChoice(option=then, count=decodes, role="decode", chunk=2048),
                    )
                    most = max(most, state.capacity(Layout(pools=pools)))
    assert search(asked, options)[1][0].capacity_rps == pytest.approx(most, rel=0.01)


def test_one_instance_less_would_not_bear_the_rate() -> None:
    asked = question("H200", rps=20.0)
    options = options_of(asked, asked.stocks[0], predict)
    state, found = search(asked, options)
    layout = found[0].layout
    assert state.keeps(found[0].figures)
    for index, pool in enumerate(layout.pools):
        if pool.count > 1:
            pools = tuple(replace(p, count=p.count - (i == index)) for i, p in enumerate(layout.pools))
            assert not state.keeps(state.figures(Layout(pools=pools), 20.0))


def test_a_budget_is_kept() -> None:
    plan = planned(question("H200:32", usd_per_hour=60.0))
    assert plan.recommended.usd_per_hour <= 60.0
    assert plan.recommended.rate_rps < planned(question("H200:32")).recommended.rate_rps


def test_hardware_is_mixed_where_neither_kind_is_enough() -> None:
    alone = max(planned(question(kind)).recommended.rate_rps for kind in ("H200:8", "H100:16"))
    plan = planned(question("H200:8,H100:16", rps=alone * 1.15))
    assert plan.recommended.layout.mixed
    assert plan.recommended.layout.devices_of("H200") <= 8
    assert plan.recommended.layout.devices_of("H100") <= 16


@pytest.mark.parametrize("apart", [True, False])
def test_the_mode_can_be_given(apart: bool) -> None:
    assert planned(question(disaggregated=apart)).recommended.layout.disaggregated == apart


def test_pipelines_are_used_where_nothing_else_holds_the_model() -> None:
    plan = planned(question("H100:16", model="Llama-3.1-405B", weights=("bf16",), ttft_s=10.0, tpot_s=0.5))
    assert {pool.option.instance.parallelism.pp for pool in plan.recommended.layout.pools} == {2}
    assert all(pool.option.instance.parallelism.pp == 1 for pool in planned(question()).recommended.layout.pools)


def test_more_load_costs_latency_and_what_helps_is_ordered() -> None:
    asked = question()
    plan = planned(asked)
    state = Search(question=asked, options=[])
    totals = [
        state.figures(plan.recommended.layout, plan.recommended.rate_rps * part).total for part in (0.2, 0.6, 1.0)
    ]
    for field in (TTFT_TAIL, TPOT_TAIL):
        tails = [total[field] for total in totals]
        assert np.all(np.diff(tails) >= 0)  # many servers: at first fewer than one prompt in a hundred waits at all
        assert tails[-1] > tails[0]
    gains = [driver.gain for driver in plan.drivers]
    assert gains
    assert gains == sorted(gains, reverse=True)
    beyond = state.figures(plan.recommended.layout, 1.03 * plan.capacity_rps.typical)
    assert beyond.fits
    broken = {
        code
        for code, over in (("ttft", beyond.total[TTFT_TAIL] > 1.0), ("tpot", beyond.total[TPOT_TAIL] > 0.04))
        if over
    }
    assert broken == {plan.breaks.code}
    assert plan.breaks.rate_rps == plan.capacity_rps.typical


def test_links_bear_what_the_smaller_side_bears_together() -> None:
    """Four prefill instances of 4 devices send no more caches a second than two decode instances of 8 take, and the reverse."""
    asked = question("H200:64")
    by_devices = {option.devices: option for option in options_of(asked, asked.stocks[0], predict)}

    def rate(prefills: int, width: int, decodes: int, then: int) -> float:
        pools = (
            PoolChoice(option=by_devices[width], count=prefills, role="prefill", chunk=8192),
            PoolChoice(option=by_devices[then], count=decodes, role="decode", chunk=2048),
        )
        return compiled(Layout(pools=pools), 4000).transfer_rate

    size = asked.model.cache_values(4000) * 2
    sixteen = 0.8 * 0.8 * 16 * by_devices[8].hardware.scaleout_bps / size
    assert rate(4, 4, 2, 8) == pytest.approx(sixteen)
    assert rate(8, 2, 6, 8) == pytest.approx(sixteen)
    assert rate(6, 8, 4, 4) == pytest.approx(sixteen)


def test_the_same_question_has_the_same_answer() -> None:
    first, second = planned(question()), planned(question())
    assert first.reasons == second.reasons
    assert first.drivers == second.drivers
    assert [p.rate_rps for p in first.frontier] == [p.rate_rps for p in second.frontier]


def test_short_sequences_fill_what_windows_have_not() -> None:
    """Gemma-3-27B sees 1,024 tokens in 52 of 62 layers, and all of 750: 62 x 16 x 2 x 128 x 2 bytes = 508 kB a token."""
    asked = question("H100:2", model="gemma-3-27b", weights=("bf16",), isl=500, osl=500, ttft_s=5.0, tpot_s=0.2)
    (option,) = [o for o in options_of(asked, asked.stocks[0], predict) if o.devices == 1]
    free = 0.9 * option.hardware.hbm_bytes - 2e9 - weight_bytes_per_device(option.instance)
    assert option.cache_tokens == pytest.approx(free / 507_904, rel=1e-3)
    for pool in planned(asked).recommended.layout.pools:
        slots = pool.option.instance.settings.max_sequences
        assert slots * 500 <= 1.3 * pool.option.cache_tokens


def test_one_attention_group_holds_a_sequence_not_all_of_them() -> None:
    """DeepSeek-V3 on eight H200, attention on one device each: 112,000 tokens of the 150,000 asked for are one device's share."""
    asked = question("H200:8", model="DeepSeek-V3", weights=("fp8",), isl=150_000, osl=1000, ttft_s=600.0, tpot_s=1.0)
    asked = replace(asked, model=replace(asked.model, max_context=10**6), traffic=steady_traffic(0.0, 600_000, 1000))
    groups = {option.instance.parallelism.dp for option in options_of(asked, asked.stocks[0], predict)}
    assert 8 not in groups
    assert 1 in groups


def test_stages_are_tried_where_there_is_hardly_room_for_requests() -> None:
    """Kimi-K2 in 8 bits takes 128 of the 134 GB that an engine has of each of eight H200: two stages hold far more requests."""
    asked = question("H200:32", model="Kimi-K2", weights=("fp8",), isl=8000, ttft_s=5.0, tpot_s=0.1)
    stages = {option.instance.parallelism.pp for option in options_of(asked, asked.stocks[0], predict)}
    assert stages >= {1, 2}
    assert planned(asked).recommended.rate_rps > 8.0


def test_prompts_take_power_too() -> None:
    """Answers of one token: all work is prefill, and a device that computes nearly all the time draws nearly all it may."""
    plan = planned(question("H100:8", model="Llama-3.1-8B", isl=8000, osl=1, disaggregated=False))
    assert plan.recommended.watts > 0.6 * 8 * 700
    assert plan.recommended.watts <= 1.04 * 8 * 700


def test_slower_iterations_than_predicted_bear_less_even_where_memory_binds() -> None:
    """One H100 holds a few requests of Llama-3.1-70B beside its weights: the longer each stays the fewer come by."""
    plan = planned(question("H100:1", isl=1000, osl=200, ttft_s=5.0, tpot_s=0.2))
    low, typical, high = plan.capacity_rps
    assert plan.breaks.code == "cache"
    assert low / typical == pytest.approx(0.8, abs=0.08)
    assert high / typical == pytest.approx(1.25, abs=0.1)


def spreads(hardware: str, model: str) -> list[tuple[int, int, int]]:
    asked = question(hardware, model=model)
    return [(s.tp, s.dp, s.ep) for s in spreads_of(asked.model, asked.stocks[0]) if s.pp == 1]


def test_experts_are_dealt_out_over_servers_but_tensors_are_not() -> None:
    """DeepSeek-V3's 256 experts over 16 and 32 H100; every other spread stays within the eight of a server."""
    found = spreads("H100:64", "DeepSeek-V3")
    assert {(1, 16, 16), (1, 32, 32), (1, 64, 64), (8, 2, 16)} <= set(found)
    assert all(ep == tp * dp for tp, dp, ep in found if tp * dp > 8)
    assert not any(tp > 8 for tp, _, _ in found)
    assert all(tp * dp <= 8 for tp, dp, _ in spreads("H100:64", "Llama-3.1-70B"))


def test_what_experts_elsewhere_are_sent_is_paid_at_the_networks_speed() -> None:
    """Of eight experts dealt out over sixteen H100, a token is sent to the other server once and on from there; eight have no other.

    A device holds some of its experts with a chance of 1 - (1 - 1/16)^8, another server with 1 - (1 - 1/2)^8; links carry 450 and 50 GB/s.
    """
    asked = question("H100:16", model="DeepSeek-V3")
    (option,) = [o for o in options_of(asked, asked.stocks[0], predict) if o.instance.parallelism.dp == 16]
    inside = replace(option.instance, parallelism=Parallelism(dp=8, ep=8))
    outside_s, inside_s = (compile_steps(i).coefficients[AT["collective_token_s"]] for i in (option.instance, inside))
    far = 1 - 0.5**8
    sixteen, eight = ((15 * (1 - (15 / 16) ** 8) - far) / 450 + far / 50) / 16, 7 * (1 - (7 / 8) ** 8) / 450 / 8
    assert outside_s / inside_s == pytest.approx(sixteen / eight)
    latency = [compile_steps(i).coefficients[AT["collective_s"]] for i in (option.instance, inside)]
    assert latency[0] == pytest.approx(REMOTE_LATENCY * latency[1])


def test_domains_of_72_are_used_by_their_divisors() -> None:
    """DeepSeek-V3's 256 experts divide by 64 and not by 72, and the plan says so; 288 divide by 9, 36 and 72."""
    found = spreads("GB200:72", "DeepSeek-V3")
    assert (1, 64, 64) in found
    assert not any(ep % 9 == 0 and ep for _, _, ep in found)
    sentence = "No instance takes all 72 GB200 of a scale-up domain: 256 experts do not divide by 72."
    assert sentence in planned(question("GB200:72", model="DeepSeek-V3", tpot_s=0.05)).reasons
    asked = question("GB200:72", model="DeepSeek-V3")
    blocks = tuple(
        replace(b, feed_forward=replace(b.feed_forward, experts=288)) if b.feed_forward.experts else b
        for b in asked.model.blocks
    )
    model = replace(asked.model, blocks=blocks)
    widths = {spread.ep for spread in spreads_of(model, asked.stocks[0])}
    assert widths >= {9, 36, 72}


def test_a_plan_says_what_rests_on_the_network() -> None:
    """671 GB of experts leave two servers of H100 no room but together."""
    plan = planned(question("H100:32", model="DeepSeek-V3", tpot_s=0.05, ttft_s=2.0))
    assert any(pool.option.instance.parallelism.ep > 8 for pool in plan.recommended.layout.pools)
    assert any("scale-up domains" in sentence and "50 GB/s" in sentence for sentence in plan.reasons)


# -- the simulator's word --------------------------------------------------------------------------------------------------


def report(ttft_s: float, tpot_s: float) -> ServingReport:
    def same(value: float) -> Latencies:
        return Latencies(mean=value, p50=value, p90=value, p95=value, p99=value)

    return ServingReport(
        requests=10, finished=10, refused=0, preemptions=0, duration_s=1.0, ttft_s=same(ttft_s), tpot_s=same(tpot_s),
        itl_s=same(tpot_s), e2e_s=same(1.0), queue_s=same(0.0), goodput_rps=1.0, slo_attained=1.0, prompt_tokens=1,
        output_tokens=1, cached_tokens=0, busy_prefill=0.5, busy_decode=0.5, cache_used_mean=0.1, cache_used_max=0.2,
        energy_j=1.0, device_s=1.0, usd=1.0, usd_per_million_tokens=1.0,
    )  # fmt: skip


class StricterSimulator:
    """Says that every device bears so many requests a second less than the analytic model thinks."""

    def __init__(self, rps_per_device: float) -> None:
        self.rps_per_device = rps_per_device
        self.runs = 0

    def __call__(self, serving: Serving, rate_rps: float) -> ServingReport:
        self.runs += 1
        devices = sum(pool.count * pool.instance.devices for pool in serving.pools)
        return report(0.5, 0.04 * rate_rps / (self.rps_per_device * devices))


def test_a_plan_is_loaded_less_where_simulation_breaks_a_promise() -> None:
    hoped = planned(question()).recommended.rate_rps
    strict = StricterSimulator(0.75 * hoped / 32)
    plan = plan_serving(question(), predict, strict)
    assert isinstance(plan, ServingPlan)
    assert plan.verified
    assert 0.6 * hoped < plan.recommended.rate_rps <= 0.75 * hoped
    assert [replay.keeps for replay in plan.replays] == [True, False]
    assert strict.runs <= MAX_FINALISTS * MAX_ROUNDS + len(REPLAYS)


def test_a_rate_gets_more_instances_where_simulation_breaks_a_promise() -> None:
    asked = question("H200", rps=20.0)
    hoped = planned(asked).recommended
    plan = plan_serving(asked, predict, StricterSimulator(20.0 / hoped.devices * 0.95))
    assert isinstance(plan, ServingPlan)
    assert plan.verified
    assert plan.recommended.devices > hoped.devices
    assert any("broke a promise in simulation" in sentence for sentence in plan.reasons)


def test_a_plan_that_no_run_confirms_is_none() -> None:
    answer = plan_serving(question(), predict, StricterSimulator(1e-6))
    assert isinstance(answer, Limit)
    assert answer.code == "serving.unconfirmed"


# -- what cannot be ------------------------------------------------------------------------------------------------------


TOO_MUCH = ("serving.memory", "serving.cache", "serving.context", "serving.stock", "serving.instances")
"""Asked for more than there is; of times and budgets less is asked than there must be."""


CHEAPEST_USD = accelerator_named("H200").usd_per_hour


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (question("L40S:1", weights=("fp16",)), "serving.memory", "141.1 GB"),
        (question("L40S:2", weights=("fp8",), isl=100_000), "serving.cache", "KV cache"),
        (question(isl=140_000), "serving.context", "131,072"),
        (question("A100:2", weights=("fp32",)), "serving.memory", "fp32"),
        (question(ttft_s=0.02), "serving.ttft-floor", "physical floor"),
        (question(tpot_s=0.001), "serving.tpot-floor", "physical floor"),
        (question(ttft_s=0.08), "serving.ttft", "request alone"),
        (question(tpot_s=0.004), "serving.tpot", "request alone"),
        (question(rps=500.0), "serving.stock", "500 were asked"),
        (question("L40S:1", model="gpt-oss-120b", weights=("bf16",)), "serving.memory", "takes 65.2 GB of weights"),
        (question("H200", rps=20.0, usd_per_hour=20.0), "serving.budget", "$20.00"),
        (question("H200:8", usd_per_hour=1.0), "serving.budget", f"${CHEAPEST_USD:.2f} an hour"),
        (question("H200", rps=1e6), "serving.instances", "4,096 instances"),
        (question("H200:8", osl=1, disaggregated=True), "serving.apart", "comes out of its prefill"),
    ],
)
def test_the_impossible_is_answered_with_the_limit_that_binds(asked: Question, code: str, words: str) -> None:
    limit = refused(asked)
    assert limit.code == code
    assert words in limit.sentence
    assert limit.helps
    if code in TOO_MUCH:
        assert limit.asked > limit.bound > 0
    else:
        assert 0 < limit.asked < limit.bound


def test_apart_takes_two_instances() -> None:
    limit = refused(question("H200:1", disaggregated=True))
    assert (limit.code, limit.asked, limit.bound) == ("serving.apart", 2, 1)


def test_short_answers_have_places_for_the_prompts_that_are_computed_at_once() -> None:
    """Else an engine would take eight prompts an iteration where hundreds come, and the plan bear a part of what is meant."""
    plan = planned(question("H200:1", isl=100, osl=1))
    settings = plan.recommended.layout.pools[0].option.instance.settings
    assert settings.max_sequences > plan.recommended.rate_rps * plan.recommended.ttft_mean_s > 8


def test_what_helps_would_help() -> None:
    limit = refused(question("L40S:1", weights=("fp16",)))
    assert limit.helps[0].startswith("4 L40S hold it")
    assert not isinstance(plan_serving(question("L40S:4", weights=("fp16",), ttft_s=20, tpot_s=1), predict), Limit)


def test_a_floor_is_the_arithmetic_over_the_peak() -> None:
    """Llama-3.1-70B on eight H200: 2 x 68.5e9 FLOPs a token at 1,979 TFLOP/s, and 80 layers x 64 heads x 2 x 2 x 128 a pair at 989."""
    limit = refused(question(ttft_s=0.02))
    matrices, attention = 2 * 68.5e9 * 4000 / 1979e12, 80 * 64 * 4 * 128 * 4000**2 / 2 / 989e12
    assert limit.bound == pytest.approx((matrices + attention) / 8, rel=0.01)
