"""What the simulator does, feature by feature, with times that can be reckoned by hand: an iteration takes 1 s."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.serving_samples import pool_of, serving_of, steps_of

from plenum.model.errors import FieldError
from plenum.serving.instance import EngineSettings
from plenum.serving.workload import Requests, Slo, requests_of
from plenum.sim.serving import (
    REASONS,
    Admission,
    Failure,
    Outcome,
    Policies,
    Scaling,
    Simulation,
    SimulationLimitError,
    simulate,
)

SECOND = steps_of(only=1.0, fixed_s=1.0)
ENGINE = EngineSettings(block_tokens=4, max_sequences=8, max_batched_tokens=64)


def asked(*rows: tuple[float, int, int], **columns: Any) -> Requests:
    """Rows of arrival, prompt and output."""
    arrival, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    return requests_of(arrival, prompt, output, **columns)


def run(requests: Requests, policies: Policies | None = None, *, count: int = 1, engine=ENGINE, **pool: Any) -> Outcome:
    given = {"cache_tokens": 400} | pool
    return simulate(requests, serving_of(pool_of(engine, SECOND, count, **given)), policies, seed=0)


def reasons(outcome: Outcome) -> list[str]:
    return [REASONS[code] for code in outcome.reason.tolist()]


def test_prefill_gives_the_first_token_and_each_step_one_more():
    outcome = run(asked((0.0, 10, 4), (0.5, 10, 1)))
    assert outcome.ttft_s.tolist() == [1.0, 1.5]
    assert outcome.finish_s.tolist() == [4.0, 2.0]
    assert outcome.tpot_s[0] == 1.0
    assert np.isnan(outcome.tpot_s[1])
    assert outcome.queue_s.tolist() == [0.0, 0.5]


def test_prompts_longer_than_an_iteration_are_cut():
    assert run(asked((0.0, 150, 1))).finish_s.tolist() == [3.0]
    whole = EngineSettings(block_tokens=4, max_batched_tokens=64, chunked_prefill=False)
    assert run(asked((0.0, 150, 1)), engine=whole).finish_s.tolist() == [1.0]


def test_decode_waits_for_prefill_unless_they_share_iterations():
    rows = asked((0.0, 10, 5), (1.5, 10, 1))
    assert run(rows).finish_s.tolist() == [5.0, 3.0]
    apart = EngineSettings(block_tokens=4, chunked_prefill=False)
    assert run(rows, engine=apart).finish_s.tolist() == [6.0, 3.0]


def test_what_fits_nowhere_is_refused_with_a_reason():
    outcome = run(asked((0.0, 390, 20), (0.0, 390, 10)), count=2)
    assert reasons(outcome) == ["request.too_long", ""]
    report = outcome.report()
    assert (report.finished, report.refused) == (1, 1)


def test_a_full_cache_preempts_the_latest_request():
    tight = asked((0.0, 12, 20), (0.0, 12, 20))
    outcome = run(tight, cache_tokens=40)
    assert outcome.preemptions.tolist() == [0, 1]
    assert outcome.finish_s[0] == 20.0
    assert outcome.finish_s[1] > 21.0
    reserved = run(tight, Policies(reserve_output=True), cache_tokens=40)
    assert reserved.preemptions.tolist() == [0, 0]
    assert reserved.finish_s.tolist() == [20.0, 40.0]
    swapped = run(tight, Policies(preemption="swap"), cache_tokens=40)
    assert swapped.preemptions.tolist() == [0, 1]
    assert swapped.output_tokens.tolist() == [20, 20]
    assert swapped.instances.prefill_tokens.sum() == 24  # nothing is computed twice
    assert outcome.instances.prefill_tokens.sum() > 24


def test_higher_classes_go_first_and_may_take_places():
    one = EngineSettings(block_tokens=4, max_sequences=1)
    rows = asked((0.0, 4, 5), (0.1, 4, 5), (0.2, 4, 5), priority=np.array([0, 0, 3], np.int8))
    assert run(rows, engine=one).finish_s.tolist() == [5.0, 15.0, 10.0]
    taking = run(rows, Policies(preempt_lower=True), engine=one)
    assert taking.finish_s[2] == 6.0
    assert taking.preemptions.tolist() == [1, 0, 0]
    assert taking.finish_s.tolist() == [10.0, 15.0, 6.0]  # what had come out is not lost, its cache is


def with_ids(rows: list[tuple[float, int, int]], ids: list[list[int]], **columns: Any) -> Requests:
    offset = np.concatenate(([0], np.cumsum([len(i) for i in ids])))
    return asked(
        *rows,
        block_offset=offset,
        block_id=np.array([block for one in ids for block in one], np.int64),
        block_tokens=8,
        **columns,
    )


def test_a_prefix_is_found_whole_blocks_only_and_never_all_of_a_prompt():
    rows = [(0.0, 32, 1), (5.0, 32, 1), (10.0, 40, 1), (15.0, 20, 1)]
    outcome = run(with_ids(rows, [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 7]]))
    assert outcome.cached_tokens.tolist() == [0, 24, 32, 16]
    off = EngineSettings(block_tokens=4, prefix_caching=False)
    assert (
        run(with_ids(rows, [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 7]]), engine=off).cached_tokens.sum()
        == 0
    )


def test_what_one_tier_evicts_is_loaded_from_the_next():
    rows = [(0.0, 32, 1), (5.0, 32, 1), (10.0, 40, 1)]
    traffic = with_ids(rows, [[0, 1, 2, 3], [10, 11, 12, 13], [0, 1, 2, 3, 4]])
    assert run(traffic, cache_tokens=40).cached_tokens.tolist() == [
        0,
        0,
        8,
    ]  # room for one more block than the second's
    kept = run(traffic, cache_tokens=40, dram_tokens=80)
    assert kept.cached_tokens.tolist() == [0, 0, 32]
    load_s = 3 * 8 * 512 / 1e5  # three blocks come from host memory, 512 bytes a token at 100 kB/s
    assert kept.finish_s[2] == pytest.approx(11.0 + load_s)


def test_mooncake_copies_a_long_prefix_from_a_busy_instance():
    """Of 96 tokens, 88 are found on the first instance, which is busy for 14 s: half a second's copy and one iteration elsewhere."""
    ids = [list(range(12)), list(range(12)), list(range(12))]
    traffic = with_ids([(0.0, 96, 1), (5.0, 544, 1), (5.5, 96, 1)], ids)
    small = EngineSettings(block_tokens=4, max_sequences=8, max_batched_tokens=32)

    def served(routing: str, bps: float, rows: Requests = traffic, **more: Any) -> Outcome:
        serving = serving_of(pool_of(small, SECOND, 2, cache_tokens=1000), transfer_bps=bps)
        return simulate(rows, serving, Policies(routing=routing, **more), seed=0)

    def last_ttft_s(outcome: Outcome) -> float:
        return float(outcome.ttft_s[2])

    bps = 88 * 512 / 0.5
    copied, computed = served("mooncake", bps), served("predicted-latency", bps)
    hit = served("mooncake", bps, with_ids([(0.0, 96, 1), (5.0, 1, 1), (7.5, 96, 1)], [ids[0], [], ids[2]]))
    assert copied.instance[2] != copied.instance[0]
    assert copied.cached_tokens[2] == 88
    assert computed.cached_tokens[2] == 0
    assert [last_ttft_s(one) for one in (hit, copied, computed)] == [1.0, 1.5, 3.0]
    slow = served("mooncake", bps / 100)
    assert last_ttft_s(slow) == 3.0, "a copy that takes longer than computing is not made"


