"""The checker catches every kind of broken promise; each case breaks exactly one."""

from __future__ import annotations

import numpy as np
import pytest

from plenum.graph.build import Device, FleetBuilder
from plenum.model import (
    Apart,
    Fleet,
    Health,
    Kind,
    Placement,
    Plan,
    Reason,
    Request,
    Role,
    Rows,
    Together,
    View,
    Workload,
)
from plenum.model.fleet import DeviceKind
from plenum.placement import Cap, Policy
from plenum.placement.check import view_violations, violations

GIB = 2**30


@pytest.fixture
def fleet() -> Fleet:
    """Nodes a, b in rack r0 (1,000 W, 4 GiB of CXL), c in r1, cordoned d and failed e in none; GPU 3 of c is down."""
    b = FleetBuilder("lab")
    for i in range(2):
        b.domain("place.rack", f"r{i}", parent=None)
    b.budget("place.rack:r0", "power_w", 1000)
    b.budget("place.rack:r0", "cxl_bytes", 4 * GIB)

    def devices(bad: int = -1) -> list[Device]:
        kinds = (DeviceKind.GPU, DeviceKind.NIC)
        return [
            Device(
                kind=kind,
                model="H100" if kind == DeviceKind.GPU else "CX7",
                capacity=80 * GIB,
                numa=i // 2,
                pcie=f"sw{i}",
                health=Health.DOWN if kind == DeviceKind.GPU and i == bad else Health.HEALTHY,
            )
            for kind in kinds
            for i in range(4)
        ]

    for name, rack, options in (
        ("a", "r0", {}),
        ("b", "r0", {}),
        ("c", "r1", {"traits": ("liquid",)}),
        ("d", None, {"cordoned": True}),
        ("e", None, {"health": Health.DEGRADED}),
    ):
        b.node(
            name,
            domains={"place": f"place.rack:{rack}"} if rack else {},
            budgets={"cpu_milli": 32_000, "memory_bytes": 64 * GIB, "pods": 3},
            numa_cpu_milli=[16_000, 16_000],
            devices=devices(3 if name == "c" else -1),
            gpu_power_w=300,
            **options,
        )
    return b.build()


def rows(*replicas: tuple[int, int, int, int, int, int, int]) -> Rows:
    """(role, rank, node, GPU set, NIC set, MIG eighths, NUMA set) of each replica of the first pending workload."""
    columns = list(zip(*replicas, strict=True))
    return Rows(
        workload=np.zeros(len(replicas), np.int32),
        role=np.array(columns[0], np.int16),
        rank=np.array(columns[1], np.int32),
        node=np.array(columns[2], np.int32),
        gpu_mask=np.array(columns[3], np.uint64),
        nic_mask=np.array(columns[4], np.uint64),
        mig_mask=np.array(columns[5], np.uint8),
        numa_mask=np.array(columns[6], np.uint8),
    )


def asked(request: Request, replicas: int = 1, kind: Kind = Kind.TASK, **more: object) -> Workload:
    role = Role(replicas=replicas, request=request, min_replicas=more.pop("min_replicas", 0))  # type: ignore[arg-type]
    return Workload(name="w", kind=kind, roles=(role,), **more)  # type: ignore[arg-type]


def faults(fleet: Fleet, workload: Workload, placed: Rows, policy: Policy | None = None) -> tuple[str, ...]:
    plan = Plan(pending=(workload,), placements=(Placement(workload=workload, rows=placed),))
    return violations(View(fleet=fleet), plan, policy)


A, B, C, D, E = range(5)
ONE = Request(gpus=1)
GANG = Kind.TRAINING_JOB
PAIR = ((0, 0, A, 1, 0, 0, 0), (0, 1, B, 1, 0, 0, 0))
ACROSS = ((0, 0, A, 1, 0, 0, 0), (0, 1, C, 1, 0, 0, 0))

