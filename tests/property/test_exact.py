"""The exact solver as oracle: it breaks no promise itself, agrees on what fits, and is never beaten."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from tests.property.strategies import batches, policies, views, workloads

from plenum.model import Plan, View, Workload
from plenum.placement import POLICIES, Policy, place
from plenum.placement.check import violations
from plenum.placement.exact import feasible, solve_exact


def milli_by_priority(plan: Plan) -> list[int]:
    """Milli-GPU placed of each priority, highest first."""
    totals = dict.fromkeys(sorted({w.priority for w in plan.pending}, reverse=True), 0)
    for p in plan.placements:
        totals[p.workload.priority] += sum(p.workload.roles[r].request.total_gpu_milli for r in p.rows.role.tolist())
    return list(totals.values())


@given(views(max_nodes=5), batches(max_size=4, max_replicas=3), policies())
def test_exact_plans_keep_every_promise(view: View, batch: tuple[Workload, ...], policy: Policy) -> None:
    assert violations(view, solve_exact(view, batch, policy=policy), policy) == ()


@given(views(max_nodes=5), workloads(max_replicas=3), policies())
def test_exact_and_greedy_agree_on_what_fits(view: View, workload: Workload, policy: Policy) -> None:
    fits = feasible(view, workload, policy=policy)
    assert fits is not None
    assert bool(place(view, (workload,), policy).placements) == fits


@given(views(max_nodes=5), batches(max_size=4, max_replicas=3))
def test_exact_is_never_beaten(view: View, batch: tuple[Workload, ...]) -> None:
    exact = solve_exact(view, batch)
    assert exact.optimality_gap == 0
    for name in ("best-fit", "plenum"):
        assert milli_by_priority(exact) >= milli_by_priority(place(view, batch, POLICIES[name]))


@given(views(max_nodes=4), batches(max_size=3, max_replicas=3))
def test_preferences_cost_no_placement(view: View, batch: tuple[Workload, ...]) -> None:
    plain = tuple(
        replace(
            w,
            together=tuple(t for t in w.together if t.required),
            apart=tuple(a for a in w.apart if a.required),
        )
        for w in batch
    )
    assert milli_by_priority(solve_exact(view, batch)) == milli_by_priority(solve_exact(view, plain))
