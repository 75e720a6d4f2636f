"""Many expert models behind a router: which memory holds them, what switching costs, how many servers it takes.

A server has fast memory (HBM), where a router, its KV cache and some experts stay, and a larger pool behind it (DDR on the package, or
the host's memory), which holds all of its experts. An expert that is asked for and is not in fast memory is brought in; the least
recently used one makes room (SambaNova SN40L, arXiv 2405.07518, "composition of experts"). Way in: :func:`serve_on`, :func:`options`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import outer
from plenum.model.errors import FieldError
from plenum.serving import prefix
from plenum.serving.prefix import Caches, caches

MAX_EXPERTS = 1_000_000
MAX_SERVERS = 100_000
MAX_OPTIONS = 64
"""Numbers of servers that are tried for each platform."""

Mode = Literal["hbm", "tiers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """One server.

    Parameters
    ----------
    name
        As people write it.
    hbm_bytes, pool_bytes
        Fast memory of all its devices; the memory behind it, which must hold every expert of the server.
    switch_bytes_per_s
        From the pool into fast memory.
    prompt_s, token_s
        Seconds of one pass over a prompt, by the router or by an expert, and of each token of the answer, for the expert's size.
    usd
        Price of the server; 0: not known.
    source
        Of these figures.
    """

    name: str
    hbm_bytes: float
    pool_bytes: float
    switch_bytes_per_s: float
    prompt_s: float
    token_s: float
    usd: float = 0.0
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Composition:
    """Experts behind a router, and how they are asked for.

    Parameters
    ----------
    popularity
        (N,) float64, descending, adding up to 1: part of the prompts that go to each expert.
    expert_bytes
        Of one expert.
    pinned_bytes
        Router, KV cache and whatever else never leaves fast memory.
    """

    popularity: NDArray[np.float64]
    expert_bytes: float
    pinned_bytes: float = 0.0

    @property
    def experts(self) -> int:
        """How many there are."""
        return len(self.popularity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one batch is: ``batch`` prompts that the router sees together; each expert then takes its prompts one by one.

    ``grouped``: prompts of one expert are served one after the other, so that it is brought in once.
    """

    batch: int = 1
    output_tokens: int = 200
    grouped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a composition does on servers of one platform; times are means of a prompt.

    Parameters
    ----------
    mode, servers
        ``hbm``: every expert stays in fast memory somewhere. ``tiers``: fast memory is a cache of the pool.
    resident
        Experts that the fast memory of one server holds.
    miss_rate
        Part of the prompts for which an expert is brought in.
    router_s, switch_s, expert_s, request_s
        Seconds for routing, waiting for experts, running them, and all of it.
    prompts_per_s
        Of all servers, each serving one prompt at a time.
    """

    platform: str
    mode: Mode
    servers: int
    resident: int
    miss_rate: float
    router_s: float
    switch_s: float
    expert_s: float
    request_s: float
    prompts_per_s: float


def zipf(count: int, skew: float) -> NDArray[np.float64]:
    """Return popularities in proportion to 1 / rank to the power of ``skew``; 0: all alike.

    Raises
    ------
    FieldError
        No experts, too many, or a skew that cannot be meant.
    """
    if not 1 <= count <= MAX_EXPERTS:
        raise FieldError("experts", f"must be 1 to {MAX_EXPERTS:,}, not {count}")
    if not 0 <= skew <= 10:
        raise FieldError("skew", f"must be 0 to 10, not {skew:g}")
    weights = np.arange(1, count + 1, dtype=np.float64) ** -skew
    return weights / weights.sum()


def switch_s(platform: Platform, expert_bytes: float) -> float:
    """Return the seconds in which an expert is brought into fast memory."""
    return expert_bytes / platform.switch_bytes_per_s


def resident_experts(platform: Platform, composition: Composition) -> int:
    """Return how many experts fast memory holds beside what is pinned; 0 or less: none."""
    return math.floor((platform.hbm_bytes - composition.pinned_bytes) / composition.expert_bytes)


def most_experts(platform: Platform, composition: Composition) -> int:
    """Return how many experts a server holds at all: its pool must hold every one, or fast memory if that is larger."""
    return max(math.floor(platform.pool_bytes / composition.expert_bytes), resident_experts(platform, composition), 0)


def servers_needed(platform: Platform, composition: Composition, mode: Mode) -> int:
    """Return the fewest servers that hold all experts; 0 where not even one expert fits."""
    each = resident_experts(platform, composition) if mode == "hbm" else most_experts(platform, composition)
    if each < 1 or resident_experts(platform, composition) < 1:
        return 0
    return math.ceil(composition.experts / each)


def characteristic_time(popularity: NDArray[np.float64], slots: int) -> float:
    """Return after how many other requests an expert is evicted, by Che's approximation; infinity where all stay.

    The t at which, of independent requests, as many different experts as there are slots have been asked for in the last t
    (Che, Tung and Wang, IEEE JSAC 2002).
    """
    asked = popularity[popularity > 0]
    if slots >= len(asked):
        return math.inf
    if slots <= 0:
        return 0.0
    low, high = 0.0, float(slots)
    for _ in range(200):
        if -np.expm1(-asked * high).sum() >= slots:
            break
        low, high = high, 2 * high
    for _ in range(100):
        middle = 0.5 * (low + high)
        if -np.expm1(-asked * middle).sum() < slots:
            low = middle
        else:
            high = middle
    return high


def hit_rate(popularity: NDArray[np.float64], slots: int) -> float:
    """Return the part of independent requests that find their expert among the ``slots`` used last, by Che's approximation."""
    time = characteristic_time(popularity, slots)
    return 1.0 if math.isinf(time) else float(popularity @ -np.expm1(-popularity * time))


