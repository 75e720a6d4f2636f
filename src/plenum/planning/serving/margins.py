"""How far a layout is from its limits: what breaks first as traffic grows, and what each improvement would give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from plenum.planning.serving.layout import Bound, Layout, compiled, figures_at, most_rps
from plenum.planning.serving.load import load_of
from plenum.planning.serving.options import Option, Predictor, options_of
from plenum.planning.serving.points import error_of
from plenum.planning.serving.question import Question
from plenum.planning.serving.search import Search, search
from plenum.planning.serving.words import figure
from plenum.serving.queueing import BATCH, CACHE, PROMPT_BUSY, TPOT_TAIL, TTFT_TAIL
from plenum.serving.steps import AT

RESOURCES: dict[str, tuple[str, ...]] = {
    "compute": (
        "linear_token_s",
        "expert_token_s",
        "prefill_pair_s",
        "prefill_pair_window_s",
        "prefill_pair_masked_s",
        "decode_pair_s",
        "decode_pair_window_s",
        "head_token_s",
    ),
    "HBM bandwidth": (
        "linear_weights_s",
        "activation_token_s",
        "expert_read_s",
        "decode_context_s",
        "decode_context_window_s",
        "state_s",
        "head_weights_s",
    ),
    "scale-up links": ("collective_s", "collective_token_s"),
    "launches and scheduling": ("fixed_s", "sequence_s", "host_s"),
}
"""Coefficients whose time goes with each resource."""

FASTER = 1.1
"""How much faster a resource is made to see what it gives."""

BEYOND = 1.03
"""How far beyond its capacity a layout is loaded to see what breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """What gives way first as traffic grows.

    Parameters
    ----------
    code
        ``cache``, ``link``, ``queue``, ``ttft``, ``tpot`` or ``e2e``.
    resource
        What there is too little of: a key of :data:`RESOURCES`, or ``KV memory`` or ``KV transfer link``.
    rate_rps
        Requests a second at which it does; ``times`` the planned rate.
    sentence
        The same for a person.
    """

    code: str
    resource: str
    rate_rps: float
    times: float
    sentence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """What one change would give: ``rate_rps`` instead of ``before_rps`` within the same promises."""

    name: str
    before_rps: float
    rate_rps: float

    @property
    def gain(self) -> float:
        """Part by which the rate grows."""
        return self.rate_rps / self.before_rps - 1.0 if self.before_rps > 0 else 0.0


def capacity_interval(state: Search, layout: Layout) -> tuple[float, float, float]:
    """Return the most requests a second if the prediction errs to the bad side, as predicted, and if to the good side.

    All iterations take as much longer as TPOT may; what TTFT may be off beyond that comes off its promise.
    """
    arrays = compiled(layout, state.question.traffic.prompt_tokens)
    ttft, tpot = error_of(layout)
    ends: list[float] = []
    for first, later in ((ttft[1], tpot[1]), (1.0, 1.0), (ttft[0], tpot[0])):
        coefficients: NDArray[np.float64] = arrays.coefficients.copy()
        for name in ("prefill_scale", "decode_scale"):
            coefficients[:, AT[name]] *= later
        bound = state.bound._replace(ttft=state.bound.ttft * later / first)
        ends.append(most_rps(arrays._replace(coefficients=coefficients), state.load, bound))
    low, typical, high = ends
    return low, typical, high


def bottleneck(state: Search, layout: Layout) -> tuple[str, float]:
    """Return the resource that gives most if it is faster, and how much (1: all of it)."""
    before = state.capacity(layout)
    gains = {name: faster(state, layout, name) / before - 1.0 for name in RESOURCES}
    name = max(gains, key=lambda key: gains[key])
    return name, gains[name] / (FASTER - 1.0)


def faster(state: Search, layout: Layout, resource: str) -> float:
    """Return the most requests a second with a resource that is faster by :data:`FASTER`."""
    arrays = compiled(layout, state.question.traffic.prompt_tokens)
    coefficients: NDArray[np.float64] = arrays.coefficients.copy()
    for name in RESOURCES[resource]:
        coefficients[:, AT[name]] /= FASTER
    return most_rps(arrays._replace(coefficients=coefficients), state.load, state.bound)


def first_break(state: Search, layout: Layout, planned_rps: float, capacity_rps: float) -> Break:
    """Return what breaks where traffic grows beyond ``capacity_rps``."""
    arrays = compiled(layout, state.question.traffic.prompt_tokens)
    analytic = most_rps(arrays, state.load, state.bound)
    beyond = figures_at(arrays, state.load, analytic * BEYOND)
    total, bound = beyond.total, state.bound
    resource, _ = bottleneck(state, layout)
    times = capacity_rps / planned_rps
    if analytic * BEYOND >= arrays.transfer_rate:
        code, resource = "link", "KV transfer link"
        why = "the links between prefill and decode instances are full of KV cache"
    elif not np.isfinite(total).all() or not total[TPOT_TAIL] > 0 or (not beyond.fits and total[CACHE] <= 1.0):
        code, why = "queue", f"prompts come faster than they are computed; the queue grows for ever ({resource})"
    elif total[CACHE] > 1.0:
        code, resource = "cache", "KV memory"
        why = f"the KV cache of {total[BATCH]:.0f} running requests no longer fits, and requests are preempted"
    elif total[TTFT_TAIL] > bound.ttft:
        code = "ttft"
        busy = total[PROMPT_BUSY]
        why = f"time to first token: prefill is busy {busy:.0%} of the time and prompts queue ({resource})"
    elif total[TPOT_TAIL] > bound.tpot:
        code = "tpot"
        why = f"time per output token: iterations at {total[BATCH]:.0f} running requests take too long ({resource})"
    else:
        code, why = "e2e", f"the end-to-end time ({resource})"
    more = f"at {times:.2f}x the planned traffic"
    sentence = f"What breaks first: {why}. It does so above {figure(capacity_rps)} requests a second, {more}."
    if times < 1.005:
        sentence = (
            f"What breaks first: {why}. The planned {figure(planned_rps)} requests a second leave no room by design."
        )
    return Break(code=code, resource=resource, rate_rps=capacity_rps, times=times, sentence=sentence)


