"""What makes a version of an endpoint: what its engines are started with. The rest may change under their feet."""

from __future__ import annotations

from dataclasses import replace

from plenum.model.endpoint import SERVE, Endpoint

MAX_NAME = 40
"""Characters of an endpoint's name, so that those of its jobs are names too."""

_NEW = Endpoint(model="-", name="-")
_IN_PLACE = (
    "priority",
    "promise",
    "budget_gpus",
    "routing",
    "idle_s",
    "wake_wait_s",
    "prefill_threshold_tokens",
    "rollout",
    "cheaper",
)
"""Fields that gateways and scaling go by; no engine is started anew for them."""


def started_as(spec: Endpoint) -> Endpoint:
    """Return an endpoint with all that its engines do not depend on as in a plain one: two that agree in it are one revision."""
    pools = tuple(replace(pool, min_replicas=0, max_replicas=1) for pool in spec.pools)
    return replace(spec, pools=pools, **{name: getattr(_NEW, name) for name in _IN_PLACE})


def kept_up(started: Endpoint, spec: Endpoint) -> Endpoint:
    """Return what a revision was started with, and of the rest what the endpoint says now."""
    limits = {pool.name: (pool.min_replicas, pool.max_replicas) for pool in spec.pools}
    pools = tuple(
        replace(pool, min_replicas=low, max_replicas=high)
        for pool in started.pools
        for low, high in [limits.get(pool.name, (pool.min_replicas, pool.max_replicas))]
    )
    return replace(started, pools=pools, **{name: getattr(spec, name) for name in _IN_PLACE})


def child_name(name: str, revision: int, pool: str) -> str:
    """Return the name of the job that holds a revision's replicas of a pool."""
    return f"{name}-r{revision}" if pool == SERVE else f"{name}-r{revision}-{pool}"