def test_admission_counts_the_copy_of_a_prefix():
    """One place each: the first instance is taken for long, and on the other half a second's copy comes before three iterations."""
    one = EngineSettings(block_tokens=4, max_sequences=1, max_batched_tokens=32)
    rows = [(0.0, 96, 1), (5.0, 128, 50), (5.5, 192, 1)]
    traffic = with_ids(rows, [list(range(12)), [*range(12), 100, 101, 102, 103], list(range(24))])
    serving = serving_of(pool_of(one, SECOND, 2, cache_tokens=1000), transfer_bps=96 * 512 / 0.5)

    def served(ttft_s: float) -> Outcome:
        admission = Admission(ttft_s=ttft_s, pressure_limit=1e9)
        return simulate(traffic, serving, Policies(routing="mooncake", admission=admission), seed=0)

    assert reasons(served(3.2)) == ["", "", "admission.refused"]
    assert served(3.6).ttft_s[2] == 3.5


def test_an_ample_link_carries_prefixes_to_where_a_prompt_is_computed():
    serving = serving_of(
        pool_of(ENGINE, SECOND, 1, role="prefill", site="home", cache_tokens=400),
        pool_of(ENGINE, SECOND, 1, role="decode", site="home", cache_tokens=400),
        pool_of(ENGINE, SECOND, 1, role="prefill", site="away", cache_tokens=400),
    )
    traffic = with_ids([(0.0, 96, 1), (10.0, 104, 1)], [list(range(12)), list(range(13))])
    scarce = simulate(traffic, serving, Policies(remote_above_tokens=50), seed=0)
    ample = simulate(traffic, serving, Policies(remote_above_tokens=50, remote_copies=True), seed=0)
    assert (scarce.instance.tolist(), scarce.cached_tokens.tolist()) == ([2, 2], [0, 96])
    assert (ample.instance.tolist(), ample.cached_tokens.tolist()) == ([2, 0], [0, 96])
    assert ample.ttft_s[1] == pytest.approx(1.0 + 96 * 512 / 12.5e9)


