"""From a model's settings to its layers: what each attends to, and its feed-forward part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from plenum.adapters.models.settings import LAYERS_LIMIT, Settings
from plenum.serving.architecture import Attention, Block, FeedForward


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelType:
    """How models of one ``model_type`` are read.

    Parameters
    ----------
    family
        The catalogue's name for it.
    gated
        Feed-forward networks have three matrices.
    tied
        Whether one matrix serves as embedding and head where the file does not say.
    window_of
        Says of a layer whether it attends within a window only, where the file does not list its layers.
    left_out
        Parts that are not counted.
    """

    family: str
    gated: bool = True
    tied: bool = False
    window_of: Callable[[Settings, int], bool] = lambda settings, layer: "sliding_window" in settings
    left_out: str = ""


def read_blocks(settings: Settings, kind: ModelType) -> tuple[Block, ...]:
    """Return the runs of equal layers of a model.

    Raises
    ------
    FieldError
        A value is missing or cannot be meant.
    """
    layers = settings.whole("num_hidden_layers", "n_layer", "num_layers", low=1, high=LAYERS_LIMIT)
    counted = Counter((_attention(settings, kind, i), _feed_forward(settings, kind, i)) for i in range(layers))
    return tuple(Block(count=n, attention=a, feed_forward=f) for (a, f), n in counted.items())


def _attention(settings: Settings, kind: ModelType, layer: int) -> Attention:
    word = _layer_word(settings, kind, layer)
    if word == "linear":
        return _linear(settings)
    if "kv_lora_rank" in settings:
        return _latent(settings)
    window = settings.whole("sliding_window", "attention_chunk_size", default=0) if word == "window" else 0
    if window >= settings.whole("max_position_embeddings", "seq_length", "n_positions", default=2**30):
        window = 0  # wider than anything it may be given
    pre = (
        "swa_" if window and "swa_num_attention_heads" in settings else ""
    )  # layers with a window may have other heads
    heads = settings.whole(f"{pre}num_attention_heads", "n_head", low=1)
    head_dim = settings.whole(f"{pre}head_dim", default=settings.whole("hidden_size", "n_embd") // heads, low=1)
    value_dim = settings.whole(f"{pre}v_head_dim", default=head_dim)
    return Attention(
        kind="sliding" if window else "full",
        heads=heads,
        kv_heads=_kv_heads(settings, pre, heads),
        head_dim=head_dim,
        value_dim=0 if value_dim == head_dim else value_dim,
        window=window,
        gated_output=settings.flag("attn_output_gate"),
    )


def _kv_heads(settings: Settings, pre: str, heads: int) -> int:
    if settings.flag("multi_query") and not settings.flag("new_decoder_architecture"):  # Falcon-7B
        return 1
    return settings.whole(f"{pre}num_key_value_heads", "num_kv_heads", default=heads, low=1, high=heads)


def _latent(settings: Settings) -> Attention:
    heads = settings.whole("num_attention_heads", low=1)
    selected = settings.whole("index_topk", default=0)
    nope, value = settings.whole("qk_nope_head_dim", low=1), settings.whole("v_head_dim", low=1)
    return Attention(
        kind="mla",
        heads=heads,
        kv_heads=heads,
        head_dim=nope,
        value_dim=value if value != nope else 0,
        kv_rank=settings.whole("kv_lora_rank", low=1),
        rope_dim=settings.whole("qk_rope_head_dim"),
        query_rank=settings.whole("q_lora_rank", default=0),
        selected=selected,
        index_heads=settings.whole("index_n_heads", default=0) if selected else 0,
        index_dim=settings.whole("index_head_dim", default=0) if selected else 0,
    )


def _linear(settings: Settings) -> Attention:
    key, value = (settings.whole(f"linear_{part}_head_dim", low=1) for part in ("key", "value"))
    return Attention(
        kind="linear",
        heads=settings.whole("linear_num_value_heads", low=1),
        kv_heads=settings.whole("linear_num_key_heads", low=1),
        head_dim=key,
        value_dim=value if value != key else 0,
    )


def _layer_word(settings: Settings, kind: ModelType, layer: int) -> str:
    """Return ``full``, ``window`` or ``linear``."""
    listed = settings.each("layer_types")
    if listed:
        word = str(_at(settings, "layer_types", listed, layer))
        return {"full_attention": "full", "linear_attention": "linear"}.get(word, "window")
    pattern = settings.each("hybrid_layer_pattern")
    if pattern:
        return "window" if _at(settings, "hybrid_layer_pattern", pattern, layer) == 1 else "full"
    every = settings.whole("full_attention_interval", default=0)
    if every:
        return "full" if (layer + 1) % every == 0 else "linear"
    return "window" if kind.window_of(settings, layer) else "full"


def _feed_forward(settings: Settings, kind: ModelType, layer: int) -> FeedForward:
    count = settings.whole("num_experts", "num_local_experts", "n_routed_experts", default=0)
    if not count or not _has_experts(settings, layer):
        return FeedForward(width=_dense_width(settings, count), gated=kind.gated)
    each = settings.whole("moe_intermediate_size", "intermediate_size", low=1)
    shared = settings.whole("shared_expert_intermediate_size", "shared_intermediate_size", default=0)
    shared = shared or settings.whole("n_shared_experts", default=1 if kind.family == "llama4" else 0) * each
    return FeedForward(
        width=each,
        experts=count,
        active=settings.whole("num_experts_per_tok", "num_experts_per_token", "experts_per_token", low=1, high=count),
        shared_width=shared,
        gated=kind.gated,
    )


def _dense_width(settings: Settings, experts: int) -> int:
    if experts and "intermediate_size_mlp" in settings:  # Llama 4
        return settings.whole("intermediate_size_mlp", low=1)
    wide = 4 * settings.whole("hidden_size", "n_embd", low=1)
    return settings.whole("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner", default=wide, low=1)


def _has_experts(settings: Settings, layer: int) -> bool:
    listed = settings.each("mlp_layer_types")
    if listed:
        return _at(settings, "mlp_layer_types", listed, layer) != "dense"
    if isinstance(settings.values.get("moe_layer_freq"), list):
        return bool(_at(settings, "moe_layer_freq", settings.each("moe_layer_freq"), layer))
    if layer < settings.whole("first_k_dense_replace", default=0) or layer in settings.each("mlp_only_layers"):
        return False
    every = settings.whole("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", default=1, low=1)
    offset = settings.whole("first_k_dense_replace", default=0) if "moe_layer_freq" in settings else 0
    return (layer + 1 - offset) % every == 0 if every > 1 else True


def _at(settings: Settings, name: str, listed: object, layer: int) -> object:
    if not isinstance(listed, list) or layer >= len(listed):
        raise settings.wrong(name, f"has no entry for layer {layer}")
    return listed[layer]
