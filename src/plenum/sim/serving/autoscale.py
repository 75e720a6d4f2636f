"""Scaling of a simulated service: at every tick, pool by pool, by the function that the live one calls."""

from __future__ import annotations

import numpy as np

from plenum.serving import scaling
from plenum.serving.pools import Serving
from plenum.sim.serving import fields as f
from plenum.sim.serving.events import STARTED, TICK, push
from plenum.sim.serving.memory import forget_prefixes
from plenum.sim.serving.policies import Scaling
from plenum.sim.serving.world import World

MAX_TICKS = 1_000_000
"""Decisions of one run at most."""

IN_VAIN = 3
"""Decisions in a row that start nothing while nothing else goes on; then scaling gives up."""


class Scaler:
    """Decides at every tick how many instances of each pool there should be."""

    def __init__(self, settings: Scaling, serving: Serving) -> None:
        self._settings = settings
        self._limits = [
            scaling.limits(
                min(settings.least, pool.count),
                pool.count,
                tolerance=settings.tolerance,
                window_s=settings.window_s,
                max_step=settings.max_step,
            )
            for pool in serving.pools
            if pool.count
        ]
        self._histories = [scaling.history_of(limit) for limit in self._limits]
        self._arrived = 0
        self._quiet_since_s = 0.0
        self._ticks = self._in_vain = 0

    def decide(self, w: World) -> bool:
        """Decide for every pool; False once everything is over."""
        if w.count[f.OVER] >= w.ri.shape[0]:
            return False
        now_s = float(w.clock[f.NOW])
        arrived = int(w.count[f.IN_SYSTEM] + w.count[f.OVER])
        rate_rps = (arrived - self._arrived) / self._settings.every_s
        if arrived > self._arrived:
            self._quiet_since_s = now_s
        self._arrived = arrived
        for pool in np.unique(w.ni[f.POOL]).tolist():
            self._scale(w, pool, now_s, rate_rps)
        self._ticks += 1
        # Nothing is under way and scaling starts nothing: whoever still waits, waits for instances that will not come back.
        waiting = w.count[f.EVENTS] == 0 and np.isinf(w.keys[1]) and w.count[f.CALLED_NOW] == 0
        self._in_vain = self._in_vain + 1 if waiting and w.count[f.ARRIVED] == len(w.order) else 0
        if self._in_vain > IN_VAIN or self._ticks >= MAX_TICKS:
            return True
        push(w, now_s + self._settings.every_s, TICK, 0, 0)
        return True

    def _scale(self, w: World, pool: int, now_s: float, rate_rps: float) -> None:
        settings = self._settings
        members = np.flatnonzero(w.ni[f.POOL] == pool)
        condition = w.ni[f.CONDITION, members]
        _switch_off(w, members[condition == f.DRAINING], now_s)
        active = members[(condition == f.UP) | (condition == f.STARTING)]
        load = float((w.ni[f.RUNNING, members] + w.ni[f.QUEUED, members]).sum()) + self._parked(w, members)
        up = members[condition == f.UP]
        held = w.ni[f.USED, up] + w.ni[f.PINNED, up] * w.ni[f.COST, up]
        used = float((held / w.ni[f.BLOCKS, up]).mean()) if len(up) else 0.0
        wanted = scaling.wanted_for_load(len(up), load, settings.target_running, used, settings.target_cache_used)
        target = scaling.desired(
            self._limits[pool],
            self._histories[pool],
            now_s,
            len(active),
            float(wanted),
            rate_rps,
            now_s - self._quiet_since_s,
        )
        if target > len(active):
            self._add(w, members, target - len(active), now_s)
        elif target < len(active):
            _drain(w, active, len(active) - target)

    def _parked(self, w: World, members: np.ndarray) -> float:
        """Return how many wait for any instance of the model that a pool prefills or decodes."""
        instances, one = w.ni.shape[1], members[0]
        kind = f.DECODE_QUEUE if w.ni[f.ROLE, one] == f.DECODE else int(w.ni[f.REMOTE, one])
        q = instances + int(w.ni[f.MODEL, one]) + kind * ((w.queue.shape[1] - instances) // f.QUEUES)
        count = 0
        for r in w.queue[f.HEAD, q].tolist():
            while r >= 0:
                count += 1
                r = int(w.ri[r, f.NEXT])
        return float(count)

    def _add(self, w: World, members: np.ndarray, more: int, now_s: float) -> None:
        """Take back instances that are being emptied, then start others."""
        draining = members[w.ni[f.CONDITION, members] == f.DRAINING][:more]
        w.ni[f.CONDITION, draining] = f.UP
        off = members[w.ni[f.CONDITION, members] == f.OFF][: more - len(draining)]
        w.ni[f.CONDITION, off] = f.STARTING
        w.nf[f.ON_SINCE, off] = now_s
        w.nf[f.COUNTED_TO, off] = now_s
        for i in off.tolist():
            push(w, now_s + self._settings.cold_start_s, STARTED, i, 0)


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
