"""Architectures from config.json and from GGUF headers equal those of the catalogue; broken files end in a sentence."""

from __future__ import annotations

import json
import struct
from collections import Counter

import pytest

from plenum.adapters.models import find_architecture, read_architecture
from plenum.adapters.models.gguf_header import KEPT_LIMIT, read_header
from plenum.adapters.models.hugging_face import architecture_of
from plenum.model.errors import FieldError, FileError, PlenumError
from plenum.serving.catalogue.models import MODELS

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}  # fmt: skip

DEEPSEEK = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "first_k_dense_replace": 3, "moe_layer_freq": 1, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128, "vocab_size": 129280,
    "max_position_embeddings": 163840, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}  # fmt: skip

CONFIGS = {
    "Llama-3.1-8B": LLAMA,
    "SmolLM2-135M": LLAMA | {
        "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3,
        "num_hidden_layers": 30, "vocab_size": 49152, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
    "Qwen3-30B-A3B": {
        "model_type": "qwen3_moe", "decoder_sparse_step": 1, "head_dim": 128, "hidden_size": 2048,
        "intermediate_size": 6144, "max_position_embeddings": 40960, "mlp_only_layers": [], "moe_intermediate_size": 768,
        "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
        "num_key_value_heads": 4, "vocab_size": 151936, "use_sliding_window": False, "sliding_window": None,
    },
    "Mixtral-8x7B": {
        "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "num_attention_heads": 32, "num_experts_per_tok": 2, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "num_local_experts": 8, "vocab_size": 32000, "sliding_window": None,
    },
    "DeepSeek-V3": DEEPSEEK,
    "DeepSeek-V3.2": DEEPSEEK | {
        "model_type": "deepseek_v32", "index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048,
    },
    "Kimi-K2.5": {
        "model_type": "kimi_k25",
        "text_config": DEEPSEEK | {
            "model_type": "kimi_k2", "first_k_dense_replace": 1, "n_routed_experts": 384, "num_attention_heads": 64,
            "num_key_value_heads": 64, "vocab_size": 163840, "max_position_embeddings": 262144,
            "quantization_config": {
                "quant_method": "compressed-tensors", "ignore": ["lm_head", "re:.*self_attn.*"],
                "config_groups": {"group_0": {
                    "input_activations": None, "weights": {"num_bits": 4, "type": "int", "group_size": 32},
                }},
            },
        },
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss", "head_dim": 64, "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64,
        "max_position_embeddings": 131072, "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8,
        "num_local_experts": 32, "sliding_window": 128, "vocab_size": 201088,
        "layer_types": ["sliding_attention", "full_attention"] * 12, "quantization_config": {"quant_method": "mxfp4"},
    },
    "Qwen3.5-27B": {
        "model_type": "qwen3_5", "tie_word_embeddings": False,
        "text_config": {
            "model_type": "qwen3_5_text", "attn_output_gate": True, "full_attention_interval": 4, "head_dim": 256,
            "hidden_size": 5120, "intermediate_size": 17408, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
            "linear_num_value_heads": 48, "linear_value_head_dim": 128, "max_position_embeddings": 262144,
            "num_attention_heads": 24, "num_hidden_layers": 64, "num_key_value_heads": 4, "vocab_size": 248320,
        },
    },
    "Gemma-2-9B": {
        "model_type": "gemma2", "head_dim": 256, "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42,
        "num_attention_heads": 16, "num_key_value_heads": 8, "sliding_window": 4096, "vocab_size": 256000,
        "max_position_embeddings": 8192,
    },
    "Gemma-3-27B": {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text", "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504,
            "num_attention_heads": 32, "num_hidden_layers": 62, "num_key_value_heads": 16, "sliding_window": 1024,
            "vocab_size": 262208, "max_position_embeddings": 131072,
        },
    },
    "Phi-4": {
        "model_type": "phi3", "hidden_size": 5120, "intermediate_size": 17920, "num_attention_heads": 40,
        "num_hidden_layers": 40, "num_key_value_heads": 10, "vocab_size": 100352, "max_position_embeddings": 16384,
        "sliding_window": None,
    },
    "Falcon-7B": {
        "model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32,
        "multi_query": True, "vocab_size": 65024, "max_position_embeddings": 2048,
    },
    "BLOOM-176B": {
        "model_type": "bloom", "hidden_size": 14336, "n_head": 112, "n_layer": 70, "vocab_size": 250880, "seq_length": 2048,
    },
    "MiMo-V2-Flash": {
        "model_type": "mimo_v2_flash", "num_hidden_layers": 48, "hidden_size": 4096, "num_attention_heads": 64,
        "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128, "intermediate_size": 16384, "vocab_size": 152576,
        "max_position_embeddings": 262144, "sliding_window": 128, "swa_num_attention_heads": 64,
        "swa_num_key_value_heads": 8, "swa_head_dim": 192, "swa_v_head_dim": 128, "moe_intermediate_size": 2048,
        "hybrid_layer_pattern": [0, 1, 1, 1, 1, *([0, 1, 1, 1, 1, 1] * 7), 0], "moe_layer_freq": [0, *[1] * 47],
        "n_routed_experts": 256, "num_experts_per_tok": 8,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    },
    "Llama-4-Maverick": {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text", "attention_chunk_size": 8192, "head_dim": 128, "hidden_size": 5120,
            "interleave_moe_layer_step": 2, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "max_position_embeddings": 1048576, "num_attention_heads": 40, "num_experts_per_tok": 1,
            "num_hidden_layers": 48, "num_key_value_heads": 8, "num_local_experts": 128, "vocab_size": 202048,
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_reads_as_the_catalogue_has_it(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    read, known = read_architecture(tmp_path), MODELS[name]
    assert Counter(read.blocks) == Counter(known.blocks)
    assert read.parameters == known.parameters
    for field in ("family", "hidden", "vocab", "tied_embeddings", "max_context", "experts_format"):
        assert getattr(read, field) == getattr(known, field), field
    assert read.name == tmp_path.name


@pytest.mark.parametrize(
    ("quantised", "formats"),
    [
        ({"quant_method": "fp8"}, ("fp8", "")),
        ({"quant_method": "awq", "bits": 4}, ("awq", "")),
        ({"quant_method": "gptq", "bits": 8}, ("int8_wo", "")),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, ("int4", "")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("nvfp4", "")),
        ({"quant_algo": "FP8", "producer": {"name": "modelopt"}}, ("fp8", "")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.0.self_attn*"]}, ("bf16", "nvfp4")),
        (
            {"quant_method": "modelopt", "quantized_layers": {
                "l.0.self_attn.q_proj": {"quant_algo": "FP8"}, "l.0.mlp.experts": {"quant_algo": "W4A16_NVFP4"},
            }},
            ("fp8", "nvfp4"),
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": {
                "input_activations": {}, "weights": {"num_bits": 8, "type": "int"},
            }}},
            ("int8", ""),
        ),
    ],
)  # fmt: skip
def test_formats_of_checkpoints(quantised, formats):
    model = architecture_of(LLAMA | {"quantization_config": quantised}, fallback="x", source="here")
    assert (model.weights_format, model.experts_format) == formats


