"""Which replica has which beginning of a prompt in its cache, told by what was sent where.

Prompts are cut into blocks, and a block's number stands for everything up to its end, as in :mod:`plenum.serving.prefix`: a block without
the one before it is of no use, so a prompt is touched from its end to its beginning, and its beginning is forgotten last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

BLOCK_BYTES = 128
"""Of text: some 32 tokens, two of vLLM's blocks. Twice as much is told apart too coarsely for routing to agree with the simulator's."""

MAX_BLOCKS = 8_192
"""Of one prompt; what follows is not told apart."""

REMEMBERED_BLOCKS = 200_000
"""Of one replica, unless told otherwise: some six million tokens, more than most caches hold; it is brought down as misses show."""

LEAST_BLOCKS = 64

SHRINK, GROW = 0.9, 1.001
"""What is remembered of a replica shrinks by this when its cache has lost what was expected there, and grows by that when not."""


def blocks_of(prompt: str, salt: str) -> tuple[int, ...]:
    """Return the numbers of a prompt's whole blocks, from the first.

    Parameters
    ----------
    salt
        The tenant's: equal prompts of two tenants have nothing in common.

    Notes
    -----
    By Python's own hash, SipHash keyed anew in every process: the numbers never leave this one, and nobody can make two prompts collide.
    """
    data = prompt.encode(errors="replace")
    value, numbers = hash(salt), []
    for start in range(0, min(len(data) // BLOCK_BYTES, MAX_BLOCKS) * BLOCK_BYTES, BLOCK_BYTES):
        value = hash((value, data[start : start + BLOCK_BYTES]))
        numbers.append(value)
    return tuple(numbers)


class PrefixIndex:
    """What each replica has most recently been sent, least recent forgotten first."""

    def __init__(self, remembered: int = REMEMBERED_BLOCKS) -> None:
        self._remembered = remembered
        self._rows: dict[str, OrderedDict[int, None]] = {}
        self._room: dict[str, float] = {}

    def found(self, run: str, blocks: Sequence[int]) -> int:
        """Return how many leading blocks of a prompt a replica has."""
        row = self._rows.get(run)
        if not row:
            return 0
        for count, block in enumerate(blocks):
            if block not in row:
                return count
        return len(blocks)

    def note(self, run: str, blocks: Sequence[int]) -> None:
        """Note that a replica has, or will have at once, a prompt in its cache."""
        row = self._rows.setdefault(run, OrderedDict())
        for block in reversed(blocks):
            row[block] = None
            row.move_to_end(block)
        room = self._room.get(run, self._remembered)
        while len(row) > room:
            row.popitem(last=False)

    def learn(self, run: str, expected_tokens: int, cached_tokens: int) -> None:
        """Note how much of what was expected in a replica's cache was there, to learn how much it holds."""
        if expected_tokens <= 0 or run not in self._rows:
            return
        room = self._room.get(run, float(self._remembered))
        if cached_tokens < expected_tokens / 2:
            room = min(room, len(self._rows[run])) * SHRINK
        else:
            room *= GROW
        self._room[run] = min(max(room, LEAST_BLOCKS), float(self._remembered))

    def forget(self, run: str) -> None:
        """Forget what a replica has: its cache was emptied."""
        self._rows.pop(run, None)

    def keep(self, runs: Iterable[str]) -> None:
        """Forget all replicas but these."""
        kept = set(runs)
        self._rows = {run: row for run, row in self._rows.items() if run in kept}
        self._room = {run: room for run, room in self._room.items() if run in kept}
