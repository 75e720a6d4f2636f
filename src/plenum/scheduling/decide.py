"""The decision: place what fits, explain what does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from plenum.model.plan import Plan, Reason
from plenum.model.view import View
from plenum.model.workload import Kind, Parallelism, Workload
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
        (_explained_in_part if reason.code == "wait.partly" else _explained)(after, wanted[reason.workload], reason)
        if i < MAX_EXPLAINED
        else reason
        for i, reason in enumerate(plan.reasons)
    )
    return replace(plan, reasons=full)


def _explained(after: Engine, workload: Workload, reason: Reason) -> Reason:
    return explain(after, workload)


def _explained_in_part(after: Engine, workload: Workload, reason: Reason) -> Reason:
    """Explain why not all replicas run: as if they were a gang, and those that run were not there."""
    roles = tuple(replace(role, min_replicas=0, step=1) for role in workload.roles)
    whole = replace(workload, kind=Kind.TRAINING_JOB, roles=roles, parallelism=Parallelism())
    with after.trial():
        after.release(workload.id)
        all_of_them = explain(after, whole)
    if all_of_them.code == "ready":
        return reason
    rest = all_of_them.sentence.removeprefix(f"{workload.id} ")
    return replace(
        all_of_them, code=reason.code, sentence=f"{reason.sentence} All {workload.replicas} together: {rest}"
    )
