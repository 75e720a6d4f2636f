"""The compiled simulator against a plain one, and what has to hold in every run."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.property.plain_serving import serve
from tests.serving_samples import pool_of, serving_of, steps_of

from plenum.serving.instance import EngineSettings
from plenum.serving.routing import POLICIES
from plenum.serving.workload import Requests, requests_of
from plenum.sim.serving import Admission, Failure, Outcome, Policies, Scaling, simulate

TOLERANCE = 1e-9


@st.composite
def traffic(draw: st.DrawFn, *, most: int = 14, follow: bool = True, share: int = 8) -> Requests:
    count = draw(st.integers(1, most))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    spread = draw(st.sampled_from((0.0, 0.05, 1.0, 20.0)))
    arrival = np.sort(rng.uniform(0, spread, count))
    prompt = rng.integers(1, draw(st.sampled_from((4, 40, 90))) + 1, count)
    output = rng.integers(1, draw(st.sampled_from((1, 6, 40))) + 1, count)
    after, pause = np.full(count, -1, np.int32), np.zeros(count)
    if follow and draw(st.booleans()):
        for r in range(1, count):
            if rng.random() < 0.4:
                after[r], pause[r] = rng.integers(0, r), rng.choice((0.0, 0.01, 0.7))
    families = rng.integers(0, 3, count)  # prompts of a family begin alike
    ids = [[int(families[r]) * 20 + k for k in range(prompt[r] // share)] for r in range(count)]
    for r, blocks in enumerate(ids):
        blocks[2:] = [100 + 20 * r + k for k in range(len(blocks[2:]))]
    return requests_of(
        arrival,
        prompt,
        output,
        priority=rng.integers(0, draw(st.integers(1, 3)), count).astype(np.int8),
        after=after,
        pause_s=pause,
        hold=rng.random(count) < 0.5,
        block_offset=np.concatenate(([0], np.cumsum([len(blocks) for blocks in ids]))).astype(np.int64),
        block_id=np.array([block for blocks in ids for block in blocks], np.int64),
        session=rng.integers(-1, 4, count),
        block_tokens=share,
    )


@st.composite
def engines(draw: st.DrawFn) -> EngineSettings:
    return EngineSettings(
        max_sequences=draw(st.sampled_from((1, 2, 4, 64))),
        max_batched_tokens=draw(st.sampled_from((1, 16, 33, 512))),
        chunked_prefill=draw(st.booleans()),
        prefix_caching=draw(st.booleans()),
        block_tokens=draw(st.sampled_from((1, 4, 8))),
    )


CACHES = st.sampled_from((64, 136, 200, 4000))


@given(traffic(), engines(), CACHES, st.integers(1, 3), st.booleans())
def test_agrees_with_a_plain_simulator(requests, engine, cache_tokens, count, window):
    requests = _without_holding(requests)
    model = steps_of(window=24.0 if window else 0.0)
    expected, plain = serve(requests, engine, model, cache_tokens, count)
    outcome = simulate(requests, serving_of(pool_of(engine, model, count, cache_tokens=cache_tokens)), seed=0)
    served = [r for r in expected if not r.refused]
    which = [r.number for r in served]
    assert outcome.reason.nonzero()[0].tolist() == [r.number for r in expected if r.refused]
    assert outcome.instance[which].tolist() == [r.instance for r in served]
    for values, name in ((outcome.finish_s, "done_s"), (outcome.ready_s + outcome.ttft_s, "first_s")):
        np.testing.assert_allclose(values[which], [getattr(r, name) for r in served], rtol=TOLERANCE)
    np.testing.assert_allclose(
        outcome.queue_s[which], [r.begun_s - r.ready_s for r in served], rtol=TOLERANCE, atol=TOLERANCE
    )
    assert outcome.cached_tokens[which].tolist() == [r.cached for r in served]
    assert outcome.preemptions[which].tolist() == [r.preemptions for r in served]
    each = outcome.instances
    np.testing.assert_allclose(each.busy_prefill_s, [i.busy_prefill for i in plain], rtol=TOLERANCE)
    np.testing.assert_allclose(each.busy_decode_s, [i.busy_decode for i in plain], rtol=TOLERANCE)
    idle = model["idle_w"] * (each.on_s - each.busy_prefill_s - each.busy_decode_s)
    np.testing.assert_allclose(each.energy_j - idle, [i.energy for i in plain], rtol=TOLERANCE, atol=TOLERANCE)
    assert each.prefill_tokens.tolist() == [i.prefilled for i in plain]
    assert each.decode_tokens.tolist() == [i.decoded for i in plain]


@st.composite
def policies(draw: st.DrawFn, instances: int) -> Policies:
    failures = ()
    if draw(st.booleans()):
        at = sorted(draw(st.lists(st.floats(0.0, 3.0), min_size=1, max_size=6)))
        failures = tuple(
            Failure(at_s=t, instance=draw(st.integers(0, instances - 1)), up=draw(st.booleans())) for t in at
        )
    names = tuple(POLICIES)
    return Policies(
        routing=draw(st.sampled_from(names)),
        decode_routing=draw(st.sampled_from(names)),
        central_queue=draw(st.booleans()),
        reserve_output=draw(st.booleans()),
        preemption=draw(st.sampled_from(("recompute", "swap"))),
        preempt_lower=draw(st.booleans()),
        max_queue=draw(st.sampled_from((-1, 0, 2))),
        admission=draw(st.sampled_from((None, Admission(ttft_s=0.2, deferrable_below=1, defer_s=0.1, output_cap=3)))),
        restart=draw(st.booleans()),
        failures=failures,
        scaling=draw(st.sampled_from((None, Scaling(every_s=0.2, initial=1, cold_start_s=0.3, target_running=2.0)))),
        transfer_overlap=draw(st.sampled_from((0.0, 0.5))),
        transfer_latency_s=draw(st.sampled_from((0.0, 0.01))),
        remote_above_tokens=draw(st.sampled_from((-1, 20))),
        remote_copies=draw(st.booleans()),
    )


@given(st.data(), traffic(most=24), engines(), CACHES, st.sampled_from(("both", "apart", "sites")))
def test_what_holds_in_every_run(data, requests, engine, cache_tokens, layout):
    model = steps_of()
    tiers = {"dram_tokens": data.draw(st.sampled_from((0, 64))), "nvme_tokens": data.draw(st.sampled_from((0, 128)))}
    pools = [pool_of(engine, model, 3, cache_tokens=cache_tokens, **tiers)]
    if layout != "both":
        pools = [
            pool_of(engine, model, 2, role="prefill", cache_tokens=cache_tokens, site="a", **tiers),
            pool_of(engine, model, 2, role="decode", cache_tokens=cache_tokens, site="a"),
        ]
    if layout == "sites":
        pools.append(pool_of(engine, model, 1, role="prefill", cache_tokens=cache_tokens, site="b", **tiers))
    chosen = data.draw(policies(sum(pool.count for pool in pools)))
    serving = serving_of(*pools, transfer_bps=2e4, site_bps=1e4)
    outcome = simulate(requests, serving, chosen, seed=7, max_work=2_000_000)
    _holds(outcome, engine, chosen)
    again = simulate(requests, serving, chosen, seed=7)
    for name in ("ttft_s", "finish_s", "instance", "reason", "cached_tokens", "preemptions"):
        np.testing.assert_array_equal(getattr(outcome, name), getattr(again, name))
    np.testing.assert_array_equal(outcome.instances.energy_j, again.instances.energy_j)


def _holds(outcome: Outcome, engine: EngineSettings, chosen: Policies) -> None:
    requests, each, done = outcome.requests, outcome.instances, outcome.finished
    assert ((outcome.reason > 0) ^ done).all()  # everybody is answered or refused, nobody both
    ready = np.isfinite(outcome.ready_s)
    stayed = (outcome.finish_s - outcome.ready_s)[ready]
    assert (stayed >= 0).all()
    np.testing.assert_allclose(outcome.area_s, stayed.sum(), rtol=1e-9, atol=1e-6)  # Little's law
    assert (outcome.ttft_s[done] > 0).all()
    assert (outcome.queue_s[done] >= 0).all()
    if chosen.admission is None:
        assert (outcome.output_tokens[done] == requests.output_tokens[done]).all()
    assert (outcome.cached_tokens < requests.prompt_tokens)[done].all()
    assert (each.busy_prefill_s + each.busy_decode_s <= each.on_s * (1 + 1e-9) + 1e-9).all()
    assert (each.cache_used_max <= 1.0).all()
    assert (each.cache_used_mean <= each.cache_used_max + 1e-9).all()
    # Tokens: each prompt is computed once where nothing is found, lost or computed anew, and each token comes out once.
    firsts = int(np.isfinite(outcome.ttft_s).sum())
    if not chosen.failures and chosen.preemption == "recompute" and not outcome.preemptions.any():
        computed = requests.prompt_tokens.astype(np.int64)[done] - outcome.cached_tokens[done]
        assert each.prefill_tokens.sum() == computed.sum()
        assert each.decode_tokens.sum() == outcome.output_tokens[done].sum() - firsts
        assert outcome.gap_counts.sum() == each.decode_tokens.sum()
        gaps = np.nansum(outcome.tpot_s * (outcome.output_tokens - 1))
        np.testing.assert_allclose(outcome.gap_sum_s, gaps, rtol=1e-9, atol=1e-9)
    else:
        assert outcome.gap_counts.sum() >= outcome.output_tokens[done].sum() - firsts
    # Energy: what the iterations took, and idling; never less than idling all the time, never more than full power.
    idle_w, full_w = 100.0, 1000.0
    assert (each.energy_j >= idle_w * each.on_s * (1 - 1e-9) - 1e-9).all()
    assert (each.energy_j <= full_w * each.on_s * (1 + 1e-9) + 1e-9).all()


def _without_holding(requests: Requests) -> Requests:
    columns = {name: getattr(requests, name) for name in Requests.__dataclass_fields__}
    return Requests(**(columns | {"hold": np.zeros(len(requests), np.bool_)}))
