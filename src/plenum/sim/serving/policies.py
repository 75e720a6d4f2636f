"""How a simulated service is run: routing, admission, memory, scaling, and what fails when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Preemption = Literal["recompute", "swap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One instance goes down, or comes back, at a time.

    Parameters
    ----------
    at_s
        Seconds from the start.
    instance
        Its index, counting through the pools in order.
    up
        It comes back, empty; else it fails with everything on it.
    """

    at_s: float
    instance: int
    up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The ladder of :func:`plenum.serving.admission.decide`, walked for every request that arrives.

    Parameters
    ----------
    ttft_s, tpot_s
        Promises; infinity: nothing is promised.
    pressure_limit
        How much work may arrive, over what can be done, before a class yields; of the lowest class.
    class_step
        Added to that limit for each higher class.
    window_s
        Over about how long arrivals are averaged.
    output_cap
        Tokens to which outputs may be cut; 0: not at all.
    deferrable_below
        Requests of priority below this may wait; none does with the default.
    defer_s, defer_most
        Seconds until a deferred request is looked at again, and how often before it is refused.
    margin
        Upper ends of predictions are the predictions times this.
    cheaper
        For each model, by its number, the model that may answer where it would miss a promise; -1, or nothing: none may.
    """

    ttft_s: float = float("inf")
    tpot_s: float = float("inf")
    pressure_limit: float = 1.0
    class_step: float = 0.5
    window_s: float = 30.0
    output_cap: int = 0
    deferrable_below: int = -128
    defer_s: float = 5.0
    defer_most: int = 100
    margin: float = 1.5
    cheaper: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Replicas follow the load, pool by pool (:func:`plenum.serving.scaling.desired`); a pool never has more than its ``count``.

    Parameters
    ----------
    by
        ``load``: so that each instance has its target of requests and of KV blocks. ``slo``: as many as keep the promises for what
        arrives, by the performance model (:mod:`plenum.serving.bearing`); where one alone would break a promise, by load.
    ttft_s, tpot_s
        Promises, with ``slo``; infinity: nothing is promised.
    rate_window_s, drain_s
        With ``slo``: over how long arrivals are counted (longer where so few arrive that chance would decide, as long as the rate stays
        what it was), and in how long those that have piled up should be gone.
    budget_devices
        Devices that all pools may have on together; where prefill and decode want more, each gets what lets both serve the most
        (:func:`plenum.serving.scaling.share_budget`). 0: no limit but the pools' own.
    every_s
        Seconds between decisions.
    initial
        Instances of each pool that are up at the start; 0: all.
    least
        Instances of each pool that stay up.
    cold_start_s
        Seconds from the decision until an instance takes requests; it draws idle power meanwhile.
    target_running, target_cache_used
        Requests, running and waiting, and part of the KV blocks in use that one instance is meant to have.
    tolerance, window_s, max_step
        See :class:`plenum.serving.scaling.Limits`.
    """

    by: Literal["load", "slo"] = "load"
    ttft_s: float = float("inf")
    tpot_s: float = float("inf")
    rate_window_s: float = 120.0
    drain_s: float = 30.0
    budget_devices: int = 0
    every_s: float = 15.0
    initial: int = 0
    least: int = 1
    cold_start_s: float = 60.0
    target_running: float = 16.0
    target_cache_used: float = 0.8
    tolerance: float = 0.1
    window_s: float = 300.0
    max_step: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """Everything about a run that is a decision.

    Parameters
    ----------
    routing, decode_routing
        Names of :data:`plenum.serving.routing.POLICIES`: for requests, and for prefilled requests on their way to a decode instance.
        With ``mooncake`` a prefix may be copied from the instance that has most of it, once the request is let in; nothing holds it
        there meanwhile, and where it is copied to, others find it from the beginning of the copy on.
    central_queue
        Requests wait together, and an instance takes the next one when it has room; else each waits at the instance it was sent to.
    reserve_output
        A request is let into the batch only where blocks for its whole output are free, so that none is ever preempted.
    preemption
        What happens to the cache of a preempted request: computed anew, or swapped to host memory and back.
    preempt_lower
        A waiting request may preempt running ones of lower priority.
    max_queue
        Requests that may wait at one instance; where all are so full, one more is refused. -1: no limit.
    admission
        None: every request is admitted.
    restart
        Requests of a failed instance start over elsewhere (their tokens so far are computed anew); else they are lost.
    failures
        Ordered by time.
    scaling
        None: all instances are always up.
    remote_above_tokens
        Prompts with more uncached tokens than this are prefilled at sites that do not decode, all others at sites that do
        (Prefill-as-a-Service, arXiv 2604.15039); -1: sites make no difference.
    remote_backlog_s
        No prompt is sent to another site while the link from there has more than this still to carry.
    remote_copies
        The link between sites is ample: a prefix that is cached at the other site counts, and is copied across where it is the longer
        one; else each site counts its own only.
    transfer_overlap
        Part of a prompt's prefill time during which its cache may already cross (layer by layer, as Splitwise does); 0: none.
    transfer_latency_s
        Of one transfer, besides its bytes.
    nvme_bps
        Bytes a second that an instance reads cached prefixes from its drives.
    """

    routing: str = "least-loaded"
    decode_routing: str = "least-loaded"
    central_queue: bool = False
    reserve_output: bool = False
    preemption: Preemption = "recompute"
    preempt_lower: bool = False
    max_queue: int = -1
    admission: Admission | None = None
    restart: bool = True
    failures: tuple[Failure, ...] = ()
    scaling: Scaling | None = None
    remote_above_tokens: int = -1
    remote_backlog_s: float = float("inf")
    remote_copies: bool = False
    transfer_overlap: float = 0.0
    transfer_latency_s: float = 0.0
    nvme_bps: float = 6e9
