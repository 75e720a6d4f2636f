"""KV blocks of an emulated engine: those of requests, and of finished prompts until others need the room.

The rules of :mod:`plenum.serving.prefix` and of the simulator's memory, over hashes that come as they come: a block's hash stands for the
whole prefix up to its end; what a request shares is held; what nobody holds goes, least recently used first, the end of a prompt before
its beginning.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class Blocks:
    """``capacity`` blocks of ``block_tokens`` tokens."""

    def __init__(self, capacity: int, block_tokens: int) -> None:
        self.capacity, self.block_tokens = capacity, block_tokens
        self._private = 0
        self._held: dict[int, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def occupied(self) -> int:
        """Blocks that requests hold."""
        return self._private + len(self._held)

    @property
    def available(self) -> int:
        """Blocks that requests could still take."""
        return self.capacity - self.occupied

    def of(self, tokens: int) -> int:
        """Return how many blocks so many tokens take."""
        return -(-tokens // self.block_tokens)

    def found(self, hashes: Sequence[int]) -> int:
        """Count the leading blocks that are here."""
        for count, each in enumerate(hashes):
            if each not in self._held and each not in self._kept:
                return count
        return len(hashes)

    def take(self, shared: Sequence[int], private: int) -> bool:
        """Hold blocks that are here, and take private ones; False, and nothing is taken, where there is no room."""
        more = sum(each not in self._held for each in shared)
        if more + private > self.available:
            return False
        for each in shared:
            self._hold(each)
        self._private += private
        self._make_room()
        return True

    def share(self, hashes: Sequence[int]) -> None:
        """Turn private blocks into shared ones, held."""
        self._private -= len(hashes)
        for each in hashes:
            self._hold(each)
        self._make_room()

    def give_back(self, shared: Sequence[int], private: int) -> None:
        """Let go of what a request held; its shared blocks stay until others need the room."""
        self._private -= private
        for each in reversed(shared):
            holders = self._held[each] - 1
            if holders:
                self._held[each] = holders
            else:
                del self._held[each]
                self._kept[each] = None

    def _hold(self, each: int) -> None:
        self._kept.pop(each, None)
        self._held[each] = self._held.get(each, 0) + 1

    def _make_room(self) -> None:
        while self._kept and self.occupied + len(self._kept) > self.capacity:
            self._kept.popitem(last=False)
