"""Gangs: all replicas at once, in the lowest domain that holds them, neighbours in rank as neighbours in the network.

A workload's constraints become a list of tiers, most wanted first. A tier says which levels the gang must stay inside, which spreads
and blocks it keeps, and which wishes it has given up. The first tier with a domain that holds the gang wins; among its
domains the picker chooses, and inside it the gang takes as few sub-domains as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plenum.fabric.collectives import communication_cost
from plenum.model.fleet import LEVEL, LEVELS, NODE_LEVEL
from plenum.model.plan import Placement, Reason
from plenum.model.view import Rows
from plenum.model.workload import Apart, Role, Together, Workload
from plenum.placement.complete import place_completely
from plenum.placement.limits import Limits, limits_of
from plenum.placement.packing import bind, first_that_holds, pack, pack_blocks
from plenum.placement.partitions import DOWN_THE_FABRIC, Partition, reduced
from plenum.placement.pickers import PICKERS
from plenum.placement.single import new_placed, rows_of

if TYPE_CHECKING:
    from plenum.placement.engine import Engine

MAX_TRIALS = 64
"""Domains in which a gang of several roles is tried before the tier counts as full."""

MAX_TIERS = 256
"""Combinations of wishes tried before all of them are given up."""

TIGHTEST_FIRST = (NODE_LEVEL, *reversed(DOWN_THE_FABRIC))
"""Levels that a gang prefers without being asked: its collectives are fastest there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One combination of required and still wanted constraints."""

    levels: tuple[int, ...] = ()
    aparts: tuple[Apart, ...] = ()
    block: int = 0
    block_level: int = -1
    given_up: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """Where one role goes: replicas by position of a partition."""

    partition: Partition
    take: NDArray[np.int64]


def place_workload(engine: Engine, workload: Workload) -> Placement | Reason:
    """Place a workload on an engine's state, or change nothing and say why.

    A ``TrainingJob`` is placed whole (at the largest of its elastic sizes that fits); of an ``Endpoint`` or ``Task`` as many replicas
    as fit.
    """
    if _is_scored(workload):
        return _place_replicas(engine, workload)
    for sizes in _sizes(engine, workload):
        done = _place_gang(engine, workload, sizes)
        if done is not None:
            return _recorded(engine, workload, *done)
    return _refusal(workload)


def _place_replicas(engine: Engine, workload: Workload) -> Placement | Reason:
    """Place independent replicas one by one where the scorer wants them; wishes to spread are given up, lightest first, only for room."""
    role = workload.roles[0]
    shape = np.full(role.replicas, engine.shapes.intern(role.request), np.int32)
    wishes = sorted((a for a in workload.apart if not a.required), key=lambda a: -a.weight)
    required = tuple(a for a in workload.apart if a.required)
    best, best_kept = 0, len(wishes)
    for kept in range(len(wishes), -1, -1):
        placed = engine.place_stream(shape, limits_of(engine, workload, (*required, *wishes[:kept]), []))
        done = int(np.count_nonzero(placed.node >= 0))
        if done and (done == role.replicas or (not wishes and acceptable(role, done) == done)):
            return _recorded(
                engine, workload, rows_of(placed, np.flatnonzero(placed.node >= 0)), _without(wishes[kept:])
            )
        engine.release_stream(shape, placed)
        if done > best:
            best, best_kept = done, kept
    size = acceptable(role, best)
    if size == 0:
        return _refusal(workload)
    limits = limits_of(engine, workload, (*required, *wishes[:best_kept]), [])
    placed = engine.place_stream(shape[:size], limits)
    return _recorded(engine, workload, rows_of(placed, np.flatnonzero(placed.node >= 0)), _without(wishes[best_kept:]))


def _without(wishes: list[Apart]) -> Tier:
    return Tier(given_up=tuple(f"preferred apart across {a.level} given up" for a in wishes))


def acceptable(role: Role, replicas: int) -> int:
    """The most replicas, at most so many, that an elastic role accepts; 0: that is too few."""
    if not role.min_replicas:
        return replicas
    if replicas < role.min_replicas:
        return 0
    return replicas - (replicas - role.min_replicas) % role.step


# -- which tiers ------------------------------------------------------------------------------------


def tiers_of(
    engine: Engine, together: tuple[Together, ...], aparts: tuple[Apart, ...], soft_block: int = 0
) -> Iterator[Tier]:
    """Yield tiers from all wishes granted to none, the lightest wish given up first, each step by step up its axis."""
    exists = engine.partitions.exists
    hard = [t for t in together if t.required]
    wishes = sorted((w for w in (*together, *aparts) if not w.required), key=lambda w: -w.weight)
    base = tuple(LEVEL[t.level] for t in hard if not t.block)
    blocks = [(t.block, LEVEL[t.level]) for t in hard if t.block][:1]
    kept_aparts = tuple(a for a in aparts if a.required)
    options = [_steps(w, exists) for w in wishes]
    # The last wish varies fastest in a product, and wishes stand heaviest first: the lightest is given up first.
    seen = set()
    for choice in product(*options):
        levels, given_up, spreads, block = list(base), [], list(kept_aparts), list(blocks)
        for wish, step in zip(wishes, choice, strict=True):
            if isinstance(wish, Apart):
                spreads += [wish] if step is not None else []
            elif wish.block:
                block += [(wish.block, step)] if step is not None else []
            elif step is not None:
                levels.append(step)
            if step is None or (isinstance(wish, Together) and LEVELS[step] != wish.level):
                got = "" if step is None else f", {LEVELS[step]} instead"
                kind = "apart across" if isinstance(wish, Apart) else "together within"
                given_up.append(f"preferred {kind} {wish.level} given up{got}")
        for inner in (*(level for level in TIGHTEST_FIRST if exists(level)), -1):
            stay = tuple(levels) if inner < 0 else (*levels, inner)
            for size, at in _block_options(block, soft_block, exists):
                key = (reduced(stay), tuple(spreads), size, at, tuple(given_up))
                if key not in seen:
                    seen.add(key)
                    yield Tier(levels=stay, aparts=tuple(spreads), block=size, block_level=at, given_up=tuple(given_up))


def _steps(wish: Together | Apart, exists: Callable[[int], bool]) -> list[int | None]:
    """Levels to try for a wish, its own first, then up its axis; None: given up."""
    level = LEVEL[wish.level]
    if isinstance(wish, Apart) or wish.block:
        return [level, None]
    axis = wish.level.split(".")[0]
    above = [up for up in range(level, -1, -1) if LEVELS[up].split(".")[0] == axis and exists(up)]
    return [*above, None]


def _block_options(blocks: list[tuple[int, int]], soft: int, exists: Callable[[int], bool]) -> list[tuple[int, int]]:
    if blocks:
        return blocks[:1]
    if soft > 1:
        return [(soft, level) for level in (LEVEL["scaleup.nvlink"], LEVEL["fabric.leaf"]) if exists(level)] + [(0, -1)]
    return [(0, -1)]


def _soft_block(workload: Workload) -> int:
    """Replicas that one tensor-parallel group spans, where it spans several and divides the gang."""
    role, p = workload.roles[0], workload.parallelism
    if len(workload.roles) > 1 or role.request.gpus == 0 or p.tp <= role.request.gpus or p.tp % role.request.gpus:
        return 0
    block = p.tp // role.request.gpus
    return block if role.replicas % block == 0 else 0


# -- searching --------------------------------------------------------------------------------------


def _is_scored(workload: Workload) -> bool:
    """Whether the scorer decides, replica by replica: nothing ties the replicas together."""
    tied = workload.together or len(workload.roles) > 1 or (workload.gang and workload.replicas > 1)
    return not tied


def _sizes(engine: Engine, workload: Workload) -> Iterator[tuple[int, ...]]:
    """Replica counts by role to try, largest first."""
    if workload.gang:
        options = [role.sizes() for role in workload.roles]
        for k in range(max(len(o) for o in options)):
            yield tuple(o[min(k, len(o) - 1)] for o in options)
        return
    full = tuple(role.replicas for role in workload.roles)
    yield full
    if sum(full) > 1:
        yield from _most_that_fit(engine, workload, full)


def _most_that_fit(engine: Engine, workload: Workload, full: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Grow role after role, each as far as fits beside those before; with fewer replicas every constraint is easier."""
    sizes = [0] * len(full)
    for r, most in enumerate(full):
        block = _required_block(workload, r)
        low, high = 0, most // block + 1
        while high - low > 1:
            middle = (low + high) // 2
            sizes[r] = middle * block
            low, high = (middle, high) if _fits(engine, workload, tuple(sizes)) else (low, middle)
        sizes[r] = acceptable(workload.roles[r], low * block) // block * block
    if any(sizes):
        yield tuple(sizes)