def misses_of_batch(popularity: NDArray[np.float64], slots: int, work: Work) -> float:
    """Return how many experts are brought in for a batch, on average.

    Grouped, an expert is brought in once however many of the prompts are its own, if none was in the time before the batch.
    """
    time = characteristic_time(popularity, slots)
    if math.isinf(time):
        return 0.0
    gone = np.exp(-popularity * time)
    asked = (
        -np.expm1(work.batch * np.log1p(-np.minimum(popularity, 1 - 1e-15)))
        if work.grouped
        else work.batch * popularity
    )
    return float(asked @ gone)


def lru_hits(trace: NDArray[np.integer], experts: int, slots: Sequence[int]) -> NDArray[np.int64]:
    """Return how many requests of a trace found their expert in each tier, and how many in none.

    Parameters
    ----------
    trace
        (R,) expert of each request, 0 to ``experts`` - 1, in order.
    slots
        Experts that each tier holds, the fastest first, up to three; what one evicts the next one takes.

    Returns
    -------
    NDArray
        (len(slots) + 1,) counts; they add up to R. Runs the code that keeps prefix caches (:mod:`plenum.serving.prefix`).

    Raises
    ------
    FieldError
        More than three tiers, or experts that there are not.
    """
    if not 1 <= len(slots) <= 3:
        raise FieldError("tiers", f"must be one to three, not {len(slots)}")
    ids = np.asarray(trace, np.int64)
    if len(ids) and not (ids.min() >= 0 and ids.max() < experts):
        raise FieldError("trace", f"names experts from {ids.min()} to {ids.max()}; there are 0 to {experts - 1}")
    sizes = [np.array([size], np.int64) for size in (*slots, 0, 0)[:3]]
    return _lru_hits(ids, caches(experts, *sizes))[: len(slots) + 1][_order(len(slots))]


def tier_shares(popularity: NDArray[np.float64], slots: Sequence[int]) -> NDArray[np.float64]:
    """Return the part of requests that find their expert in each tier, and in none, by Che's approximation.

    A tier that takes what the one above evicts goes on where that one ends: both together are one LRU list of their summed size.
    """
    reached = np.array([0.0, *(hit_rate(popularity, int(size)) for size in np.cumsum(slots)), 1.0])
    return np.diff(reached)


