"""Dense models of other publishers: Mistral, SmolLM2, Gemma, Phi, Falcon, GPT-3 and BLOOM."""

from __future__ import annotations

from plenum.serving.architecture import Architecture, FeedForward
from plenum.serving.catalogue.shapes import alternating, plain

_VISION = "vision tower"


def _mistral(name: str, *shape: int, total: float, context: int, repo: str, head_dim: int = 128) -> Architecture:
    return plain(
        name, "llama", *shape, head_dim=head_dim, max_context=context, parameters_published=total,
        source=f"config.json of mistralai/{repo}",
    )  # fmt: skip


def _smol(name: str, *shape: int, total: float) -> Architecture:
    return plain(
        name, "llama", *shape, vocab=49_152, tied_embeddings=True, max_context=8192, parameters_published=total,
        source=f"config.json of HuggingFaceTB/{name}; arXiv 2502.02737",
    )  # fmt: skip


def _gemma(
    name: str, layers: int, full: int, hidden: int, attention: tuple[int, int, int], width: int, vocab: int, window: int,
    context: int, total: float, source: str, left_out: str = "",
) -> Architecture:  # fmt: skip
    return alternating(
        name, "gemma", layers, full, hidden, attention, window, FeedForward(width=width), vocab, tied_embeddings=True,
        max_context=context, parameters_published=total, left_out=left_out, source=source,
    )  # fmt: skip


_G2 = "arXiv 2408.00118 tables 1 and 2: every other layer sees 4,096 tokens"
_G3 = "arXiv 2503.19786 table 1, config.json of google/{}: five layers with a window to one without"


def _phi(name: str, *shape: int, total: float, context: int, repo: str, tied: bool = False) -> Architecture:
    return plain(
        name, "phi", *shape, tied_embeddings=tied, max_context=context, parameters_published=total,
        source=f"config.json of microsoft/{repo}",
    )  # fmt: skip


def _falcon(name: str, *shape: int, total: float, repo: str) -> Architecture:
    return plain(
        name, "falcon", *shape, vocab=65_024, head_dim=64, gated=False, tied_embeddings=True, max_context=2048,
        parameters_published=total, source=f"config.json of tiiuae/{repo}; arXiv 2311.16867 table 16",
    )  # fmt: skip


MODELS: tuple[Architecture, ...] = (
    _mistral("Mistral-7B", 32, 4096, 32, 8, 14_336, 32_768, total=7.25e9, context=32_768, repo="Mistral-7B-v0.3"),
    _mistral(
        "Mistral-Nemo", 40, 5120, 32, 8, 14_336, 131_072, total=12.25e9, context=131_072, repo="Mistral-Nemo-Base-2407"
    ),
    _mistral(
        "Mistral-Small-24B", 40, 5120, 32, 8, 32_768, 131_072, total=23.57e9, context=32_768,
        repo="Mistral-Small-24B-Instruct-2501",
    ),
    _mistral(
        "Mistral-Large", 88, 12_288, 96, 8, 28_672, 32_768, total=122.6e9, context=131_072,
        repo="Mistral-Large-Instruct-2407",
    ),
    _smol("SmolLM2-135M", 30, 576, 9, 3, 1536, total=134.5e6),
    _smol("SmolLM2-360M", 32, 960, 15, 5, 2560, total=361.8e6),
    _smol("SmolLM2-1.7B", 24, 2048, 32, 32, 8192, total=1.711e9),
    _gemma("Gemma-2-2B", 26, 13, 2304, (8, 4, 256), 9216, 256_000, 4096, 8192, 2.614e9, _G2),
    _gemma("Gemma-2-9B", 42, 21, 3584, (16, 8, 256), 14_336, 256_000, 4096, 8192, 9.242e9, _G2),
    _gemma("Gemma-2-27B", 46, 23, 4608, (32, 16, 128), 36_864, 256_000, 4096, 8192, 27.227e9, _G2),
    _gemma("Gemma-3-1B", 26, 4, 1152, (4, 1, 256), 6912, 262_144, 512, 32_768, 1.0e9, _G3.format("gemma-3-1b-it")),
    _gemma(
        "Gemma-3-4B", 34, 5, 2560, (8, 4, 256), 10_240, 262_208, 1024, 131_072, 3.88e9, _G3.format("gemma-3-4b-it"), _VISION
    ),
    _gemma(
        "Gemma-3-12B", 48, 8, 3840, (16, 8, 256), 15_360, 262_208, 1024, 131_072, 11.77e9, _G3.format("gemma-3-12b-it"),
        _VISION,
    ),
    _gemma(
        "Gemma-3-27B", 62, 10, 5376, (32, 16, 128), 21_504, 262_208, 1024, 131_072, 27.01e9, _G3.format("gemma-3-27b-it"),
        _VISION,
    ),
    _phi("Phi-3-mini", 32, 3072, 32, 32, 8192, 32_064, total=3.82e9, context=131_072, repo="Phi-3-mini-128k-instruct"),
    _phi(
        "Phi-3-medium", 40, 5120, 40, 10, 17_920, 32_064, total=13.96e9, context=131_072, repo="Phi-3-medium-128k-instruct"
    ),
    _phi("Phi-4", 40, 5120, 40, 10, 17_920, 100_352, total=14.66e9, context=16_384, repo="phi-4"),
    _phi(
        "Phi-4-mini", 32, 3072, 24, 8, 8192, 200_064, total=3.84e9, context=131_072, repo="Phi-4-mini-instruct", tied=True
    ),
    _falcon("Falcon-7B", 32, 4544, 71, 1, 18_176, total=6.92e9, repo="falcon-7b"),
    _falcon("Falcon-40B", 60, 8192, 128, 8, 32_768, total=41.3e9, repo="falcon-40b"),
    _falcon("Falcon-180B", 80, 14_848, 232, 8, 59_392, total=179.5e9, repo="falcon-180B"),
    plain(
        "GPT-3-175B", "gpt", 96, 12_288, 96, 96, 49_152, 50_257, gated=False, tied_embeddings=True, max_context=2048,
        weights_format="fp16", parameters_published=175e9, source="arXiv 2005.14165 table 2.1",
    ),
    plain(
        "BLOOM-176B", "bloom", 70, 14_336, 112, 112, 57_344, 250_880, gated=False, tied_embeddings=True,
        max_context=2048, parameters_published=176.25e9, source="arXiv 2211.05100 table 3",
    ),
)  # fmt: skip
"""Entries."""
