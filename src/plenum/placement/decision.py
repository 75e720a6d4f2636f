"""One decision: a view and what is pending in, a plan out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plenum.model.plan import Placement, Plan, Reason
from plenum.model.view import View
from plenum.model.workload import Workload
from plenum.placement.engine import Engine, frequencies_of
from plenum.placement.policies import DEFAULT, Policy


def place(
    view: View,
    pending: Sequence[Workload],
    policy: Policy = DEFAULT,
    now: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Plan:
    """Decide where pending workloads go.

    Pure: the same arguments (and a generator in the same state) give the same plan, byte for byte.

    Parameters
    ----------
    pending
        In any order; considered by (priority, submitted, id), the most urgent first.
    now
        Seconds on the clock of ``submitted_s``; what is submitted later than now is not considered yet.
    rng
        Drawn from by the ``random`` policy only.

    Returns
    -------
    Plan
        A placement for everything that fits, a short reason for everything that does not, or not whole.
    """
    order = sorted((w for w in pending if w.submitted_s <= now), key=lambda w: (-w.priority, w.submitted_s, w.id))
    engine = Engine(view, policy, rng, frequencies=frequencies_of((*view.running, *order)))
    placements: list[Placement] = []
    reasons: list[Reason] = []
    for i, workload in enumerate(order):
        outcome = engine.place(workload)
        if isinstance(outcome, Reason):
            reasons.append(outcome)
            continue
        placements.append(
            Placement(
                workload=workload,
                rows=outcome.rows.owned_by(i),
                levels=outcome.levels,
                cost=outcome.cost,
                degraded=outcome.degraded,
            )
        )
        if len(outcome.rows) < workload.replicas and not workload.gang:
            reasons.append(partly(workload, len(outcome.rows)))
    return Plan(pending=tuple(order), placements=tuple(placements), reasons=tuple(reasons), policy=policy.name)


def partly(workload: Workload, placed: int) -> Reason:
    """The reason for replicas that found no room beside others that did."""
    return Reason(
        workload=workload.id,
        code="wait.partly",
        constraint="replicas",
        sentence=f"{workload.id} runs {placed} of {workload.replicas} replicas; no place was found for the others under its constraints.",
    )
