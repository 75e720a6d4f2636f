from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from plenum.serving.calibration import (
    HOST,
    UNCALIBRATED,
    CalibrationError,
    basis_of,
    calibrated_steps,
    efficiency_for,
    from_document,
    group_of,
    shipped,
    to_document,
)
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.fitting import calibrate, held_at_most
from plenum.serving.floors import floor_tpot_s, floor_ttft_s
from plenum.serving.formats import Precision
from plenum.serving.instance import EngineSettings, Instance, Parallelism, tokens_per_step
from plenum.serving.measured import measured, run_in
from plenum.serving.measurement import Measurement, Workers
from plenum.serving.predict import predict, predict_many
from plenum.serving.roofline import Efficiency, compile_steps
from plenum.serving.steps import chunk_pairs, step


def instance(model="Llama-3.1-70B", hardware="H200", *, engine="vllm", **spread) -> Instance:
    """An instance with FP8 weights and cache; tp 4 unless said otherwise."""
    return Instance(
        model=model_named(model),
        hardware=accelerator_named(hardware),
        precision=Precision(weights="fp8", kv_cache="fp8"),
        parallelism=Parallelism(**({"tp": 4} | spread)),
        settings=EngineSettings(engine=engine),
    )


def measurements(slower=1.5, **given) -> list[Measurement]:
    """Points of a deployment that is ``slower`` than physics says, at many loads."""
    base = instance()
    points = []
    for concurrency in (1, 2, 4, 8, 16, 32, 64, 128):
        for isl in (512, 2048, 8192):
            found = predict(base, isl=isl, osl=256, concurrency=concurrency, calibration=UNCALIBRATED)
            point = {
                "model": "Llama-3.1-70B",
                "hardware": "H200",
                "engine": "vllm",
                "precision": base.precision,
                "workers": Workers(parallelism=base.parallelism),
                "concurrency": float(concurrency),
                "isl": float(isl),
                "osl": 256.0,
                "ttft_s": found.ttft_s * slower,
                "tpot_s": found.tpot_s * slower,
            }
            points.append(Measurement(**(point | given)))
    return points


# -- steps ---------------------------------------------------------------------------------------------------------------


def test_prefill_is_compute_and_decode_is_memory():
    steps = compile_steps(instance())
    c = steps.coefficients
    once = step(c, 4096.0, chunk_pairs(0, 4096), 0.0, 1.0, 0.0, 0.0, 0.0)[0]
    twice = step(c, 8192.0, 2 * chunk_pairs(0, 4096), 0.0, 2.0, 0.0, 0.0, 0.0)[0]
    assert twice / once == pytest.approx(2.0, rel=0.15)
    one = step(c, 0.0, 0.0, 0.0, 0.0, 1.0, 1000.0, 0.0)[0]
    eight = step(c, 0.0, 0.0, 0.0, 0.0, 8.0, 8000.0, 0.0)[0]
    assert eight / one < 1.3


def test_prefill_draws_more_power_than_decode_and_no_more_than_the_cap():
    steps = compile_steps(instance())
    prefill_s, prefill_j = step(steps.coefficients, 8192.0, chunk_pairs(0, 8192), 0.0, 1.0, 0.0, 0.0, 0.0)
    decode_s, decode_j = step(steps.coefficients, 0.0, 0.0, 0.0, 0.0, 1.0, 1000.0, 0.0)
    assert steps["idle_w"] < decode_j / decode_s < prefill_j / prefill_s <= steps["cap_w"]


def test_one_prompt_is_computed_by_one_attention_group():
    model = "Llama-3.1-8B"
    alone = compile_steps(instance(model, tp=1, dp=8))
    c, pairs = alone.coefficients, chunk_pairs(0, 4096)
    one = step(c, 4096.0, pairs, 0.0, 1.0, 0.0, 0.0, 0.0)[0]
    eight = step(c, 8 * 4096.0, 8 * pairs, 0.0, 8.0, 0.0, 0.0, 0.0)[0]
    assert one == pytest.approx(eight, rel=0.1)


# -- loads ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4, 16, 64, 200])
@pytest.mark.parametrize("prefill", [None, 2])
def test_littles_law_holds_in_a_closed_loop(concurrency, prefill):
    first = instance(tp=2) if prefill else None
    found = predict(instance(), isl=2000, osl=300, concurrency=concurrency, prefill=first, prefill_workers=prefill or 1)
    assert found.requests_rps * found.e2e_s == pytest.approx(concurrency, rel=0.02)


