"""Which replica has which tokens in its cache, told by what engines say of their blocks as they come and go.

An engine's hashes are its own; a block is known here by a number that stands for all tokens up to its end, so that a prompt can be looked
up by its tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plenum.adapters.engines.kv_events import Event, Removed, Stored

MAX_BLOCKS = 1_000_000
"""Known of one replica; those that come after are not."""

_Name = tuple[int | bytes, str]
"""An engine's hash, and the medium that the block is on: it may be on several."""


class KvIndex:
    """Blocks of every replica that tells of them."""

    def __init__(self) -> None:
        self._named: dict[str, dict[_Name, int]] = {}
        self._held: dict[str, dict[int, int]] = {}
        self._block_tokens: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._block_tokens)

    def take(self, run: str, events: Sequence[Event]) -> None:
        """Take in what a replica said."""
        from plenum.adapters.engines.kv_events import Cleared, Removed, Stored

        for event in events:
            match event:
                case Stored():
                    self._stored(run, event)
                case Removed():
                    self._removed(run, event)
                case Cleared():
                    self._named.pop(run, None)
                    self._held.pop(run, None)

    def found(self, run: str, tokens: Sequence[int]) -> int:
        """Return how many leading tokens of a prompt a replica has, in whole blocks."""
        held, size = self._held.get(run), self._block_tokens.get(run, 0)
        if not held:
            return 0
        value = _first("")
        for end in range(size, len(tokens) + 1, size):
            value = hash((value, tuple(tokens[end - size : end])))
            if value not in held:
                return end - size
        return len(tokens) // size * size

    def forget(self, run: str) -> None:
        """Forget a replica."""
        for known in (self._named, self._held, self._block_tokens):
            known.pop(run, None)

    def keep(self, runs: Iterable[str]) -> None:
        """Forget all replicas but these."""
        kept = set(runs)
        for run in self._block_tokens.keys() - kept:
            self.forget(run)

    def _stored(self, run: str, event: Stored) -> None:
        named, held = self._named.setdefault(run, {}), self._held.setdefault(run, {})
        size = self._block_tokens[run] = max(event.block_tokens, 1)
        value = _first(event.adapter)
        if event.parent is not None:
            parent = _any_of(named, event.parent, event.medium)
            if parent is None:  # what came before was missed: nobody can tell what these stand for
                return
            value = parent
        for number, name in enumerate(event.blocks):
            value = hash((value, event.tokens[number * size : (number + 1) * size]))
            key = name, event.medium
            if key not in named and len(named) < MAX_BLOCKS:
                named[key] = value
                held[value] = held.get(value, 0) + 1

    def _removed(self, run: str, event: Removed) -> None:
        named, held = self._named.get(run, {}), self._held.get(run, {})
        for name in event.blocks:
            value = named.pop((name, event.medium), None)
            if value is None:
                continue
            held[value] -= 1
            if not held[value]:
                del held[value]


def _first(adapter: str) -> int:
    return hash(adapter)


def _any_of(named: dict[_Name, int], name: int | bytes, medium: str) -> int | None:
    """Return a block's number, wherever it is: a parent may be on another medium."""
    if (name, medium) in named:
        return named[name, medium]
    return next((named[name, other] for other in ("GPU", "CPU", "", "DISK") if (name, other) in named), None)
