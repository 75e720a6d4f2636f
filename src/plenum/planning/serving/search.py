"""Finds layouts: which options, in which roles, how many of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from plenum.planning.serving.layout import (
    Bound,
    Figures,
    Layout,
    PoolChoice,
    bound_of,
    compiled,
    figures_at,
    most_rps,
)
from plenum.planning.serving.load import load_of
from plenum.planning.serving.options import CHUNKS, PREFILL_CHUNKS, Option
from plenum.planning.serving.question import Question
from plenum.serving.pools import Role
from plenum.serving.queueing import E2E_TAIL, TPOT_TAIL, TTFT_TAIL, Load

MAX_SERVERS = 4096
"""Instances of one pool at most."""

KEPT_PAIRS = 64
"""Options of each role that are paired with each other."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A layout, the most that it bears under the SLO, and what it does at the rate it is planned for."""

    layout: Layout
    capacity_rps: float
    figures: Figures

    @property
    def rate(self) -> float:
        """Requests a second that it is planned for."""
        return self.figures.rate


@dataclass(slots=True)
class Search:
    """One search: what is asked, and what was found so far about single options.

    Parameters
    ----------
    tried
        Layouts whose traffic was computed.
    """

    question: Question
    options: Sequence[Option]
    load: Load = field(init=False)
    bound: Bound = field(init=False)
    tried: int = 0
    _rates: dict[tuple[int, str, int, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.load = load_of(self.question.traffic, self.question.slo.percentile)
        self.bound = bound_of(self.question.slo)

    # -- one layout ----------------------------------------------------------------------------------------------------

    def capacity(self, layout: Layout, bound: Bound | None = None) -> float:
        """Return the most requests a second that ``layout`` bears under the SLO, or under ``bound``."""
        self.tried += 1
        arrays = compiled(layout, self.question.traffic.prompt_tokens)
        return most_rps(arrays, self.load, bound or self.bound)

    def figures(self, layout: Layout, rate: float) -> Figures:
        """Return what ``layout`` does at a rate."""
        self.tried += 1
        return figures_at(compiled(layout, self.question.traffic.prompt_tokens), self.load, rate)

    def keeps(self, figures: Figures, bound: Bound | None = None) -> bool:
        """Tell whether figures keep the SLO, or ``bound``."""
        at = bound or self.bound
        total = figures.total
        return bool(
            figures.fits and total[TTFT_TAIL] <= at.ttft and total[TPOT_TAIL] <= at.tpot and total[E2E_TAIL] <= at.e2e
        )

    def allows(self, layout: Layout) -> bool:
        """Tell whether stock and budget hold a layout."""
        short = (s.count and layout.devices_of(s.hardware.name) > s.count for s in self.question.stocks)
        return not any(short) and layout.usd_per_hour <= self.question.usd_per_hour * (1 + 1e-9)

    def candidate(self, layout: Layout, rate: float | None = None) -> Candidate | None:
        """Return the layout with its figures at ``rate`` (its capacity where None); None where it bears less."""
        capacity = self.capacity(layout)
        planned = capacity if rate is None else rate
        if capacity <= 0.0 or planned > capacity * (1 + 1e-9):
            return None
        return Candidate(layout=layout, capacity_rps=capacity, figures=self.figures(layout, planned))

    # -- one option ----------------------------------------------------------------------------------------------------

    def rate_of(self, option: Option, role: Role, chunk: int, count: int) -> float:
        """Return the most requests a second that ``count`` instances in a role bear; cached."""
        key = (id(option), role, chunk, count)
        if key not in self._rates:
            self._rates[key] = self.capacity(_single(option, role, chunk, count), _bound_for(role, self.bound))
        return self._rates[key]

    def best_chunk(self, option: Option, role: Role, count: int) -> int:
        """Return the chunk with which ``count`` instances bear most."""
        return max(chunks_of(option, role), key=lambda chunk: (self.rate_of(option, role, chunk, count), -chunk))

    def fewest(self, option: Option, role: Role, rate: float, most: int) -> tuple[int, int]:
        """Return the fewest instances that bear ``rate`` with the chunk they do it with; (0, 0): not even ``most`` do."""
        best = (0, 0)
        if most < 1:
            return best
        for chunk in chunks_of(option, role):
            one = self.rate_of(option, role, chunk, 1)
            if one <= 0.0:
                continue
            high = min(math.ceil(rate / one), most)
            enough = self._bears(option, role, chunk, rate)
            if not enough(high):
                continue
            count = _lowest(enough, max(1, math.floor(rate / (2 * one))), high)
            if not best[0] or count < best[0]:
                best = (count, chunk)
        return best

    def _bears(self, option: Option, role: Role, chunk: int, rate: float) -> Callable[[int], bool]:
        bound = _bound_for(role, self.bound)

        def enough(count: int) -> bool:
            return self.keeps(self.figures(_single(option, role, chunk, count), rate), bound)

        return enough


def chunks_of(option: Option, role: Role) -> tuple[int, ...]:
    """Return the tokens of one iteration that are tried, over all attention groups of an instance."""
    groups = option.instance.parallelism.dp
    chunks = CHUNKS[:1] if role == "decode" else PREFILL_CHUNKS if role == "prefill" else CHUNKS
    return tuple(chunk * groups for chunk in chunks)


def _bound_for(role: Role, bound: Bound) -> Bound:
    """Return what a pool of one role alone must keep: prefill owes the first token, decode the others."""
    if role == "prefill":
        return Bound(bound.ttft, np.inf, np.inf)
    return Bound(np.inf, bound.tpot, np.inf) if role == "decode" else bound


def _single(option: Option, role: Role, chunk: int, count: int) -> Layout:
    return Layout(pools=(PoolChoice(option=option, count=count, role=role, chunk=chunk),))


def _lowest(enough: Callable[[int], bool], low: int, high: int) -> int:
    """Return the lowest count from ``low`` to ``high`` that is enough; ``high`` is."""
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high


# -- layouts -----------------------------------------------------------------------------------------------------------


def search(question: Question, options: Sequence[Option]) -> tuple[Search, list[Candidate]]:
    """Return every candidate that keeps the SLO within the stock and the budget, best first."""
    state = Search(question=question, options=options)
    found: list[Candidate] = []
    if question.disaggregated is not True:
        found += together(state)
    if question.disaggregated is not False and question.traffic.output_tokens > 1:
        found += apart(state)
    return state, sorted(found, key=lambda candidate: preference(question, candidate))


def preference(question: Question, candidate: Candidate) -> tuple[float, ...]:
    """Return what candidates are ordered by: for a rate the price, else requests a second; then devices, then latency."""
    layout, figures = candidate.layout, candidate.figures
    simple = (layout.devices, len(layout.pools), float(figures.total[TTFT_TAIL]))
    if question.traffic.rps > 0:
        return (layout.usd_per_hour, *simple)
    return (-candidate.capacity_rps, layout.usd_per_hour, *simple)


def together(state: Search) -> Iterator[Candidate]:
    """Yield aggregated layouts: pools of one option, and one pool on each kind of hardware."""
    question = state.question
    best: dict[str, Candidate] = {}
    for option in state.options:
        layout = _sized(state, option, "both")
        candidate = layout and state.candidate(layout, question.traffic.rps or None)
        if candidate:
            yield candidate
        if question.traffic.rps or candidate is None:
            continue
        name = option.hardware.name
        if name not in best or preference(question, candidate) < preference(question, best[name]):
            best[name] = candidate
    if question.traffic.rps:
        mixture = _filled(state)
    else:
        mixture = _shared([c.layout.pools[0] for c in best.values()], [c.capacity_rps for c in best.values()])
    if mixture and (candidate := state.candidate(mixture, question.traffic.rps or None)):
        yield candidate


def _room(question: Question, option: Option) -> int:
    """Return how many instances of an option the stock and the budget leave room for."""
    stock = next(s for s in question.stocks if s.hardware.name == option.hardware.name)
    room = stock.count // option.devices if stock.count else MAX_SERVERS
    if math.isfinite(question.usd_per_hour) and option.usd_per_hour > 0:
        room = min(room, int(question.usd_per_hour / option.usd_per_hour + 1e-9))
    return min(room, MAX_SERVERS)


def _sized(state: Search, option: Option, role: Role) -> Layout | None:
    """Return a pool of the option alone: as large as there is room for, or as small as the rate allows."""
    room = _room(state.question, option)
    if room < 1:
        return None
    rate = state.question.traffic.rps
    if rate <= 0:
        return _single(option, role, state.best_chunk(option, role, room), room)
    count, chunk = state.fewest(option, role, rate, room)
    return _single(option, role, chunk, count) if count else None


def _shared(pools: Sequence[PoolChoice], rates: Sequence[float]) -> Layout | None:
    """Return pools side by side that take requests in proportion to what each bears."""
    if len(pools) < 2:
        return None
    total = sum(rates)
    return Layout(
        pools=tuple(
            PoolChoice(option=p.option, count=p.count, role=p.role, chunk=p.chunk, share=rate / total)
            for p, rate in zip(pools, rates, strict=True)
        )
    )


def _filled(state: Search) -> Layout | None:
    """Return the cheapest hardware used up, then the next, where no kind alone is enough for the rate."""
    question = state.question
    if len(question.stocks) < 2:
        return None
    each: dict[str, tuple[float, Option, int]] = {}
    for option in state.options:
        chunk = state.best_chunk(option, "both", 1)
        rate = state.rate_of(option, "both", chunk, 1)
        if rate > 0:
            offer = (option.usd_per_hour / rate, option, chunk)
            if option.hardware.name not in each or offer[0] < each[option.hardware.name][0]:
                each[option.hardware.name] = offer
    left, pools, rates = question.traffic.rps, [], []
    for _, option, chunk in sorted(each.values(), key=lambda offer: offer[0]):
        one = state.rate_of(option, "both", chunk, 1)
        count = min(_room(question, option), math.ceil(left / one))
        if count < 1:
            continue
        pools.append(PoolChoice(option=option, count=count, chunk=chunk))
        rates.append(count * one)
        left -= count * one
        if left <= 0:
            break
    layout = _shared(pools, rates) if left <= 0 else None
    return layout if layout and layout.usd_per_hour <= question.usd_per_hour else None


def apart(state: Search) -> Iterator[Candidate]:
    """Yield disaggregated layouts: the best split for each pair of a prefill and a decode option."""
    question = state.question
    for first, then in _pairs(state):
        split = _split_for(state, first, then) if question.traffic.rps else _best_split(state, first, then)
        if split is None:
            continue
        layout = _two_pools(state, first, then, *split)
        if candidate := state.candidate(layout, question.traffic.rps or None):
            yield candidate


def _pairs(state: Search) -> Iterator[tuple[Option, Option]]:
    """Pair the best prefill and decode options of each format, hardware and size, those first that bear most for the money."""
    best: dict[tuple[str, object, str, int], tuple[float, Option]] = {}
    for option in state.options:
        for role in ("prefill", "decode"):
            rate = _each(state, option, role)
            if rate <= 0:
                continue
            value = rate / max(option.usd_per_hour, 1e-9)
            key = (role, option.instance.precision, option.hardware.name, option.devices)
            if key not in best or value > best[key][0]:
                best[key] = (value, option)
    for precision in dict.fromkeys(option.instance.precision for option in state.options):
        firsts, thens = (
            [option for _, option in sorted(ranked, key=lambda pair: -pair[0])[:KEPT_PAIRS]]
            for ranked in (
                [pair for key, pair in best.items() if key[0] == role and key[1] == precision]
                for role in ("prefill", "decode")
            )
        )
        yield from ((first, then) for first in firsts for then in thens)


def _each(state: Search, option: Option, role: Role) -> float:
    """Return what one instance bears beside others: alone, a slow one would queue too long, and many share their queue."""
    beside = max(1, min(_room(state.question, option) // 2, 64)) if role == "prefill" else 1
    return state.rate_of(option, role, chunks_of(option, role)[-1], beside) / beside


def _two_pools(state: Search, first: Option, then: Option, prefills: int, decodes: int) -> Layout:
    chunk = state.best_chunk(first, "prefill", prefills)
    return Layout(
        pools=(
            PoolChoice(option=first, count=prefills, role="prefill", chunk=chunk),
            PoolChoice(option=then, count=decodes, role="decode", chunk=chunks_of(then, "decode")[-1]),
        )
    )


def _best_split(state: Search, first: Option, then: Option) -> tuple[int, int] | None:
    """Return how many of each bear most within stock and budget."""
    question = state.question
    same = first.hardware.name == then.hardware.name
    one_decode = state.rate_of(then, "decode", chunks_of(then, "decode")[-1], 1)
    best: tuple[float, int, int] | None = None
    low, high = 1, _room(question, first)
    widest = chunks_of(first, "prefill")[-1]
    one_prefill = _each(state, first, "prefill")
    for prefills in _around(low, high, one_prefill, one_decode, first, then, same):
        decodes = _rest(question, first, then, prefills)
        if decodes < 1:
            continue
        rate = min(state.rate_of(first, "prefill", widest, prefills), decodes * one_decode)
        if not same:  # no more of either than the other can use
            decodes = min(decodes, math.ceil(rate / one_decode))
        if best is None or rate > best[0] * (1 + 1e-9):
            best = (rate, prefills, decodes)
    return best[1:] if best else None


def _around(
    low: int, high: int, one_prefill: float, one_decode: float, first: Option, then: Option, same: bool
) -> Iterator[int]:
    """Yield the counts of prefill instances near balance: queueing moves it by a few."""
    if high < low:
        return
    if not same:
        yield from range(low, min(high, 64) + 1)
        return
    total = (high + 1) * first.devices
    per_prefill, per_decode = one_prefill / first.devices, one_decode / then.devices
    balanced = total * per_decode / (per_prefill + per_decode) / first.devices
    spread = max(3, int(0.15 * balanced))
    yield from range(max(low, int(balanced) - spread), min(high, int(balanced) + 2) + 1)


def _rest(question: Question, first: Option, then: Option, prefills: int) -> int:
    """Return how many decode instances stock and budget leave beside ``prefills``."""
    room = _room(question, then)
    stock = next(s for s in question.stocks if s.hardware.name == then.hardware.name)
    if first.hardware.name == then.hardware.name and stock.count:
        room = min(room, (stock.count - prefills * first.devices) // then.devices)
    if math.isfinite(question.usd_per_hour) and then.usd_per_hour > 0:
        room = min(room, int((question.usd_per_hour - prefills * first.usd_per_hour) / then.usd_per_hour + 1e-9))
    return room


def _split_for(state: Search, first: Option, then: Option) -> tuple[int, int] | None:
    """Return the fewest of each that bear the rate within stock and budget."""
    question = state.question
    prefills, _ = state.fewest(first, "prefill", question.traffic.rps, _room(question, first))
    decodes, _ = state.fewest(then, "decode", question.traffic.rps, _room(question, then))
    if not prefills or not decodes or decodes > _rest(question, first, then, prefills):
        return None
    return prefills, decodes