def _required_block(workload: Workload, r: int) -> int:
    """Replicas of a role that are of use only together."""
    name = workload.roles[r].name
    blocks = [t.block for t in workload.together if t.required and t.block and t.role in ("", name)]
    return blocks[0] if blocks else 1


def _fits(engine: Engine, workload: Workload, sizes: tuple[int, ...]) -> bool:
    done = _place_gang(engine, workload, sizes)
    if done is None:
        return False
    engine.unbind(workload, done[0])
    return True


def _place_gang(engine: Engine, workload: Workload, sizes: tuple[int, ...]) -> tuple[Rows, Tier] | None:
    """Bind a gang of the given sizes; None, and nothing changed, where no tier holds it."""
    if not _could_fit(engine, workload, sizes):
        return None
    single = len(workload.roles) == 1
    together = tuple(t for t in workload.together if single or not t.role)
    aparts = tuple(a for a in workload.apart if single or not a.role)
    for tier in _limited(tiers_of(engine, together, aparts, _soft_block(workload))):
        rows = _place_one(engine, workload, sizes, tier) if single else _place_roles(engine, workload, sizes, tier)
        if rows is not None:
            return rows, tier
    rows = place_completely(engine, workload, sizes)
    wished = any(not wish.required for wish in (*workload.together, *workload.apart))
    given_up = ("every preference given up to fit at all",) if wished else ()
    return None if rows is None else (rows, Tier(given_up=given_up))


