"""One serving instance: a model in given formats, spread over given devices, run by an engine with given limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from plenum.serving.architecture import Architecture
from plenum.serving.formats import FORMATS, Precision
from plenum.serving.hardware import Accelerator

RUNTIME_FRACTION = 0.90
"""Part of device memory that engines take for weights and cache (vLLM's ``gpu_memory_utilization`` is 0.9 unless told otherwise)."""

WORKSPACE_BYTES = 2.0e9
"""Bytes of each device for activations, graphs and communication buffers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How one instance is spread over devices.

    Parameters
    ----------
    tp, pp
        Tensor parallel degree of one attention group; pipeline stages.
    dp
        Attention data parallelism: groups of ``tp`` devices that each hold all attention weights and their own sequences, and share
        the experts.
    ep
        Expert parallelism: into how many parts the experts are dealt out; the other ``tp * dp / ep`` devices slice each expert.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1

    @property
    def devices(self) -> int:
        """Devices of the instance."""
        return self.tp * self.pp * self.dp

    def __str__(self) -> str:
        parts = [
            f"{name}{size}"
            for name, size in (("TP", self.tp), ("PP", self.pp), ("DP", self.dp), ("EP", self.ep))
            if size > 1
        ]
        return " ".join(parts) or "TP1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """An engine and its limits.

    Parameters
    ----------
    engine
        ``vllm``, ``sglang``, ``trtllm``, ``llama.cpp``; chooses the calibration.
    max_sequences
        Sequences in one batch at most, over the whole instance.
    max_batched_tokens
        Tokens of one iteration of each attention group at most (the chunk, where prefill is chunked).
    chunked_prefill
        Prefill shares iterations with decode; else it has iterations of its own and runs first.
    prefix_caching
        Blocks of shared prefixes are kept and found again.
    block_tokens
        Tokens of one KV block.
    speculative_tokens, acceptance
        Tokens drafted each step (0: none) and the chance that one is accepted, each given the one before it.
    """

    engine: str = "vllm"
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    chunked_prefill: bool = True
    prefix_caching: bool = True
    block_tokens: int = 16
    speculative_tokens: int = 0
    acceptance: float = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A model on devices: what the performance model predicts for."""

    model: Architecture
    hardware: Accelerator
    precision: Precision = field(default_factory=Precision)
    parallelism: Parallelism = field(default_factory=Parallelism)
    settings: EngineSettings = field(default_factory=EngineSettings)

    @property
    def devices(self) -> int:
        """Devices of the instance."""
        return self.parallelism.devices


def weight_bytes_per_device(instance: Instance) -> float:
    """Bytes of weights on the fullest device."""
    model, spread = instance.model, instance.parallelism
    weights = FORMATS[instance.precision.weights].bytes
    experts = FORMATS[instance.precision.experts or instance.precision.weights].bytes
    stage = math.ceil(model.layers / spread.pp) / model.layers  # part of the layers that the longest stage has
    dense = (model.attention_parameters + model.dense_parameters) * weights / spread.tp
    count = max(block.feed_forward.experts for block in model.blocks)
    uneven = math.ceil(count / spread.ep) * spread.ep / count if count else 1.0
    routed = model.expert_parameters * experts * uneven / (spread.tp * spread.dp)
    # Embeddings stay 16 bits wide; embedding and head are in different stages where there are several.
    ends = model.embedding_parameters / (1 if model.tied_embeddings or spread.pp == 1 else 2)
    return (dense + routed) * stage + ends * 2.0 / spread.tp


LINK_PART = 0.8
"""Part of the devices' network bandwidth that KV transfer reaches."""


def transfer_bps(*instances: Instance) -> float:
    """Bytes a second at which an instance sends a cache to another, or takes it: the slower of the two, through the network."""
    return LINK_PART * min(instance.devices * instance.hardware.scaleout_bps for instance in instances)


def transfer_s(first: Instance, then: Instance, prompt_tokens: float) -> float:
    """Seconds in which the cache of a prompt crosses from what computed it to what decodes; a latent is sent once."""
    size = first.model.cache_values(prompt_tokens) * FORMATS[first.precision.kv_cache].bytes
    return size / transfer_bps(first, then)


def cache_shards(instance: Instance) -> int:
    """Into how many parts tensor parallelism splits one token's cache: no further than there are KV heads; a latent is not split."""
    heads = [block.attention.kv_heads for block in instance.model.blocks if block.attention.kind in ("full", "sliding")]
    return min(instance.parallelism.tp, min(heads)) if heads else 1


def cache_bytes_per_token(instance: Instance) -> float:
    """Bytes that one token adds to the cache of each device that keeps it, windows not yet full."""
    values = instance.model.cache_values_per_token * FORMATS[instance.precision.kv_cache].bytes
    return values / (cache_shards(instance) * instance.parallelism.pp)


def sequence_cache_bytes(instance: Instance, context_tokens: float) -> float:
    """Bytes that one sequence of ``context_tokens`` takes on each device that keeps it: windows as full as they are, and its states.

    Heads of a state are split as far as tensor parallelism goes; a state is never held narrower than 16 bits.
    """
    model, spread = instance.model, instance.parallelism
    width = FORMATS[instance.precision.kv_cache].bytes
    states = sum(block.count * block.attention.state_values() for block in model.blocks)
    growing = (model.cache_values(context_tokens) - states) * width / cache_shards(instance)
    return (growing + states * max(width, 2.0) / spread.tp) / spread.pp


LONG_TOKENS = 65_536.0
"""A context so long that windows and states hardly count beside what grows."""


def cache_capacity_tokens(instance: Instance, context_tokens: float = LONG_TOKENS) -> int:
    """Tokens of KV cache that the whole instance holds; 0 or less where the weights leave no room.

    Parameters
    ----------
    context_tokens
        Length of a sequence, on average. Only where layers have windows or states does it matter: short sequences share neither, so
        that fewer tokens of them fit (a model that sees 1,024 tokens in five of six layers keeps those in full until then).
    """
    free = instance.hardware.hbm_bytes * RUNTIME_FRACTION - WORKSPACE_BYTES - weight_bytes_per_device(instance)
    context = max(context_tokens, 1.0)
    each = sequence_cache_bytes(instance, context) / context
    return math.floor(free / each) * instance.parallelism.dp if each > 0 else 0


def longest_sequence_fits(instance: Instance, context_tokens: float) -> bool:
    """Tell whether a sequence of ``context_tokens`` fits beside the weights: it is held by one attention group."""
    return cache_capacity_tokens(instance, context_tokens) / instance.parallelism.dp >= context_tokens


def tokens_per_step(speculative_tokens: int, acceptance: float) -> float:
    """Mean tokens that a sequence advances in one iteration, drafts that were accepted included (arXiv 2211.17192, equation 1)."""
    if acceptance >= 1.0:
        return speculative_tokens + 1.0
    return (1.0 - acceptance ** (speculative_tokens + 1)) / (1.0 - acceptance)
