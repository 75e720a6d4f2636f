"""What a language model is made of, as far as time and memory go.

A model is a few runs of equal blocks (:class:`Block`), each an attention and a feed-forward part. Everything else (parameters,
FLOPs, bytes of KV cache a token) follows from the shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AttentionKind = Literal["full", "sliding", "mla", "linear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The attention part of a block.

    Parameters
    ----------
    kind
        ``full`` (MHA, GQA, MQA), ``sliding`` (the same over the last ``window`` tokens), ``mla`` (a latent of ``kv_rank`` values and
        ``rope_dim`` rotary ones stands for keys and values: DeepSeek-V2, arXiv 2405.04434), ``linear`` (a state of fixed size
        instead of a cache: Mamba, gated delta nets, lightning attention).
    heads, kv_heads
        Query heads; heads of keys and values (for ``linear``: heads of the state).
    head_dim, value_dim
        Values of a key and of a value; ``value_dim`` 0 means ``head_dim``.
    window
        Tokens that ``sliding`` attention sees.
    kv_rank, rope_dim, query_rank
        Of ``mla``; ``query_rank`` 0: queries are projected directly.
    selected
        Tokens at most that a query attends to where an indexer picks them (DeepSeek sparse attention); 0: all.
    index_heads, index_dim
        Heads and dimension of that indexer: it keeps one key of ``index_dim`` for every token and compares all of them.
    gated_output
        A gate as wide as the queries multiplies the output (Qwen3-Next and after).
    """

    kind: AttentionKind = "full"
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int = 0
    window: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    query_rank: int = 0
    selected: int = 0
    index_heads: int = 0
    index_dim: int = 0
    gated_output: bool = False

    @property
    def values(self) -> int:
        """Dimension of one value head."""
        return self.value_dim or self.head_dim

    def parameters(self, hidden: int) -> int:
        """Weights of the projections of one block."""
        if self.kind == "mla":
            key = self.head_dim + self.rope_dim
            query = (
                hidden * self.query_rank + self.query_rank * self.heads * key
                if self.query_rank
                else hidden * self.heads * key
            )
            down = hidden * (self.kv_rank + self.rope_dim)
            up = self.kv_rank * self.heads * (self.head_dim + self.values)
            index = self.query_rank * self.index_heads * self.index_dim + hidden * (self.index_dim + self.index_heads)
            return query + down + up + self.heads * self.values * hidden + index
        if self.kind == "linear":  # q, k of the key heads, v, gate and output of the value heads
            return hidden * (2 * self.kv_heads * self.head_dim + 3 * self.heads * self.values)
        return hidden * (
            self.heads * self.head_dim * (2 if self.gated_output else 1)
            + self.kv_heads * (self.head_dim + self.values)
            + self.heads * self.values
        )

    def cache_values(self) -> int:
        """Values that one more token adds to the cache of one block; 0 where the state does not grow."""
        if self.kind == "mla":
            return self.kv_rank + self.rope_dim + self.index_dim
        return 0 if self.kind == "linear" else self.kv_heads * (self.head_dim + self.values)

    def state_values(self) -> int:
        """Values that one sequence keeps whatever its length."""
        return self.heads * self.head_dim * self.values if self.kind == "linear" else 0

    def pair_flops(self) -> int:
        """FLOPs of one query token against one key token, all heads, as prefill computes it."""
        if self.kind == "mla":
            return 2 * self.heads * (self.head_dim + self.rope_dim + self.values)
        return 0 if self.kind == "linear" else 2 * self.heads * (self.head_dim + self.values)

    def decode_pair_flops(self) -> int:
        """The same as decoding computes it: ``mla`` attends in the latent space, so that the cache need not be expanded."""
        return 2 * self.heads * (2 * self.kv_rank + self.rope_dim) if self.kind == "mla" else self.pair_flops()

    def index_values(self) -> int:
        """Of :meth:`cache_values`, those that the indexer reads of every token, however few are then attended to."""
        return self.index_dim

    def index_pair_flops(self) -> int:
        """FLOPs of the indexer for one query token against one key token, however few are then attended to."""
        return 2 * self.index_heads * self.index_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """The feed-forward part of a block: dense, or a mixture of experts.

    Parameters
    ----------
    width
        Intermediate size: of the one network, or of each routed expert.
    experts, active
        Routed experts and how many of them a token visits; 0: dense.
    shared_width
        Intermediate size of what every token visits besides.
    gated
        Three matrices (SwiGLU and kin) rather than two.
    """

    width: int
    experts: int = 0
    active: int = 0
    shared_width: int = 0
    gated: bool = True

    def matrices(self) -> int:
        """Matrices of hidden x width in each network."""
        return 3 if self.gated else 2

    def expert_parameters(self, hidden: int) -> int:
        """Weights of one routed expert; 0 where dense."""
        return self.matrices() * hidden * self.width if self.experts else 0

    def dense_parameters(self, hidden: int) -> int:
        """Weights that every token visits: the dense network, or the shared experts and the router."""
        if not self.experts:
            return self.matrices() * hidden * self.width
        return self.matrices() * hidden * self.shared_width + hidden * self.experts


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """``count`` equal layers."""

    count: int
    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One language model.

    Parameters
    ----------
    name
        As people write it: ``Llama-3.1-70B``.
    family
        Groups models that engines run with the same kernels: ``llama``, ``deepseek``, ``gpt-oss``. Calibration borrows within it.
    hidden, vocab
        Width of the residual stream; tokens of the vocabulary.
    blocks
        Runs of equal layers; their order does not matter.
    tied_embeddings
        One matrix serves as embedding and as output head.
    max_context
        Tokens that one sequence may hold.
    weights_format
        Name of the format that its publisher ships (see :mod:`plenum.serving.formats`).
    experts_format
        The same for its routed experts where they are held otherwise; empty: like the rest.
    parameters_published
        Total as its publisher states it, to check the shapes by; 0 where none is stated.
    left_out
        Parts of the published model that are not counted: vision towers, heads that predict further tokens.
    source
        Where the shapes come from.
    """

    name: str
    family: str
    hidden: int
    vocab: int
    blocks: tuple[Block, ...]
    tied_embeddings: bool = False
    max_context: int = 131_072
    weights_format: str = "bf16"
    experts_format: str = ""
    parameters_published: float = 0.0
    left_out: str = ""
    source: str = ""

    @property
    def layers(self) -> int:
        """Layers of all blocks."""
        return sum(block.count for block in self.blocks)

    @property
    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the head where it is a matrix of its own."""
        return self.hidden * self.vocab * (1 if self.tied_embeddings else 2)

    @property
    def attention_parameters(self) -> int:
        """Weights of all attention projections."""
        return sum(block.count * block.attention.parameters(self.hidden) for block in self.blocks)

    @property
    def dense_parameters(self) -> int:
        """Weights of dense and shared feed-forward networks and of routers."""
        return sum(block.count * block.feed_forward.dense_parameters(self.hidden) for block in self.blocks)

    @property
    def expert_parameters(self) -> int:
        """Weights of all routed experts."""
        return sum(
            block.count * block.feed_forward.experts * block.feed_forward.expert_parameters(self.hidden)
            for block in self.blocks
        )

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.embedding_parameters + self.attention_parameters + self.dense_parameters + self.expert_parameters

    @property
    def active_parameters(self) -> int:
        """Weights that one token visits, the output head included, the embedding look-up not."""
        routed = sum(
            block.count * block.feed_forward.active * block.feed_forward.expert_parameters(self.hidden)
            for block in self.blocks
        )
        return self.hidden * self.vocab + self.attention_parameters + self.dense_parameters + routed

    @property
    def cache_values_per_token(self) -> int:
        """Values of KV cache that one token takes while every layer keeps it (windows not yet full)."""
        return sum(block.count * block.attention.cache_values() for block in self.blocks)

    def cache_values(self, context: float) -> float:
        """Values of cache and state that one sequence of ``context`` tokens holds, windows and states taken into account."""
        total = 0.0
        for block in self.blocks:
            attention = block.attention
            seen = min(context, attention.window) if attention.window else context
            total += block.count * (attention.cache_values() * seen + attention.state_values())
        return total
