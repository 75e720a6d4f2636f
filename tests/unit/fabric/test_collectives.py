"""Collectives cost what the highest level they cross lets through."""

from __future__ import annotations

import numpy as np
import pytest
from tests.fleets import gpu_nodes

from plenum.fabric.collectives import collective_s, communication_cost, paths_of
from plenum.graph.build import Device, FleetBuilder
from plenum.graph.cluster import Cluster
from plenum.model import DeviceKind, Parallelism


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster.of(gpu_nodes())


def test_ring_wins_for_large_messages_and_tree_for_small_ones() -> None:
    assert collective_s(64, 1e9, 4e11, 4e-6)[1] == "ring"
    assert collective_s(64, 1e3, 4e11, 4e-6)[1] == "tree"


def test_ring_moves_two_times_n_minus_one_over_n_of_the_volume() -> None:
    seconds, _ = collective_s(4, 1e9, 8e9, 0.0)
    assert seconds == pytest.approx(2 * 3 / 4 * 1e9 * 8 / 8e9)


def test_bandwidth_falls_up_the_tree(cluster: Cluster) -> None:
    paths = paths_of(cluster)
    assert paths.names == ("node", "scaleup.nvlink", "fabric.leaf", "fabric.spine", "fabric.pod", "core")
    assert (np.diff(paths.bps) <= 0).all()
    assert paths.largest.tolist() == [8, 8, 32, 64, 64, 64]


def test_a_job_inside_its_node_pays_the_least(cluster: Cluster) -> None:
    paths = paths_of(cluster)
    near = communication_cost(cluster, paths, np.zeros(8, int), Parallelism(dp=8))
    far = communication_cost(cluster, paths, np.arange(8), Parallelism(dp=8))
    assert (near.bottleneck, near.relative) == ("node", 1.0)
    assert far.bottleneck == "fabric.spine"
    assert far.step_s > near.step_s
    assert far.relative > 1


def test_the_bottleneck_is_the_dimension_that_leaves(cluster: Cluster) -> None:
    node = np.repeat([0, 4], 8)  # two nodes in two leaves
    cost = communication_cost(cluster, paths_of(cluster), node, Parallelism(tp=8, dp=2))
    assert (cost.dimension, cost.bottleneck) == ("dp", "fabric.spine")


def test_an_oversubscribed_leaf_slows_what_leaves_it() -> None:
    def two_leaves(uplink_bps: int) -> Cluster:
        b = FleetBuilder("f")
        b.domain("fabric.spine", "s", parent=None)
        for leaf in range(2):
            b.domain("fabric.leaf", f"l{leaf}", parent="fabric.spine:s")
            b.budget(f"fabric.leaf:l{leaf}", "uplink_bps", uplink_bps)
            devices = [Device(kind=DeviceKind.GPU), Device(kind=DeviceKind.NIC, capacity=400 * 10**9)]
            b.node(f"n{leaf}", domains={"fabric": f"fabric.leaf:l{leaf}"}, devices=devices)
        return Cluster.of(b.build())

    full, quarter = two_leaves(400 * 10**9), two_leaves(100 * 10**9)
    fast = communication_cost(full, paths_of(full), np.arange(2), Parallelism(dp=2))
    slow = communication_cost(quarter, paths_of(quarter), np.arange(2), Parallelism(dp=2))
    assert slow.step_s == pytest.approx(4 * fast.step_s, rel=0.01)
