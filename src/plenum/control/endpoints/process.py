"""What a replica of an endpoint runs: the engine host, on a node that runs processes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from plenum.control.endpoints.revisions import child_name
from plenum.model.endpoint import Endpoint, Pool
from plenum.model.process import Process
from plenum.model.workload import Kind, Parallelism, Role, Together, Workload

COMMAND = ("python", "-m", "plenum.bootstrap.engine")
"""The engine host; ``python`` is the node's own interpreter."""

DRAIN_S = 60.0
"""Longest that open streams are let finish when a replica is stopped."""

BACKOFF_S = 1.0

HOPELESS = MISUSED, NO_WEIGHTS = 64, 65
"""Exit codes of the engine host that another try would end with too: a wrong environment or endpoint, weights that are not to be had."""

ProcessOf = Callable[[Endpoint, Pool], Process]


def engine_process(spec: Endpoint, pool: Pool) -> Process:
    """Return the process of each replica of a pool; what it may not tell anybody comes with its orders, not from here."""
    said = msgspec.json.encode(spec, order="deterministic").decode()
    return Process(
        command=COMMAND,
        env=(("PLENUM_ENDPOINT", said), ("PLENUM_POOL", pool.name)),
        grace_s=DRAIN_S,
        backoff_s=BACKOFF_S,
        notify=True,
    )


def child_workload(spec: Endpoint, pool: Pool, revision: int, replicas: int) -> Workload:
    """Return the job that holds a revision's replicas of a pool."""
    spread = pool.nodes > 1
    return Workload(
        name=child_name(spec.name, revision, pool.name),
        kind=Kind.ENDPOINT,
        tenant=spec.tenant,
        priority=spec.priority,
        roles=(Role(name=pool.name, replicas=replicas, request=pool.request, nodes=pool.nodes),),
        together=(Together(level=pool.within),) if spread and pool.within else (),
        parallelism=pool.parallelism if spread and pool.request.gpus else Parallelism(),
    )
