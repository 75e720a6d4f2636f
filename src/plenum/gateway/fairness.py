"""Who is next: interactive requests before batch ones, and tenants of one class by the tokens that they have been served.

The virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024, algorithm 2): of the tenants that wait,
the one that was served least is next; who comes back from idleness is lifted to the least of those that wait, so that nobody saves up.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

PROMPT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
"""What a token counts: an output token is dearer than one of the prompt (the paper's section 5 takes 1 and 2)."""

TIERS = ("interactive", "batch")
"""In the order in which they are served."""

MAX_TENANTS = 10_000
"""Tenants whose counters are kept."""


class Waiting(Protocol):
    """One that waits."""

    tenant: str
    tier: int


T = TypeVar("T", bound=Waiting)


class FairQueue(Generic[T]):
    """Those that wait, at most ``limit`` of each class, and no tenant more than ``share`` of them."""

    def __init__(self, limit: int, share: float = 0.5) -> None:
        self.limit, self.share = limit, share
        self._lanes: tuple[dict[str, deque[T]], ...] = tuple({} for _ in TIERS)
        self._counts = [0 for _ in TIERS]
        self.served: dict[str, float] = {}
        self._last = 0.0
        self._lifts = 0
        self._least: dict[str, tuple[int, float]] = {}
        """Of tenants that were lifted: by which lift, and what they come to at least: where it put them, and all since."""

    def __len__(self) -> int:
        return sum(self._counts)

    def waiting(self, tier: int) -> int:
        """Return how many of a class wait."""
        return self._counts[tier]

    def takes(self, tenant: str, tier: int) -> bool:
        """Whether there is room for one more of a tenant."""
        own = len(self._lanes[tier].get(tenant, ()))
        return self._counts[tier] < self.limit and own < max(self.limit * self.share, 1)

    def push(self, one: T, *, front: bool = False) -> None:
        """Let one wait; ``front``: before its tenant's others, as it has waited already. The caller asked :meth:`takes`."""
        lane = self._lanes[one.tier]
        if one.tenant not in lane:
            self._lift(one.tenant, one.tier)
            lane[one.tenant] = deque()
        (lane[one.tenant].appendleft if front else lane[one.tenant].append)(one)
        self._counts[one.tier] += 1

    def peek(self, tier: int) -> T | None:
        """Return who is next of a class."""
        lane = self._lanes[tier]
        if not lane:
            return None
        return lane[min(lane, key=lambda name: (self.served.get(name, 0.0), name))][0]

    def leave(self, one: T) -> None:
        """Let one go, next or not; whoever does not wait here is passed over."""
        lane = self._lanes[one.tier]
        queue = lane.get(one.tenant)
        if queue is None or one not in queue:
            return
        queue.remove(one)
        self._counts[one.tier] -= 1
        if not queue:
            del lane[one.tenant]
            self._last = max(self._last, self.served.get(one.tenant, 0.0))

    def charge(self, tenant: str, tokens: float) -> int:
        """Count what a tenant is served, by estimate; returns when that was, for :meth:`settle`."""
        if tenant not in self.served and len(self.served) >= MAX_TENANTS:
            self._forget()
        self.served[tenant] = self.served.get(tenant, 0.0) + tokens
        if tenant in self._least:
            lift, least = self._least[tenant]
            self._least[tenant] = lift, least + tokens
        return self._lifts

    def settle(self, tenant: str, more: float, since: int) -> None:
        """Put an estimate right by so much. One from before the last lift gives nothing back of that: else huge ones would save up."""
        lift, least = self._least.get(tenant, (0, 0.0))
        if 0 < lift <= since:
            least += more
            self._least[tenant] = lift, least
        self.served[tenant] = max(self.served.get(tenant, 0.0) + more, least)

    def everyone(self) -> list[T]:
        """Return all that wait, in no particular order."""
        return [one for lane in self._lanes for queue in lane.values() for one in queue]

    def _lift(self, tenant: str, tier: int) -> None:
        others = [self.served.get(name, 0.0) for lane in self._lanes for name in lane]
        least = min(others) if others else self._last
        self.served[tenant] = max(self.served.get(tenant, 0.0), least)
        self._lifts += 1
        self._least[tenant] = self._lifts, least

    def _forget(self) -> None:
        """Forget the tenants that do not wait and were served least: when they come back they are lifted anyway."""
        idle = [name for name in self.served if all(name not in lane for lane in self._lanes)]
        for name in sorted(idle, key=self.served.__getitem__)[: MAX_TENANTS // 2]:
            self._last = max(self._last, self.served.pop(name))
            self._least.pop(name, None)