def chain(**columns: Any) -> Requests:
    after = np.array([-1, 0, -1], np.int32)
    return asked((0.0, 20, 4), (0.0, 40, 2), (6.0, 300, 2), after=after, pause_s=np.array([0.0, 10.0, 0.0]), **columns)


def test_a_follower_starts_after_its_pause_in_the_cache_that_was_kept():
    kept = run(chain(hold=np.array([True, False, False])))
    assert kept.ready_s.tolist() == [0.0, 14.0, 6.0]
    assert kept.cached_tokens.tolist() == [0, 23, 0]  # the last token of an output is not in the cache
    let_go = run(chain())
    assert let_go.cached_tokens.tolist() == [0, 0, 0]
    crowded = run(chain(hold=np.array([True, False, False])), cache_tokens=320)
    assert crowded.reason.tolist() == [0, 0, 0]  # somebody needs the room: what was kept is let go
    assert crowded.cached_tokens.tolist() == [0, 0, 0]


def test_followers_of_a_refused_request_are_refused():
    rows = asked((0.0, 500, 4), (0.0, 8, 2), (0.0, 8, 2), after=np.array([-1, 0, 1], np.int32))
    assert reasons(run(rows)) == ["request.too_long", "predecessor.refused", "predecessor.refused"]


def apart(site: str = "", **links: Any):
    return serving_of(
        pool_of(ENGINE, SECOND, 1, role="prefill", site=site, cache_tokens=400),
        pool_of(ENGINE, SECOND, 1, role="decode", site="home", cache_tokens=400),
        **links,
    )


