"""Where simulators go wrong: whoever is cut off, drained, put off, preempted or overtaken, and what that must not cost or give away."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.property.serving_books import check, world_of
from tests.serving_samples import pool_of, serving_of, steps_of
from tests.unit.sim.serving.test_simulate import ENGINE, SECOND, apart, asked, reasons, run, with_ids

from plenum.serving.instance import EngineSettings
from plenum.serving.workload import Slo
from plenum.sim.serving import Admission, Failure, Policies, Scaling, Simulation, simulate
from plenum.sim.serving import fields as f

ONE = EngineSettings(block_tokens=4, max_sequences=1, max_batched_tokens=64)


def finished_world(simulation: Simulation, every: int = 3):
    while not simulation.advance(every):
        check(world_of(simulation))
    return world_of(simulation)


def test_prefill_instances_hand_over_to_those_that_do_both():
    serving = serving_of(
        pool_of(ENGINE, SECOND, 1, role="prefill", cache_tokens=400), pool_of(ENGINE, SECOND, 1, cache_tokens=400)
    )
    rows = asked((0.0, 20, 3), (0.0, 20, 3), (0.0, 20, 3))
    failures = (Failure(at_s=0.5, instance=1), Failure(at_s=9.0, instance=1, up=True))
    for policies in (Policies(), Policies(failures=failures)):
        assert simulate(rows, serving, policies, seed=0).output_tokens.tolist() == [3, 3, 3]


def test_a_preempted_prompt_is_not_booked():
    """In the iteration in which it would have gone on, a higher class takes its place."""
    small = EngineSettings(block_tokens=4, max_sequences=1, max_batched_tokens=16)
    rows = asked((0.0, 24, 1), (0.5, 8, 1), priority=np.array([0, 1], np.int8))
    outcome = run(rows, Policies(preempt_lower=True), engine=small)
    assert outcome.finish_s.tolist() == [4.0, 2.0]
    assert outcome.instances.prefill_tokens.tolist() == [16 + 8 + 24]


def test_a_long_prompt_of_a_lower_class_holds_nobody_up_who_may_take_its_place():
    small = EngineSettings(block_tokens=4, max_sequences=4, max_batched_tokens=16)
    rows = asked((0.0, 160, 1), (0.5, 8, 1), priority=np.array([0, 1], np.int8))
    assert run(rows, engine=small).finish_s.tolist() == [10.0, 11.0]
    assert run(rows, Policies(preempt_lower=True), engine=small).finish_s.tolist() == [11.0, 2.0]


def test_nobody_is_preempted_in_vain():
    """The high class needs more blocks than the low one would leave."""
    rows = asked((0.0, 200, 9), (0.0, 40, 9), (0.5, 220, 2), priority=np.array([1, 0, 1], np.int8))
    engine = EngineSettings(block_tokens=4, max_batched_tokens=512)
    assert run(rows, Policies(preempt_lower=True), engine=engine).preemptions.tolist() == [0, 0, 0]


def test_a_higher_class_in_the_central_queue_comes_before_whoever_was_preempted():
    rows = asked((0.0, 12, 20), (0.0, 12, 20), (8.0, 8, 3), priority=np.array([1, 0, 1], np.int8))
    outcome = run(rows, Policies(central_queue=True), cache_tokens=44)
    assert outcome.preemptions.tolist() == [0, 1, 0]
    assert outcome.queue_s[2] < 4.0


def bursts(*from_s: float) -> list[tuple[float, int, int]]:
    return [(at + 0.01 * k, 8, 4) for at in from_s for k in range(8)]


def test_a_start_that_was_called_off_does_not_make_the_next_one_shorter():
    """Started at 5 s, given up at 15 s and started again at 25 s: up at 85 s, not when the first start would have been over."""
    scaling = Scaling(every_s=5.0, initial=1, cold_start_s=60.0, target_running=2.0, window_s=0.0)
    steady = [(24.0 + 0.25 * k, 8, 4) for k in range(360)]
    outcome = run(asked(*bursts(4.0), *steady), Policies(scaling=scaling), count=4)
    elsewhere = outcome.ready_s[outcome.instance != 0]
    assert len(elsewhere)
    assert elsewhere.min() >= 85.0


def test_pools_without_instances_do_not_shift_the_limits_of_others():
    serving = serving_of(pool_of(ENGINE, SECOND, 0), pool_of(ENGINE, SECOND, 3, cache_tokens=400))
    scaling = Scaling(every_s=1.0, initial=1, cold_start_s=1.0, target_running=1.0)
    outcome = simulate(asked(*bursts(0.0)), serving, Policies(scaling=scaling), seed=0)
    assert outcome.finished.all()
    assert (outcome.instances.on_s > 0).sum() == 3


def test_the_run_ends_with_its_last_request():
    failures = (Failure(at_s=5.0, instance=1), Failure(at_s=9_000.0, instance=1, up=True))
    outcome = run(asked((0.0, 10, 8)), Policies(failures=failures), count=2)
    assert outcome.end_s == 8.0
    assert outcome.instances.on_s.tolist() == [8.0, 5.0]


def test_an_iteration_that_breaks_off_took_power():
    outcome = run(asked((0.0, 10, 8)), Policies(failures=(Failure(at_s=2.5, instance=0),)), count=2)
    each = outcome.instances
    assert each.busy_prefill_s[0] + each.busy_decode_s[0] == 2.5
    assert each.energy_j[0] == pytest.approx(2.5 * 300.0)


def test_what_is_kept_for_a_follower_is_freed_once_it_goes_elsewhere():
    serving = serving_of(pool_of(ENGINE, SECOND, 1, cache_tokens=100), pool_of(ENGINE, SECOND, 1, cache_tokens=400))
    rows = asked((0.0, 20, 2), (0.0, 300, 2), after=np.array([-1, 0], np.int32), hold=np.array([True, False]))
    w = finished_world(Simulation(rows, serving, Policies(routing="round-robin"), seed=0))
    assert w.ri[:, f.AT].tolist() == [0, 1]
    assert w.ri[:, f.STATE].tolist() == [f.DONE, f.DONE]


def test_a_follower_that_asks_another_model_goes_there():
    pools = [replace(pool_of(ENGINE, SECOND, 1, cache_tokens=400), model=m) for m in (0, 1)]
    rows = asked(
        (0.0, 20, 2),
        (0.0, 40, 2),
        after=np.array([-1, 0], np.int32),
        hold=np.array([True, False]),
        model=np.array([0, 1], np.int16),
    )
    assert simulate(rows, serving_of(*pools), seed=0).instance.tolist() == [0, 1]


def test_an_instance_that_only_decodes_goes_on_from_what_it_kept_and_computes_no_other_prompts():
    rows = asked((0.0, 20, 4), (0.0, 40, 2), after=np.array([-1, 0], np.int32), hold=np.array([True, False]))
    kept = simulate(rows, apart(), seed=0)
    assert kept.instances.prefill_tokens.tolist() == [20, 17]
    shorter = asked((0.0, 20, 4), (0.0, 20, 2), after=np.array([-1, 0], np.int32), hold=np.array([True, False]))
    assert simulate(shorter, apart(), seed=0).instances.prefill_tokens.tolist() == [40, 0]


def test_no_more_wait_at_an_idle_instance_than_may():
    rows = asked(*[(0.0, 10, 3)] * 6)
    outcome = run(rows, Policies(max_queue=1), engine=ONE)
    assert reasons(outcome).count("queue.full") == 4
    assert outcome.finished.sum() == 2


def test_a_prefix_on_its_way_is_waited_for_by_all_who_found_it():
    rows = [(0.0, 32, 1), (5.0, 32, 1), (10.0, 40, 1), (10.02, 40, 1)]
    traffic = with_ids(rows, [[0, 1, 2, 3], [10, 11, 12, 13], [0, 1, 2, 3, 4], [0, 1, 2, 3, 5]])
    slow = simulate(traffic, serving_of(pool_of(ENGINE, SECOND, 1, cache_tokens=56, dram_tokens=80)), seed=0)
    assert slow.cached_tokens.tolist() == [0, 0, 32, 32]
    load_s = 8 * 512 / 1e5
    assert slow.finish_s[2:] == pytest.approx([11.0 + load_s] * 2)
    pair = with_ids(
        [(0.0, 96, 1), (5.0, 544, 1), (5.5, 96, 1), (6.0, 96, 1)], [list(range(12))] * 2 + [list(range(12))] * 2
    )
    small = EngineSettings(block_tokens=4, max_sequences=8, max_batched_tokens=32)
    serving = serving_of(pool_of(small, SECOND, 2, cache_tokens=2000), transfer_bps=88 * 512 / 1.5)
    copied = simulate(pair, serving, Policies(routing="mooncake"), seed=0)
    assert copied.instance[2] == copied.instance[3] != copied.instance[0]
    assert copied.finish_s[2] == pytest.approx(8.0)
    assert copied.finish_s[3] >= 8.0, "what is to arrive at 7.0 s is not there at 6.0 s"


def test_a_copy_breaks_off_with_its_source():
    traffic = with_ids([(0.0, 96, 1), (5.0, 544, 1), (5.5, 96, 1)], [list(range(12))] * 3)
    small = EngineSettings(block_tokens=4, max_sequences=8, max_batched_tokens=32)
    serving = serving_of(pool_of(small, SECOND, 2, cache_tokens=1000), transfer_bps=88 * 512 / 0.5)
    failures = (Failure(at_s=5.75, instance=0),)
    simulation = Simulation(traffic, serving, Policies(routing="mooncake", failures=failures), seed=0)
    finished_world(simulation)
    outcome = simulation.outcome()
    assert outcome.cached_tokens[2] == 0
    assert outcome.finish_s[2] >= 5.75 + 3.0  # all 96 tokens in iterations of 32


def test_what_waits_for_the_link_between_sites_holds_up_nobody_at_home():
    """The decode instance takes from a prefill instance beside it while the far one's cache still crosses."""
    serving = serving_of(
        pool_of(ENGINE, SECOND, 1, role="prefill", site="far", cache_tokens=400),
        pool_of(ENGINE, SECOND, 1, role="prefill", site="home", cache_tokens=400),
        pool_of(ENGINE, SECOND, 1, role="decode", site="home", cache_tokens=400),
        transfer_bps=1e9,
        site_bps=20 * 512.0 / 10,
    )
    outcome = simulate(asked((0.0, 20, 2), (0.0, 20, 2)), serving, Policies(routing="round-robin"), seed=0)
    assert outcome.transfer_s[0] == pytest.approx(10.0)
    assert outcome.transfer_s[1] == pytest.approx(0.0, abs=1e-3)


