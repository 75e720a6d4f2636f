"""Whatever stands in a model's file, reading it gives an architecture or a sentence."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plenum.adapters.models import read_architecture
from plenum.adapters.models.hugging_face import architecture_of
from plenum.adapters.models.model_types import MODEL_TYPES
from plenum.model.errors import FieldError, PlenumError
from plenum.serving.architecture import Architecture

FIELDS = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "n_shared_experts",
    "first_k_dense_replace",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "sliding_window",
    "layer_types",
    "moe_layer_freq",
    "quantization_config",
    "text_config",
    "tie_word_embeddings",
    "full_attention_interval",
    "max_position_embeddings",
    "torch_dtype",
    "decoder_sparse_step",
]

values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.integers(0, 2), max_size=9), st.dictionaries(st.sampled_from(["bits", "quant_method"]), st.text(max_size=4)),
)  # fmt: skip


@given(st.sampled_from(sorted(MODEL_TYPES)), st.dictionaries(st.sampled_from(FIELDS), values))
def test_any_config_is_read_or_refused(kind, config):
    try:
        model = architecture_of({"model_type": kind, **config}, fallback="x", source="here")
    except FieldError:
        return
    assert model.layers >= 1
    assert model.parameters > 0


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("models") / "model"


@given(st.binary(max_size=300), st.integers(0, 5), st.integers(0, 5))
def test_any_bytes_after_a_gguf_start_are_read_or_refused(scratch, tail, tensors, settings):
    scratch.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, tensors, settings) + tail)
    with pytest.raises(PlenumError):
        read_architecture(scratch)


@given(st.recursive(values, lambda inner: st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4), max_leaves=9))
def test_any_json_is_read_or_refused(scratch, value):
    scratch.write_text(json.dumps(value))
    try:
        assert isinstance(read_architecture(scratch), Architecture)
    except PlenumError:
        return
