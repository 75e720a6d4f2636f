"""Aggregated serving written down plainly: the oracle of the compiled simulator.

Every instance is stepped one iteration at a time; blocks, contexts and who waits are counted afresh whenever they are needed. Only
the seconds of an iteration come from the function under test's own source, ``plenum.serving.steps``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

from plenum.serving.instance import EngineSettings
from plenum.serving.steps import StepModel, chunk_pairs, chunk_pairs_window, step
from plenum.serving.workload import Requests


@dataclass(eq=False)
class Asked:
    number: int
    prompt: int
    output: int
    priority: int
    blocks: list[int]
    ready_s: float = math.nan
    begun_s: float = math.nan
    first_s: float = math.nan
    done_s: float = math.nan
    generated: int = 0
    target: int = 0
    filled: int = 0
    chunk: int = 0
    pinned: list[int] = field(default_factory=list)
    cached: int = -1
    preemptions: int = 0
    refused: bool = False
    instance: int = -1
    follower: Asked | None = None


class PlainInstance:
    def __init__(self, settings: EngineSettings, model: StepModel, cache_tokens: int, share: int) -> None:
        self.settings, self.c, self.share_tokens = settings, model.coefficients, share
        self.window = model["window"]
        self.total = cache_tokens // settings.block_tokens
        self.cost = max(1, share // settings.block_tokens)
        self.waiting: list[Asked] = []
        self.prefills: list[Asked] = []
        self.decodes: list[Asked] = []
        self.pins: dict[int, int] = {}  # blocks that requests hold
        self.idle_blocks: OrderedDict[int, None] = OrderedDict()  # cached blocks that nobody holds, oldest first
        self.granted = False
        self.end_s = math.inf
        self.takes_s = 0.0
        self.energy = self.busy_prefill = self.busy_decode = 0.0
        self.prefilled = self.decoded = 0
        self.in_prefill, self.in_decode = 0, False

    # -- blocks --

    def private(self, r: Asked, tokens: int) -> int:
        return math.ceil((tokens - len(r.pinned) * self.share_tokens) / self.settings.block_tokens)

    def used(self) -> int:
        running = sum(self.private(r, r.target) for r in self.prefills)
        return running + sum(self.private(r, r.filled + self.granted) for r in self.decodes)

    def available(self) -> int:
        return self.total - self.used() - len(self.pins) * self.cost

    def evict(self, more: int = 0) -> None:
        while self.used() + more + (len(self.pins) + len(self.idle_blocks)) * self.cost > self.total:
            self.idle_blocks.popitem(last=False)

    def pin(self, r: Asked, block: int) -> None:
        self.idle_blocks.pop(block, None)
        self.pins[block] = self.pins.get(block, 0) + 1
        r.pinned.append(block)

    def unpin(self, r: Asked) -> None:
        for block in reversed(r.pinned):
            self.pins[block] -= 1
            if not self.pins[block]:
                del self.pins[block]
                self.idle_blocks[block] = None
        r.pinned = []

    def share(self, r: Asked, blocks: list[int], tokens: int) -> None:
        """Blocks of a request that is in no batch become those of the cache."""
        for block in blocks:
            r_private = self.private(r, tokens) - self.cost  # one block fewer is its own
            new = block not in self.pins and block not in self.idle_blocks
            while new and (
                self.used() + r_private + (len(self.pins) + len(self.idle_blocks) + 1) * self.cost > self.total
            ):
                self.idle_blocks.popitem(last=False)
            self.pin(r, block)

    def share_output(self, r: Asked) -> None:
        """The prompt that follows gives ids to what this answer has filled, where it begins with all of this prompt."""
        known, tokens = len(r.pinned), r.prompt + r.output - 1
        if r.follower and known == len(r.blocks) and r.follower.blocks[:known] == r.blocks:
            self.share(r, r.follower.blocks[known : tokens // self.share_tokens], tokens)

    # -- one iteration --

    def begin(self, now_s: float) -> None:
        mixed = self.settings.chunked_prefill
        self.granted = False
        tokens = 0
        if mixed:
            crowded = self.grow()
            tokens = self.fill(now_s, crowded)
        else:
            tokens = self.fill(now_s, False)
            if tokens == 0 and self.grow() and not self.decodes:
                tokens = self.fill(now_s, False)
        decodes = self.decodes if mixed or tokens == 0 else []
        self.end_s, self.in_prefill, self.in_decode = math.inf, tokens, bool(decodes)
        if not tokens and not decodes:
            return
        chunks = [r for r in self.prefills if r.chunk]
        contexts = [r.filled + 1 for r in decodes]
        narrow = [min(n, self.window) if self.window else 0 for n in contexts]
        self.takes_s, joules = step(
            self.c,
            tokens,
            float(sum(chunk_pairs(r.filled, r.chunk) for r in chunks)),
            float(sum(chunk_pairs_window(r.filled, r.chunk, self.window) for r in chunks)),
            len(chunks),
            len(decodes),
            float(sum(contexts)),
            float(sum(narrow)),
        )
        self.end_s = now_s + self.takes_s
        share = tokens / (tokens + len(decodes))
        self.next_books = (joules, share * self.takes_s, (1 - share) * self.takes_s, tokens, len(decodes))

    def grow(self) -> bool:
        crowded = False
        while self.decodes:
            need = sum(self.private(r, r.filled + 1) - self.private(r, r.filled) for r in self.decodes)
            if need <= self.available():
                self.granted = True
                self.evict()
                break
            self.preempt()
            crowded = True
        return crowded

    def preempt(self) -> None:
        victim = min(self.decodes + self.prefills, key=lambda r: (r.priority, -r.ready_s, -r.number))
        for batch in (self.decodes, self.prefills):
            if victim in batch:
                batch.remove(victim)
        self.unpin(victim)
        victim.target, victim.filled = victim.prompt + victim.generated, 0
        victim.preemptions += 1
        self.waiting.insert(0, victim)

    def fill(self, now_s: float, crowded: bool) -> int:
        mixed = self.settings.chunked_prefill
        budget = self.settings.max_batched_tokens
        if mixed:
            budget = max(budget - len(self.decodes), 1)
        dealt = 0
        crowded = crowded and bool(self.decodes or self.prefills)
        done: set[int] = set()
        while True:
            for r in self.prefills:
                if r.number in done:
                    continue
                done.add(r.number)
                r.chunk = r.target - r.filled
                if mixed:
                    r.chunk = min(r.chunk, budget - dealt)
                elif dealt and r.chunk > budget - dealt:
                    r.chunk = 0
                dealt += r.chunk
            if crowded or dealt >= budget or not self.let_in(now_s):
                return dealt

    def let_in(self, now_s: float) -> bool:
        if not self.waiting or len(self.decodes) + len(self.prefills) >= self.settings.max_sequences:
            return False
        r = max(self.waiting, key=lambda r: r.priority)  # the first of the highest class
        hits: list[int] = []
        for block in r.blocks[: (r.target - 1) // self.share_tokens]:
            if block not in self.pins and block not in self.idle_blocks:
                break
            hits.append(block)
        private = math.ceil((r.target - len(hits) * self.share_tokens) / self.settings.block_tokens)
        new_pins = sum(block in self.idle_blocks for block in hits)
        if private + new_pins * self.cost > self.available():
            return False
        for block in hits:
            self.pin(r, block)
        self.waiting.remove(r)
        r.filled = len(hits) * self.share_tokens
        if math.isnan(r.begun_s):
            r.begun_s, r.cached = now_s, r.filled
        self.prefills.append(r)
        self.evict()
        return True

    def end(self) -> list[Asked]:
        """End the iteration; returns those who are done, in order."""
        now_s = self.end_s
        joules, prefill_s, decode_s, tokens, decodes = self.next_books
        self.energy += joules
        self.busy_prefill += prefill_s
        self.busy_decode += decode_s
        self.prefilled += tokens
        self.decoded += decodes
        self.granted = False
        finished: list[Asked] = []
        if self.in_decode:
            for r in self.decodes:
                r.filled += 1
                r.generated += 1
            finished = sorted((r for r in self.decodes if r.generated == r.output), key=lambda r: r.number)
            for r in finished:
                self.decodes.remove(r)
                self.share_output(r)
                self.unpin(r)
        for r in [r for r in self.prefills if r.chunk]:
            r.filled += r.chunk
            r.chunk = 0
            if r.filled < r.target:
                continue
            self.prefills.remove(r)
            self.share(r, r.blocks[len(r.pinned) :], r.target)
            r.generated += 1
            if math.isnan(r.first_s):
                r.first_s = now_s
            if r.generated == r.output:
                self.share_output(r)
                self.unpin(r)
                finished.append(r)
            else:
                self.decodes.append(r)
        for r in finished:
            r.done_s = now_s
        self.end_s = math.inf
        return finished


def serve(
    requests: Requests, settings: EngineSettings, model: StepModel, cache_tokens: int, count: int
) -> tuple[list[Asked], list[PlainInstance]]:
    """Serve all requests with ``count`` instances, each sent to the one with the fewest requests."""
    share = requests.block_tokens
    instances = [PlainInstance(settings, model, cache_tokens, share) for _ in range(count)]
    asked = []
    for r in range(len(requests)):
        ids = requests.block_id[requests.block_offset[r] : requests.block_offset[r + 1]].tolist()
        prompt = int(requests.prompt_tokens[r])
        ids = ids[: prompt // share] if settings.prefix_caching else []
        one = Asked(r, prompt, int(requests.output_tokens[r]), int(requests.priority[r]), ids)
        one.target = prompt
        asked.append(one)
        before = int(requests.after[r])
        if before >= 0 and asked[before].follower is None:
            asked[before].follower = one
    pending = [(float(requests.arrival_s[r]), 1, r, r) for r in range(len(requests)) if requests.after[r] < 0]
    pushed = turn = 0
    now_s, woken = 0.0, list[PlainInstance]()
    while True:
        instance = min(instances, key=lambda i: i.end_s)
        event = min(pending, default=(math.inf, 0, 0, 0))
        if min(instance.end_s, event[0]) > now_s:  # whatever happens at one time is seen at once
            for called in woken:
                if called.end_s == math.inf:
                    called.begin(now_s)
            woken.clear()
            instance = min(instances, key=lambda i: i.end_s)
        if instance.end_s == math.inf and event[0] == math.inf:
            return asked, instances
        over: list[Asked] = []
        if instance.end_s <= event[0]:
            now_s = instance.end_s
            over = instance.end()
            woken.append(instance)
        else:
            now_s = event[0]
            pending.remove(event)
            r = asked[event[3]]
            r.ready_s = now_s
            before = int(requests.after[r.number])
            longest = math.ceil((r.prompt + r.output - 1) / settings.block_tokens)
            if longest > instances[0].total or (before >= 0 and asked[before].refused):
                r.refused = True
                r.done_s = now_s
                over = [r]
            else:
                order = [(turn + k) % count for k in range(count)]
                loads = [len(i.waiting) + len(i.prefills) + len(i.decodes) for i in instances]
                r.instance = min(order, key=lambda k: (loads[k], order.index(k)))
                turn += 1
                instances[r.instance].waiting.append(r)
                woken.append(instances[r.instance])
        for r in over:
            for k in range(len(requests)):
                if requests.after[k] == r.number:
                    start_s = (
                        now_s if r.refused else max(now_s + float(requests.pause_s[k]), float(requests.arrival_s[k]))
                    )
                    pending.append((start_s, 0, pushed, k))
                    pushed += 1