def test_open_and_closed_loops_agree_on_decode():
    closed = predict(instance(), isl=2000, osl=300, concurrency=32, calibration=UNCALIBRATED)
    opened = predict(instance(), isl=2000, osl=300, rate_rps=closed.requests_rps, calibration=UNCALIBRATED)
    assert opened.tpot_s == pytest.approx(closed.tpot_s, rel=0.1)
    assert opened.batch == pytest.approx(closed.batch, rel=0.1)


def test_more_load_is_slower_until_nothing_more_goes():
    rates = np.array([0.1, 0.5, 1.0, 2.0, 3.0, 1000.0])
    found = predict_many([instance()] * len(rates), isl=4000, osl=500, rate_rps=rates)
    assert (np.diff(found.ttft_s[:-1]) > 0).all()
    assert (np.diff(found.tpot_s[:-1]) > 0).all()
    assert found.saturated[-1]
    assert math.isinf(found.ttft_s[-1])
    assert found.requests_rps[-1] < 10.0


def test_what_does_not_fit_is_a_value():
    assert predict(instance(tp=1, hardware="L40S"), isl=100, osl=10, concurrency=1).cache_tokens <= 0


def test_found_prefixes_shorten_prefill():
    cold, warm = (predict(instance(), isl=8000, osl=100, concurrency=1, cached_tokens=c) for c in (0, 7000))
    assert warm.prompt_s < cold.prompt_s / 3


def test_disaggregation_frees_decode_of_prefill():
    together = predict(instance(), isl=8000, osl=200, concurrency=64, workers=2)
    apart = predict(instance(), isl=8000, osl=200, concurrency=64, prefill=instance())
    assert apart.tpot_s < together.tpot_s


def test_speculative_decoding_pays_where_memory_binds():
    plain, drafting = instance(), instance()
    drafting = replace(drafting, settings=replace(drafting.settings, speculative_tokens=3, acceptance=0.8))
    slow, fast = (predict(i, isl=1000, osl=500, concurrency=2) for i in (plain, drafting))
    assert fast.tpot_s < 0.6 * slow.tpot_s
    assert tokens_per_step(3, 0.8) == pytest.approx(1 + 0.8 + 0.8**2 + 0.8**3)
    assert tokens_per_step(2, 1.0) == 3.0


def test_equal_instances_get_equal_answers_however_many_are_asked():
    one = predict(instance(), isl=1000, osl=100, concurrency=8)
    many = predict_many([instance() for _ in range(50)], isl=1000, osl=100, concurrency=8)
    assert np.unique(many.tpot_s).tolist() == [one.tpot_s]


def test_floors_lie_below_predictions_and_fall_with_devices():
    for tp in (1, 2, 4, 8):
        at = instance(tp=tp)
        found = predict(at, isl=3000, osl=2, concurrency=1, calibration=UNCALIBRATED)
        assert floor_ttft_s(at, 3000) < found.ttft_s
        assert floor_tpot_s(at, 3000) < found.tpot_s
    assert floor_tpot_s(instance(tp=8)) == pytest.approx(floor_tpot_s(instance(tp=1)) / 8)


# -- calibration ---------------------------------------------------------------------------------------------------------


def test_a_few_points_of_ones_own_correct_what_is_near_them():
    calibration = calibrate(measured(measurements(1.5)), prior=UNCALIBRATED)
    plain = predict(instance(), isl=1500, osl=256, concurrency=24, calibration=UNCALIBRATED)
    found = predict(instance(), isl=1500, osl=256, concurrency=24, calibration=calibration)
    assert found.tpot_s / plain.tpot_s == pytest.approx(1.5, rel=0.03)
    assert found.ttft_s / plain.ttft_s == pytest.approx(1.5, rel=0.05)
    far = predict(
        instance("Qwen3-32B", "MI300X", engine="sglang"), isl=1500, osl=256, concurrency=24, calibration=calibration
    )
    width = math.log(found.tpot_high_s / found.tpot_low_s)
    assert width < 0.5 * math.log(far.tpot_high_s / far.tpot_low_s)


def test_one_wrong_point_does_not_spoil_its_neighbours():
    points = measurements(1.2)
    points[7] = replace(points[7], tpot_s=points[7].tpot_s * 8)
    calibration = calibrate(measured(points), prior=UNCALIBRATED)
    plain = predict(instance(), isl=2048, osl=256, concurrency=4, calibration=UNCALIBRATED)
    found = predict(instance(), isl=2048, osl=256, concurrency=4, calibration=calibration)
    assert found.tpot_s / plain.tpot_s == pytest.approx(1.2, rel=0.15)