def drivers_of(
    state: Search, layout: Layout, options: Sequence[Option], predict: Predictor, devices_capped: bool
) -> list[Driver]:
    """Return what each change gives, most first.

    Parameters
    ----------
    devices_capped
        Whether the number of devices was given: then formats and promises are searched anew for the most requests a second; else
        they are tried on this layout.
    """
    before = state.capacity(layout)
    found = [
        Driver(name=f"{name} 10 % faster", before_rps=before, rate_rps=faster(state, layout, name))
        for name in RESOURCES
    ]
    found += _pool_drivers(state, layout, before)
    found += _traffic_drivers(state, layout, before)
    if devices_capped:
        found += _format_drivers(state, options, predict, before)
    kept = [driver for driver in found if driver.gain > 0.002]
    return sorted(kept, key=lambda driver: -driver.gain)


def _pool_drivers(state: Search, layout: Layout, before: float) -> Iterator[Driver]:
    for index, pool in enumerate(layout.pools):
        pools = list(layout.pools)
        pools[index] = replace(pool, count=pool.count + 1)
        total = sum(p.count for p in pools if p.role == pool.role)
        if pool.role == "both":
            pools = [replace(p, share=p.count / total) if len(pools) > 1 else p for p in pools]
        role = "" if pool.role == "both" else f"{pool.role} "
        devices = f"{pool.option.devices} {pool.option.hardware.name}"
        yield Driver(
            name=f"one more {role}instance ({devices})",
            before_rps=before,
            rate_rps=state.capacity(Layout(pools=tuple(pools))),
        )
    arrays = compiled(layout, state.question.traffic.prompt_tokens)
    roomier = arrays._replace(caches=arrays.caches * FASTER)
    yield Driver(name="10 % more KV memory", before_rps=before, rate_rps=most_rps(roomier, state.load, state.bound))
    if layout.disaggregated:
        wider = arrays._replace(transfer_s=arrays.transfer_s / 2, transfer_rate=arrays.transfer_rate * 2)
        yield Driver(
            name="KV transfer link twice as fast", before_rps=before, rate_rps=most_rps(wider, state.load, state.bound)
        )


def _traffic_drivers(state: Search, layout: Layout, before: float) -> Iterator[Driver]:
    bound = state.bound
    for name, relaxed in (
        ("TTFT promise 10 % looser", Bound(bound.ttft * 1.1, bound.tpot, bound.e2e)),
        ("TPOT promise 10 % looser", Bound(bound.ttft, bound.tpot * 1.1, bound.e2e)),
    ):
        yield Driver(name=name, before_rps=before, rate_rps=state.capacity(layout, relaxed))
    traffic = state.question.traffic
    load = load_of(
        replace(traffic, found_tokens=max(traffic.found_tokens, traffic.prompt_tokens / 2)),
        state.question.slo.percentile,
    )
    arrays = compiled(layout, traffic.prompt_tokens)
    if load.found > state.load.found:
        yield Driver(
            name="half of each prompt found in a prefix cache",
            before_rps=before,
            rate_rps=most_rps(arrays, load, state.bound),
        )


def _format_drivers(state: Search, options: Sequence[Option], predict: Predictor, before: float) -> Iterator[Driver]:
    question = state.question
    changes: list[tuple[str, Question]] = []
    if "fp8" not in question.caches:
        changes.append(("KV cache in fp8", replace(question, caches=("fp8",))))
    if "fp8" not in question.weights:
        changes.append(("weights in fp8", replace(question, weights=("fp8",))))
    for name, changed in changes:
        others = [option for stock in question.stocks for option in options_of(changed, stock, predict)]
        rates = [candidate.capacity_rps for candidate in search(changed, others)[1]]
        yield Driver(name=name, before_rps=before, rate_rps=max(rates, default=0.0))
    for stock in question.stocks:
        for more in dict.fromkeys((1, stock.hardware.server_devices)):
            stocks = tuple(replace(s, count=s.count + more) if s is stock else s for s in question.stocks)
            rates = [candidate.capacity_rps for candidate in search(replace(question, stocks=stocks), options)[1]]
            devices = "one more" if more == 1 else f"{more} more"
            yield Driver(name=f"{devices} {stock.hardware.name}", before_rps=before, rate_rps=max(rates, default=0.0))
