"""Prefix caches as plain arrays: least recently used blocks in tiers, every operation O(1) a block.

Way in: :func:`caches`, then :func:`lookup`, :func:`insert`, :func:`pin`, :func:`unpin`. A cache is a row: of an instance, or of a
store that several share. A block is in one tier at a time; what one tier evicts, the next one takes.

A block's id stands for the whole prefix up to its end, so a block without the one before it is of no use. Rows are therefore touched
from the end of a prompt to its beginning: a block is always at least as recent as those after it, and is evicted after them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import entry, inner
from plenum.model.errors import FieldError

ABSENT, HBM, DRAM, NVME = 0, 1, 2, 3
TIERS = 4
"""Places of a block, :data:`ABSENT` among them."""

MAX_CELLS = 200_000_000
"""Rows times blocks at most: about 2.6 GB of state."""

_NONE = -1


class Caches(NamedTuple):
    """C caches over U block ids.

    Attributes
    ----------
    tier
        (C, U) int8: where each block is.
    newer, older
        (C, U) int32: its neighbours in the list of its tier; only blocks that are not pinned are in a list.
    pins
        (C, U) int32: how many hold it; a held block is not evicted.
    newest, oldest
        (C, TIERS) int32: ends of the lists; -1: empty.
    used, capacity
        (C, TIERS) int64: blocks in each tier, pinned ones included, and how many it may hold.
    demoted
        (C, TIERS) int64: blocks that each tier ever evicted, to the next one or, from the last, for good.
    """

    tier: NDArray[np.int8]
    newer: NDArray[np.int32]
    older: NDArray[np.int32]
    pins: NDArray[np.int32]
    newest: NDArray[np.int32]
    oldest: NDArray[np.int32]
    used: NDArray[np.int64]
    capacity: NDArray[np.int64]
    demoted: NDArray[np.int64]


def caches(blocks: int, hbm: NDArray[np.integer], dram: NDArray[np.integer], nvme: NDArray[np.integer]) -> Caches:
    """Return empty caches over ``blocks`` ids.

    Parameters
    ----------
    hbm, dram, nvme
        (C,) blocks that each cache holds in each tier.

    Raises
    ------
    FieldError
        Too many caches times blocks, or a negative capacity.
    """
    rows = len(hbm)
    if rows * blocks > MAX_CELLS:
        sentence = f"{rows:,} caches over {blocks:,} distinct blocks are too many; at most {MAX_CELLS:,} in all"
        raise FieldError("blocks", sentence)
    capacity = np.zeros((rows, TIERS), np.int64)
    for tier, sizes in ((HBM, hbm), (DRAM, dram), (NVME, nvme)):
        capacity[:, tier] = sizes
    if (capacity < 0).any():
        raise FieldError("capacity", "a tier holds at least 0 blocks")
    return Caches(
        tier=np.zeros((rows, blocks), np.int8),
        newer=np.zeros((rows, blocks), np.int32),
        older=np.zeros((rows, blocks), np.int32),
        pins=np.zeros((rows, blocks), np.int32),
        newest=np.full((rows, TIERS), _NONE, np.int32),
        oldest=np.full((rows, TIERS), _NONE, np.int32),
        used=np.zeros((rows, TIERS), np.int64),
        capacity=capacity,
        demoted=np.zeros((rows, TIERS), np.int64),
    )


@entry
def lookup(c: Caches, row: int, ids: NDArray[np.int64], start: int, stop: int) -> tuple[int, int, int]:
    """Count the leading blocks of ``ids[start:stop]`` that a cache has, by tier.

    Returns
    -------
    tuple of int, int, int
        Blocks of the longest prefix that are in HBM, in DRAM and on NVMe; their sum is its length.
    """
    hbm, dram, nvme = 0, 0, 0
    for k in range(start, stop):
        tier = c.tier[row, ids[k]]
        if tier == ABSENT:
            break
        if tier == HBM:
            hbm += 1
        elif tier == DRAM:
            dram += 1
        else:
            nvme += 1
    return hbm, dram, nvme


@entry
def insert(c: Caches, row: int, ids: NDArray[np.int64], start: int, stop: int) -> int:
    """Bring ``ids[start:stop]`` into HBM as the most recent blocks; returns how many of them, from the first on, are there.

    Blocks in lower tiers move up; blocks already there are touched. Room is made by evicting the least recent ones down the tiers. A
    prompt that does not fit beside what is pinned is kept as far as it fits.
    """
    present = 0
    for k in range(start, stop):  # from the first, so that what does not fit is the end
        block = ids[k]
        if c.tier[row, block] != HBM and not _bring_in(c, row, block):
            break
        if c.pins[row, block] == 0:
            _unlink(c, row, HBM, block)  # kept from being evicted by the next of its own prompt
        c.pins[row, block] += 1
        present += 1
    unpin(c, row, ids, start, start + present)
    return present


@entry
def touch(c: Caches, row: int, ids: NDArray[np.int64], start: int, stop: int) -> None:
    """Make the blocks of ``ids[start:stop]`` that a cache has the most recent of their tiers."""
    for k in range(stop - 1, start - 1, -1):
        block = ids[k]
        tier = c.tier[row, block]
        if tier != ABSENT and c.pins[row, block] == 0:
            _unlink(c, row, tier, block)
            _link(c, row, tier, block)


@entry
def pin(c: Caches, row: int, ids: NDArray[np.int64], start: int, stop: int) -> int:
    """Hold the leading blocks of ``ids[start:stop]`` that are in HBM; returns how many; :func:`unpin` so many later."""
    for k in range(start, stop):
        block = ids[k]
        if c.tier[row, block] != HBM:
            return k - start
        if c.pins[row, block] == 0:
            _unlink(c, row, HBM, block)
        c.pins[row, block] += 1
    return stop - start


@entry
def unpin(c: Caches, row: int, ids: NDArray[np.int64], start: int, stop: int) -> None:
    """Let go of blocks that were pinned; those that nobody else holds become the most recent ones.

    Where the tier was made smaller than what was pinned, it is brought down to its size now.
    """
    for k in range(stop - 1, start - 1, -1):
        block = ids[k]
        c.pins[row, block] -= 1
        if c.pins[row, block] == 0:
            _link(c, row, HBM, block)
    while c.used[row, HBM] > c.capacity[row, HBM] and _evict(c, row, HBM):
        pass


@entry
def resize(c: Caches, row: int, tier: int, capacity: int) -> int:
    """Change how many blocks a tier may hold, evicting what is too many; returns how many it holds then.

    That is more than ``capacity`` where so many are pinned: nothing comes in until they are let go. Else the tier is never over its
    capacity.
    """
    c.capacity[row, tier] = capacity
    while c.used[row, tier] > capacity and _evict(c, row, tier):
        pass
    return c.used[row, tier]


@entry
def clear(c: Caches, row: int) -> None:
    """Forget everything that a cache holds: its instance has failed. O(U)."""
    c.tier[row, :] = ABSENT
    c.pins[row, :] = 0
    c.newest[row, :] = _NONE
    c.oldest[row, :] = _NONE
    c.used[row, :] = 0


@inner
def _bring_in(c: Caches, row: int, block: int) -> bool:
    """Put a block that is not in HBM there, in front; False where everything there is pinned."""
    if c.used[row, HBM] >= c.capacity[row, HBM] and c.oldest[row, HBM] == _NONE:
        return False
    before = c.tier[row, block]
    if before != ABSENT:  # it leaves its place first: what HBM evicts may take it
        _unlink(c, row, before, block)
        c.used[row, before] -= 1
        c.tier[row, block] = ABSENT
    if c.used[row, HBM] >= c.capacity[row, HBM]:
        _evict(c, row, HBM)
    _place(c, row, HBM, block)
    return True


@inner
def _evict(c: Caches, row: int, tier: int) -> bool:
    """Move the least recent block of a tier to the next one that holds any; False where none can go."""
    block = c.oldest[row, tier]
    if block == _NONE:
        return False
    # The last blocks of the lower tiers go first, so that no tier is ever over its capacity.
    lower = _next_tier(c, row, tier)
    if lower != ABSENT and c.used[row, lower] >= c.capacity[row, lower]:
        last = _next_tier(c, row, lower)
        if last != ABSENT and c.used[row, last] >= c.capacity[row, last]:
            _drop(c, row, last, ABSENT)
        _drop(c, row, lower, last)
    _drop(c, row, tier, lower)
    return True


@inner
def _next_tier(c: Caches, row: int, tier: int) -> int:
    for lower in range(tier + 1, TIERS):
        if c.capacity[row, lower] > 0:
            return lower
    return ABSENT


@inner
def _drop(c: Caches, row: int, tier: int, lower: int) -> None:
    """Move the least recent block of ``tier`` to ``lower``, in front, or out."""
    block = c.oldest[row, tier]
    _unlink(c, row, tier, block)
    c.used[row, tier] -= 1
    c.tier[row, block] = ABSENT
    c.demoted[row, tier] += 1
    if lower != ABSENT:
        _place(c, row, lower, block)


@inner
def _place(c: Caches, row: int, tier: int, block: int) -> None:
    c.tier[row, block] = tier
    c.used[row, tier] += 1
    _link(c, row, tier, block)


@inner
def _link(c: Caches, row: int, tier: int, block: int) -> None:
    """Put a block at the recent end of a tier's list."""
    first = c.newest[row, tier]
    c.older[row, block] = first
    c.newer[row, block] = _NONE
    if first == _NONE:
        c.oldest[row, tier] = block
    else:
        c.newer[row, first] = block
    c.newest[row, tier] = block


@inner
def _unlink(c: Caches, row: int, tier: int, block: int) -> None:
    newer, older = c.newer[row, block], c.older[row, block]
    if newer == _NONE:
        c.newest[row, tier] = older
    else:
        c.older[row, newer] = older
    if older == _NONE:
        c.oldest[row, tier] = newer
    else:
        c.newer[row, older] = newer
