"""A real vLLM on processors, and a model for it that takes no time."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tests.engines import KEY, MODEL
from tests.ports import free_port

from plenum.adapters.engines.http import HttpEngine
from plenum.adapters.engines.table import Start, engine_to_start
from plenum.model.endpoint import DECODE, PREFILL, SERVE, Endpoint, Pool

ON_PROCESSORS = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment of :func:`new_vllm`."""


def tiny_model(folder: Path) -> Path:
    """A model of two layers with random weights and a tokenizer of single bytes, for vLLM: it says printable nonsense that hangs on
    all of its prompt."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    vocab = (
        {chr(byte): byte for byte in shown} | {chr(256 + k): byte for k, byte in enumerate(hidden)} | {"<|end|>": 256}
    )
    split = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"id": 256, "content": "<|end|>", "special": True} | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [end | {"normalized": False}],
        "pre_tokenizer": split,
        "decoder": split,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    } | dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "num_hidden_layers": 2,
        "vocab_size": 320,
        "max_position_embeddings": 2048,
        "torch_dtype": "float32",
        "tie_word_embeddings": False,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
    }
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": template}
    for name, content in {"tokenizer": tokenizer, "config": config, "tokenizer_config": own}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(_random_weights(config))
    return folder


def _random_weights(config: dict[str, Any]) -> bytes:
    wide, inner = config["hidden_size"], config["intermediate_size"]
    queries, keys = (config[f"num_{name}_heads"] * config["head_dim"] for name in ("attention", "key_value"))
    shapes = {"model.embed_tokens": (config["vocab_size"], wide), "lm_head": (config["vocab_size"], wide)}
    for layer in range(config["num_hidden_layers"]):
        of = f"model.layers.{layer}"
        shapes |= {
            f"{of}.self_attn.{name}_proj": (rows, wide) for name, rows in zip("qkv", (queries, keys, keys), strict=True)
        }
        shapes |= {f"{of}.self_attn.o_proj": (wide, queries), f"{of}.mlp.down_proj": (wide, inner)}
        shapes |= {f"{of}.mlp.{name}_proj": (inner, wide) for name in ("gate", "up")}
    draw = np.random.default_rng(0)
    tensors = {name: draw.standard_normal(shape) / np.sqrt(shape[1] / 4) for name, shape in shapes.items()}
    norms = [f"model.layers.{layer}.{name}_layernorm" for layer in (0, 1) for name in ("input", "post_attention")]
    tensors |= {name: np.ones(wide) for name in (*norms, "model.norm")}
    tensors["lm_head"][: ord(" ")] = tensors["lm_head"][ord("~") + 1 :] = 0  # never the most probable
    header, data = {}, b""
    for name, tensor in tensors.items():
        piece = tensor.astype("<f4").tobytes()
        header[f"{name}.weight"] = {
            "dtype": "F32",
            "shape": tensor.shape,
            "data_offsets": (len(data), len(data) + len(piece)),
        }
        data += piece
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + data


class Pair(NamedTuple):
    """Two vLLMs that hand caches over; the first was started with ``events`` and publishes what enters its cache."""

    prefill: HttpEngine
    decode: HttpEngine
    events: tuple[str, ...]


def new_vllm(folder: Path, pool: str, arguments: tuple[str, ...] = ()) -> HttpEngine:
    """A real vLLM of a pool, not started."""
    endpoint = Endpoint(
        name=MODEL,
        model=str(folder),
        engine="vllm",
        slots=8,
        context_tokens=1024,
        pools=(Pool(),) if pool == SERVE else (Pool(name=PREFILL), Pool(name=DECODE)),
        arguments=("--enforce-eager", "--dtype", "float32", *arguments),
    )
    return engine_to_start(Start(endpoint=endpoint, pool=pool, weights=folder, port=free_port(), key=KEY))
