"""Layouts: pools of instances that serve together, and what they do under traffic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.compiled import entry, inner, outer
from plenum.planning.serving.load import MAX_BISECTION, ROLES
from plenum.planning.serving.options import Option, with_limits
from plenum.serving.formats import FORMATS
from plenum.serving.instance import LINK_PART
from plenum.serving.instance import transfer_bps as link_bps
from plenum.serving.pools import Pool, Role, Serving
from plenum.serving.queueing import (
    BATCH,
    BUSY,
    CACHE,
    DECODE,
    E2E,
    E2E_TAIL,
    FIGURES,
    PREFILL,
    PROMPT_BUSY,
    TPOT,
    TPOT_TAIL,
    TTFT,
    TTFT_TAIL,
    WATTS,
    Load,
    pool_under,
)
from plenum.serving.steps import AT
from plenum.serving.workload import Slo

_IDLE = AT["idle_w"]
_MAX_DOUBLINGS = 40

SLOTS_Z = 4.0
"""Standard deviations above the mean batch that the engine's limit on sequences leaves room for."""


class Bound(NamedTuple):
    """What must hold, as plain numbers for the compiled code; seconds."""

    ttft: float
    tpot: float
    e2e: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolChoice:
    """``count`` instances of an option, taking ``share`` of the requests that its role sees."""

    option: Option
    count: int
    role: Role = "both"
    chunk: int
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Pools that serve together."""

    pools: tuple[PoolChoice, ...]

    @property
    def devices(self) -> int:
        """Devices of all pools."""
        return sum(pool.count * pool.option.devices for pool in self.pools)

    @property
    def usd_per_hour(self) -> float:
        """Price of all devices for an hour."""
        return sum(pool.count * pool.option.usd_per_hour for pool in self.pools)

    @property
    def disaggregated(self) -> bool:
        """Whether prefill and decode are apart."""
        return any(pool.role == "prefill" for pool in self.pools)

    @property
    def mixed(self) -> bool:
        """Whether there is more than one kind of device."""
        return len({pool.option.hardware.name for pool in self.pools}) > 1

    def devices_of(self, hardware: str) -> int:
        """Devices of one kind."""
        return sum(pool.count * pool.option.devices for pool in self.pools if pool.option.hardware.name == hardware)


class Compiled(NamedTuple):
    """A layout as arrays: P pools."""

    coefficients: NDArray[np.float64]
    """(P, len(FIELDS))"""
    roles: NDArray[np.int64]
    servers: NDArray[np.float64]
    shares: NDArray[np.float64]
    chunks: NDArray[np.float64]
    caches: NDArray[np.float64]
    transfer_s: float
    """Seconds that one prompt's cache is on its way; 0 where nothing is sent."""
    transfer_rate: float
    """Caches a second that the links bear; infinity where nothing is sent."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Figures:
    """What a layout does at a rate.

    Parameters
    ----------
    rate
        Requests a second.
    fits
        Whether queues stay finite and the cache holds everything.
    total
        (FIGURES,) over the whole; see :mod:`plenum.serving.queueing`.
    pools
        (P, FIGURES).
    """

    rate: float
    fits: bool
    total: NDArray[np.float64]
    pools: NDArray[np.float64]


def transfer_bps(layout: Layout) -> float:
    """Bytes a second at which one instance sends or takes a cache: the slower side, through the network."""
    ends = [pool.option.instance for pool in layout.pools if pool.role != "both"]
    return link_bps(*ends) if ends else 50e9


def _network_bps(layout: Layout, role: Role) -> float:
    """Bytes a second that all instances of a role send or take together at their data sheets."""
    pools = [pool for pool in layout.pools if pool.role == role]
    return sum(pool.count * pool.option.devices * pool.option.hardware.scaleout_bps for pool in pools)


def compiled(layout: Layout, prompt_tokens: float, coefficients: NDArray[np.float64] | None = None) -> Compiled:
    """Return a layout as arrays; ``coefficients`` stands for its own where a question "what if" is asked."""
    pools = layout.pools
    transfer_s, transfer_rate = 0.0, np.inf
    if layout.disaggregated:
        first = pools[0].option.instance
        size = first.model.cache_values(prompt_tokens) * FORMATS[first.precision.kv_cache].bytes
        transfer_s = size / transfer_bps(layout)
        sums = [_network_bps(layout, role) for role in ("prefill", "decode")]
        ends = [bps for bps in sums if bps]  # one role alone is asked about on the way to a whole layout
        transfer_rate = LINK_PART**2 * min(ends) / size if size > 0 else np.inf  # nor may links be busy all the time
    own = np.stack([pool.option.prediction.steps.coefficients for pool in pools])
    return Compiled(
        coefficients=own if coefficients is None else coefficients,
        roles=np.array([ROLES[pool.role] for pool in pools], np.int64),
        servers=np.array([pool.count for pool in pools], np.float64),
        shares=np.array([pool.share for pool in pools], np.float64),
        chunks=np.array([pool.chunk for pool in pools], np.float64),
        caches=np.array([pool.option.cache_tokens for pool in pools], np.float64),
        transfer_s=transfer_s,
        transfer_rate=transfer_rate,
    )


def figures_at(arrays: Compiled, load: Load, rate: float) -> Figures:
    """Return what a layout does at a rate."""
    pools, total = np.zeros((len(arrays.roles), FIGURES)), np.zeros(FIGURES)
    fits = layout_under(arrays, load, rate, pools, total)
    return Figures(rate=rate, fits=fits, total=total, pools=pools)


def most_rps(arrays: Compiled, load: Load, bound: Bound) -> float:
    """Return the most requests a second that keep every bound; 0: not even one at a time does."""
    return most(arrays, load, bound)


def bound_of(slo: Slo) -> Bound:
    """Return what is promised, as plain numbers."""
    return Bound(slo.ttft_s, slo.tpot_s, slo.e2e_s)


UNBOUND = Bound(np.inf, np.inf, np.inf)


@entry
def layout_under(at: Compiled, load: Load, rate: float, pools: NDArray[np.float64], total: NDArray[np.float64]) -> bool:
    """Fill ``pools`` (P, FIGURES) and ``total`` (FIGURES,); whether queues stay finite and caches hold."""
    total[:] = 0.0
    fits = rate < at.transfer_rate
    for p in range(len(at.roles)):
        row = pools[p]
        if not pool_under(
            at.coefficients[p], at.roles[p], at.servers[p], rate * at.shares[p], load, at.chunks[p], 1.0, True, row
        ):
            return False
        fits = fits and row[CACHE] <= at.caches[p]
        if at.roles[p] != DECODE:
            total[TTFT] += at.shares[p] * row[TTFT]
            total[TTFT_TAIL] = max(total[TTFT_TAIL], row[TTFT_TAIL])
            total[PROMPT_BUSY] = max(total[PROMPT_BUSY], row[PROMPT_BUSY])
        if at.roles[p] != PREFILL:
            total[TPOT] += at.shares[p] * row[TPOT]
            total[TPOT_TAIL] = max(total[TPOT_TAIL], row[TPOT_TAIL])
            total[BATCH] = max(total[BATCH], row[BATCH])
        total[BUSY] = max(total[BUSY], row[BUSY])
        total[CACHE] = max(total[CACHE], row[CACHE] / at.caches[p])
        total[WATTS] += at.servers[p] * (row[WATTS] + (1.0 - min(1.0, row[BUSY])) * at.coefficients[p][_IDLE])
    more = max(load.output - 1.0, 0.0)
    if more > 0.0:  # the second token waits until the cache has arrived
        total[TPOT] += at.transfer_s / more
        total[TPOT_TAIL] += at.transfer_s / more
    else:
        total[TPOT], total[TPOT_TAIL] = 0.0, 0.0
    total[E2E] = total[TTFT] + more * total[TPOT]
    total[E2E_TAIL] = total[TTFT_TAIL] + max(load.output_tail - 1.0, 0.0) * total[TPOT_TAIL]
    return fits


@outer
def most(at: Compiled, load: Load, bound: Bound) -> float:
    """Search :func:`most_rps` by doubling, then halving."""
    pools, total = np.zeros((len(at.roles), FIGURES)), np.zeros(FIGURES)
    low, high = 0.0, 1e-3 * at.servers.sum()
    for _ in range(_MAX_DOUBLINGS):
        if not _keeps(at, load, bound, high, pools, total):
            break
        low, high = high, 2.0 * high
    if low == 0.0:
        return 0.0
    for _ in range(MAX_BISECTION):
        rate = 0.5 * (low + high)
        if _keeps(at, load, bound, rate, pools, total):
            low = rate
        else:
            high = rate
    return low


@inner
def _keeps(
    at: Compiled, load: Load, bound: Bound, rate: float, pools: NDArray[np.float64], total: NDArray[np.float64]
) -> bool:
    """Tell whether a layout keeps every bound at a rate."""
    if not layout_under(at, load, rate, pools, total):
        return False
    return total[TTFT_TAIL] <= bound.ttft and total[TPOT_TAIL] <= bound.tpot and total[E2E_TAIL] <= bound.e2e


def serving_of(layout: Layout, figures: Figures) -> Serving:
    """Return a layout as the simulator takes it, engine limits set from what runs at once."""
    pools = tuple(
        Pool(
            instance=pool.option.instance,
            steps=pool.option.prediction.steps,
            count=pool.count,
            role=pool.role,
            cache_tokens=pool.option.cache_tokens,
        )
        for pool in limited(layout, figures).pools
    )
    return Serving(pools=pools, transfer_bps=transfer_bps(layout))


def limited(layout: Layout, figures: Figures) -> Layout:
    """Return the layout with each engine's limits set: its chunk, and sequences enough for what runs at once."""
    pools = []
    for pool, row in zip(layout.pools, figures.pools, strict=True):
        room = max(pool.option.cache_tokens // 64, 1)
        running = float(row[BATCH])
        if pool.role == "both":  # a prompt that is being computed has a place too
            running += figures.rate * pool.share / pool.count * float(row[TTFT])
        slots = _rounded(running + SLOTS_Z * math.sqrt(max(running, 1.0)))
        pools.append(
            replace(pool, option=with_limits(pool.option, sequences=min(max(slots, 8), room), chunk=pool.chunk))
        )
    return Layout(pools=tuple(pools))


def _rounded(slots: float) -> int:
    """Round up to what people write: 8, 16, … in steps of an eighth of the power of two below."""
    step = max(8, 2 ** max(int(math.log2(max(slots, 1.0))) - 3, 0))
    return math.ceil(slots / step) * step
