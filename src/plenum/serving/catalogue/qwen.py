"""Qwen: dense, mixtures of experts, and the hybrids of gated delta nets and full attention."""

from __future__ import annotations

from plenum.serving.architecture import Architecture, Attention, Block, FeedForward
from plenum.serving.catalogue.shapes import experts, plain

_VOCAB = 151_936

_LEFT_OUT = "vision tower; the layer that predicts a further token"


def _dense(
    name: str, layers: int, hidden: int, heads: int, kv: int, width: int, total: float, tied: bool
) -> Architecture:
    return plain(
        name,
        "qwen",
        layers,
        hidden,
        heads,
        kv,
        width,
        _VOCAB,
        head_dim=128,
        tied_embeddings=tied,
        max_context=40_960,
        parameters_published=total,
        source=f"config.json of Qwen/{name}; arXiv 2505.09388 table 1",
    )


def _qwen2(name: str, *shape: int, total: float, tied: bool = False) -> Architecture:
    return plain(
        name,
        "qwen",
        *shape,
        tied_embeddings=tied,
        max_context=32_768,
        parameters_published=total,
        source=f"config.json of Qwen/{name}; arXiv 2412.15115 table 1",
    )


def _moe(
    name: str,
    layers: int,
    hidden: int,
    heads: int,
    kv: int,
    count: int,
    width: int,
    total: float,
    context: int = 40_960,
) -> Architecture:
    return experts(
        name,
        "qwen-moe",
        layers,
        hidden,
        Attention(heads=heads, kv_heads=kv, head_dim=128),
        FeedForward(width=width, experts=count, active=8),
        _VOCAB,
        max_context=context,
        parameters_published=total,
        source=f"config.json of Qwen/{name}; arXiv 2505.09388 table 2",
    )


def _hybrid(
    name: str,
    layers: int,
    hidden: int,
    full: tuple[int, int],
    value_heads: int,
    feed_forward: FeedForward,
    total: float,
    vocab: int = 248_320,
) -> Architecture:
    """Every fourth layer attends to everything (heads of 256, a gate on the output); the others are gated delta nets."""
    heads, kv = full
    whole = Attention(heads=heads, kv_heads=kv, head_dim=256, gated_output=True)
    linear = Attention(kind="linear", heads=value_heads, kv_heads=16, head_dim=128)
    return Architecture(
        name=name,
        family="qwen-hybrid",
        hidden=hidden,
        vocab=vocab,
        blocks=(
            Block(count=layers // 4, attention=whole, feed_forward=feed_forward),
            Block(count=layers - layers // 4, attention=linear, feed_forward=feed_forward),
        ),
        max_context=262_144,
        parameters_published=total,
        left_out=_LEFT_OUT,
        source=f"config.json of Qwen/{name}",
    )


MODELS: tuple[Architecture, ...] = (
    _qwen2("Qwen2.5-0.5B", 24, 896, 14, 2, 4864, 151_936, total=0.494e9, tied=True),
    _qwen2("Qwen2.5-1.5B", 28, 1536, 12, 2, 8960, 151_936, total=1.544e9, tied=True),
    _qwen2("Qwen2.5-3B", 36, 2048, 16, 2, 11_008, 151_936, total=3.086e9, tied=True),
    _qwen2("Qwen2.5-7B", 28, 3584, 28, 4, 18_944, 152_064, total=7.616e9),
    _qwen2("Qwen2.5-14B", 48, 5120, 40, 8, 13_824, 152_064, total=14.77e9),
    _qwen2("Qwen2.5-32B", 64, 5120, 40, 8, 27_648, 152_064, total=32.76e9),
    _qwen2("Qwen2.5-72B", 80, 8192, 64, 8, 29_568, 152_064, total=72.71e9),
    _dense("Qwen3-0.6B", 28, 1024, 16, 8, 3072, 0.596e9, True),
    _dense("Qwen3-1.7B", 28, 2048, 16, 8, 6144, 1.72e9, True),
    _dense("Qwen3-4B", 36, 2560, 32, 8, 9728, 4.02e9, True),
    _dense("Qwen3-8B", 36, 4096, 32, 8, 12_288, 8.19e9, False),
    _dense("Qwen3-14B", 40, 5120, 40, 8, 17_408, 14.77e9, False),
    _dense("Qwen3-32B", 64, 5120, 64, 8, 25_600, 32.76e9, False),
    _moe("Qwen3-30B-A3B", 48, 2048, 32, 4, 128, 768, 30.53e9),
    _moe("Qwen3-235B-A22B", 94, 4096, 64, 4, 128, 1536, 235.09e9),
    _moe("Qwen3-Coder-480B-A35B", 62, 6144, 96, 8, 160, 2560, 480.15e9, 262_144),
    _hybrid(
        "Qwen3-Next-80B-A3B",
        48,
        2048,
        (16, 2),
        32,
        FeedForward(width=512, experts=512, active=10, shared_width=512),
        80e9,
        151_936,
    ),
    _hybrid("Qwen3.5-27B", 64, 5120, (24, 4), 48, FeedForward(width=17_408), 27e9),
    _hybrid(
        "Qwen3.5-35B-A3B", 40, 2048, (16, 2), 32, FeedForward(width=512, experts=256, active=8, shared_width=512), 35e9
    ),
    _hybrid(
        "Qwen3.5-122B-A10B",
        48,
        3072,
        (32, 2),
        64,
        FeedForward(width=1024, experts=256, active=8, shared_width=1024),
        122e9,
    ),
    _hybrid(
        "Qwen3.5-397B-A17B",
        60,
        4096,
        (32, 2),
        64,
        FeedForward(width=1024, experts=512, active=10, shared_width=1024),
        397e9,
    ),
)
"""Entries of this family."""