def test_a_cache_crosses_from_prefill_to_decode_one_after_another():
    rows = asked((0.0, 20, 4), (0.0, 20, 4))
    outcome = simulate(rows, apart("home", transfer_bps=20 * 512.0), seed=0)
    assert outcome.ttft_s.tolist() == [1.0, 1.0]  # the first token comes from the prefill
    assert outcome.transfer_s.tolist() == [1.0, 2.0]
    assert outcome.finish_s.tolist() == [5.0, 6.0]
    assert outcome.instances.decode_tokens.tolist() == [0, 6]
    far = simulate(rows, apart("away", transfer_bps=1e9, site_bps=10 * 512.0), seed=0)
    assert far.transfer_s == pytest.approx([2.0, 4.0])
    early = simulate(rows, apart("home", transfer_bps=20 * 512.0), Policies(transfer_overlap=1.0), seed=0)
    assert early.transfer_s.tolist() == [0.0, 1.0]


def test_long_prompts_are_prefilled_elsewhere():
    serving = serving_of(
        pool_of(ENGINE, SECOND, 1, role="prefill", site="home", cache_tokens=400),
        pool_of(ENGINE, SECOND, 1, role="decode", site="home", cache_tokens=800),
        pool_of(ENGINE, SECOND, 1, role="prefill", site="away", cache_tokens=400),
        site_bps=1e4,
    )
    rows = [(float(k), 100 if k % 2 else 20, 2) for k in range(10)]
    outcome = simulate(asked(*rows), serving, Policies(remote_above_tokens=50), seed=0)
    assert outcome.instances.prefill_tokens.tolist() == [100, 0, 500]
    loaded = simulate(asked(*rows), serving, Policies(remote_above_tokens=50, remote_backlog_s=0.5), seed=0)
    assert 0 < loaded.instances.prefill_tokens[2] < 500


def test_who_waits_for_one_site_does_not_hold_up_the_other():
    one = EngineSettings(block_tokens=4, max_sequences=1, max_batched_tokens=64)
    serving = serving_of(
        pool_of(one, SECOND, 1, role="prefill", site="home", cache_tokens=400),
        pool_of(ENGINE, SECOND, 1, role="decode", site="home", cache_tokens=400),
        pool_of(one, SECOND, 1, role="prefill", site="away", cache_tokens=400),
    )
    rows = asked((0.0, 20, 1), (0.0, 20, 1), (0.0, 20, 1), (0.0, 60, 1), (0.0, 60, 1))
    together = Policies(remote_above_tokens=50, central_queue=True)
    assert simulate(rows, serving, together, seed=0).finish_s.tolist() == [1.0, 2.0, 3.0, 1.0, 2.0]
    failures = (Failure(at_s=1.5, instance=2),)
    alone = simulate(rows, serving, Policies(remote_above_tokens=50, central_queue=True, failures=failures), seed=0)
    assert alone.finish_s.tolist() == [1.0, 2.0, 3.0, 1.0, 4.0]  # nobody is left there: it is prefilled at home


def test_requests_of_a_failed_instance_start_over_or_are_lost():
    failures = (Failure(at_s=2.5, instance=0), Failure(at_s=30.0, instance=0, up=True))
    rows = asked((0.0, 10, 6), (40.0, 10, 2))
    outcome = run(rows, Policies(failures=failures), count=2)
    assert outcome.finish_s.tolist() == [2.5 + 4, 42.0]  # 2 of 6 tokens were out; the rest takes a prefill and 3 steps
    assert outcome.ttft_s[0] == 1.0
    assert outcome.preemptions.tolist() == [1, 0]
    lost = run(rows, Policies(failures=failures, restart=False), count=2)
    assert reasons(lost) == ["instance.lost", ""]
    alone = run(rows, Policies(failures=failures))
    assert alone.finish_s.tolist() == [30.0 + 4, 42.0]  # nobody else is there: it waits for the repair
    never = run(rows, Policies(failures=failures[:1]))
    assert reasons(never) == ["instance.none", "instance.none"]