def draw_trace(
    popularity: NDArray[np.float64], count: int, rng: np.random.Generator, work: Work | None = None
) -> NDArray[np.int64]:
    """Draw the experts of ``count`` prompts; grouped work is sorted within each batch."""
    trace = rng.choice(len(popularity), size=count, p=popularity)
    if work and work.grouped:
        whole = count - count % work.batch
        trace[:whole] = np.sort(trace[:whole].reshape(-1, work.batch), axis=1).ravel()
    return trace


def serve_on(platform: Platform, composition: Composition, work: Work, servers: int, mode: Mode) -> Service:
    """Return what a composition does on a number of servers.

    Experts are dealt out by popularity, so that the servers are equally busy.

    Raises
    ------
    FieldError
        They do not hold all experts.
    """
    needed = servers_needed(platform, composition, mode)
    if not needed or not needed <= servers <= MAX_SERVERS:
        most = f"it takes {needed:,}" if needed else "not even one expert fits beside what is pinned"
        raise FieldError("servers", f"{servers} x {platform.name} do not hold {composition.experts:,} experts; {most}")
    mine = composition.popularity[::servers]
    resident = resident_experts(platform, composition)
    # A batch spreads over the servers; each sees its part of it.
    local = replace(work, batch=max(1, round(work.batch / servers)))
    misses = misses_of_batch(mine / mine.sum(), resident, local) / local.batch
    waited = misses * switch_s(platform, composition.expert_bytes)
    router = platform.prompt_s / work.batch
    expert = platform.prompt_s + work.output_tokens * platform.token_s
    total = router + waited + expert
    return Service(
        platform=platform.name,
        mode=mode,
        servers=servers,
        resident=min(resident, len(mine)),
        miss_rate=misses,
        router_s=router,
        switch_s=waited,
        expert_s=expert,
        request_s=total,
        prompts_per_s=servers / total,
    )


def options(platforms: Sequence[Platform], composition: Composition, work: Work) -> list[Service]:
    """Return what each platform does on each number of servers from the fewest that hold all experts to those whose HBM does."""
    found = []
    for platform in platforms:
        fewest, all_fast = (servers_needed(platform, composition, mode) for mode in ("tiers", "hbm"))
        if not fewest:
            continue
        counts = np.unique(np.geomspace(fewest, max(all_fast, fewest), MAX_OPTIONS).round().astype(int))
        for servers in counts.tolist():
            mode: Mode = "hbm" if servers >= all_fast else "tiers"
            found.append(serve_on(platform, composition, work, servers, mode))
    return found


def recommended(
    services: Sequence[Service],
    platforms: Sequence[Platform],
    *,
    request_s: float = math.inf,
    prompts_per_s: float = 0.0,
) -> Service | None:
    """Return the cheapest service (by price where every platform has one, else by servers) that is fast enough; None: none is."""
    by_name = {platform.name: platform for platform in platforms}
    priced = all(platform.usd > 0 for platform in platforms)
    able = [s for s in services if s.request_s <= request_s and s.prompts_per_s >= prompts_per_s]
    return min(
        able,
        key=lambda s: (s.servers * (by_name[s.platform].usd if priced else 1.0), s.request_s, s.platform),
        default=None,
    )


def _order(tiers: int) -> list[int]:
    """Return where each tier's count stands in the order of :mod:`plenum.serving.prefix`, that of the misses last."""
    return [*range(1, tiers + 1), 0]


@outer
def _lru_hits(trace: NDArray[np.int64], held: Caches) -> NDArray[np.int64]:
    counts = np.zeros(prefix.TIERS, np.int64)
    for at in range(len(trace)):
        counts[held.tier[0, trace[at]]] += 1
        prefix.insert(held, 0, trace, at, at + 1)
    return counts
