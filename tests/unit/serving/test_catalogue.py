"""Shapes add up to what publishers state; names are found however people spell them."""

from __future__ import annotations

import pytest

from plenum.model.errors import PlenumError
from plenum.serving.catalogue.accelerators import ACCELERATORS, accelerator_named
from plenum.serving.catalogue.models import ALIASES, MODELS, model_named, published_precision
from plenum.serving.formats import FORMATS


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_shapes_add_up_to_the_published_parameters(model):
    assert model.parameters_published > 0
    assert model.parameters == pytest.approx(model.parameters_published, rel=0.02)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_entries_are_whole(model):
    assert model.source
    assert model.weights_format in FORMATS
    assert not model.experts_format or model.experts_format in FORMATS
    assert model.active_parameters <= model.parameters
    assert model.layers == sum(block.count for block in model.blocks)
    assert model_named(model.name) is model


@pytest.mark.parametrize(
    ("name", "billions"),
    [  # what publishers state of the parameters that one token visits
        ("Qwen3-235B-A22B", 22),
        ("Qwen3-30B-A3B", 3.3),
        ("Qwen3.5-397B-A17B", 17),
        ("DeepSeek-V3", 37),
        ("Kimi-K2", 32.6),
        ("GLM-5", 40),
        ("gpt-oss-120b", 5.13),
        ("gpt-oss-20b", 3.61),
        ("MiniMax-M2.5", 10),
        ("Mixtral-8x7B", 12.9),
        ("Llama-4-Maverick", 17),
        ("MiMo-V2-Flash", 15),
    ],
)
def test_active_parameters_are_those_that_publishers_state(name, billions):
    assert MODELS[name].active_parameters / 1e9 == pytest.approx(billions, rel=0.09)


@pytest.mark.parametrize(
    ("name", "bytes_each"),
    [  # of one token in 16 bits, by the formulas of the papers
        ("Llama-3.1-70B", 2 * 2 * 80 * 8 * 128),
        ("DeepSeek-V3", 2 * 61 * (512 + 64)),
        ("Qwen3.5-397B-A17B", 2 * 2 * 15 * 2 * 256),
        ("MiMo-V2-Flash", 2 * (9 * 4 + 39 * 8) * (192 + 128)),
    ],
)
def test_cache_of_one_token(name, bytes_each):
    assert MODELS[name].cache_values_per_token * 2 == bytes_each


def test_windows_and_states_stop_growing():
    gemma, hybrid = MODELS["Gemma-3-27B"], MODELS["Qwen3.5-397B-A17B"]
    growth = gemma.cache_values(20_000) - gemma.cache_values(10_000)
    assert growth == 10_000 * 10 * 2 * 16 * 128  # only the ten layers without a window
    assert hybrid.cache_values(0) == 45 * 64 * 128 * 128


@pytest.mark.parametrize(
    ("spelling", "name", "weights", "routed"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", "Llama-3.1-70B", "bf16", ""),
        ("META-LLAMA/Meta-Llama-3.1-8B", "Llama-3.1-8B", "bf16", ""),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "Llama-3.1-8B", "fp8", ""),
        ("deepseek-ai/DeepSeek-R1", "DeepSeek-R1", "fp8_block", ""),
        ("deepseek-ai/DeepSeek-R1-0528", "DeepSeek-R1", "fp8_block", ""),
        ("nvidia/DeepSeek-R1-NVFP4", "DeepSeek-R1", "bf16", "nvfp4"),
        ("deepseek-ai/DeepSeek-V3.2-Exp", "DeepSeek-V3.2", "fp8_block", ""),
        ("Qwen/Qwen3-235B-A22B-FP8", "Qwen3-235B-A22B", "fp8", ""),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "Qwen3-30B-A3B", "bf16", ""),
        ("nvidia/Qwen3-32B-NVFP4", "Qwen3-32B", "nvfp4", ""),
        ("zhipuai/GLM-5", "GLM-5", "bf16", ""),
        ("moonshotai/Kimi-K2.5", "Kimi-K2.5", "bf16", "int4_g32"),
        ("openai/gpt-oss-120b", "gpt-oss-120b", "bf16", "mxfp4"),
        ("llama2-70b", "Llama-2-70B", "fp16", ""),
        ("bloom-176b", "BLOOM-176B", "bf16", ""),
        ("google/gemma-3-27b-it", "Gemma-3-27B", "bf16", ""),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M", "bf16", ""),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "Mixtral-8x7B", "bf16", ""),
    ],
)
def test_models_are_found_by_the_path_of_their_repository(spelling, name, weights, routed):
    model = model_named(spelling)
    assert (model.name, model.weights_format, model.experts_format) == (name, weights, routed)
    assert published_precision(model).weights == weights


def test_every_alias_leads_somewhere():
    for alias, name in ALIASES.items():
        assert model_named(alias).name == name


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("h100_sxm", "H100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("h200_sxm", "H200"),
        ("b200_sxm", "B200"),
        ("a100-80gb", "A100"),
        ("gb200 nvl72", "GB200"),
        ("trillium", "TPU-v6e"),
        ("gaudi3", "Gaudi3"),
    ],
)
def test_accelerators_are_found_by_other_spellings(spelling, name):
    assert accelerator_named(spelling).name == name


@pytest.mark.parametrize(
    ("find", "name", "code", "near"),
    [
        (model_named, "lama-3.1-70b", "model.unknown", "Llama-3.1-70B"),
        (model_named, "x" * 100_000, "model.unknown", "plan models"),
        (accelerator_named, "H10O", "hardware.unknown", "H100"),
        (accelerator_named, "", "hardware.unknown", "known: A100"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(find, name, code, near):
    with pytest.raises(PlenumError) as caught:
        find(name)
    assert caught.value.code == code
    assert near in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("hardware", ACCELERATORS.values(), ids=ACCELERATORS)
def test_accelerators_are_plausible_and_sourced(hardware):
    for field in ("peak_flops", "hbm_bytes", "hbm_bps", "tdp_w", "scaleup_bps", "server_usd", "usd_per_hour"):
        assert hardware.sources.get(field), field
    peaks = hardware.peak_flops
    assert 0 < hardware.idle_w < hardware.tdp_w
    assert peaks["bf16"] >= peaks.get("fp32", 0.0)
    assert peaks.get("fp8", peaks["bf16"]) >= peaks["bf16"]
    assert set(peaks) <= set(FORMATS)
    assert hardware.hbm_bytes > 1e9
    assert hardware.hbm_bps > hardware.scaleup_bps >= hardware.scaleout_bps


def test_two_accelerators_share_no_spelling():
    seen = [name.lower() for item in ACCELERATORS.values() for name in (item.name, *item.aliases)]
    assert len(seen) == len(set(seen))