def _limited(tiers: Iterator[Tier]) -> Iterator[Tier]:
    """The first tiers, and always the last, in which every wish is given up."""
    last = None
    for i, tier in enumerate(tiers):
        last = tier
        if i < MAX_TIERS:
            yield tier
            last = None
    if last is not None:
        yield last


def _could_fit(engine: Engine, workload: Workload, sizes: tuple[int, ...]) -> bool:
    """Whether each role alone finds room somewhere, constraints aside: a cheap no for most that cannot."""
    for role, size in zip(workload.roles, sizes, strict=True):
        if int(engine.counts(engine.shapes.intern(role.request), size).sum()) < size:
            return False
    return True


def _place_one(engine: Engine, workload: Workload, sizes: tuple[int, ...], tier: Tier) -> Rows | None:
    limits = limits_of(engine, workload, tier.aparts, [])
    found = _find(engine, workload.roles[0], sizes[0], tier, limits)
    return None if found is None else _bound(engine, workload, 0, found)


def _place_roles(engine: Engine, workload: Workload, sizes: tuple[int, ...], tier: Tier) -> Rows | None:
    """Place several roles inside one group of the tier, the hungriest first; undone whole if one does not fit."""
    order = sorted(range(len(sizes)), key=lambda r: (-workload.roles[r].request.total_gpu_milli, r))
    partition = engine.partitions.of(tier.levels)
    spare = np.full(len(partition.start) - 1, np.iinfo(np.int64).max)
    for r in order:
        count = engine.counts(engine.shapes.intern(workload.roles[r].request), sizes[r])
        held = (
            np.add.reduceat(count[partition.order].astype(np.int64), partition.start[:-1])
            if len(partition.order)
            else spare * 0
        )
        spare = np.minimum(spare, held - sizes[r])
    groups = np.flatnonzero(spare >= 0)
    groups = groups[np.argsort(PICKERS[engine.policy.picker](spare[groups]), kind="stable")]
    for group in groups[:MAX_TRIALS].tolist():
        parts: list[Rows] = []
        for r in order:
            rows = _place_role(engine, workload, r, sizes[r], tier, partition.group == group, parts)
            if rows is None:
                break
            parts.append(rows)
        if len(parts) == len(order):
            joined = Rows.joined(parts)
            return joined[np.lexsort((joined.rank, joined.role))]
        for rows in parts:
            engine.unbind(workload, rows)
    return None


