"""Mixtures of experts of other publishers: Mixtral, gpt-oss, MiniMax, Llama 4, GLM-4.5, MiMo."""

from __future__ import annotations

from plenum.serving.architecture import Architecture, Attention, Block, FeedForward
from plenum.serving.catalogue.shapes import alternating, experts

_MTP = "the layers that predict further tokens"


def _gpt_oss(name: str, layers: int, count: int, total: float) -> Architecture:
    return alternating(
        name, "gpt-oss", layers, layers // 2, 2880, (64, 8, 64), 128, FeedForward(width=2880, experts=count, active=4),
        201_088, experts_format="mxfp4", parameters_published=total,
        source=f"config.json of openai/{name}; arXiv 2508.10925 table 1",
    )  # fmt: skip


def _mixtral(
    name: str, layers: int, hidden: int, heads: int, width: int, vocab: int, context: int, total: float
) -> Architecture:
    return experts(
        name, "mixtral", layers, hidden, Attention(heads=heads, kv_heads=8, head_dim=128),
        FeedForward(width=width, experts=8, active=2), vocab, max_context=context, parameters_published=total,
        source=f"config.json of mistralai/{name}-v0.1; arXiv 2401.04088",
    )  # fmt: skip


def _llama4(name: str, count: int, every: int, context: int, total: float, repo: str) -> Architecture:
    """Three layers of four attend within chunks of 8,192 tokens; every ``every``-th has experts, the others a wider network."""
    routed = FeedForward(width=8192, experts=count, active=1, shared_width=8192)
    whole = Attention(heads=40, kv_heads=8, head_dim=128)
    chunked = Attention(kind="sliding", heads=40, kv_heads=8, head_dim=128, window=8192)
    both = {  # layers 4, 8, … attend to everything; they are among those with experts
        1: ((12, whole, routed), (36, chunked, routed)),
        2: ((12, whole, routed), (12, chunked, routed), (24, chunked, FeedForward(width=16_384))),
    }
    blocks = tuple(Block(count=n, attention=a, feed_forward=f) for n, a, f in both[every])
    return Architecture(
        name=name, family="llama4", hidden=5120, vocab=202_048, blocks=blocks, max_context=context,
        parameters_published=total, left_out="vision tower", source=f"config.json of meta-llama/{repo}",
    )  # fmt: skip


def _glm4(
    name: str, layers: int, hidden: int, count: int, width: int, dense: tuple[int, int], total: float
) -> Architecture:
    return experts(
        name, "glm", layers, hidden, Attention(heads=96, kv_heads=8, head_dim=128),
        FeedForward(width=width, experts=count, active=8, shared_width=width), 151_552, dense_layers=dense[0],
        dense_width=dense[1], parameters_published=total, left_out=_MTP,
        source=f"config.json of zai-org/{name}; arXiv 2508.06471 table 1",
    )  # fmt: skip


def _mimo_v2_flash() -> Architecture:
    whole = Attention(heads=64, kv_heads=4, head_dim=192, value_dim=128)
    near = Attention(kind="sliding", heads=64, kv_heads=8, head_dim=192, value_dim=128, window=128)
    routed = FeedForward(width=2048, experts=256, active=8)
    blocks = (
        Block(count=1, attention=whole, feed_forward=FeedForward(width=16_384)),
        Block(count=8, attention=whole, feed_forward=routed),
        Block(count=39, attention=near, feed_forward=routed),
    )
    return Architecture(
        name="MiMo-V2-Flash", family="mimo", hidden=4096, vocab=152_576, blocks=blocks, max_context=262_144,
        weights_format="fp8_block", parameters_published=309e9, left_out=_MTP,
        source="config.json of XiaomiMiMo/MiMo-V2-Flash",
    )  # fmt: skip


MODELS: tuple[Architecture, ...] = (
    _gpt_oss("gpt-oss-20b", 24, 32, 20.91e9),
    _gpt_oss("gpt-oss-120b", 36, 128, 116.83e9),
    _mixtral("Mixtral-8x7B", 32, 4096, 32, 14_336, 32_000, 32_768, 46.7e9),
    _mixtral("Mixtral-8x22B", 56, 6144, 48, 16_384, 32_000, 65_536, 140.6e9),
    experts(
        "MiniMax-M2.5", "minimax", 62, 3072, Attention(heads=48, kv_heads=8, head_dim=128),
        FeedForward(width=1536, experts=256, active=8), 200_064, max_context=196_608, weights_format="fp8_block",
        parameters_published=229e9, left_out=_MTP, source="config.json of MiniMaxAI/MiniMax-M2.5",
    ),
    _llama4("Llama-4-Scout", 16, 1, 10_485_760, 107.8e9, "Llama-4-Scout-17B-16E-Instruct"),
    _llama4("Llama-4-Maverick", 128, 2, 1_048_576, 400e9, "Llama-4-Maverick-17B-128E-Instruct"),
    _glm4("GLM-4.5", 92, 5120, 160, 1536, (3, 12_288), 355e9),
    _glm4("GLM-4.5-Air", 46, 4096, 128, 1408, (1, 10_944), 106e9),
    _mimo_v2_flash(),
)  # fmt: skip
"""Entries."""
