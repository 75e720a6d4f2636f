"""Parts of traces, and traces made denser or thinner, without any chance in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError
from plenum.serving.workload import Requests

MAX_FACTOR = 1_000.0

PREFIX_BLOCKS = 64
"""Blocks that a common prefix is cut into, about: how finely shorter prompts share it."""


def scaled(requests: Requests, factor: float) -> Requests:
    """Return the traffic ``factor`` times as dense: 1.3 for 30 % more load than was seen.

    Above 1 the same requests arrive in less time, bursts and all. Below 1 whole conversations are left out and the others keep their
    times; the same ones every time.

    Raises
    ------
    FieldError
        A factor that is not above 0, or above :data:`MAX_FACTOR`.
    """
    if not 0 < factor <= MAX_FACTOR:
        raise FieldError("scale", f"must be above 0 and at most {MAX_FACTOR:g}, not {factor:g}")
    if factor >= 1:
        return replace(requests, arrival_s=requests.arrival_s / factor)
    return selected(requests, _even_share(_chains(requests), factor))


def window(requests: Requests, start_s: float, end_s: float) -> Requests:
    """Return the requests that arrive from ``start_s`` up to ``end_s``, counted from ``start_s``."""
    part = selected(requests, (requests.arrival_s >= start_s) & (requests.arrival_s < end_s))
    return replace(part, arrival_s=part.arrival_s - start_s)


def first(requests: Requests, count: int) -> Requests:
    """Return the first ``count`` requests."""
    return selected(requests, np.arange(len(requests)) < count)


def selected(requests: Requests, keep: NDArray[np.bool_]) -> Requests:
    """Return some of the requests; one whose predecessor is left out starts by itself. Block ids are numbered anew."""
    number = np.cumsum(keep) - 1
    after = requests.after[keep]
    followed = (after >= 0) & keep[np.maximum(after, 0)]
    counts = np.diff(requests.block_offset)
    blocks = requests.block_id[np.repeat(keep, counts)]
    _, block_id = np.unique(blocks, return_inverse=True)
    return replace(
        requests,
        arrival_s=requests.arrival_s[keep],
        prompt_tokens=requests.prompt_tokens[keep],
        output_tokens=requests.output_tokens[keep],
        priority=requests.priority[keep],
        model=requests.model[keep],
        session=requests.session[keep],
        after=np.where(followed, number[np.maximum(after, 0)], -1).astype(np.int32),
        pause_s=requests.pause_s[keep],
        hold=requests.hold[keep],
        block_offset=np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64),
        block_id=block_id.astype(np.int64),
    )


def with_prefix(requests: Requests, tokens: int, unit: int = 16) -> Requests:
    """Return the requests as if all prompts began with the same ``tokens``, so that a prefix cache finds these; no more than a prompt has.

    Parameters
    ----------
    unit
        Tokens of a KV block, of which blocks of the prefix are a whole number.
    """
    block = unit * max(tokens // (unit * PREFIX_BLOCKS), 1)
    counts = np.minimum(requests.prompt_tokens, tokens).astype(np.int64) // block
    offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    block_id = np.arange(offset[-1]) - np.repeat(offset[:-1], counts)
    return replace(requests, block_offset=offset, block_id=block_id, block_tokens=block)


def _chains(requests: Requests) -> NDArray[np.int64]:
    """Return a number for each request that those of its session, or of the chain that it follows, share."""
    chain = np.where(requests.session >= 0, requests.session, -1 - np.arange(len(requests))).astype(np.int64)
    for i in np.flatnonzero((requests.after >= 0) & (requests.session < 0)):
        chain[i] = chain[requests.after[i]]
    return chain


def _even_share(chain: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Keep a share of the chains, spread evenly over the order of their first requests."""
    _, begin, member = np.unique(chain, return_index=True, return_inverse=True)
    rank = np.empty(len(begin), np.int64)
    rank[np.argsort(begin, kind="stable")] = np.arange(len(begin))
    kept = np.floor((rank + 1) * share) > np.floor(rank * share)
    return kept[member]
