"""The compiled prefix caches against dictionaries in order."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from plenum.serving import prefix
from plenum.serving.prefix import ABSENT, DRAM, HBM, NVME

BLOCKS = 9
OPERATIONS = ("insert", "pin", "unpin", "touch", "resize", "clear")


class Oracle:
    """One cache, plainly: a dictionary in order of use for each tier, and counts of pins."""

    def __init__(self, capacity: dict[int, int]) -> None:
        self.capacity = capacity
        self.free: dict[int, OrderedDict[int, None]] = {tier: OrderedDict() for tier in (HBM, DRAM, NVME)}
        self.pins: dict[int, int] = {}

    def tier(self, block: int) -> int:
        if block in self.pins:
            return HBM
        return next((tier for tier, blocks in self.free.items() if block in blocks), ABSENT)

    def used(self, tier: int) -> int:
        return len(self.free[tier]) + (len(self.pins) if tier == HBM else 0)

    def evict(self, tier: int) -> bool:
        if not self.free[tier]:
            return False
        block, _ = self.free[tier].popitem(last=False)
        lower = next((t for t in (DRAM, NVME) if t > tier and self.capacity[t]), ABSENT)
        if lower != ABSENT:
            if self.used(lower) >= self.capacity[lower]:
                self.evict(lower)
            self.free[lower][block] = None
        return True

    def insert(self, ids: list[int]) -> int:
        held = 0
        for block in ids:
            before = self.tier(block)
            if before != HBM:
                if self.used(HBM) >= self.capacity[HBM] and not self.free[HBM]:
                    break
                if before != ABSENT:
                    del self.free[before][block]
                if self.used(HBM) >= self.capacity[HBM]:
                    self.evict(HBM)
            self.free[HBM].pop(block, None)
            self.pins[block] = self.pins.get(block, 0) + 1
            held += 1
        self.unpin(ids[:held])
        return held

    def pin(self, ids: list[int]) -> int:
        for k, block in enumerate(ids):
            if self.tier(block) != HBM:
                return k
            self.free[HBM].pop(block, None)
            self.pins[block] = self.pins.get(block, 0) + 1
        return len(ids)

    def unpin(self, ids: list[int]) -> None:
        for block in reversed(ids):
            self.pins[block] -= 1
            if not self.pins[block]:
                del self.pins[block]
                self.free[HBM][block] = None
        while self.used(HBM) > self.capacity[HBM] and self.evict(HBM):
            pass

    def touch(self, ids: list[int]) -> None:
        for block in reversed(ids):
            tier = self.tier(block)
            if tier != ABSENT and block not in self.pins:
                self.free[tier].move_to_end(block)

    def resize(self, tier: int, capacity: int) -> int:
        self.capacity[tier] = capacity
        while self.used(tier) > capacity and self.evict(tier):
            pass
        return self.used(tier)

    def lookup(self, ids: list[int]) -> tuple[int, ...]:
        tiers: list[int] = []
        for block in ids:
            if self.tier(block) == ABSENT:
                break
            tiers.append(self.tier(block))
        return tuple(tiers.count(tier) for tier in (HBM, DRAM, NVME))


@given(
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)),
    st.lists(
        st.tuples(
            st.sampled_from(OPERATIONS),
            st.lists(st.integers(0, BLOCKS - 1), min_size=1, max_size=6),
            st.sampled_from((HBM, DRAM, NVME)),
            st.integers(0, 5),
        ),
        max_size=25,
    ),
)
def test_caches_do_what_ordered_dictionaries_do(capacity, operations) -> None:
    # A second row stands beside it: nothing may leak from one cache into another.
    caches = prefix.caches(BLOCKS, *(np.array([size, 2]) for size in capacity))
    prefix.insert(caches, 1, np.array([7, 8]), 0, 2)
    oracle = Oracle(dict(zip((HBM, DRAM, NVME), capacity, strict=True)))
    pinned: list[list[int]] = []
    for name, ids, tier, size in operations:
        array = np.array(ids)
        assert prefix.lookup(caches, 0, array, 0, len(ids)) == oracle.lookup(ids)
        if name == "insert":
            assert prefix.insert(caches, 0, array, 0, len(ids)) == oracle.insert(ids)
        elif name == "pin":
            held = prefix.pin(caches, 0, array, 0, len(ids))
            assert held == oracle.pin(ids)
            pinned.append(ids[:held])
        elif name == "unpin" and pinned:
            ids = pinned.pop(0)
            prefix.unpin(caches, 0, np.array(ids, np.int64), 0, len(ids))
            oracle.unpin(ids)
        elif name == "touch":
            prefix.touch(caches, 0, array, 0, len(ids))
            oracle.touch(ids)
        elif name == "resize":
            assert prefix.resize(caches, 0, tier, size) == oracle.resize(tier, size)
        elif name == "clear":
            prefix.clear(caches, 0)
            oracle = Oracle(oracle.capacity)
            pinned = []
        assert caches.tier[0].tolist() == [oracle.tier(block) for block in range(BLOCKS)]
        assert caches.pins[0].tolist() == [oracle.pins.get(block, 0) for block in range(BLOCKS)]
        assert caches.used[0, 1:].tolist() == [oracle.used(t) for t in (HBM, DRAM, NVME)]
        for t in (DRAM, NVME):
            assert caches.used[0, t] <= caches.capacity[0, t]
    assert caches.tier[1].tolist() == [0] * 7 + [HBM, HBM]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=30), st.integers(1, 8))
def test_what_is_kept_of_a_tree_of_prompts_hangs_together(prompts, capacity) -> None:
    """A block is never kept without the one before it: no room is wasted on what cannot be found."""
    number: dict[tuple[int, ...], int] = {}
    rows = [[number.setdefault(tuple(p[: k + 1]), len(number)) for k in range(len(p))] for p in prompts]
    parent = {number[path]: number[path[:-1]] for path in number if len(path) > 1}
    caches = prefix.caches(len(number), np.array([capacity]), np.array([2]), np.array([0]))
    for row in rows:
        prefix.insert(caches, 0, np.array(row), 0, len(row))
        for block, before in parent.items():
            assert caches.tier[0, block] == ABSENT or caches.tier[0, before] != ABSENT
