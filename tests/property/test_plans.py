"""No plan of any policy breaks a promise, and the same question gets the same answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.property.strategies import batches, policies, views, workloads

from plenum.graph.state import StateArrays
from plenum.model import Placement, Plan, View, Workload
from plenum.placement import POLICIES, Engine, Policy, place
from plenum.placement.check import view_violations, violations


def decide(view: View, batch: tuple[Workload, ...], policy: Policy) -> Plan:
    return place(view, batch, policy, 0.0, np.random.default_rng(7))


def written(plan: Plan) -> tuple:
    """A plan as values that compare by content."""
    columns = ("workload", "role", "rank", "node", "gpu_mask", "nic_mask", "mig_mask", "numa_mask")
    placed = [
        (p.workload, p.levels, p.cost, p.degraded, tuple(getattr(p.rows, c).tobytes() for c in columns))
        for p in plan.placements
    ]
    return plan.pending, tuple(placed), plan.reasons, plan.policy, plan.notes


def copied(state: StateArrays) -> list[np.ndarray]:
    return [array.copy() for array in state]


@given(views(), batches(), policies())
def test_plans_keep_every_promise(view: View, batch: tuple[Workload, ...], policy: Policy) -> None:
    assert view_violations(view) == ()
    plan = decide(view, batch, policy)
    assert violations(view, plan, policy) == ()
    assert view_violations(plan.applied_to(view)) == ()


@pytest.mark.parametrize("name", POLICIES)
@given(views(max_nodes=4), batches(max_size=3))
def test_every_policy_keeps_every_promise(name: str, view: View, batch: tuple[Workload, ...]) -> None:
    assert violations(view, decide(view, batch, POLICIES[name])) == ()


@given(views(), batches(), policies(), st.randoms(use_true_random=False))
def test_same_view_and_seed_give_the_same_plan(
    view: View, batch: tuple[Workload, ...], policy: Policy, shuffle
) -> None:
    shuffled = list(batch)
    shuffle.shuffle(shuffled)
    assert written(decide(view, batch, policy)) == written(decide(view, tuple(shuffled), policy))


@given(views(), batches(), policies())
def test_release_restores_the_exact_state(view: View, batch: tuple[Workload, ...], policy: Policy) -> None:
    engine = Engine(view, policy)
    before = copied(engine.state)
    placed = [w for w in batch if isinstance(engine.place(w), Placement)]
    for workload in placed:
        engine.release(workload.id)
    for then, now in zip(before, engine.state, strict=True):
        np.testing.assert_array_equal(now, then)
    assert engine.view().rows == view.rows


@given(views(), batches(max_size=6), policies(), st.integers(0, 5))
def test_a_kept_engine_decides_like_a_fresh_one(
    view: View, batch: tuple[Workload, ...], policy: Policy, drop: int
) -> None:
    """Cached scores and counts against scores computed from nothing; one workload leaves in between."""
    kept = Engine(view, policy, np.random.default_rng(3), frequencies=())
    for i, workload in enumerate(batch):
        if policy.scorer == "random":
            kept.rng = np.random.default_rng(i)
        fresh = Engine(kept.view(), policy, np.random.default_rng(i), frequencies=())
        ours, theirs = kept.place(workload), fresh.place(workload)
        assert type(ours) is type(theirs)
        if isinstance(ours, Placement) and isinstance(theirs, Placement):
            assert ours.rows == theirs.rows
            if i == drop:
                kept.release(workload.id)


@given(views(max_nodes=5), workloads(max_replicas=3))
def test_preferences_never_keep_a_workload_waiting(view: View, workload: Workload) -> None:
    plain = replace(
        workload,
        together=tuple(t for t in workload.together if t.required),
        apart=tuple(a for a in workload.apart if a.required),
    )
    assert bool(decide(view, (workload,), POLICIES["plenum"]).placements) == bool(
        decide(view, (plain,), POLICIES["plenum"]).placements
    )


@given(views(max_nodes=5), workloads(max_replicas=4, max_roles=1))
def test_an_elastic_gang_starts_wherever_its_smallest_size_does(view: View, workload: Workload) -> None:
    role = workload.roles[0]
    smallest = replace(role, replicas=role.sizes()[-1], min_replicas=0)
    small = replace(workload, roles=(smallest,))
    if decide(view, (small,), POLICIES["plenum"]).placements:
        assert decide(view, (workload,), POLICIES["plenum"]).placements
