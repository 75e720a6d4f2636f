"""Continuous batching of an emulated engine: which sequences are in the next iteration, how long it takes, what it brings forth.

The rules of :mod:`plenum.sim.serving`: decoding sequences first, then prefill in chunks up to the budget of tokens; requests are let in
in their order once their prompt has room; where caches have no room to grow, whoever came last starts anew. Time is the caller's.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from numpy.typing import NDArray

from plenum.adapters.engines.blocks import Blocks
from plenum.serving.steps import AT, chunk_pairs, chunk_pairs_window, step


@dataclass(slots=True, kw_only=True, eq=False)
class Stream:
    """A request on its way.

    Parameters
    ----------
    prompt_tokens, output_tokens
        How long it is, and is to become.
    hashes
        Of the prompt's whole blocks.
    told
        Called after each iteration that brought it a token.
    brought
        Its cache has come from elsewhere, and its first token with it.
    """

    prompt_tokens: int
    output_tokens: int
    hashes: Sequence[int] = ()
    told: Callable[[], None]
    brought: bool = False
    generated: int = 0
    filled: int = 0
    cached_tokens: int = 0
    shared: list[int] = field(default_factory=list)
    private: int = 0
    chunk: int = 0
    number: int = 0
    again: int = 0

    @property
    def target(self) -> int:
        """Tokens that its cache must hold before it decodes: where it had to start anew, those of its answer too."""
        return self.prompt_tokens + self.again

    @property
    def done(self) -> bool:
        """Whether it has all its tokens."""
        return self.generated >= self.output_tokens


class Batch:
    """An engine's sequences.

    Parameters
    ----------
    coefficients
        Of :func:`plenum.serving.steps.step`.
    """

    def __init__(self, coefficients: NDArray, blocks: Blocks, *, max_sequences: int, max_batched_tokens: int) -> None:
        self._c, self.blocks = coefficients, blocks
        self._most, self._budget = max_sequences, max_batched_tokens
        self._window = float(coefficients[AT["window"]])
        self._numbers = itertools.count()
        self.waiting: deque[Stream] = deque()
        self.prefills: dict[Stream, None] = {}  # sets that keep their order
        self.decodes: dict[Stream, None] = {}
        self.prompt_tokens = self.cached_tokens = self.output_tokens = 0

    @property
    def running(self) -> int:
        """Sequences in the batch."""
        return len(self.prefills) + len(self.decodes)

    def fits(self, each: Stream) -> bool:
        """Tell whether a request could ever be served, alone."""
        return self.blocks.of(each.prompt_tokens + each.output_tokens - 1) <= self.blocks.capacity

    def add(self, each: Stream) -> None:
        """Let a request wait for its turn."""
        each.number = next(self._numbers)
        self.waiting.append(each)

    def remove(self, each: Stream) -> None:
        """Let go of a request that nobody waits for any more."""
        if each in self.waiting:
            self.waiting.remove(each)
        for those in (self.prefills, self.decodes):
            if each in those:
                del those[each]
                self._let_go(each)

    def begin(self, *, idle: bool = False) -> float:
        """Put the next iteration together; returns its seconds, 0 where there is nothing to do.

        Parameters
        ----------
        idle
            None ran just before: where there are pipeline stages, they have to fill first.
        """
        for each in [each for each in self.prefills if each.filled >= each.target]:
            del self.prefills[each]
            self.decodes[each] = None
        crowded = self._grow()
        dealt = self._fill(crowded)
        if not dealt and any(each.filled >= each.target for each in self.prefills):
            return self.begin(idle=idle)  # somebody was let in who decodes at once
        if not dealt and not self.decodes:
            return 0.0
        chunks = [each for each in self.prefills if each.chunk]
        pairs = sum(chunk_pairs(each.filled, each.chunk) for each in chunks)
        windowed = sum(chunk_pairs_window(each.filled, each.chunk, self._window) for each in chunks)
        contexts = [each.prompt_tokens + each.generated for each in self.decodes]
        window = sum(min(context, self._window) for context in contexts) if self._window else 0.0
        seconds, _ = step(self._c, dealt, pairs, windowed, len(chunks), len(self.decodes), sum(contexts), window)
        stages = self._c[AT["stages"]]
        parts = stages if dealt else min(stages, len(self.decodes))
        return float(seconds * (1.0 + (parts - 1.0) / stages if idle else 1.0))

    def end(self) -> None:
        """Book the iteration that has ended: caches have grown, tokens have come, whoever is done goes."""
        for each in [*self.decodes]:
            self._token(each, self.decodes)
        for each in [each for each in self.prefills if each.chunk]:
            each.filled += each.chunk
            each.chunk = 0
            if each.filled >= each.target:
                self._share(each)
                self._token(each, self.prefills)

    def _token(self, each: Stream, those: dict[Stream, None]) -> None:
        if each not in those:  # cancelled while the iteration ran
            return
        each.generated += 1
        self.output_tokens += 1
        if each.done:
            del those[each]
            self._let_go(each)
        each.told()

    def _grow(self) -> bool:
        """Take the blocks that the next tokens need; whether anybody had to make room."""
        crowded = False
        for each in [*self.decodes]:
            while each in self.decodes:
                need = self.blocks.of(each.prompt_tokens + each.generated) - len(each.shared) - each.private
                if need <= 0 or self.blocks.take((), need):
                    each.private += max(need, 0)
                    break
                crowded = True
                self._preempt()
        return crowded

    def _preempt(self) -> None:
        """Send whoever came last back to the queue, in front."""
        last = max((*self.prefills, *self.decodes), key=lambda each: each.number)
        self.prefills.pop(last, None)
        self.decodes.pop(last, None)
        self._let_go(last)
        last.filled, last.chunk, last.again, last.brought = 0, 0, last.generated, False
        self.waiting.appendleft(last)

    def _fill(self, crowded: bool) -> int:
        """Deal tokens out to prefills, letting in who waits while there are any left; returns the tokens dealt."""
        budget = max(self._budget - len(self.decodes), 1)
        dealt = 0
        for each in self.prefills:
            each.chunk = min(each.target - each.filled, budget - dealt)
            dealt += each.chunk
        while not (crowded and self.running) and dealt < budget and self.waiting and self.running < self._most:
            each = self.waiting[0]
            if not self._let_in(each):
                break
            self.waiting.popleft()
            self.prefills[each] = None
            each.chunk = min(each.target - each.filled, budget - dealt)
            dealt += each.chunk
        return dealt

    def _let_in(self, each: Stream) -> bool:
        blocks = self.blocks
        # At least one token is computed, whatever is found.
        most = min(len(each.hashes), (each.target - 1) // blocks.block_tokens)
        found = 0 if each.brought else blocks.found(each.hashes[:most])
        private = blocks.of(each.target) - found
        if not blocks.take(each.hashes[:found], private):
            return False
        each.shared, each.private = list(each.hashes[:found]), private
        each.filled = each.target if each.brought else found * blocks.block_tokens
        if not each.generated:
            each.cached_tokens = each.filled
            self.prompt_tokens += each.prompt_tokens
            self.cached_tokens += each.filled
        return True

    def _share(self, each: Stream) -> None:
        new = each.hashes[len(each.shared) :]
        each.private -= len(new)
        self.blocks.share(new)
        each.shared += new

    def _let_go(self, each: Stream) -> None:
        self.blocks.give_back(each.shared, each.private)
        each.shared, each.private = [], 0
