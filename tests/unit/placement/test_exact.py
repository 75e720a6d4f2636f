"""The exact solver on cases whose optimum is known."""

from __future__ import annotations

import sys

import pytest

from plenum.graph.build import Device, FleetBuilder
from plenum.model import Apart, FieldError, Fleet, Kind, Plan, Request, Role, Together, View, Workload
from plenum.model.errors import MissingExtraError
from plenum.model.fleet import DeviceKind
from plenum.placement import Cap, Policy, exact, place
from plenum.placement.check import violations
from plenum.placement.exact import feasible, solve_exact

GANG = Kind.TRAINING_JOB


def fleet(gpus: tuple[int, ...], *, racks: int = 1, cores: int = 64, numa: int = 0, nics: int = 0) -> Fleet:
    """One node for each count of GPUs, dealt to racks in turn."""
    b = FleetBuilder("lab")
    for r in range(racks):
        b.domain("place.rack", f"r{r}", parent=None)
        b.domain("fabric.leaf", f"l{r}", parent=None)
    for n, count in enumerate(gpus):
        devices = [
            Device(kind=kind, numa=i * numa // of if numa else None, pcie=f"sw{i}" if numa else None)
            for kind, of in ((DeviceKind.GPU, count), (DeviceKind.NIC, nics))
            for i in range(of)
        ]
        b.node(
            f"n{n}",
            domains={"place": f"place.rack:r{n % racks}", "fabric": f"fabric.leaf:l{n % racks}"},
            budgets={"cpu_milli": cores * 1000, "memory_bytes": 2**40},
            numa_cpu_milli=[cores * 1000 // numa] * numa if numa else [],
            devices=devices,
            gpu_power_w=500,
        )
    return b.build()


def job(name: str, gpus: int, replicas: int = 1, kind: Kind = Kind.TASK, **more: object) -> Workload:
    request = more.pop("request", None) or Request(gpus=gpus)
    role = Role(replicas=replicas, request=request, min_replicas=more.pop("min_replicas", 0))  # type: ignore[arg-type]
    return Workload(name=name, kind=kind, roles=(role,), **more)  # type: ignore[arg-type]


def names(plan: Plan) -> list[str]:
    return [p.workload.name for p in plan.placements]


def test_packs_what_first_come_first_served_cannot() -> None:
    view = View(fleet=fleet((4, 4)))
    batch = [job("a", 2, submitted_s=0), job("b", 3, submitted_s=1), job("c", 3, submitted_s=2)]
    plan = solve_exact(view, batch)
    assert sorted(names(plan)) == ["b", "c"]
    assert plan.optimality_gap == 0
    assert plan.notes == ("proven optimal",)
    assert plan.reasons[0].code == "wait.outbid"
    assert violations(view, plan) == ()
    assert "a" in names(place(view, batch, now=9.0))


def test_priority_comes_before_volume() -> None:
    plan = solve_exact(View(fleet=fleet((4,))), [job("big", 4), job("urgent", 1, priority=9)])
    assert names(plan) == ["urgent"]


def test_replicas_as_objective_prefer_the_many() -> None:
    batch = [job("big", 4), *(job(f"s{i}", 1) for i in range(3))]
    assert names(solve_exact(View(fleet=fleet((4,))), batch)) == ["big"]
    assert names(solve_exact(View(fleet=fleet((4,))), batch, objective="replicas")) == ["s0", "s1", "s2"]


def test_shares_fill_gpus_as_bins() -> None:
    """0.5+0.5, 0.7+0.3, 0.6+0.4 fill three GPUs exactly."""
    batch = [
        job(f"s{i}", 1, request=Request(gpus=1, gpu_milli=milli))
        for i, milli in enumerate((500, 700, 600, 400, 300, 500))
    ]
    view = View(fleet=fleet((2, 1)))
    plan = solve_exact(view, batch)
    assert len(plan.placements) == 6
    assert violations(view, plan) == ()


def test_mig_instances_start_where_they_may() -> None:
    """4g only starts at 0, 3g at 0 or 4, 2g at 0, 2, 4: 4g + 2g + 1g + … fill one GPU, two 4g never do."""
    one = View(fleet=fleet((1,)))

    def mig(name: str, profile: str) -> Workload:
        return job(name, 1, request=Request(gpus=1, mig=profile))

    plan = solve_exact(one, [mig("a", "4g"), mig("b", "2g"), mig("c", "1g")])
    assert len(plan.placements) == 3
    assert violations(one, plan) == ()
    plan = solve_exact(one, [mig("a", "4g"), mig("b", "4g")])
    assert len(plan.placements) == 1
    plan = solve_exact(one, [mig("a", "1g"), job("share", 1, request=Request(gpus=1, gpu_milli=100))])
    assert len(plan.placements) == 1


def test_a_gang_is_whole_or_not_at_all_and_elastic_ones_shrink() -> None:
    view = View(fleet=fleet((4, 2)))
    assert names(solve_exact(view, [job("rigid", 2, 4, GANG)])) == []
    plan = solve_exact(view, [job("elastic", 2, 4, GANG, min_replicas=1)])
    assert len(plan.placements[0].rows) == 3
    assert feasible(view, job("rigid", 2, 4, GANG)) is False
    assert feasible(view, job("elastic", 2, 4, GANG, min_replicas=1)) is True


def test_together_and_apart_over_any_axis() -> None:
    view = View(fleet=fleet((2, 2, 2, 2), racks=2))
    inside = job("inside", 1, 3, GANG, together=(Together(level="fabric.leaf"),))
    spread = job("spread", 1, 2, GANG, apart=(Apart(level="place.rack"),))
    plan = solve_exact(view, [inside, spread])
    assert len(plan.placements) == 2
    assert violations(view, plan) == ()
    assert feasible(view, job("wide", 2, 3, GANG, together=(Together(level="fabric.leaf"),))) is False
    assert feasible(view, job("wide", 1, 3, GANG, apart=(Apart(level="place.rack"),))) is False


def test_blocks_stay_together_while_the_gang_spans_racks() -> None:
    view = View(fleet=fleet((2, 2, 2, 2), racks=2))
    gang = job("g", 2, 4, GANG, together=(Together(level="place.rack", block=2),))
    plan = solve_exact(view, [gang])
    assert len(plan.placements) == 1
    assert violations(view, plan) == ()


def test_preferences_are_kept_where_they_cost_nothing_and_given_up_where_they_do() -> None:
    view = View(fleet=fleet((2, 2, 2, 2), racks=2))
    wish = Together(level="place.rack", required=False)
    plan = solve_exact(view, [job("a", 2, 2, GANG, together=(wish,)), job("b", 2, 2, GANG, together=(wish,))])
    assert all(len({int(n) % 2 for n in p.rows.node}) == 1 for p in plan.placements)
    assert names(solve_exact(view, [job("wide", 2, 3, GANG, together=(wish,))])) == ["wide"]


def test_shared_watts_bound_the_batch() -> None:
    lab = fleet((4, 4))
    rack = int(lab.domains_at(lab.domain_level[0])[0])
    capped = lab.replaced(
        budget_domain=[*lab.budget_domain, rack],
        budget_resource=[*lab.budget_resource, lab.resources.index("power_w")],
        budget_capacity=[*lab.budget_capacity, 2600],
    )
    plan = solve_exact(View(fleet=capped), [job(f"j{i}", 1) for i in range(8)])
    assert len(plan.placements) == 5


def test_caps_bound_a_tenant() -> None:
    policy = Policy(name="capped", caps=(Cap(level="place.rack", resource="gpu_milli", amount=3000),))
    batch = [job(f"j{i}", 1) for i in range(8)]
    assert len(solve_exact(View(fleet=fleet((4, 4))), batch, policy=policy).placements) == 3


def test_alignment_counts_inner_cores_and_switches() -> None:
    view = View(fleet=fleet((4,), cores=16, numa=2, nics=4))
    aligned = job("a", 1, 4, request=Request(gpus=1, nics=1, cpu_milli=5000, aligned="pcie"))
    plan = solve_exact(view, [aligned])
    # Eight cores a NUMA node hold one replica of five each; a third takes half its cores from either, a fourth finds one left.
    assert len(plan.placements[0].rows) == 3
    assert sorted(plan.placements[0].rows.numa_mask.tolist()) == [1, 2, 3]
    assert violations(view, plan) == ()


def test_amounts_near_the_limit_of_64_bits_stay_exact_enough() -> None:
    b = FleetBuilder("huge")
    for n in range(3):
        b.node(f"n{n}", budgets={"cpu_milli": 64_000, "memory_bytes": 2**61})
    batch = [job(f"j{i}", 0, request=Request(memory_bytes=2**60)) for i in range(8)]
    assert len(solve_exact(View(fleet=b.build()), batch).placements) == 6


def test_reasons_tell_never_from_waiting() -> None:
    view = View(fleet=fleet((4,)))
    running = solve_exact(view, [job("old", 3)]).applied_to(view)
    reasons = {r.workload: r.code for r in solve_exact(running, [job("two", 2), job("nine", 9)]).reasons}
    assert reasons == {"default/two": "wait.infeasible", "default/nine": "never.infeasible"}


def test_same_seed_same_plan() -> None:
    view = View(fleet=fleet((8, 4, 4, 2), racks=2))
    batch = [job(f"j{i}", 1 + i % 4) for i in range(7)]
    first, second = (solve_exact(view, batch, seed=5) for _ in range(2))
    assert [p.rows for p in first.placements] == [p.rows for p in second.placements]


def test_a_batch_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MAX_CELLS", 3)
    with pytest.raises(FieldError, match="4 replica sets times nodes are too many for the exact solver"):
        solve_exact(View(fleet=fleet((1, 1))), [job("a", 1), job("b", 1)])


def test_without_or_tools_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ortools.sat.python", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'plenum-os\[exact\]'"):
        solve_exact(View(fleet=fleet((1,))), [job("j", 1)])


def test_stopped_at_once_it_returns_the_greedy_plan_and_an_honest_gap() -> None:
    view = View(fleet=fleet((8, 7, 6, 5) * 3, racks=3))
    batch = [job(f"j{i}", 1 + i % 5, 2, GANG, together=(Together(level="fabric.leaf"),)) for i in range(30)]
    plan = solve_exact(view, batch, time_limit_s=1e-6)
    assert plan.notes[0].startswith("stopped at its limit")
    assert plan.placements
    assert 0 < plan.optimality_gap <= 1  # type: ignore[operator]
    assert violations(view, plan) == ()
