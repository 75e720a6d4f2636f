"""The builder: what it numbers, shares between equal nodes, and refuses."""

from __future__ import annotations

import numpy as np
import pytest

from plenum.graph.build import Device, FleetBuilder, NodeShape
from plenum.model import AXES, DeviceKind, FieldError, Fleet, Health
from plenum.model.fleet import AXIS

GPU, NIC = DeviceKind.GPU, DeviceKind.NIC


def one_node(**changes: object) -> FleetBuilder:
    b = FleetBuilder("f")
    b.domain("place.rack", "r0", parent=None)
    b.domain("fabric.leaf", "l0", parent=None)
    b.domain("fabric.rail", "l0/rail0", parent="fabric.leaf:l0")
    b.node("n0", domains={"place": "place.rack:r0", "fabric": "fabric.leaf:l0"}, **changes)  # type: ignore[arg-type]
    return b


def path_of(fleet: Fleet, device: int, axis: str) -> str:
    return fleet.domain_path(int(fleet.device_domain[AXIS[axis], device]))


def test_devices_stand_by_node_kind_and_index_whatever_order_they_came_in() -> None:
    devices = [Device(kind=NIC, pcie="s1", numa=1), Device(kind=GPU, pcie="s0", numa=0), Device(kind=GPU, numa=1)]
    fleet = one_node(devices=devices, numa_cpu_milli=[1000, 2000]).build()
    assert fleet.device_kind.tolist() == [GPU, GPU, NIC]
    assert fleet.device_index.tolist() == [0, 1, 0]
    assert [path_of(fleet, d, "place") for d in range(3)] == [
        "place.pcie n0/s0",
        "place.numa n0/numa1",
        "place.pcie n0/s1",
    ]


def test_parents_stand_before_children_and_levels_together() -> None:
    fleet = one_node(devices=[Device(kind=GPU, numa=0, pcie="s")]).build()
    parents = fleet.domain_parent
    assert all(p < i for i, p in enumerate(parents.tolist()))
    assert fleet.domain_level.tolist() == sorted(fleet.domain_level.tolist())


def test_patterns_place_a_device_by_the_nodes_domain() -> None:
    fleet = one_node(devices=[Device(kind=NIC, domains={"fabric.rail": "{home}/rail0"}), Device(kind=GPU)]).build()
    assert path_of(fleet, 1, "fabric") == "fabric.rail l0/rail0"
    assert path_of(fleet, 0, "fabric") == "fabric.leaf l0"


def test_a_node_pattern_finds_a_domain_of_each_node() -> None:
    b = FleetBuilder("f")
    for name in ("a", "b"):
        b.domain("scaleup.nvlink", f"{name}/pair", parent=None)
    b.nodes(["a", "b"], NodeShape(devices=(Device(kind=GPU, domains={"scaleup.nvlink": "{node}/pair"}),)))
    fleet = b.build()
    assert [path_of(fleet, d, "scaleup") for d in (0, 1)] == ["scaleup.nvlink a/pair", "scaleup.nvlink b/pair"]


def test_many_nodes_at_once_equal_the_same_nodes_one_by_one() -> None:
    shape = NodeShape(
        budgets={"memory_bytes": 5, "cpu_milli": 3000},
        numa_cpu_milli=(1000, 2000),
        devices=(Device(kind=GPU, model="A", numa=1, pcie="s"), Device(kind=NIC, numa=0, capacity=7)),
        gpu_power_w=9,
        traits=("x",),
    )
    together, apart = FleetBuilder("f"), FleetBuilder("f")
    for b in (together, apart):
        for rack in ("r0", "r1"):
            b.domain("place.rack", rack, parent=None)
    homes = ["place.rack:r0", "place.rack:r1", "place.rack:r0"]
    together.nodes(["a", "b", "c"], shape, domains={"place": homes})
    for name, home in zip("abc", homes, strict=True):
        apart.node(
            name,
            domains={"place": home},
            budgets=shape.budgets,
            numa_cpu_milli=shape.numa_cpu_milli,
            devices=shape.devices,
            gpu_power_w=9,
            traits=("x",),
        )
    one, other = together.build(), apart.build()
    assert one.domain_name == other.domain_name
    for column in (
        "domain_parent",
        "node_home",
        "device_domain",
        "device_capacity",
        "budget_domain",
        "budget_capacity",
    ):
        np.testing.assert_array_equal(getattr(one, column), getattr(other, column))


