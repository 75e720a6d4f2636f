"""How many replicas an endpoint's pools are to have: what arrives and waits, what is promised, what is expected, what there is room for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from plenum.control.endpoints import events as ep
from plenum.control.endpoints.capacity import replica_rps
from plenum.control.endpoints.loads import WINDOW_S as LOADS_WINDOW_S
from plenum.control.endpoints.loads import Loads, PoolNow
from plenum.control.endpoints.replicas import READY, replicas_of
from plenum.control.endpoints.revisions import kept_up
from plenum.control.endpoints.room import asked_of
from plenum.control.endpoints.state import EndpointRecord
from plenum.control.endpoints.sustained import MEASURED, MODEL, Bears
from plenum.control.fact import Event
from plenum.control.state import State
from plenum.model.endpoint import Endpoint, Pool
from plenum.model.fleet import GPU, GPU_MILLI
from plenum.serving import scaling

EVERY_S = 5.0
"""Seconds between two decisions on a pool; a request that finds no replica is not kept waiting for the next."""

WINDOW_S = 120.0
"""Scaling down follows the highest recommendation of so long."""

MAX_STEP = 8
BUSY = 0.8
"""Part of its slots, and of its cache, that a replica should have in use."""

DRAIN_S = 10.0
"""What has piled up should be gone in so long."""

LATE_STEP = 1.25
"""Where requests are later than promised and no model says why, so many times the replicas that are ready."""

SLOTS = {"llamacpp": 4, "vllm": 32, "sglang": 32, "emulated": 32}
"""Requests that a replica works on at once where the endpoint does not say."""

LOAD, PROMISE, FORECAST, LATE, IDLE, WOKEN, LIMITS, BUDGET = (
    "load", "promise", "forecast", "late", "idle", "woken", "limits", "budget",
)  # fmt: skip
"""What a number follows from."""


@dataclass(frozen=True, slots=True)
class Want:
    """How many replicas of a pool would be right now, why, and the figures that say so."""

    pool: Pool
    current: int
    replicas: float
    why: str
    now: PoolNow
    signals: dict[str, float]
    source: str = ""


def scaled(state: State, found: EndpointRecord, loads: Loads) -> Iterator[Event]:
    """Yield the changes of numbers that are due; remembers in ``loads`` what was recommended before."""
    serving, spec = found.revisions[found.serving], _as_it_serves(found)
    if spec.attached:
        return
    current = {pool.name: asked_of(found, serving, pool) for pool in spec.pools}
    beyond = [pool for pool in spec.pools if not pool.min_replicas <= current[pool.name] <= pool.max_replicas]
    for pool in beyond:
        before = current[pool.name]
        after = min(max(before, pool.min_replicas), pool.max_replicas)
        yield _event(found, pool, before, after, LIMITS, {})
    if not beyond:
        beyond = list(_cut(found, spec, current))
        yield from beyond
    if beyond or not loads.heard or all(pool.min_replicas == pool.max_replicas for pool in spec.pools):
        return
    called = not all(current.values()) and any(loads.now(found.id, pool.name).waiting for pool in spec.pools)
    if not loads.is_due(found.id, EVERY_S) and not called:
        return
    budget = _budget_gpus(state, spec, current)
    wants = _shared(spec, [_want(state, found, pool, current[pool.name], loads) for pool in spec.pools], budget)
    rate_rps = max(want.now.rate_rps for want in wants)
    quiet_s = min(want.now.quiet_s for want in wants)
    targets = [_target(found, want, loads, rate_rps, quiet_s) for want in wants]
    for want, target, after in zip(wants, targets, _that_fit(wants, targets, budget), strict=True):
        if after != want.current:
            why = WOKEN if want.current == 0 else IDLE if after == 0 else BUDGET if after != target else want.why
            signals = {**want.signals, "rate_rps": rate_rps, "quiet_s": min(quiet_s, 1e9)}
            if why == BUDGET:
                signals = {"right": want.replicas, **signals, "budget_gpus": float(budget)}
            source = want.source if why == want.why else ""
            yield _event(found, want.pool, want.current, after, why, signals, source)


def limited(found: EndpointRecord) -> Iterator[str]:
    """Yield what keeps an endpoint from more replicas than it has, a sentence each."""
    spec = _as_it_serves(found)
    most = [pool for pool in spec.pools if pool.max_replicas <= found.wanted.get(pool.name, 0)]
    for pool in most if not spec.attached else ():
        if pool.min_replicas < pool.max_replicas:
            yield f"{pool.name} has the {pool.max_replicas} replicas that it may have at most (replicas.max)"
    held, gpus = _held_gpus(spec, found.wanted), [pool.gpus for pool in spec.pools if pool not in most]
    if spec.budget_gpus and spec.apart and gpus and held + min(gpus) > spec.budget_gpus:
        yield f"prefill and decode have {held} of the {spec.budget_gpus} GPUs that they may have together (gpuBudget)"


def _as_it_serves(found: EndpointRecord) -> Endpoint:
    """Return an endpoint with the pools of the revision that serves, which may be others than are asked for."""
    serving = found.revisions.get(found.serving)
    return found.spec if serving is None else kept_up(serving.spec, found.spec)


def _cut(found: EndpointRecord, spec: Endpoint, current: dict[str, int]) -> Iterator[Event]:
    """Yield what brings the pools within a budget that is less than they have, as much from each as it has too much."""
    if not spec.budget_gpus or not spec.apart or _held_gpus(spec, current) <= spec.budget_gpus:
        return
    wants = [float(current[pool.name]) for pool in spec.pools]
    for pool, share in zip(spec.pools, _shares(spec, wants, spec.budget_gpus), strict=True):
        before = current[pool.name]
        if share < before:
            yield _event(found, pool, before, share, BUDGET, {"budget_gpus": float(spec.budget_gpus), "right": before})


def _target(found: EndpointRecord, want: Want, loads: Loads, rate_rps: float, quiet_s: float) -> int:
    """Return how many replicas a pool is to have by itself."""
    pool, current = want.pool, want.current
    limit = scaling.limits(
        pool.min_replicas, pool.max_replicas, window_s=WINDOW_S, max_step=MAX_STEP, idle_s=found.spec.idle_s
    )
    if current == 0:
        # A control plane that has just begun to lead has heard of nothing: it wakes nobody for that.
        quiet_s = 0.0 if want.now.waiting or rate_rps > 0 else math.inf
    elif math.isinf(quiet_s):
        quiet_s = loads.now_s - loads.began_s
    history = loads.history(found.id, pool.name, limit)
    return int(scaling.desired(limit, history, loads.now_s, current, want.replicas, rate_rps, quiet_s))


def _that_fit(wants: list[Want], targets: list[int], budget: int) -> list[int]:
    """Return what each pool gets now: those that shrink do so, and what that leaves of the budget goes to those that grow.

    On constant load this ends as each pool by itself does (:func:`~plenum.serving.scaling.desired`): it only ever makes a step up smaller,
    and a step up that is put off marks the number before as too few just as one that is taken.
    """
    if len(wants) < 2:
        return targets
    after = [min(want.current, target) for want, target in zip(wants, targets, strict=True)]
    gpus = [max(want.pool.gpus, 1) for want in wants]
    for i in sorted(range(len(wants)), key=lambda i: after[i] / max(wants[i].replicas, 1e-9)):
        left = budget - sum(n * g for n, g in zip(after, gpus, strict=True))
        after[i] += min(max(targets[i] - after[i], 0), max(left, 0) // gpus[i])
    return after


def _want(state: State, found: EndpointRecord, pool: Pool, current: int, loads: Loads) -> Want:
    """Return how many replicas of a pool its load, its promise and what is expected call for, whichever is most."""
    spec, now = found.spec, loads.now(found.id, pool.name)
    ready = [
        replica
        for revision in found.active()
        for replica in replicas_of(state, found, revision, pool)
        if replica.phase == READY
    ]
    target = max(1.0, BUSY * (spec.slots or SLOTS[spec.engine]))
    signals = {"ready": float(len(ready)), "waiting": float(now.waiting), "running": float(now.running)}
    signals |= {"cache_used": now.cache_used, "target_concurrency": target}
    wanted = {LOAD: scaling.wanted_for_load(len(ready), float(now.waiting + now.running), target, now.cache_used, BUSY)}
    device = next((state.nodes[r.node].facts.gpu_model for r in ready if r.node in state.nodes), "")
    lengths = now.prompt_tokens, now.output_tokens
    model_rps = replica_rps(spec, pool, device, *lengths, loads.calibration) if now.finished_rps else 0.0
    rps, source = _borne(found, pool, device, len(ready), model_rps, now, loads)
    if rps > 0:
        signals |= {"replica_rps": rps} | ({"model_rps": model_rps} if model_rps else {})
        wanted[PROMISE] = scaling.wanted_for_slo(now.rate_rps, rps, float(now.waiting), DRAIN_S)
    expected_rps = loads.forecast_rps.get(found.id, 0.0)
    if expected_rps > now.rate_rps > 0:
        signals["forecast_rps"] = expected_rps
        wanted[FORECAST] = wanted.get(PROMISE, wanted[LOAD]) * expected_rps / now.rate_rps
    late = loads.late(found.id, pool.name, spec.promise)
    if late > 1.0 - spec.promise.quantile:
        signals["late"] = late
        wanted[LATE] = max(len(ready) + 1.0, len(ready) * LATE_STEP)
    why = max(wanted, key=lambda name: wanted[name])
    return Want(pool, current, float(wanted[why]), why, now, signals, source if why in (PROMISE, FORECAST) else "")


def _borne(
    found: EndpointRecord, pool: Pool, device: str, ready: int, model_rps: float, now: PoolNow, loads: Loads
) -> Bears:
    """Return what a replica bears by the performance model and by what was seen; sees to it that more is seen."""
    promise = found.spec.promise
    if not now.finished_rps or len(found.active()) > 1:  # of two revisions nobody knows which bore what
        return Bears(model_rps, MODEL if model_rps else "")
    seen = loads.sustained(found.id, pool.name, (found.serving, device, promise, model_rps > 0))
    if seen.is_over(ready, loads.now_s, LOADS_WINDOW_S):
        late = loads.is_late(found.id, pool.name, promise)
        if late is not None:
            seen.note(loads.now_s, now.finished_rps / ready, model_rps, late=late)
    return seen.bears(loads.now_s, model_rps)


def _shared(spec: Endpoint, wants: list[Want], budget: int) -> list[Want]:
    """Divide the GPUs that there are for both pools between them, so that neither is short while the other has some to spare."""
    if len(wants) < 2:
        return wants
    need = sum(max(math.ceil(w.replicas - 1e-9), 1) * max(w.pool.gpus, 1) for w in wants)
    if need <= budget:
        return wants
    shares = _shares(spec, [want.replicas for want in wants], budget)
    return [
        replace(w, replicas=float(share), why=BUDGET, signals={**w.signals, "right": w.replicas})
        for w, share in zip(wants, shares, strict=True)
    ]


def _shares(spec: Endpoint, wants: list[float], budget: int) -> tuple[int, int]:
    """Return the replicas of prefill and decode that a budget allows; each pool keeps room for one, also while it has none.

    A budget may be for the next revision's pools, and hold fewer than the least of those that serve until then: these they keep.
    """
    first, second = spec.pools
    least = (max(first.min_replicas, 1), max(second.min_replicas, 1))
    shares = scaling.share_budget(wants[0], wants[1], max(first.gpus, 1), max(second.gpus, 1), budget, least)
    return shares if any(shares) else least


def _held_gpus(spec: Endpoint, current: dict[str, int]) -> int:
    return sum(current.get(pool.name, 0) * pool.gpus for pool in spec.pools)


def _budget_gpus(state: State, spec: Endpoint, current: dict[str, int]) -> int:
    """Return the GPUs that an endpoint's pools may have together: by its budget, their limits, and what is left of the tenant's quota."""
    most = sum(pool.max_replicas * max(pool.gpus, 1) for pool in spec.pools)
    most = min(most, spec.budget_gpus or most)
    tenant = state.tenants.get(spec.tenant)
    quota = tenant.quota.get(GPU_MILLI) if tenant is not None else None
    if quota is None or not any(pool.gpus for pool in spec.pools):
        return most
    held = state.usage.get(spec.tenant, {}).get(GPU_MILLI, 0) // GPU
    return max(min(most, quota // GPU - max(held - _held_gpus(spec, current), 0)), 0)


_SENTENCES = {
    LOAD: "{waiting:.0f} requests wait and {running:.0f} run on {ready:.0f} replicas",
    PROMISE: "{rate_rps:.3g} requests a second arrive, and a replica serves {replica_rps:.3g} within the promise",
    FORECAST: "{forecast_rps:.3g} requests a second are expected, and {rate_rps:.3g} arrive now",
    LATE: "{late:.0%} of the last requests were later than promised",
    IDLE: "nothing was asked for {quiet_s:.0f} s",
    WOKEN: "{waiting:.0f} requests wait for a first replica",
    LIMITS: "the endpoint allows no other number",
    BUDGET: "{right:.3g} would be right, and prefill and decode share {budget_gpus:.0f} GPUs",
}


def _event(
    found: EndpointRecord, pool: Pool, before: int, after: int, why: str, signals: dict[str, float], source: str = ""
) -> ep.EndpointScaled:
    because = _SENTENCES[why].format(**signals)
    if source == MEASURED:
        because += (
            ", as measured" if why == PROMISE else f", and a replica serves {signals['replica_rps']:.3g} as measured"
        )
        because += f" where the performance model says {signals['model_rps']:.3g}" if "model_rps" in signals else ""
    return ep.EndpointScaled(
        endpoint=found.id,
        pool=pool.name,
        before=before,
        after=after,
        why=why,
        sentence=f"{pool.name}: {before} → {after} replicas: {because}",
        signals=signals,
        source=source,
    )