def _place_role(
    engine: Engine, workload: Workload, r: int, size: int, tier: Tier, inside: NDArray[np.bool_], before: list[Rows]
) -> Rows | None:
    """Place one role within a mask of nodes, with its own constraints besides the tier's."""
    name = workload.roles[r].name
    together = tuple(t for t in workload.together if t.role == name)
    aparts = tuple(a for a in workload.apart if a.role == name)
    for own in tiers_of(engine, together, aparts):
        merged = Tier(
            levels=(*tier.levels, *own.levels),
            block=own.block or tier.block,
            block_level=max(own.block_level, tier.block_level),
        )
        limits = limits_of(engine, workload, (*tier.aparts, *own.aparts), before)
        found = _find(engine, workload.roles[r], size, merged, limits, inside)
        if found is not None:
            return _bound(engine, workload, r, found)
    return None


def _find(
    engine: Engine, role: Role, size: int, tier: Tier, limits: Limits, inside: NDArray[np.bool_] | None = None
) -> _Found | None:
    """Choose a domain of the tier for one role, and the nodes in it."""
    if tier.block and size % tier.block:
        return None
    shape = engine.shapes.intern(role.request)
    partition = engine.partitions.of(tier.levels, tier.block_level)
    count = engine.counts(shape, size)
    if inside is not None:
        count = np.where(inside, count, 0).astype(np.int32)
    block, row = tier.block, 0
    if block:
        # A node outside the level serves no block; where the level has no row, the groups lie inside its domains.
        count = np.where(engine.cluster.level_domain[tier.block_level] >= 0, count, 0).astype(np.int32)
        if tier.block_level in partition.rows:
            row = partition.rows.index(tier.block_level)
        else:
            block = 0
    spare = _held(partition, count) - size
    groups = np.flatnonzero(spare >= 0)
    if len(groups) == 0:
        return None
    groups = groups[np.argsort(PICKERS[engine.policy.picker](spare[groups]), kind="stable")]
    per = np.zeros(len(partition.order), np.int64)
    group = first_that_holds(
        engine.cluster.nodes, engine.state, engine.shapes.arrays, shape, partition.order, partition.start, count, limits,
        groups, size, block, partition.ends[row], per,
    )  # fmt: skip
    if group < 0:
        return None
    take = np.zeros(len(partition.order), np.int64)
    start, end = int(partition.start[group]), int(partition.start[group + 1])
    if block:
        short = pack_blocks(partition.ends, row, start, end, per, size, block, take)
    else:
        short = pack(partition.ends, 0, len(partition.rows) - 1, start, end, per, size, take)
    return None if short else _Found(partition=partition, take=take)


def _held(partition: Partition, count: NDArray[np.int32]) -> NDArray[np.int64]:
    """(K,) replicas that each group can hold, limits aside."""
    if len(partition.order) == 0:
        return np.zeros(len(partition.start) - 1, np.int64)
    return np.add.reduceat(count[partition.order], partition.start[:-1], dtype=np.int64)


def _bound(engine: Engine, workload: Workload, r: int, found: _Found) -> Rows:
    size = int(found.take.sum())
    out = new_placed(size)
    shape = engine.shapes.intern(workload.roles[r].request)
    bind(
        engine.cluster.nodes,
        engine.state,
        engine.shapes.arrays,
        shape,
        found.partition.order,
        found.take,
        engine.ticks,
        out,
        0,
    )
    return rows_of(out, np.arange(size), r)


# -- saying what was done ---------------------------------------------------------------------------


def _recorded(engine: Engine, workload: Workload, rows: Rows, tier: Tier) -> Placement:
    engine.keep(workload, rows)
    named = tuple(dict.fromkeys(c.level for c in (*workload.together, *workload.apart)))
    levels = tuple((name, _domains_used(engine, LEVEL[name], rows)) for name in named)
    cost = None
    if len(rows) > 1 and workload.gang:
        gpus = np.array([role.request.gpus for role in workload.roles])[rows.role]
        if gpus.any():
            cost = communication_cost(
                engine.cluster, engine.paths_for(workload), np.repeat(rows.node, gpus), workload.parallelism
            )
    return Placement(workload=workload, rows=rows, levels=levels, cost=cost, degraded=tier.given_up)


def _domains_used(engine: Engine, level: int, rows: Rows) -> tuple[int, ...]:
    local = np.unique(engine.cluster.level_domain[level][rows.node])
    return tuple(engine.cluster.level_domains[level][local[local >= 0]].tolist())


def _refusal(workload: Workload) -> Reason:
    what = "its replicas together" if workload.gang else "any of its replicas"
    return Reason(
        workload=workload.id,
        code="wait.capacity",
        constraint="",
        sentence=f"{workload.id} waits: no place has room for {what} under its constraints now.",
    )
