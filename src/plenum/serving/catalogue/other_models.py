"""Models of families with one or two members."""

from __future__ import annotations

from plenum.serving.architecture import Architecture, Attention, FeedForward
from plenum.serving.catalogue.shapes import alternating, experts, plain


def _gpt_oss(name: str, layers: int, count: int, total: float) -> Architecture:
    return alternating(
        name,
        "gpt-oss",
        layers,
        layers // 2,
        2880,
        (64, 8, 64),
        128,
        FeedForward(width=2880, experts=count, active=4),
        201_088,
        experts_format="mxfp4",
        parameters_published=total,
        source=f"config.json of openai/{name}; arXiv 2508.10925 table 1",
    )


MODELS: tuple[Architecture, ...] = (
    _gpt_oss("gpt-oss-20b", 24, 32, 20.91e9),
    _gpt_oss("gpt-oss-120b", 36, 128, 116.83e9),
    experts(
        "MiniMax-M2.5",
        "minimax",
        62,
        3072,
        Attention(heads=48, kv_heads=8, head_dim=128),
        FeedForward(width=1536, experts=256, active=8),
        200_064,
        max_context=196_608,
        weights_format="fp8_block",
        parameters_published=229e9,
        left_out="the layers that predict further tokens",
        source="config.json of MiniMaxAI/MiniMax-M2.5",
    ),
    plain(
        "BLOOM-176B",
        "bloom",
        70,
        14_336,
        112,
        112,
        57_344,
        250_880,
        gated=False,
        tied_embeddings=True,
        max_context=2048,
        parameters_published=176.25e9,
        source="arXiv 2211.05100 table 3",
    ),
)
"""Entries."""