def test_formats_that_modelopt_keeps_in_a_file_of_their_own(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert read_architecture(tmp_path).weights_format == "fp8"


@pytest.mark.parametrize(
    ("change", "field", "sentence"),
    [
        ({"model_type": "deepseek_v9"}, "model_type", "nearest: deepseek_v3"),
        ({"model_type": 7}, "model_type", "must be a text"),
        ({"hidden_size": None}, "hidden_size", "is missing"),
        ({"hidden_size": "4096"}, "hidden_size", "whole number"),
        ({"hidden_size": True}, "hidden_size", "whole number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers", "from 1 to 2000"),
        ({"num_key_value_heads": 64}, "num_key_value_heads", "from 1 to 32"),
        ({"num_attention_heads": 0}, "num_attention_heads", "from 1"),
        ({"layer_types": ["full_attention"]}, "layer_types", "no entry for layer 1"),
        ({"layer_types": "full"}, "layer_types", "must be a list"),
        ({"quantization_config": {"quant_method": "magic"}}, "quantization_config.quant_method", "known: fp8"),
        ({"quantization_config": [1]}, "quantization_config", "must be an object"),
    ],
)
def test_what_cannot_be_meant_is_named(change, field, sentence):
    with pytest.raises(FieldError, match=sentence) as caught:
        architecture_of(LLAMA | change, fallback="x", source="here")
    assert caught.value.where.field == field


@pytest.mark.parametrize("content", [b"", b"nonsense", b"[1, 2]", b"\xff\xfe\x00", b"[" * 100_000])
def test_files_that_are_no_model(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(FileError):
        read_architecture(path)


def test_names_are_looked_up_where_there_is_no_file(tmp_path):
    assert find_architecture("meta-llama/Llama-3.1-8B") is MODELS["Llama-3.1-8B"]
    for missing in (str(tmp_path / "model.gguf"), "x\0y", "n" * 5000):
        with pytest.raises(PlenumError):
            find_architecture(missing)


def _string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _setting(key, value):
    if isinstance(value, str):
        return _string(key) + struct.pack("<I", 8) + _string(value)
    if isinstance(value, list) and isinstance(value[0], str):
        return _string(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_string, value))
    if isinstance(value, list):
        return _string(key) + struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)
    if isinstance(value, float):
        return _string(key) + struct.pack("<If", 6, value)
    return _string(key) + struct.pack("<II", 4, value)


