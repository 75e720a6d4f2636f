"""Totals of every tree, counted by hand."""

from __future__ import annotations

import numpy as np
from tests.fleets import gpu_nodes

from plenum.graph.occupancy import children_of, occupancy
from plenum.model import Request, Role, Rows, View, Workload


def numbers(view: View, path: str) -> dict[str, int]:
    fleet = view.fleet
    domain = [fleet.domain_path(d).replace(" ", ":", 1) for d in range(len(fleet.domain_name))].index(path)
    full = occupancy(view)
    return {name: int(getattr(full, name)[domain]) for name in full.__dataclass_fields__}


def test_an_empty_fleet_counts_nodes_and_gpus() -> None:
    view = View(fleet=gpu_nodes(leaves=2, racks_per_leaf=2, nodes_per_rack=2, cordoned=("n0",)))
    pod, rack = numbers(view, "fabric.pod:p0"), numbers(view, "place.rack:r0")
    assert (pod["nodes"], pod["gpus"], pod["closed"]) == (8, 64, 1)
    assert (rack["nodes"], rack["gpus"], rack["gpu_used_milli"]) == (2, 16, 0)


def test_shares_and_whole_gpus_add_up_the_tree() -> None:
    fleet = gpu_nodes()
    shared = Workload(name="s", roles=(Role(request=Request(gpus=1, gpu_milli=300, cpu_milli=500, memory_bytes=7)),))
    whole = Workload(name="w", roles=(Role(request=Request(gpus=2, cpu_milli=1000, extra=(("power_w", 11),))),))
    rows = Rows(
        workload=np.array([0, 1], np.int32),
        role=np.zeros(2, np.int16),
        rank=np.zeros(2, np.int32),
        node=np.array([0, 1], np.int32),
        gpu_mask=np.array([1 << 7, 0b11], np.uint64),
        nic_mask=np.zeros(2, np.uint64),
        mig_mask=np.zeros(2, np.uint8),
        numa_mask=np.zeros(2, np.uint8),
    )
    view = View(fleet=fleet, running=(shared, whole), rows=rows)
    rack = numbers(view, "place.rack:r0")
    assert (rack["gpu_used_milli"], rack["cpu_used_milli"], rack["memory_used_bytes"]) == (2300, 1500, 7)
    assert rack["power_used_w"] == int(fleet.node_gpu_power_w[0]) * 300 // 1000 + 11
    assert numbers(view, "place.numa:n0/numa1")["gpu_used_milli"] == 300
    assert numbers(view, "place.numa:n0/numa0")["gpu_used_milli"] == 0
    assert numbers(view, "place.rack:r1")["gpu_used_milli"] == 0


def test_a_domains_own_budget_comes_before_the_sum_of_its_nodes() -> None:
    view = View(fleet=gpu_nodes(rack_power_w=1234))
    assert numbers(view, "power.rack:r0")["power_w"] == 1234


def test_children_cover_an_axis_once() -> None:
    fleet = gpu_nodes()
    tops, below = children_of(fleet, "fabric")
    seen = [*tops, *(d for under in below.values() for d in under)]
    assert [fleet.domain_path(d) for d in tops] == ["fabric.pod p0"]
    assert len(seen) == len(set(seen)) == 1 + 1 + 2