def test_a_prompt_alone_fills_the_pipeline_first():
    """Four stages: the last quarter of the prompt enters three quarters of an iteration after the first."""
    staged = steps_of(only=1.0, fixed_s=1.0, stages=4.0)
    serving = serving_of(pool_of(ENGINE, staged, 1, cache_tokens=400))
    alone = simulate(asked((0.0, 40, 1)), serving, seed=0)
    assert alone.ttft_s.tolist() == [1.75]
    stream = simulate(asked((0.0, 40, 4), (0.5, 40, 1)), serving, seed=0)
    assert stream.finish_s.tolist() == [1.75 + 3.0, 1.75 + 1.0]  # it stays full


def test_an_answer_is_found_by_the_prompt_that_goes_on_from_it():
    rows = [(0.0, 20, 21), (0.0, 60, 2), (90.0, 60, 1)]
    after = np.array([-1, 0, -1], np.int32)
    ids = [[0, 1], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 9, 8]]
    outcome = run(with_ids(rows, ids, after=after))
    assert outcome.cached_tokens.tolist() == [
        0,
        40,
        40,
    ]  # 20 and 20 tokens are in the cache when it is done: five blocks
    unrelated = [[0, 1], [10, 11, 12, 13, 14, 15, 16], [0, 1, 2, 3, 4, 9, 8]]
    assert run(with_ids(rows, unrelated, after=after)).cached_tokens.tolist() == [0, 0, 16]


