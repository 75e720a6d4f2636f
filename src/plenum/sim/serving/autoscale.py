"""Scaling of a simulated service: at every tick, pool by pool, by the functions that the live one calls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plenum.serving import scaling
from plenum.serving.pools import Pool, Serving
from plenum.sim.serving import fields as f
from plenum.sim.serving.demand import Demand
from plenum.sim.serving.events import STARTED, TICK, push
from plenum.sim.serving.memory import forget_prefixes
from plenum.sim.serving.policies import Scaling
from plenum.sim.serving.world import World

MAX_TICKS = 1_000_000
"""Decisions of one run at most."""

IN_VAIN = 3
"""Decisions in a row that start nothing while nothing else goes on; then scaling gives up."""

_ON = (f.STARTING, f.UP, f.DRAINING)


@dataclass(slots=True, eq=False)
class _Scaled:
    """A pool that is scaled: what it may do, what it remembers, and what is decided at this tick."""

    pool: Pool
    members: NDArray[np.int64]
    limit: scaling.Limits
    history: scaling.History
    active: int = 0
    wanted: float = 0.0
    steady: float = 0.0
    target: int = 0


class Scaler:
    """Decides at every tick how many instances of each pool there should be."""

    def __init__(self, settings: Scaling, serving: Serving) -> None:
        self._settings = settings
        self._pools: list[_Scaled] = []
        start = 0
        for pool in serving.pools:
            if pool.count:
                members = np.arange(start, start + pool.count)
                limit = scaling.limits(
                    min(settings.least, pool.count),
                    pool.count,
                    tolerance=settings.tolerance,
                    window_s=settings.window_s,
                    max_step=settings.max_step,
                )
                self._pools.append(_Scaled(pool, members, limit, scaling.history_of(limit)))
            start += pool.count
        self._demand = Demand(settings)
        self._ticks = self._in_vain = 0

    def decide(self, w: World) -> bool:
        """Decide for every pool; False once everything is over."""
        if w.count[f.OVER] >= w.ri.shape[0]:
            return False
        now_s = float(w.clock[f.NOW])
        for one in self._pools:
            self._want(w, one)
        if self._settings.budget_devices:
            self._share()
        for one in self._pools:
            self._target(w, one, now_s)
        for one in self._pools:
            if one.target < one.active:
                _drain(w, _active(w, one), one.active - one.target)
        for one in self._pools:
            if one.target > one.active:
                self._add(w, one, min(one.target - one.active, self._room(w, one)), now_s)
        self._ticks += 1
        # Nothing is under way and scaling starts nothing: whoever still waits, waits for instances that will not come back.
        waiting = w.count[f.EVENTS] == 0 and np.isinf(w.keys[1]) and w.count[f.CALLED_NOW] == 0
        self._in_vain = self._in_vain + 1 if waiting and w.count[f.ARRIVED] == len(w.order) else 0
        if self._in_vain > IN_VAIN or self._ticks >= MAX_TICKS:
            return True
        push(w, now_s + self._settings.every_s, TICK, 0, 0)
        return True

    def _want(self, w: World, one: _Scaled) -> None:
        """Say how many would be right now."""
        settings, members = self._settings, one.members
        _switch_off(w, members[w.ni[f.CONDITION, members] == f.DRAINING], float(w.clock[f.NOW]))
        one.active = len(_active(w, one))
        up = members[w.ni[f.CONDITION, members] == f.UP]
        parked = _parked(w, one)
        if settings.by == "slo":
            rate_rps = self._demand.forecast_rps(w, one.pool.model)
            each_rps = self._demand.bearable_rps(w, one.pool, int(members[0]))
            if each_rps > 0.0:
                backlog = float(w.ni[f.QUEUED, members].sum() + parked)
                part_rps = rate_rps * self._share_of_model(w, one)
                one.wanted = scaling.wanted_for_slo(part_rps, each_rps, backlog, settings.drain_s)
                one.steady = scaling.wanted_for_slo(part_rps, each_rps, 0.0, settings.drain_s)
                return
        load = float((w.ni[f.RUNNING, members] + w.ni[f.QUEUED, members]).sum() + parked)
        held = w.ni[f.USED, up] + w.ni[f.PINNED, up] * w.ni[f.COST, up]
        used = float((held / w.ni[f.BLOCKS, up]).mean()) if len(up) else 0.0
        one.wanted = scaling.wanted_for_load(len(up), load, settings.target_running, used, settings.target_cache_used)
        one.steady = one.wanted

    def _share_of_model(self, w: World, one: _Scaled) -> float:
        """Return the part of a model's requests that a pool of several gets: by instances, as routing spreads them."""
        alike = [
            other for other in self._pools if other.pool.model == one.pool.model and _same_work(other.pool, one.pool)
        ]
        total = sum(len(_active(w, other)) for other in alike)
        return len(_active(w, one)) / total if total else 1.0 / len(alike)

    def _share(self) -> None:
        """Cut what pools want to what the budget allows."""
        budget = self._settings.budget_devices
        models = sorted({one.pool.model for one in self._pools})
        for model in models:
            pools = [one for one in self._pools if one.pool.model == model]
            roles = [one.pool.role for one in pools]
            if len(models) == 1 and sorted(roles) == ["decode", "prefill"]:
                first, second = sorted(pools, key=lambda one: one.pool.role == "decode")
                _share_two(first, second, budget, self._settings.tolerance)
        sizes = [one.pool.instance.devices for one in self._pools]
        asked = sum(max(one.wanted, one.limit.least) * size for one, size in zip(self._pools, sizes, strict=True))
        for one in self._pools if asked > budget else ():
            one.wanted = max(one.wanted * budget / asked, float(one.limit.least))

    def _target(self, w: World, one: _Scaled, now_s: float) -> None:
        rate_rps, quiet_s = self._demand.seen_rps(w, one.pool.model)
        one.target = scaling.desired(one.limit, one.history, now_s, one.active, one.wanted, rate_rps, quiet_s)

    def _room(self, w: World, one: _Scaled) -> int:
        """Return how many instances more the budget allows now, those being emptied still counted."""
        budget = self._settings.budget_devices
        if not budget:
            return len(one.members)
        on = sum(
            int(np.isin(w.ni[f.CONDITION, other.members], _ON).sum()) * other.pool.instance.devices
            for other in self._pools
        )
        taken_back = int((w.ni[f.CONDITION, one.members] == f.DRAINING).sum())
        return max(budget - on, 0) // one.pool.instance.devices + taken_back

    def _add(self, w: World, one: _Scaled, more: int, now_s: float) -> None:
        """Take back instances that are being emptied, then start others. All come up by an event, which routes those who wait."""
        condition = w.ni[f.CONDITION, one.members]
        back = one.members[condition == f.DRAINING][:more]
        off = one.members[condition == f.OFF][: more - len(back)]
        w.nf[f.ON_SINCE, off] = w.nf[f.COUNTED_TO, off] = now_s
        w.nf[f.WARM_AT, off] = now_s + self._settings.cold_start_s
        for i in (*back.tolist(), *off.tolist()):
            w.ni[f.CONDITION, i] = f.STARTING
            push(w, max(now_s, float(w.nf[f.WARM_AT, i])), STARTED, i, 0)


