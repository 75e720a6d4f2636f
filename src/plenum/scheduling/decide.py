"""The decision: place what fits, explain what does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from plenum.model.plan import Plan
from plenum.model.view import View
from plenum.model.workload import Workload
from plenum.placement import DEFAULT, Engine, Policy, place
from plenum.scheduling.explain import explain

MAX_EXPLAINED = 100
"""Workloads explained in full by one decision, most urgent first; the others keep their short reason."""


def decide(
    view: View,
    pending: Sequence[Workload],
    policy: Policy = DEFAULT,
    now: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Plan:
    """Return :func:`plenum.placement.place`'s plan with a full reason for everything left waiting.

    Pure, like ``place``: the same arguments give the same plan.
    """
    plan = place(view, pending, policy, now, rng)
    if not plan.reasons:
        return plan
    after = Engine(plan.applied_to(view), policy)
    wanted = {w.id: w for w in plan.pending}
    full = tuple(
        explain(after, wanted[reason.workload]) if i < MAX_EXPLAINED and reason.code != "wait.partly" else reason
        for i, reason in enumerate(plan.reasons)
    )
    return replace(plan, reasons=full)