def test_admission_counts_those_who_wait_together():
    """Six come at once every 6 s and are served one after another, 1 s each: those are taken who can be in time."""
    rows = asked(*[(6.0 * k + 0.01 * j, 10, 1) for k in range(20) for j in range(6)])
    policies = Policies(central_queue=True, admission=Admission(ttft_s=4.2, pressure_limit=1e9))
    outcome = run(rows, policies, engine=ONE)
    kept = outcome.kept(Slo(ttft_s=4.2))
    assert kept.sum() >= 3 * 20
    assert kept[outcome.finished].mean() > 0.9


def test_admission_of_pools_apart_looks_at_those_that_decode():
    """A step takes 10 ms and 10 ms for each sequence: nine at once keep 100 ms a token, however idle prefill is."""
    slow = steps_of(only=1.0, fixed_s=0.01, head_token_s=0.01)
    quick = steps_of(only=1.0, fixed_s=0.01)
    many = EngineSettings(block_tokens=4, max_sequences=64)
    serving = serving_of(
        pool_of(many, quick, 1, role="prefill", cache_tokens=4000),
        pool_of(many, slow, 1, role="decode", cache_tokens=4000),
    )
    rows = asked(*[(0.1 * k, 10, 50) for k in range(200)])
    slo = Slo(tpot_s=0.1)
    flooded = simulate(rows, serving, seed=0)
    guarded = simulate(rows, serving, Policies(admission=Admission(tpot_s=0.1, pressure_limit=1e9)), seed=0)
    assert flooded.kept(slo).sum() < 20
    assert guarded.kept(slo).sum() > 35
    assert guarded.kept(slo)[guarded.finished].mean() > 0.9


def test_a_block_granted_for_a_step_that_did_not_come_is_not_given_back():
    """All who decode are preempted by two of a higher class, of whom one finds no block and makes room before its first step."""
    engine = EngineSettings(block_tokens=4, max_sequences=2, max_batched_tokens=64)
    rows = asked((0.0, 4, 9), (1.5, 8, 5), (1.5, 8, 5), priority=np.array([0, 1, 1], np.int8))
    serving = serving_of(pool_of(engine, SECOND, 1, cache_tokens=20))
    w = finished_world(Simulation(rows, serving, Policies(preempt_lower=True), seed=0), every=1)
    assert w.ri[:, f.PREEMPTED].tolist() == [2, 0, 1]
    assert w.ni[f.USED].tolist() == [0]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_with_drafts_nobody_is_let_in_who_can_never_end(preemption):
    """Blocks are taken before they are full, so that a request which just fits token by token may lack the last one for ever."""
    engine = EngineSettings(block_tokens=4, max_sequences=4, speculative_tokens=1, acceptance=0.3)
    for prompt in range(118, 134):
        outcome = run(asked((0.0, prompt, 4)), Policies(preemption=preemption), engine=engine, cache_tokens=136)
        assert outcome.finished.tolist() == [prompt <= 128]
        assert reasons(outcome) == ["" if prompt <= 128 else "request.too_long"]
        assert outcome.preemptions.tolist() == [0]