def _same_work(a: Pool, b: Pool) -> bool:
    return a.role == b.role or (a.role != "decode" and b.role != "decode")


def _active(w: World, one: _Scaled) -> NDArray[np.int64]:
    condition = w.ni[f.CONDITION, one.members]
    return one.members[(condition == f.UP) | (condition == f.STARTING)]


def _share_two(first: _Scaled, second: _Scaled, budget: int, tolerance: float) -> None:
    """Share the budget between prefill and decode; as it is shared now, while that serves about as much.

    It goes by what arrives: what has piled up before prefill will be decoded too.
    """
    sizes = first.pool.instance.devices, second.pool.instance.devices
    if math.ceil(first.wanted) * sizes[0] + math.ceil(second.wanted) * sizes[1] <= budget:
        return
    least = max(first.limit.least, 1), max(second.limit.least, 1)
    all_of_it = 1.0 + budget
    best = scaling.share_budget(first.steady * all_of_it, second.steady * all_of_it, *sizes, budget, least)
    if best == (0, 0):
        return

    def served(a: float, b: float) -> float:
        return min(a / max(first.steady, 1e-9), b / max(second.steady, 1e-9))

    now = first.active, second.active
    fits = now[0] * sizes[0] + now[1] * sizes[1] <= budget and now[0] >= least[0] and now[1] >= least[1]
    if fits and served(*now) >= (1.0 - tolerance) * served(*best):
        best = now
    first.wanted, second.wanted = float(best[0]), float(best[1])


def _parked(w: World, one: _Scaled) -> int:
    """Return how many wait for any instance of the model that a pool prefills or decodes."""
    instances, member = w.ni.shape[1], one.members[0]
    models = (w.queue.shape[1] - instances) // f.QUEUES
    role = w.ni[f.ROLE, member]
    kinds = ([f.DECODE_QUEUE] if role != f.PREFILL else []) + (
        [int(w.ni[f.REMOTE, member])] if role != f.DECODE else []
    )
    count = 0
    for kind in kinds:
        for r in w.queue[f.HEAD, instances + one.pool.model + kind * models].tolist():
            while r >= 0:
                count += 1
                r = int(w.ri[r, f.NEXT])
    return count


def _drain(w: World, active: np.ndarray, fewer: int) -> None:
    """Let those with the least to do take no more requests; of equals the last ones."""
    load = w.ni[f.RUNNING, active] + w.ni[f.QUEUED, active] - (w.ni[f.CONDITION, active] == f.STARTING)
    order = np.lexsort((-active, load))[:fewer]
    for i in active[order].tolist():
        w.ni[f.CONDITION, i] = f.DRAINING


def _switch_off(w: World, draining: np.ndarray, now_s: float) -> None:
    for i in draining.tolist():
        if w.ni[f.RUNNING, i] + w.ni[f.QUEUED, i] + w.ni[f.HOLDS, i] + w.ni[f.USED, i] + w.ni[f.PINNED, i]:
            continue
        w.ni[f.CONDITION, i] = f.OFF
        w.nf[f.ON_S, i] += now_s - w.nf[f.ON_SINCE, i]
        forget_prefixes(w, i)
