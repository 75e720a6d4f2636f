"""What spreads cost: links, collectives, experts and memory, each from the shapes of a model by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.formats import Precision
from plenum.serving.instance import EngineSettings, Instance, Parallelism, weight_bytes_per_device
from plenum.serving.roofline import DISPATCH_BYTES, REMOTE_LATENCY, WORK_FIELDS, compile_steps, work_of
from plenum.serving.steps import AT, step

AT_WORK = {name: index for index, name in enumerate(WORK_FIELDS)}


def on(model: str, hardware: str = "H200", activations: str = "bf16", drafted: int = 0, **spread: int) -> Instance:
    return Instance(
        model=model_named(model),
        hardware=accelerator_named(hardware),
        precision=Precision(weights="fp8", kv_cache="fp8", activations=activations),
        parallelism=Parallelism(**spread),
        settings=EngineSettings(speculative_tokens=drafted),
    )


def work(instance: Instance, name: str) -> float:
    return float(work_of(instance)[AT_WORK[name]])


def test_all_reduces_stay_in_the_server_where_groups_do() -> None:
    """Two groups of eight on two servers: attention's all-reduces cross no network, what experts are sent does."""
    one, two = on("DeepSeek-R1", tp=8), on("DeepSeek-R1", tp=8, dp=2, ep=16)
    model, link = one.model, one.hardware
    reduce_s = 2 * 7 / 8 * model.hidden * 2 / link.scaleup_bps
    assert work(one, "collective_token_s") == pytest.approx(2 * model.layers * reduce_s)
    experts = sum(b.count for b in model.blocks if b.feed_forward.experts)
    far = 1 - 0.5**8
    near = 15 * (1 - (15 / 16) ** 8) - far
    sent_s = model.hidden * DISPATCH_BYTES * (near / link.scaleup_bps + far / link.scaleout_bps) / 16
    expected = (2 * model.layers - experts) * reduce_s / 2 + experts * sent_s
    assert work(two, "collective_token_s") == pytest.approx(expected)
    assert work(two, "collectives") == 2 * model.layers - experts + 2 * experts * REMOTE_LATENCY


def test_what_experts_are_sent_is_as_wide_whatever_activations_are_held_in() -> None:
    wide, narrow = (on("DeepSeek-R1", activations=form, dp=8, ep=8) for form in ("bf16", "fp8"))
    assert work(wide, "collective_token_s") == work(narrow, "collective_token_s")


def test_experts_that_are_sliced_need_every_token() -> None:
    """Of eight experts dealt out over eight devices, one that a token does not come from is visited with 1 - (7/8)^8; slices always."""
    dealt, sliced = on("DeepSeek-R1", dp=8, ep=8), on("DeepSeek-R1", dp=8)
    ratio = work(dealt, "collective_token_s") / work(sliced, "collective_token_s")
    assert ratio == pytest.approx(1 - (7 / 8) ** 8)


def test_stages_hand_tokens_on() -> None:
    """Four stages of two H200: three hops in one server; sixteen devices are two servers."""
    alone, staged, far = on("Llama-3.1-70B", tp=2), on("Llama-3.1-70B", tp=2, pp=4), on("Llama-3.1-70B", tp=2, pp=8)
    hop_s = alone.model.hidden * 2 / (2 * alone.hardware.scaleup_bps)
    assert work(staged, "collective_token_s") - work(alone, "collective_token_s") == pytest.approx(3 * hop_s)
    assert work(staged, "collectives") - work(alone, "collectives") == 3
    assert work(far, "collectives") - work(alone, "collectives") == pytest.approx(7 * REMOTE_LATENCY)


def test_few_tokens_visit_experts_unevenly_and_many_visit_all() -> None:
    """Eight balls in eight bins: the fullest holds about three, so that dealt-out experts take that much longer to read than slices."""
    dealt, sliced = (compile_steps(on("DeepSeek-R1", tp=8, ep=ep)).coefficients for ep in (8, 1))

    def seconds(c, batch: float) -> float:
        return step(c, 0.0, 0.0, 0.0, 0.0, batch, batch * 1000.0, 0.0)[0]

    read = sliced[AT["expert_read_s"]]
    assert (seconds(dealt, 1.0) - seconds(sliced, 1.0)) / read == pytest.approx(2 * 8, rel=0.2)
    assert seconds(dealt, 2000.0) == pytest.approx(seconds(sliced, 2000.0), rel=0.01)


def test_drafted_tokens_are_checked_by_the_head_and_launched_one_by_one() -> None:
    plain, drafting = on("Llama-3.1-8B"), on("Llama-3.1-8B", drafted=3)
    assert work(drafting, "layers") == work(plain, "layers") + 3
    head = compile_steps(drafting).coefficients.copy()
    batch = 4096.0
    slow = head.copy()
    slow[AT["head_token_s"]] *= 2.0
    more = step(slow, 0.0, 0.0, 0.0, 0.0, batch, 0.0, 0.0)[0] - step(head, 0.0, 0.0, 0.0, 0.0, batch, 0.0, 0.0)[0]
    assert more == pytest.approx(4 * batch * head[AT["head_token_s"]], rel=0.1)


def test_the_fullest_device_holds_the_longest_stage_and_the_most_experts() -> None:
    """61 layers in two stages: 31 and 30. 256 experts in 72 parts: four in some."""
    model = model_named("DeepSeek-R1")
    split = weight_bytes_per_device(on("DeepSeek-R1", tp=8, pp=2))
    dense = (model.attention_parameters + model.dense_parameters) / 8
    assert split == pytest.approx((dense + model.expert_parameters / 8) * 31 / 61 + model.embedding_parameters / 8)
    many = weight_bytes_per_device(on("DeepSeek-R1", "GB200", dp=72, ep=72))
    routed = model.expert_parameters * 4 / 256
    assert many == pytest.approx(8 * dense + routed + 2 * model.embedding_parameters)


def test_states_are_no_narrower_than_16_bits() -> None:
    model = next(m for m in ("Qwen3-Next-80B-A3B", "Qwen3.5-397B-A17B") if _known(m))
    wide, narrow = (on(model, activations=form, tp=8) for form in ("bf16", "fp8"))
    assert work(wide, "state_s") == work(narrow, "state_s") > 0


def _known(name: str) -> bool:
    try:
        return bool(model_named(name))
    except ValueError:
        return False


def test_a_correction_by_load_is_interpolated_between_its_points() -> None:
    c = compile_steps(on("Llama-3.1-8B")).coefficients.copy()

    def seconds(array, batch: float) -> float:
        return step(array, 0.0, 0.0, 0.0, 0.0, batch, batch * 500.0, 0.0)[0]

    plain = {batch: seconds(c, batch) for batch in (0.5, 1.0, 4.0, 8.0, 256.0, 1000.0)}
    c[AT["decode_more_4"]], c[AT["decode_more_16"]], c[AT["decode_more_64"]], c[AT["decode_more_256"]] = (
        0.2,
        0.4,
        0.1,
        -0.3,
    )
    found = {batch: seconds(c, batch) / seconds_plain for batch, seconds_plain in plain.items()}
    expected = {0.5: 1.0, 1.0: 1.0, 4.0: 1.2, 8.0: 1.3, 256.0: 0.7, 1000.0: 0.7}
    assert found == pytest.approx(expected)
    assert math.isfinite(replace(compile_steps(on("Llama-3.1-8B"))).coefficients.sum())