def test_marks_change_a_node_and_its_devices() -> None:
    b = one_node(devices=[Device(kind=GPU), Device(kind=GPU), Device(kind=NIC)])
    b.mark("n0", health=Health.DEGRADED, cordoned=True, traits=("late",), devices={(GPU, 1): Health.DOWN})
    fleet = b.build()
    assert fleet.device_health.tolist() == [0, Health.DOWN, 0]
    assert (fleet.node_health.tolist(), fleet.node_cordoned.tolist()) == ([Health.DEGRADED], [True])
    assert fleet.traits == ("late",)
    with pytest.raises(FieldError, match="has no GPU 2; it has 2"):
        b.mark("n0", devices={(GPU, 2): Health.DOWN})


@pytest.mark.parametrize(
    ("level", "name", "parent", "sentence"),
    [
        ("place.rck", "r", None, "there is no level 'place.rck'"),
        ("place.rack", "", None, "needs a name"),
        ("place.rack", "a{b", None, "brace"),
        ("place.rack", "a\nb", None, "cannot be printed"),
        ("place.rack", "r1", "place.rack:r0", "so that trees have no cycles"),
        ("place.row", "w0", "place.rack:r0", "so that trees have no cycles"),
        ("fabric.leaf", "l1", "place.rack:r0", "on the same axis"),
        ("place.rack", "r1", "place.row:none", "there is no place.row:none"),
        ("fabric.rail", "l0/rail0", None, "is in two places, fabric.leaf:l0 and the top"),
        ("place.node", "n9", None, "come with their node"),
    ],
)
def test_domains_that_cannot_be(level: str, name: str, parent: str | None, sentence: str) -> None:
    with pytest.raises(FieldError, match=sentence):
        one_node().domain(level, name, parent=parent)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"budgets": {"cpu_milli": -1}}, "whole number of at least 0"),
        ({"numa_cpu_milli": [1] * 9}, "at most 8"),
        ({"devices": [Device(kind=GPU)] * 65}, "more than 64 GPUs"),
        ({"devices": [Device(kind=GPU, numa=8)]}, "NUMA node 8"),
        ({"devices": [Device(kind=GPU, numa=0, pcie="s"), Device(kind=GPU, numa=1, pcie="s")]}, "in two NUMA nodes"),
        ({"devices": [Device(kind=GPU, domains={"fabric.rail": "{home}/rail7"})]}, "there is no fabric.rail:l0/rail7"),
    ],
)
def test_nodes_that_cannot_be(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(FieldError, match=sentence):
        one_node(**changes)


def test_a_node_is_in_one_place() -> None:
    b = one_node()
    with pytest.raises(FieldError, match="listed twice"):
        b.node("n0")
    with pytest.raises(FieldError, match="not on the axis place"):
        b.node("n1", domains={"place": "fabric.leaf:l0"})
    with pytest.raises(FieldError, match="there is no axis 'rack'"):
        b.node("n1", domains={"rack": "place.rack:r0"})


def test_a_fleet_has_a_node_and_a_budget_is_given_once() -> None:
    with pytest.raises(FieldError, match="at least one node"):
        FleetBuilder("f").build()
    b = one_node()
    b.budget("place.rack:r0", "power_w", 5)
    b.budget("place.rack:r0", "power_w", 5)
    with pytest.raises(FieldError, match="two budgets"):
        b.budget("place.rack:r0", "power_w", 6)
    assert len(AXES) == len(b.build().node_home)
