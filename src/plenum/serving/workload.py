"""Requests as arrays, and what is promised for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """R requests, ordered by arrival.

    Parameters
    ----------
    arrival_s
        (R,) float64 seconds from the start; of a request with ``after`` it is the earliest start.
    prompt_tokens, output_tokens
        (R,) int32; at least 1 each. A request's first token comes out of its prefill.
    priority
        (R,) int8; a larger number goes first.
    model
        (R,) int16 index into the models that the cluster serves.
    session
        (R,) int64; requests of one session like one replica. -1: none.
    after, pause_s
        (R,) int32 and float64: the request starts ``pause_s`` after request ``after`` is done (a tool ran meanwhile); -1: at arrival.
    hold
        (R,) bool: the cache of this request is kept on its replica until the request that follows it starts.
    block_offset, block_id
        (R + 1,) int64 and (B,) int64: ids of the blocks of each prompt, in order; equal ids mean that the whole prefix up to the
        end of the block is equal. Ids are 0 … U-1.
    block_tokens
        Tokens of one such block.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    priority: NDArray[np.int8]
    model: NDArray[np.int16]
    session: NDArray[np.int64]
    after: NDArray[np.int32]
    pause_s: NDArray[np.float64]
    hold: NDArray[np.bool_]
    block_offset: NDArray[np.int64]
    block_id: NDArray[np.int64]
    block_tokens: int = 512

    def __len__(self) -> int:
        return len(self.arrival_s)


def requests_of(
    arrival_s: NDArray[np.float64],
    prompt_tokens: NDArray[np.integer],
    output_tokens: NDArray[np.integer],
    **columns: NDArray[np.generic] | int,
) -> Requests:
    """Make requests; columns that are not given get their neutral values (no session, no blocks, priority 0)."""
    count = len(arrival_s)
    neutral: dict[str, NDArray[np.generic] | int] = {
        "priority": np.zeros(count, np.int8),
        "model": np.zeros(count, np.int16),
        "session": np.full(count, -1, np.int64),
        "after": np.full(count, -1, np.int32),
        "pause_s": np.zeros(count),
        "hold": np.zeros(count, np.bool_),
        "block_offset": np.zeros(count + 1, np.int64),
        "block_id": np.zeros(0, np.int64),
    }
    return Requests(
        arrival_s=np.asarray(arrival_s, np.float64),
        prompt_tokens=np.asarray(prompt_tokens, np.int32),
        output_tokens=np.asarray(output_tokens, np.int32),
        **(neutral | columns),  # pyright: ignore[reportArgumentType]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What is promised: at ``percentile`` of requests no more than these; infinity: nothing is promised."""

    ttft_s: float = float("inf")
    tpot_s: float = float("inf")
    e2e_s: float = float("inf")
    percentile: float = 99.0