def test_the_simulator_gets_what_was_calibrated():
    calibration = calibrate(measured(measurements(1.5)), prior=UNCALIBRATED)
    plain, learnt = (calibrated_steps(instance(), c) for c in (UNCALIBRATED, calibration))
    decode = (0.0, 0.0, 0.0, 0.0, 16.0, 16 * 2000.0, 0.0)
    ratio = step(learnt.coefficients, *decode)[0] / step(plain.coefficients, *decode)[0]
    assert ratio == pytest.approx(1.5, rel=0.05)


def test_intervals_widen_the_less_was_measured():
    asked = [
        instance(),  # this model on this hardware under this engine
        instance("Llama-2-70B"),  # another model
        instance("Llama-2-70B", "MI300X"),  # and other hardware
        instance("Llama-2-70B", "MI300X", engine="llama.cpp"),  # and another engine
    ]
    found = predict_many(asked, isl=1000, osl=100, concurrency=8)
    widths = np.log(found.tpot_high_s / found.tpot_s)  # downwards the data sheet ends them
    assert (np.diff(widths) > 0.01).all()


def test_what_is_written_predicts_the_same_when_read():
    calibration = calibrate(measured(measurements(1.3)), prior=shipped(), name="mine")
    again = from_document(json.loads(json.dumps(to_document(calibration))))
    asked = {"isl": 3000, "osl": 200, "concurrency": 12}
    assert predict(instance(), **asked, calibration=again) == predict(instance(), **asked, calibration=calibration)
    assert again.name == "mine"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 99},
        {"efficiencies": {"": [1, 2]}},
        {"efficiencies": {"": "x"}},
        {"offsets": {"a": [1]}},
        {"points": {"tpot": {"groups": [["a"]]}, "ttft": None}},
        {"spread": {}},
        {"coverage": "much"},
    ],
)
def test_documents_that_are_no_calibration(change):
    with pytest.raises(CalibrationError):
        from_document(to_document(UNCALIBRATED) | change)


def test_negative_efficiencies_are_refused():
    document = to_document(replace(UNCALIBRATED, efficiencies={"": shipped().efficiencies[""]}))
    document["efficiencies"][""][0] = -1.0
    with pytest.raises(CalibrationError, match="compute"):
        from_document(document)


def test_four_bit_checkpoints_of_mixtures_are_wide_outside_their_experts():
    routed = run_in(model_named("DeepSeek-R1"), Precision(weights="nvfp4", kv_cache=""))
    assert (routed.weights, routed.experts, routed.kv_cache) == ("bf16", "nvfp4", "fp8")
    dense = run_in(model_named("Llama-3.1-70B"), Precision(weights="nvfp4", kv_cache="bf16"))
    assert (dense.weights, dense.experts, dense.kv_cache) == ("nvfp4", "", "bf16")
    assert run_in(model_named("gpt-oss-120b"), Precision(weights="nvfp4", kv_cache="")).experts == "mxfp4"


def test_power_that_was_measured_is_learnt():
    device = accelerator_named("H200").tdp_w
    points = measurements(1.0, peak_w=0.8 * device, average_w=0.5 * device)
    calibration = calibrate(measured(points), prior=UNCALIBRATED)
    found = predict(instance(), isl=2048, osl=256, concurrency=1, calibration=calibration)
    assert found.power_w / 4 == pytest.approx(0.5 * device, rel=0.15)
    assert found.prompt_power_w / 4 == pytest.approx(0.8 * device, rel=0.15)


def test_calibration_of_random_arrivals_gives_them_back() -> None:
    """Points of an open loop near saturation: the work is slower, and the queue makes of that what it makes."""
    base, points = instance(), []
    slow = replace(UNCALIBRATED, offsets={group_of(base): (math.log(1.3), math.log(1.3))})
    for rate in (0.5, 1.0, 2.0, 3.0, 4.0):
        found = predict(base, isl=2000, osl=300, rate_rps=rate, calibration=slow)
        points.append(
            Measurement(
                model="Llama-3.1-70B",
                hardware="H200",
                engine="vllm",
                precision=base.precision,
                workers=Workers(parallelism=base.parallelism),
                rate_rps=rate,
                isl=2000.0,
                osl=300.0,
                ttft_s=found.ttft_s,
                tpot_s=found.tpot_s,
            )
        )
    calibration = calibrate(measured(points), prior=UNCALIBRATED)
    for point in points:
        again = predict(base, isl=2000, osl=300, rate_rps=point.rate_rps, calibration=calibration)
        assert again.tpot_s == pytest.approx(point.tpot_s, rel=0.08)  # five points leave a bit to the prior
        assert again.ttft_s == pytest.approx(point.ttft_s, rel=0.1)


