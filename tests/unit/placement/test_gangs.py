"""Gangs lie as low as they can, degrade step by step, and keep what is required."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fleets import gpu_nodes

from plenum.graph.build import Device, FleetBuilder
from plenum.model import (
    Apart,
    DeviceKind,
    Kind,
    Parallelism,
    Placement,
    Reason,
    Request,
    Role,
    Together,
    View,
    Workload,
)
from plenum.model.fleet import LEVEL
from plenum.placement import Cap, Engine, Policy, place

LEAF, RACK = LEVEL["fabric.leaf"], LEVEL["place.rack"]
NODE = Request(gpus=8, cpu_milli=8_000)


def gang(name: str = "g", replicas: int = 2, request: Request = NODE, **more) -> Workload:
    return Workload(name=name, kind=Kind.TRAINING_JOB, roles=(Role(replicas=replicas, request=request),), **more)


def placed(engine: Engine, workload: Workload) -> list[int]:
    outcome = engine.place(workload)
    assert isinstance(outcome, Placement), outcome
    return outcome.rows.node.tolist()


def test_a_gang_takes_the_lowest_domain_that_holds_it() -> None:
    engine = Engine(View(fleet=gpu_nodes()))
    assert placed(engine, gang("small", 2, Request(gpus=4))) == [0, 0]
    assert placed(engine, gang("leaf", 4)) == [4, 5, 6, 7]


def test_best_fit_keeps_large_domains_whole() -> None:
    engine = Engine(View(fleet=gpu_nodes()))
    placed(engine, gang("first", 2))  # leaves two nodes of leaf 0 free, four of leaf 1
    assert placed(engine, gang("second", 2)) == [2, 3]


def test_ranks_follow_the_fabric() -> None:
    engine = Engine(View(fleet=gpu_nodes()))
    outcome = engine.place(gang("all", 8))
    assert isinstance(outcome, Placement)
    leaf = engine.cluster.level_domain[LEAF][outcome.rows.node]
    assert (np.diff(leaf) >= 0).all()
    assert outcome.rows.rank.tolist() == list(range(8))


def test_required_level_is_never_left() -> None:
    engine = Engine(View(fleet=gpu_nodes()))
    outcome = engine.place(gang(replicas=5, together=(Together(level="fabric.leaf"),)))
    assert isinstance(outcome, Reason)
    assert engine.free_gpu_milli == 64_000


def test_preferred_level_degrades_to_the_next_one_up() -> None:
    engine = Engine(View(fleet=gpu_nodes()))
    outcome = engine.place(gang(replicas=5, together=(Together(level="fabric.leaf", required=False),)))
    assert isinstance(outcome, Placement)
    assert outcome.degraded == ("preferred together within fabric.leaf given up, fabric.spine instead",)
    assert (
        outcome.levels == (("fabric.leaf", engine.cluster.level_domains[9].tolist()),) or len(outcome.levels[0][1]) == 2
    )


def test_the_lightest_wish_is_given_up_first() -> None:
    heavy = Together(level="place.rack", required=False, weight=10)
    light = Apart(level="place.node", required=False, weight=1)
    engine = Engine(View(fleet=gpu_nodes(1, 2, 2)))
    outcome = engine.place(gang(replicas=4, request=Request(gpus=4), together=(heavy,), apart=(light,)))
    assert isinstance(outcome, Placement)
    assert outcome.degraded == ("preferred apart across place.node given up",)
    assert len(outcome.levels[0][1]) == 1


def test_blocks_do_not_straddle_their_domain() -> None:
    engine = Engine(View(fleet=gpu_nodes(2, 2, 3)))
    placed(engine, gang("odd", 1))
    outcome = engine.place(gang(replicas=8, together=(Together(level="place.rack", block=2),)))
    assert isinstance(outcome, Placement)
    rack = engine.cluster.level_domain[RACK][outcome.rows.node].reshape(-1, 2)
    assert (rack[:, 0] == rack[:, 1]).all()


def test_power_of_a_rack_limits_what_it_holds() -> None:
    engine = Engine(View(fleet=gpu_nodes(rack_power_w=6_000)))  # one full node of 5.6 kW a rack
    outcome = engine.place(gang(replicas=4))
    assert isinstance(outcome, Placement)
    assert len(set(engine.cluster.level_domain[RACK][outcome.rows.node].tolist())) == 4
    assert isinstance(engine.place(gang("more", 1)), Reason)


def test_an_elastic_gang_shrinks_by_its_step() -> None:
    role = Role(replicas=12, min_replicas=4, step=4, request=NODE)
    outcome = Engine(View(fleet=gpu_nodes())).place(Workload(name="e", kind=Kind.TRAINING_JOB, roles=(role,)))
    assert isinstance(outcome, Placement)
    assert len(outcome.rows) == 8


def test_an_endpoint_takes_as_many_replicas_as_fit() -> None:
    endpoint = Workload(
        name="chat",
        kind=Kind.ENDPOINT,
        roles=(Role(replicas=9, request=Request(gpus=1)),),
        apart=(Apart(level="place.rack", max_per_domain=2),),
    )
    plan = place(View(fleet=gpu_nodes()), [endpoint])
    assert len(plan.placements[0].rows) == 8
    assert plan.reasons[0].code == "wait.partly"


def test_several_roles_share_the_required_domain() -> None:
    roles = (Role(name="head", request=Request(cpu_milli=4_000)), Role(name="worker", replicas=3, request=NODE))
    job = Workload(name="j", kind=Kind.TRAINING_JOB, roles=roles, together=(Together(level="fabric.leaf"),))
    outcome = Engine(View(fleet=gpu_nodes())).place(job)
    assert isinstance(outcome, Placement)
    assert len(outcome.levels[0][1]) == 1
    assert outcome.rows.role.tolist() == [0, 1, 1, 1]


def test_a_tenant_stays_under_its_cap_on_every_leaf() -> None:
    policy = Policy(name="capped", caps=(Cap(level="fabric.leaf", resource="gpu_milli", amount=8_000, tenant="a"),))
    engine = Engine(View(fleet=gpu_nodes()), policy)
    assert isinstance(engine.place(gang("two", 2, tenant="a", together=(Together(level="fabric.leaf"),))), Reason)
    assert len(placed(engine, gang("spread", 2, tenant="a"))) == 2
    assert isinstance(engine.place(gang("third", 1, tenant="a")), Reason)
    assert len(placed(engine, gang("other", 2, tenant="b"))) == 2


def test_aligned_replicas_keep_gpus_nics_and_cores_on_one_numa_node() -> None:
    engine = Engine(View(fleet=gpu_nodes(1, 1, 1)))
    request = Request(gpus=2, nics=2, cpu_milli=16_000, aligned="pcie")
    outcome = engine.place(gang(replicas=4, request=request))
    assert isinstance(outcome, Placement)
    assert sorted(outcome.rows.numa_mask.tolist()) == [1, 1, 2, 2]
    assert (outcome.rows.gpu_mask == outcome.rows.nic_mask).all()
    assert isinstance(engine.place(gang("more", 1, Request(cpu_milli=1_000, aligned="numa"))), Reason)


def test_tensor_parallel_groups_of_several_nodes_are_neighbours() -> None:
    engine = Engine(View(fleet=gpu_nodes(2, 2, 3)))
    placed(engine, gang("odd", 1))  # leaf 0 has five free nodes, leaf 1 six
    outcome = engine.place(gang(replicas=10, parallelism=Parallelism(tp=16, dp=5)))
    assert isinstance(outcome, Placement)
    leaf = engine.cluster.level_domain[LEAF][outcome.rows.node].reshape(-1, 2)
    assert (leaf[:, 0] == leaf[:, 1]).all()
    assert outcome.cost is not None
    assert outcome.cost.bottleneck == "fabric.leaf"


@pytest.mark.parametrize("picker", ["best-fit", "most-free", "first-fit"])
def test_every_picker_places_what_fits(picker: str) -> None:
    engine = Engine(View(fleet=gpu_nodes()), Policy(name=picker, picker=picker))
    placed(engine, gang("one", 1))
    used = engine.cluster.level_domain[LEAF][placed(engine, gang("two", 2))]
    assert set(used.tolist()) == ({1} if picker == "most-free" else {0})


def test_a_trial_leaves_no_trace() -> None:
    engine = Engine(View(fleet=gpu_nodes()))
    engine.place(gang("stays", 3))
    before = [array.copy() for array in engine.state]
    with engine.trial():
        engine.release("default/stays")
        engine.place(gang("tried", 8))
    assert all((a == b).all() for a, b in zip(before, engine.state, strict=True))
    assert list(engine.running) == ["default/stays"]
    assert engine.on_node(0) == ("default/stays",)


def test_partial_blocks_do_not_eat_the_budget_of_whole_ones() -> None:
    b = FleetBuilder("feed")
    b.domain("power.feed", "f", parent=None)
    b.budget("power.feed:f", "power_w", 4 * 2_800)
    b.domain("fabric.spine", "s", parent=None)
    for leaf in range(30):
        b.domain("fabric.leaf", f"l{leaf}", parent="fabric.spine:s")
        for i in range(3):
            homes = {"fabric": f"fabric.leaf:l{leaf}", "power": "power.feed:f"}
            b.node(f"n{leaf}-{i}", domains=homes, devices=[Device(kind=DeviceKind.GPU)] * 4, gpu_power_w=700)
    job = gang(replicas=4, request=Request(gpus=4), together=(Together(level="fabric.leaf", block=2),))
    engine = Engine(View(fleet=b.build()))
    placed(engine, job)


def test_a_block_needs_its_level() -> None:
    b = FleetBuilder("flat")
    for i in range(4):
        b.node(f"n{i}", devices=[Device(kind=DeviceKind.GPU)] * 4)
    job = gang(replicas=4, request=Request(gpus=4), together=(Together(level="fabric.leaf", block=2),))
    assert isinstance(Engine(View(fleet=b.build())).place(job), Reason)


def test_many_aligned_replicas_of_cores_are_counted_exactly() -> None:
    engine = Engine(View(fleet=gpu_nodes(1, 1, 1)))
    shape = int(engine.shape_ids([Request(cpu_milli=24_000, aligned="numa")])[0])
    assert engine.counts(shape, 100).tolist() == [
        2
    ]  # one on each of two NUMA nodes of 32 cores; 8 + 8 left hold no third
    assert engine.counts(int(engine.shape_ids([Request(cpu_milli=1, aligned="numa")])[0]), 100_000).tolist() == [4096]


def test_an_elastic_endpoint_keeps_its_minimum_and_step() -> None:
    def endpoint(minimum: int) -> Workload:
        role = Role(replicas=16, min_replicas=minimum, step=4, request=NODE)
        return Workload(name=f"e{minimum}", kind=Kind.ENDPOINT, roles=(role,))

    assert isinstance(Engine(View(fleet=gpu_nodes(1, 1, 3))).place(endpoint(4)), Reason)
    outcome = Engine(View(fleet=gpu_nodes(1, 2, 3))).place(endpoint(4))
    assert isinstance(outcome, Placement)
    assert len(outcome.rows) == 4


def test_more_shapes_than_the_cache_holds_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [Request(cpu_milli=1_000 + i) for i in range(40)] + [Request(cpu_milli=500, gpus=1)]

    def nodes() -> list[int]:
        engine = Engine(View(fleet=gpu_nodes()))
        ids = engine.shape_ids(requests)
        return engine.place_stream(np.concatenate([ids, ids[::-1], ids[::3]])).node.tolist()

    roomy = nodes()
    monkeypatch.setattr("plenum.placement.engine.CACHE_CELLS", 1)
    assert nodes() == roomy