def test_a_failed_decode_instance_costs_a_transfer_or_the_cache():
    serving = serving_of(
        pool_of(ENGINE, SECOND, 1, role="prefill", cache_tokens=400),
        pool_of(ENGINE, SECOND, 2, role="decode", cache_tokens=400),
        transfer_bps=20 * 512.0,
    )
    rows = asked((0.0, 20, 5))
    crossing = simulate(rows, serving, Policies(failures=(Failure(at_s=1.5, instance=1),)), seed=0)
    assert crossing.finish_s.tolist() == [1.5 + 1.5 + 4]  # once more, when the link that was in use is free
    decoding = simulate(rows, serving, Policies(failures=(Failure(at_s=3.5, instance=1),)), seed=0)
    assert decoding.output_tokens.tolist() == [5]
    assert decoding.instances.prefill_tokens.tolist() == [42, 0, 0]


def test_replicas_follow_the_load_after_a_cold_start():
    scaling = Scaling(every_s=5.0, initial=1, cold_start_s=7.0, target_running=2.0, max_step=2, window_s=20.0)
    two = EngineSettings(block_tokens=4, max_sequences=2)
    busy = [(1.0 * k, 8, 6) for k in range(60)]
    rows = asked(*busy, *[(80.0 + 20.0 * k, 8, 6) for k in range(20)])
    few, many = run(rows, Policies(scaling=scaling), count=6, engine=two), run(rows, count=6, engine=two)
    assert few.finished.all()
    assert few.instances.on_s[0] == few.end_s
    assert (few.instances.on_s > 0).sum() >= 3
    assert few.instances.on_s.sum() < 0.6 * many.instances.on_s.sum()
    assert set(few.instance[few.ready_s < 11.0].tolist()) == {0}  # decided at 5 s, up at 12 s
    assert few.ttft_s.mean() > many.ttft_s.mean()


def test_admission_refuses_puts_off_and_cuts():
    one = EngineSettings(block_tokens=4, max_sequences=1)
    rows = asked(*[(0.1 * k, 8, 5) for k in range(6)], priority=np.array([1, 1, 1, 0, 0, 0], np.int8))
    none = run(rows, Policies(admission=Admission(pressure_limit=100.0)), engine=one)
    assert none.finished.all()
    tight = run(rows, Policies(admission=Admission(ttft_s=2.5, pressure_limit=100.0)), engine=one)
    assert "admission.refused" in reasons(tight)
    later = Admission(ttft_s=2.5, pressure_limit=100.0, deferrable_below=1, defer_s=1.0)
    put_off = run(rows, Policies(admission=later), engine=one)
    assert not put_off.reason[3:].any()
    assert put_off.ttft_s[3:].min() > 2.5


def test_slices_come_to_the_same():
    rows = asked(*[(0.3 * k, 5 + k, 1 + k % 7) for k in range(40)])
    serving = serving_of(pool_of(ENGINE, SECOND, 2, cache_tokens=100))
    simulation = Simulation(rows, serving, seed=3)
    slices = 0
    while not simulation.advance(7):
        slices += 1
        assert simulation.over <= len(rows)
    assert slices > 5
    np.testing.assert_array_equal(simulation.outcome().finish_s, simulate(rows, serving, seed=3).finish_s)


def test_the_report_sums_up():
    report = run(asked((0.0, 10, 5), (0.0, 10, 9))).report(Slo(e2e_s=6.0))
    assert report.slo_attained == 0.5
    assert report.goodput_rps == pytest.approx(1 / 9)
    assert report.e2e_s.mean == 7.0
    assert report.itl_s.mean == pytest.approx(1.0)
    assert report.itl_s.p50 == pytest.approx(1.0, rel=0.02)
    assert report.busy_prefill == pytest.approx(1 / 9)
    assert report.busy_decode == pytest.approx(8 / 9)
    assert report.device_s == 9.0
    assert report.usd == pytest.approx(9 / 3600)
    assert report.usd_per_million_tokens == pytest.approx(9 / 3600 / 34 * 1e6)
    assert report.cache_used_max == pytest.approx(8 / 100)  # 13 and 14 tokens in blocks of 4, at the fifth token


