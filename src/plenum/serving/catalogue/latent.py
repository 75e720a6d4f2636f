"""Models with latent attention (MLA): DeepSeek, Kimi, GLM."""

from __future__ import annotations

from plenum.serving.architecture import Architecture, Attention, FeedForward
from plenum.serving.catalogue.shapes import experts

_MTP = "the layer that predicts a further token"


def _mla(heads: int, query_rank: int = 1536, nope: int = 128, value: int = 128, index_heads: int = 0) -> Attention:
    return Attention(
        kind="mla",
        heads=heads,
        kv_heads=heads,
        head_dim=nope,
        value_dim=0 if value == nope else value,
        kv_rank=512,
        rope_dim=64,
        query_rank=query_rank,
        selected=2048 if index_heads else 0,
        index_heads=index_heads,
        index_dim=128 if index_heads else 0,
    )


def _v3(name: str, source: str, index_heads: int = 0) -> Architecture:
    return experts(
        name,
        "deepseek-sparse" if index_heads else "deepseek",
        61,
        7168,
        _mla(128, index_heads=index_heads),
        FeedForward(width=2048, experts=256, active=8, shared_width=2048),
        129_280,
        dense_layers=3,
        dense_width=18_432,
        max_context=163_840,
        weights_format="fp8_block",
        parameters_published=671e9,
        left_out=_MTP,
        source=source,
    )


def _k2(name: str, context: int, form: str, experts_form: str, left_out: str, source: str) -> Architecture:
    return experts(
        name,
        "deepseek",
        61,
        7168,
        _mla(64),
        FeedForward(width=2048, experts=384, active=8, shared_width=2048),
        163_840,
        dense_layers=1,
        dense_width=18_432,
        max_context=context,
        weights_format=form,
        experts_format=experts_form,
        parameters_published=1.04e12,
        left_out=left_out,
        source=source,
    )


_V3 = "config.json of deepseek-ai/{}; arXiv 2412.19437 section 4.2"

MODELS: tuple[Architecture, ...] = (
    experts(
        "DeepSeek-V2-Lite",
        "deepseek",
        27,
        2048,
        _mla(16, query_rank=0),
        FeedForward(width=1408, experts=64, active=6, shared_width=2816),
        102_400,
        dense_layers=1,
        dense_width=10_944,
        max_context=163_840,
        parameters_published=15.7e9,
        source="config.json of deepseek-ai/DeepSeek-V2-Lite; arXiv 2405.04434 appendix B",
    ),
    experts(
        "DeepSeek-V2",
        "deepseek",
        60,
        5120,
        _mla(128),
        FeedForward(width=1536, experts=160, active=6, shared_width=3072),
        102_400,
        dense_layers=1,
        dense_width=12_288,
        max_context=163_840,
        parameters_published=236e9,
        source="config.json of deepseek-ai/DeepSeek-V2; arXiv 2405.04434 section 3.1",
    ),
    _v3("DeepSeek-V3", _V3.format("DeepSeek-V3")),
    _v3("DeepSeek-R1", _V3.format("DeepSeek-R1")),
    _v3("DeepSeek-V3.1", _V3.format("DeepSeek-V3.1")),
    _v3("DeepSeek-V3.2", "config.json of deepseek-ai/DeepSeek-V3.2: index_topk 2048, 64 heads of 128", 64),
    _k2(
        "Kimi-K2", 131_072, "fp8_block", "", "", "config.json of moonshotai/Kimi-K2-Instruct; arXiv 2507.20534 table 2"
    ),
    _k2(
        "Kimi-K2.5",
        262_144,
        "bf16",
        "int4_g32",
        "vision tower",
        "config.json of moonshotai/Kimi-K2.5: experts pack-quantized to 4 bits, groups of 32",
    ),
    experts(
        "GLM-5",
        "deepseek-sparse",
        78,
        6144,
        _mla(64, 2048, 192, 256, 32),
        FeedForward(width=2048, experts=256, active=8, shared_width=2048),
        154_880,
        dense_layers=3,
        dense_width=12_288,
        max_context=202_752,
        parameters_published=744e9,
        left_out=_MTP,
        source="config.json of zai-org/GLM-5",
    ),
)
"""Entries of this family."""