def test_a_time_of_nothing_was_not_measured() -> None:
    """Words that all came at once took none between them."""
    points = [replace(point, tpot_s=0.0) for point in measurements()]
    calibration = calibrate(measured(points), prior=UNCALIBRATED)
    again = predict(instance(), isl=2048, osl=256, concurrency=8, calibration=calibration)
    assert again.ttft_s == pytest.approx(next(p for p in points if (p.concurrency, p.isl) == (8, 2048)).ttft_s, rel=0.1)


def test_the_correction_of_decode_follows_the_load() -> None:
    """Twice as slow alone, as physics says at 64: predictor and simulator run on the same."""
    points = [
        replace(point, tpot_s=point.tpot_s * 2.0 ** (1 - min(math.log2(point.concurrency) / 6, 1)))
        for point in measurements(1.0)
    ]
    calibration = calibrate(measured(points), prior=UNCALIBRATED)
    plain, learnt = (calibrated_steps(instance(), c, osl=256.0) for c in (UNCALIBRATED, calibration))
    ratios = [
        step(learnt.coefficients, 0.0, 0.0, 0.0, 0.0, n, n * 2000.0, 0.0)[0]
        / step(plain.coefficients, 0.0, 0.0, 0.0, 0.0, n, n * 2000.0, 0.0)[0]
        for n in (1.0, 8.0, 64.0)
    ]
    assert ratios == pytest.approx([2.0, 1.41, 1.0], rel=0.08)


def test_watts_of_both_phases_are_known_apart_too() -> None:
    apart = {"prefill": instance(), "isl": 2000, "osl": 300}
    for load in ({"concurrency": 16}, {"rate_rps": 2.0}):
        found = predict(instance(), **apart, **load)
        assert 4 * 150 < found.decode_power_w < found.prompt_power_w < 4 * 1.1 * 700


def test_cpus_that_were_not_measured_are_guesses_and_said_to_be() -> None:
    asked = [instance("Llama-3.1-8B", hardware, tp=1) for hardware in ("MI300X", "Xeon-8480")]
    found = predict_many(asked, isl=500, osl=100, concurrency=1)
    widths = np.log(found.tpot_high_s / found.tpot_s)  # downwards the data sheet ends them
    assert widths[1] > 1.5 * widths[0]
    assert efficiency_for(asked[1]) is HOST
    assert "was not measured" in basis_of(asked[1], shipped())
    assert "guess" in basis_of(asked[1], shipped())
    own = replace(
        shipped(), efficiencies=dict(shipped().efficiencies) | {"vllm|Xeon-8480": shipped().efficiencies["vllm"]}
    )
    assert efficiency_for(asked[1], own) is shipped().efficiencies["vllm"]


def test_constants_that_points_ask_too_much_of_are_named() -> None:
    """Points four times as fast as physics: constants go to the most that devices reach, and calibration says which."""
    fresh = replace(UNCALIBRATED, efficiencies={"": Efficiency()})
    assert held_at_most(fresh) == {}
    hasty = [point for osl in (64, 128, 256) for point in measurements(0.25, osl=float(osl))]
    held = held_at_most(calibrate(measured(hasty), prior=fresh))
    assert "memory" in held["vllm|H200"]
    assert "compute" in held["vllm|H200"]


@pytest.mark.parametrize("isl", [1950, 2000, 2046, 4090, 4094])
def test_prompts_that_almost_fill_an_iteration_saturate_nothing(isl) -> None:
    """Whether they take one iteration or two may hang on a part of a sequence, and so swing from round to round."""
    light = replace(instance("Llama-3.1-8B", "H100", tp=1), settings=EngineSettings(max_batched_tokens=2048))
    found = predict(light, isl=isl, osl=2, rate_rps=5.0)
    assert not found.saturated
    assert found.ttft_s == pytest.approx(predict(light, isl=isl - 60, osl=2, rate_rps=5.0).ttft_s, rel=0.25)


def test_one_token_answers_beyond_what_fits_have_a_rate_too() -> None:
    small = replace(instance("Llama-3.1-8B", "H100", tp=1), settings=EngineSettings(max_sequences=8))
    found = predict(small, isl=500, osl=1, concurrency=64)
    assert found.saturated
    assert found.requests_rps > 1