def _gguf(settings, tensors, version=3):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(settings))
    body = b"".join(_setting(key, value) for key, value in settings.items())
    infos = b"".join(
        _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, 0)
        for name, shape, kind in tensors
    )
    return head + body + infos


SMOL = {
    "general.architecture": "llama", "general.name": "SmolLM2 135M", "llama.block_count": 30,
    "llama.embedding_length": 576, "llama.feed_forward_length": 1536, "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3, "llama.context_length": 8192, "llama.rope.freq_base": 100000.0,
    "tokenizer.ggml.tokens": [f"t{i}" for i in range(49152)], "tokenizer.ggml.token_type": [1] * 49152,
}  # fmt: skip
SMOL_TENSORS = [
    ("token_embd.weight", (576, 49152), 8),
    ("blk.0.attn_q.weight", (576, 576), 3),
    ("blk.0.attn_norm", (576,), 0),
]

MOE = {
    "general.architecture": "qwen3moe", "qwen3moe.block_count": 48, "qwen3moe.embedding_length": 2048,
    "qwen3moe.feed_forward_length": 6144, "qwen3moe.expert_feed_forward_length": 768, "qwen3moe.expert_count": 128,
    "qwen3moe.expert_used_count": 8, "qwen3moe.attention.head_count": 32, "qwen3moe.attention.head_count_kv": [4] * 48,
    "qwen3moe.attention.key_length": 128, "qwen3moe.attention.value_length": 128, "qwen3moe.context_length": 40960,
    "qwen3moe.vocab_size": 151936,
}  # fmt: skip
MOE_TENSORS = [
    ("output.weight", (2048, 151936), 14),
    ("blk.0.attn_q.weight", (2048, 4096), 14),
    ("blk.0.ffn_up_exps.weight", (2048, 768, 128), 12),
]

MLA = {
    "general.architecture": "deepseek2", "deepseek2.block_count": 61, "deepseek2.embedding_length": 7168,
    "deepseek2.feed_forward_length": 18432, "deepseek2.expert_feed_forward_length": 2048, "deepseek2.expert_count": 256,
    "deepseek2.expert_used_count": 8, "deepseek2.expert_shared_count": 1, "deepseek2.leading_dense_block_count": 3,
    "deepseek2.attention.head_count": 128, "deepseek2.attention.head_count_kv": 1, "deepseek2.attention.key_length": 576,
    "deepseek2.attention.value_length": 512, "deepseek2.attention.key_length_mla": 192,
    "deepseek2.attention.value_length_mla": 128, "deepseek2.attention.kv_lora_rank": 512,
    "deepseek2.attention.q_lora_rank": 1536, "deepseek2.rope.dimension_count": 64, "deepseek2.vocab_size": 129280,
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "tensors", "name", "formats"),
    [
        (SMOL, SMOL_TENSORS, "SmolLM2-135M", ("q4_1", "")),
        (MOE, MOE_TENSORS, "Qwen3-30B-A3B", ("q6_k", "q4_k")),
        (MLA, [("output.weight", (7168, 129280), 8)], "DeepSeek-V3", ("fp16", "")),
    ],
)
def test_a_gguf_header_reads_as_the_catalogue_has_it(settings, tensors, name, formats, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(_gguf(settings, tensors))
    read, known = read_architecture(path), MODELS[name]
    assert Counter(read.blocks) == Counter(known.blocks)
    assert read.parameters == known.parameters
    assert (read.weights_format, read.experts_format) == formats


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (_gguf(SMOL, SMOL_TENSORS)[:200_000], "ends within its header"),
        (_gguf(SMOL, SMOL_TENSORS, version=1), "version 1"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1), "tensors; at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "settings; at most"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), "a string of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + _string("a") + struct.pack("<I", 77), "of type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + _string("a") + struct.pack("<IIQ", 9, 9, 1), "array of type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + _string("a") + struct.pack("<IIQ", 9, 4, 2**40), "array entries"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + _string("a") + struct.pack("<I", 2**31), "dimensions"),
        (_gguf({"general.architecture": "clip"}, []), "'clip' is not known"),
        (_gguf({"general.architecture": "llama"}, []), "is missing"),
    ],
)
def test_broken_and_hostile_gguf_files_end_in_a_sentence(content, sentence, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(PlenumError, match=sentence) as caught:
        read_architecture(path)
    assert caught.value.where.file == str(path)


def test_of_long_texts_and_lists_of_texts_little_is_kept(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(_gguf({"general.name": "x" * 100_000, "tokenizer.ggml.tokens": ["y" * 1000] * 500}, []))
    header = read_header(path)
    assert header.settings == {"general.name": "x" * KEPT_LIMIT}
    assert header.lengths == {"tokenizer.ggml.tokens": 500}