BROKEN = {
    "budget of the node": (
        asked(Request(cpu_milli=40_000)),
        ((0, 0, A, 0, 0, 0, 0),),
        "place.node a would use 40000 cpu",
    ),
    "pods of the node": (asked(Request(), 4), [(0, i, A, 0, 0, 0, 0) for i in range(4)], "would use 4 pods of 3"),
    "watts of the rack": (
        asked(Request(gpus=2), 2),
        ((0, 0, A, 3, 0, 0, 0), (0, 1, B, 3, 0, 0, 0)),
        "place.rack r0 would use 1200 power_w of 1000",
    ),
    "pool of the rack": (
        asked(Request(extra=(("cxl_bytes", 3 * GIB),)), 2),
        ((0, 0, A, 0, 0, 0, 0), (0, 1, B, 0, 0, 0, 0)),
        "cxl_bytes of 4294967296",
    ),
    "no such pool": (asked(Request(extra=(("cxl_bytes", 1),))), ((0, 0, C, 0, 0, 0, 0),), "has no cxl_bytes"),
    "GPU twice": (asked(ONE, 2), ((0, 0, A, 1, 0, 0, 0), (0, 1, A, 1, 0, 0, 0)), "GPU 0 of a is oversubscribed"),
    "GPU oversubscribed": (
        asked(Request(gpus=1, gpu_milli=600), 2),
        ((0, 0, A, 2, 0, 0, 0), (0, 1, A, 2, 0, 0, 0)),
        "GPU 1 of a is oversubscribed: 1200",
    ),
    "NIC twice": (asked(Request(nics=1), 2), ((0, 0, A, 0, 1, 0, 0), (0, 1, A, 0, 1, 0, 0)), "NIC 0 of a is given 2"),
    "too few GPUs": (asked(Request(gpus=2)), ((0, 0, A, 1, 0, 0, 0),), "1 GPUs instead of 2"),
    "too few NICs": (asked(Request(nics=2)), ((0, 0, A, 0, 1, 0, 0),), "1 NICs instead of 2"),
    "no such GPU": (asked(ONE), ((0, 0, A, 1 << 9, 0, 0, 0),), "there is no GPU 9"),
    "no such node": (asked(ONE), ((0, 0, 17, 1, 0, 0, 0),), "there is no node 17"),
    "no such replica": (asked(ONE), ((0, 5, A, 1, 0, 0, 0),), "there is no replica 5"),
    "replica twice": (asked(ONE, 2), ((0, 0, A, 1, 0, 0, 0), (0, 0, A, 2, 0, 0, 0)), "is placed 2 times"),
    "GPU down": (asked(ONE), ((0, 0, C, 8, 0, 0, 0),), "GPU 3 is not healthy"),
    "cordoned": (asked(ONE), ((0, 0, D, 1, 0, 0, 0),), "is cordoned"),
    "unhealthy": (asked(ONE), ((0, 0, E, 1, 0, 0, 0),), "the node is not healthy"),
    "model": (asked(Request(gpus=1, gpu_models=("A100",))), ((0, 0, A, 1, 0, 0, 0),), "another model than A100"),
    "trait": (asked(Request(traits=("liquid",))), ((0, 0, A, 0, 0, 0, 0),), "lacks the trait liquid"),
    "HBM": (asked(Request(gpus=1, hbm_bytes=81 * GIB)), ((0, 0, A, 1, 0, 0, 0),), "too little HBM"),
    "MIG start": (asked(Request(gpus=1, mig="2g")), ((0, 0, A, 1, 0, 0b110, 0),), "no legal 2g"),
    "MIG size": (asked(Request(gpus=1, mig="2g")), ((0, 0, A, 1, 0, 0b1, 0),), "no legal 2g"),
    "MIG unasked": (asked(Request(gpus=1, gpu_milli=250)), ((0, 0, A, 1, 0, 0b11, 0),), "not asked for"),
    "MIG overlap": (
        asked(Request(gpus=1, mig="2g"), 2),
        ((0, 0, A, 1, 0, 3, 0), (0, 1, A, 1, 0, 3, 0)),
        "overlapping MIG instances",
    ),
    "split gang": (asked(ONE, 2, GANG), ((0, 0, A, 1, 0, 0, 0),), "the gang is split: 1 of 2 replicas"),
    "not an elastic size": (asked(ONE, 3, GANG, min_replicas=2), ((0, 0, A, 1, 0, 0, 0),), "1 of 3 or 2 replicas"),
    "together": (
        asked(ONE, 2, GANG, together=(Together(level="place.rack"),)),
        ACROSS,
        "spread over 2 domains of place.rack",
    ),
    "together, block": (
        asked(ONE, 2, GANG, together=(Together(level="place.node", block=2),)),
        PAIR,
        "block 0 is spread over 2 domains of place.node",
    ),
    "together, half a block": (
        asked(ONE, 2, Kind.ENDPOINT, together=(Together(level="place.node", block=2),)),
        ((0, 0, A, 1, 0, 0, 0),),
        "block 0 has 1 of its 2 replicas",
    ),
    "together, outside": (
        asked(ONE, 2, GANG, together=(Together(level="fabric.leaf"),)),
        PAIR,
        "outside every fabric.leaf",
    ),
    "apart": (asked(ONE, 2, GANG, apart=(Apart(level="place.rack"),)), PAIR, "2 replicas in place.rack r0; at most 1"),
    "apart, outside": (asked(ONE, 2, GANG, apart=(Apart(level="fabric.leaf"),)), PAIR, "outside every fabric.leaf"),
    "aligned without cores": (asked(Request(gpus=1, aligned="numa")), ((0, 0, A, 1, 0, 0, 0),), "holds NUMA nodes []"),
    "cores without being aligned": (asked(ONE), ((0, 0, A, 1, 0, 0, 1),), "without being aligned"),
    "GPU on the other NUMA node": (
        asked(Request(gpus=1, aligned="numa")),
        ((0, 0, A, 1, 0, 0, 2),),
        "outside its NUMA",
    ),
    "NIC on the other NUMA node": (
        asked(Request(gpus=1, nics=1, aligned="numa")),
        ((0, 0, A, 1, 8, 0, 1),),
        "outside its NUMA nodes [0]",
    ),
    "NIC of another switch": (
        asked(Request(gpus=1, nics=1, aligned="pcie")),
        ((0, 0, A, 1, 2, 0, 1),),
        "without a NIC of its own PCIe switch",
    ),
    "cores of a NUMA node": (
        asked(Request(cpu_milli=9_000, aligned="numa"), 2),
        ((0, 0, A, 0, 0, 0, 1), (0, 1, A, 0, 0, 0, 1)),
        "place.numa a/numa0 would use 18000 cpu_milli of 16000",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_each_broken_promise_is_named(fleet: Fleet, case: str) -> None:
    workload, replicas, sentence = BROKEN[case]
    found = faults(fleet, workload, rows(*replicas))
    assert len(found) == 1, found
    assert sentence in found[0]


KEPT = {
    "a share each": (asked(Request(gpus=1, gpu_milli=500), 2), ((0, 0, A, 1, 0, 0, 0), (0, 1, A, 1, 0, 0, 0))),
    "two MIG instances": (asked(Request(gpus=1, mig="3g"), 2), ((0, 0, A, 1, 0, 0x0F, 0), (0, 1, A, 1, 0, 0xF0, 0))),
    "a gang in a rack": (asked(ONE, 2, GANG, together=(Together(level="place.rack"),)), PAIR),
    "a gang apart": (asked(ONE, 2, GANG, apart=(Apart(level="place.rack"),)), ACROSS),
    "a preference broken": (asked(ONE, 2, GANG, together=(Together(level="place.rack", required=False),)), ACROSS),
    "a smaller elastic gang": (asked(ONE, 2, GANG, min_replicas=1), ((0, 0, A, 1, 0, 0, 0),)),
    "part of an endpoint": (asked(ONE, 2, Kind.ENDPOINT), ((0, 1, A, 1, 0, 0, 0),)),
    "two NUMA nodes": (asked(Request(gpus=4, cpu_milli=32_000, aligned="numa")), ((0, 0, C - 1, 15, 0, 0, 3),)),
    "its own switch": (asked(Request(gpus=2, nics=2, aligned="pcie")), ((0, 0, A, 5, 5, 0, 3),)),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_is_allowed_passes(fleet: Fleet, case: str) -> None:
    workload, replicas = KEPT[case]
    if case == "two NUMA nodes":  # 4 GPUs draw 1,200 W: more than its rack has, so give the rack more
        fleet = fleet.replaced(node_gpu_power_w=np.full(5, 100, np.int32))
    assert faults(fleet, workload, rows(*replicas)) == ()


def test_mig_and_a_share_do_not_mix(fleet: Fleet) -> None:
    roles = (Role(name="m", request=Request(gpus=1, mig="1g")), Role(name="s", request=Request(gpus=1, gpu_milli=100)))
    found = faults(fleet, Workload(name="w", roles=roles), rows((0, 0, A, 1, 0, 1, 0), (1, 0, A, 1, 0, 0, 0)))
    assert found == ("GPU 0 of a is shared and partitioned at once",)


def test_caps_count_what_the_tenant_holds_already(fleet: Fleet) -> None:
    policy = Policy(name="capped", caps=(Cap(level="place.rack", resource="gpu_milli", amount=1000),))
    view = View(fleet=fleet).with_placed([(Workload(name="old"), rows((0, 0, A, 0, 0, 0, 0)))])
    held = view.with_placed([(asked(Request(gpus=1)), rows((0, 0, B, 1, 0, 0, 0)))])
    more = Workload(name="more", roles=(Role(request=ONE),))
    plan = Plan(pending=(more,), placements=(Placement(workload=more, rows=rows((0, 0, A, 1, 0, 0, 0))),))
    assert violations(view, plan, policy) == ()
    assert violations(held, plan, policy) == ("default would use 2000 gpu_milli in place.rack r0; the cap is 1000",)


def test_every_pending_workload_gets_an_answer(fleet: Fleet) -> None:
    one, view = asked(ONE, 1, GANG), View(fleet=fleet)
    reason = Reason(workload=one.id, code="wait.capacity", constraint="", sentence="No room.")
    placement = Placement(workload=one, rows=rows((0, 0, A, 1, 0, 0, 0)))
    assert violations(view, Plan(pending=(one,))) == ("default/w is neither placed nor given a reason",)
    assert violations(view, Plan(pending=(one,), reasons=(reason,))) == ()
    assert violations(view, Plan(pending=(one,), placements=(placement,), reasons=(reason,))) == (
        "default/w is placed and given a reason at once",
    )
    assert "default/w is placed but was not pending" in violations(view, Plan(pending=(), placements=(placement,)))


def test_an_overfull_view_is_told_but_not_blamed_on_a_plan(fleet: Fleet) -> None:
    greedy = Workload(name="old", roles=(Role(request=Request(cpu_milli=40_000)),))
    view = View(fleet=fleet).with_placed([(greedy, rows((0, 0, A, 0, 0, 0, 0)))])
    assert view_violations(view) == ("place.node a would use 40000 cpu_milli of 32000",)
    one = asked(ONE)
    plan = Plan(pending=(one,), placements=(Placement(workload=one, rows=rows((0, 0, A, 1, 0, 0, 0))),))
    assert violations(view, plan) == ()
