"""The state of a simulated service: a few matrices (see ``fields``), which every compiled loop shares.

They are few because compile time rises with the number of arrays that functions hand each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class World(NamedTuple):
    """R requests, N instances, M models, K classes of priority, U blocks of prompts.

    Attributes
    ----------
    ri, rf
        (R, REQUEST_INTS) int64 and (R, REQUEST_FLOATS) float64: one row a request.
    ni, nf
        (INSTANCE_INTS, N) int64 and (INSTANCE_FLOATS, N) float64: one row a field, as routing reads them.
    steps
        (N, F) float64: step coefficients.
    batch
        (2, N, S) int64: requests that decode, and those that prefill, in order.
    tally
        (N, BINS + P) int64: histogram of gaps between tokens; then the decoding sequences that need a block at each step, modulo PERIOD.
    queue
        (2, N + 3 M, K) int64: ends of the queues of each instance and class, then of those who wait for any instance to prefill them,
        for any at a site that does not decode, and for any to decode.
    keys
        Tournament of the times before which nothing about an instance can be seen to change.
    heap
        (H, 5) float64: events.
    order
        (A,) int64: requests that follow no other, by arrival.
    block
        (B,) int64: ids of the blocks of all prompts.
    tier, links, ends, sums
        (N, U) int8, (3, N, U) int32, (2, N, TIERS) int32, (3, N, TIERS) int64: what :class:`plenum.serving.prefix.Caches` is made of.
    due
        (N, U) float64: when a block that is on its way to HBM will be there; (0, 0): none ever is.
    eligible
        (N,) bool: scratch of routing.
    count, clock
        (COUNTS,) int64 and (SETTINGS + M K + 2 M,) float64: of the whole run.
    """

    ri: NDArray[np.int64]
    rf: NDArray[np.float64]
    ni: NDArray[np.int64]
    nf: NDArray[np.float64]
    steps: NDArray[np.float64]
    batch: NDArray[np.int64]
    tally: NDArray[np.int64]
    queue: NDArray[np.int64]
    keys: NDArray[np.float64]
    heap: NDArray[np.float64]
    order: NDArray[np.int64]
    block: NDArray[np.int64]
    tier: NDArray[np.int8]
    links: NDArray[np.int32]
    ends: NDArray[np.int32]
    sums: NDArray[np.int64]
    due: NDArray[np.float64]
    eligible: NDArray[np.bool_]
    count: NDArray[np.int64]  # pyright: ignore[reportIncompatibleMethodOverride]
    clock: NDArray[np.float64]