def test_the_report_may_leave_out_those_who_came_while_the_service_filled_up():
    one = EngineSettings(block_tokens=4, max_sequences=1)
    outcome = run(asked(*[(0.5 * k, 8, 2) for k in range(4)]), engine=one)
    assert outcome.e2e_s.tolist() == [2.0, 3.5, 5.0, 6.5]
    slo = Slo(e2e_s=5.0)
    whole, settled = outcome.report(slo), outcome.report(slo, after_s=1.0)
    assert (whole.e2e_s.mean, whole.slo_attained) == (4.25, 0.75)
    assert (settled.e2e_s.mean, settled.slo_attained) == (5.75, 0.5)
    assert settled.goodput_rps == whole.goodput_rps
    assert outcome.report(slo, after_s=100.0).slo_attained == 1.0


def test_drafted_tokens_shorten_an_answer():
    drafting = EngineSettings(block_tokens=4, speculative_tokens=2, acceptance=0.5)
    outcome = run(asked((0.0, 10, 15)), engine=drafting)  # 1 + 0.5 + 0.25 tokens a step
    assert outcome.finish_s.tolist() == [1.0 + 8.0]
    assert outcome.output_tokens.tolist() == [15]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arrival_s": np.array([np.nan])}, "finite"),
        ({"prompt_tokens": np.array([0])}, "at least 1 token"),
        ({"model": np.array([3], np.int16)}, "no pool serves model 3"),
        ({"after": np.array([0], np.int32)}, "stands before it"),
        ({"block_offset": np.array([0, 4])}, "one entry more"),
    ],
)
def test_requests_that_cannot_be_meant(change, words):
    neutral = asked((0.0, 4, 2))
    columns = {name: getattr(neutral, name) for name in Requests.__dataclass_fields__}
    with pytest.raises(FieldError, match=words):
        run(Requests(**(columns | change)))


@pytest.mark.parametrize(
    ("policies", "words"),
    [
        (Policies(routing="nearest"), "no routing policy"),
        (Policies(failures=(Failure(at_s=0.0, instance=9),)), "there is no instance 9"),
        (Policies(failures=(Failure(at_s=2.0, instance=0), Failure(at_s=1.0, instance=0))), "ordered by time"),
        (Policies(transfer_overlap=1.5), "from 0 to 1"),
        (Policies(failures=(Failure(at_s=-1.0, instance=0),)), "from 0 to 1e"),
        (Policies(transfer_latency_s=float("nan")), r"transfer_latency_s: must be .*, not nan"),
        (Policies(scaling=Scaling(every_s=0.0)), r"scaling.every_s: must be from 0.001"),
        (Policies(admission=Admission(defer_s=-5.0)), "admission.defer_s"),
    ],
)
def test_policies_that_cannot_be_meant(policies, words):
    with pytest.raises(FieldError, match=words):
        run(asked((0.0, 4, 2)), policies)


def test_set_ups_that_cannot_be_meant():
    with pytest.raises(FieldError, match="only decoded"):
        run(asked((0.0, 4, 2)), role="decode")
    with pytest.raises(FieldError, match="no room for a KV cache"):
        run(asked((0.0, 4, 2)), cache_tokens=0)
    with pytest.raises(FieldError, match="no instance"):
        run(asked((0.0, 4, 2)), count=0)
    with pytest.raises(FieldError, match="set 3 or more"):
        run(asked((0.0, 4, 2)), engine=EngineSettings(block_tokens=2, speculative_tokens=3))
    with pytest.raises(FieldError, match="divisor"):
        run(with_ids([(0.0, 32, 1)], [[0, 1]]), engine=EngineSettings(block_tokens=16))
    with pytest.raises(SimulationLimitError, match="max_work"):
        simulate(asked((0.0, 4, 900)), serving_of(pool_of(ENGINE, SECOND, 1, cache_tokens=4000)), seed=0, max_work=1)
