from __future__ import annotations

from dataclasses import replace

import pytest

from plenum.serving.architecture import Architecture
from plenum.serving.catalogue.accelerators import accelerator_named
from plenum.serving.catalogue.models import model_named
from plenum.serving.floors import floor_tpot_s, floor_ttft_s
from plenum.serving.formats import Precision
from plenum.serving.instance import Instance, Parallelism, cache_capacity_tokens
from plenum.serving.roofline import Efficiency, compile_steps, work_of
from plenum.serving.steps import AT, chunk_pairs, chunk_pairs_window, step

SPARSE = model_named("DeepSeek-V3.2")
DENSE = replace(
    SPARSE,
    name="all tokens attended",
    blocks=tuple(replace(b, attention=replace(b.attention, selected=0)) for b in SPARSE.blocks),
)

LAUNCH_S = Efficiency().latent_layer_s


def on(model: Architecture) -> Instance:
    """The model in 8 bits on 16 H200."""
    precision = Precision(weights="fp8", kv_cache="fp8")
    return Instance(
        model=model, hardware=accelerator_named("H200"), precision=precision, parallelism=Parallelism(tp=8, dp=2)
    )


def prefill_s(model: Architecture, tokens: float) -> float:
    steps = compile_steps(on(model))
    near = chunk_pairs_window(0, tokens, steps["window"])
    return step(steps.coefficients, 2 * tokens, 2 * chunk_pairs(0, tokens), 2 * near, 2.0, 0.0, 0.0, 0.0)[0]


def decode_s(model: Architecture, context: float) -> float:
    steps = compile_steps(on(model))
    near = 16 * min(context, steps["window"])
    return step(steps.coefficients, 0.0, 0.0, 0.0, 0.0, 16.0, 16 * context, near)[0]


def test_work_of_selected_tokens_is_apart_from_that_of_all():
    work, instance, attention = work_of(on(SPARSE)), on(SPARSE), SPARSE.blocks[0].attention
    at, layers, devices = instance.hardware, SPARSE.layers, instance.devices
    assert work[AT["window"]] == attention.selected == 2048
    index_flops = layers * 2 * attention.index_heads * attention.index_dim
    assert work[AT["prefill_pair_s"]] == pytest.approx(index_flops / (devices * at.peak_flops["fp8"]))
    assert work[AT["decode_pair_s"]] == pytest.approx(index_flops / (devices * at.peak_flops["fp8"]))
    masked = layers * 2 * attention.heads * (attention.head_dim + attention.rope_dim + attention.values)
    latent = layers * 2 * attention.heads * (2 * attention.kv_rank + attention.rope_dim)
    assert work[AT["prefill_pair_masked_s"]] == pytest.approx(masked / (devices * at.peak_flops["bf16"]))
    assert work[AT["prefill_pair_window_s"]] == pytest.approx(latent / (devices * at.peak_flops["bf16"]))
    # 128 bytes of index key of every token; 576 of latent and rotary key of the selected ones. Both groups read their own sequences.
    assert work[AT["decode_context_s"]] == pytest.approx(layers * 128 / (2 * at.hbm_bps))
    assert work[AT["decode_context_window_s"]] == pytest.approx(layers * 576 / (2 * at.hbm_bps))


def test_short_contexts_cost_the_same_but_for_launches_and_long_ones_far_less():
    assert prefill_s(SPARSE, 2048.0) == pytest.approx(prefill_s(DENSE, 2048.0), rel=0.03)
    assert decode_s(SPARSE, 2000.0) == pytest.approx(decode_s(DENSE, 2000.0) + SPARSE.layers * LAUNCH_S, rel=0.01)
    assert prefill_s(SPARSE, 131_072.0) < 0.5 * prefill_s(DENSE, 131_072.0)
    assert decode_s(SPARSE, 131_072.0) < 0.65 * decode_s(DENSE, 131_072.0)


def test_floors_know_that_few_tokens_are_attended_to():
    sparse, dense = on(SPARSE), on(DENSE)
    assert floor_ttft_s(sparse, 131_072) < 0.7 * floor_ttft_s(dense, 131_072)
    read = SPARSE.layers * (128 * 131_072 + 576 * 2048) / sparse.hardware.hbm_bps
    assert floor_tpot_s(sparse, 131_072) - floor_tpot_s(sparse) == pytest.approx(read)
    assert floor_tpot_s(dense, 131_072) - floor_tpot_s(dense) == pytest.approx(SPARSE.layers * 704 * 131_072 / 4.8e12)


def test_what_is_not_attended_to_is_still_kept():
    assert cache_capacity_tokens(on(SPARSE), 100_000.0) == cache_capacity_tokens(on(DENSE), 100_000.0)
