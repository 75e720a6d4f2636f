"""Builders for the shapes that most models share; a catalogue entry then fits on two lines."""

from __future__ import annotations

from typing import Any

from plenum.serving.architecture import Architecture, Attention, Block, FeedForward


def plain(
    name: str,
    family: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    width: int,
    vocab: int,
    *,
    head_dim: int = 0,
    gated: bool = True,
    **more: Any,
) -> Architecture:
    """Return a dense model of equal layers with full attention; ``more`` goes to :class:`Architecture`."""
    attention = Attention(heads=heads, kv_heads=kv_heads, head_dim=head_dim or hidden // heads)
    block = Block(count=layers, attention=attention, feed_forward=FeedForward(width=width, gated=gated))
    return Architecture(name=name, family=family, hidden=hidden, vocab=vocab, blocks=(block,), **more)


def alternating(
    name: str,
    family: str,
    layers: int,
    full: int,
    hidden: int,
    attention: tuple[int, int, int],
    window: int,
    feed_forward: FeedForward,
    vocab: int,
    **more: Any,
) -> Architecture:
    """Return a model in which ``full`` layers see everything and the others the last ``window`` tokens.

    ``attention`` is (heads, kv_heads, head_dim) of both.
    """
    heads, kv_heads, head_dim = attention
    blocks = (
        Block(
            count=full,
            attention=Attention(heads=heads, kv_heads=kv_heads, head_dim=head_dim),
            feed_forward=feed_forward,
        ),
        Block(
            count=layers - full,
            attention=Attention(kind="sliding", heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window),
            feed_forward=feed_forward,
        ),
    )
    return Architecture(name=name, family=family, hidden=hidden, vocab=vocab, blocks=blocks, **more)


def experts(
    name: str,
    family: str,
    layers: int,
    hidden: int,
    attention: Attention,
    feed_forward: FeedForward,
    vocab: int,
    *,
    dense_layers: int = 0,
    dense_width: int = 0,
    **more: Any,
) -> Architecture:
    """Return a mixture of experts; the first ``dense_layers`` have one network of ``dense_width`` instead."""
    first = Block(count=dense_layers, attention=attention, feed_forward=FeedForward(width=dense_width))
    rest = Block(count=layers - dense_layers, attention=attention, feed_forward=feed_forward)
    blocks = (first, rest) if dense_layers else (rest,)
    return Architecture(name=name, family=family, hidden=hidden, vocab=vocab, blocks=blocks, **more)
