"""An estimate of what a gang's collectives cost where its ranks lie.

Rank r of a job of tp x dp x pp GPUs is (tp fastest, then dp, then pp), Megatron-LM's default. Each parallel dimension runs its own
collectives in groups; a group is as slow as the highest level of the tree that it crosses. The volumes are reference values for
one training step of a mid-sized transformer, there to weigh dimensions against one another, not to predict seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import Cluster
from plenum.model.fleet import LEVEL, DeviceKind
from plenum.model.plan import CommunicationCost
from plenum.model.workload import Parallelism

CROSSED = ("scaleup.nvlink", "fabric.leaf", "fabric.spine", "fabric.pod")
"""Levels that traffic may stay inside, tightest first; what crosses all of them goes over the core."""

SCALEUP_BPS = 3.6e12
"""Bit/s one way for each GPU inside a scale-up domain: NVLink 4 at 450 GB/s (NVIDIA H100 data sheet: 900 GB/s both ways)."""

HOST_BPS = 4.0e11
"""Bit/s between GPUs of a node without NVLink: PCIe 4.0 x16 carries about 25 GB/s each way, PCIe 5.0 twice that."""

NIC_BPS = 1.0e11
"""Bit/s of a node's network where the fleet does not say: 100 Gb/s."""

HOP_S = {0: 1e-6, 1: 4e-6, 2: 6e-6, 3: 8e-6, 4: 10e-6, 5: 12e-6}
"""Seconds of latency of one message by how many levels it crosses: about 2 us a switch tier on top of the NIC's."""

VOLUME_BYTES = {"tp": 16e9, "ep": 8e9, "dp": 4e9, "pp": 0.5e9}
"""Reference bytes a GPU puts into the collectives of each dimension in one step.

tp moves activations twice a layer forward and backward, ep tokens to experts, dp the gradients once, pp activations of micro-batches: the
order tp > ep > dp > pp is that of Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using
Megatron-LM", SC 2021, section 3.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Paths:
    """Bandwidth of a cluster by the level that traffic stays inside.

    Parameters
    ----------
    levels
        Level ids of :data:`CROSSED` that the fleet has.
    bps
        (len(levels) + 2,) bit/s a GPU can send while traffic stays in its node, within each level, and across all.
    largest
        Same length: GPUs of the largest domain of each level (node first, the whole fleet last).
    """

    levels: tuple[int, ...]
    names: tuple[str, ...]
    bps: NDArray[np.float64]
    largest: NDArray[np.int64]


def paths_of(cluster: Cluster, usable: NDArray[np.bool_] | None = None) -> Paths:
    """Read bandwidths off a fleet, or off its ``usable`` (N,) nodes: NICs of nodes, ``uplink_bps`` budgets of domains.

    A level's bandwidth for one GPU is the NIC's share, or, above the first level, the median domain's uplink divided by the GPUs
    below it where the fleet states one.
    """
    fleet = cluster.fleet
    gpus = cluster.nodes.gpu_count.astype(np.int64)
    if usable is not None:
        gpus = np.where(usable, gpus, 0)
    with_gpus = gpus > 0
    levels = tuple(LEVEL[name] for name in CROSSED if len(cluster.level_domains[LEVEL[name]]))
    names = ("node", *(name for name in CROSSED if LEVEL[name] in levels), "core")
    nic = fleet.device_kind == DeviceKind.NIC
    node_bps = np.bincount(fleet.device_node[nic], weights=fleet.device_capacity[nic], minlength=cluster.n)
    per_gpu = node_bps[with_gpus & (node_bps > 0)] / gpus[with_gpus & (node_bps > 0)]
    network = float(np.median(per_gpu)) if len(per_gpu) else NIC_BPS
    scaleup = LEVEL["scaleup.nvlink"]
    linked = bool((cluster.level_domain[scaleup][with_gpus] >= 0).any())
    bps = [SCALEUP_BPS if linked else HOST_BPS]
    largest = [int(gpus.max(initial=1))]
    ceiling = network
    for level in levels:
        inside = cluster.level_domain[level]
        size = np.bincount(inside[inside >= 0], weights=gpus[inside >= 0], minlength=len(cluster.level_domains[level]))
        largest.append(int(size.max(initial=0)))
        bps.append(SCALEUP_BPS if level == scaleup else ceiling)
        if level != scaleup:
            ceiling = min(ceiling, _uplink_per_gpu(cluster, level, size))
    bps.append(ceiling)
    largest.append(int(gpus.sum()))
    return Paths(levels=levels, names=names, bps=np.array(bps), largest=np.array(largest))


def _uplink_per_gpu(cluster: Cluster, level: int, size: NDArray[Any]) -> float:
    fleet = cluster.fleet
    if "uplink_bps" not in fleet.resources:
        return math.inf
    which = (fleet.budget_resource == fleet.resources.index("uplink_bps")) & (
        fleet.domain_level[fleet.budget_domain] == level
    )
    local = np.searchsorted(cluster.level_domains[level], fleet.budget_domain[which])
    busy = size[local] > 0
    rates = fleet.budget_capacity[which][busy] / size[local][busy]
    return float(np.median(rates)) if len(rates) else math.inf


def tiers_of(cluster: Cluster, paths: Paths, groups: NDArray[np.integer]) -> int:
    """Return the tightest of (node, *paths.levels, core), by index, that every group stays inside; ``groups`` (groups, members)."""
    if (groups == groups[:, :1]).all():
        return 0
    for i, level in enumerate(paths.levels):
        domain = cluster.level_domain[level][groups]
        if (domain[:, :1] >= 0).all() and (domain == domain[:, :1]).all():
            return i + 1
    return len(paths.levels) + 1


def collective_s(members: int, volume_bytes: float, bps: float, hop_s: float) -> tuple[float, Literal["ring", "tree"]]:
    """Seconds of an all-reduce, the faster of ring and tree.

    Ring: 2(n-1) steps of volume/n; tree: 2 log2 n hops, each byte up and down once (Thakur, Rabenseifner and Gropp, "Optimization
    of Collective Communication Operations in MPICH", IJHPCA 19 (2005); NCCL's double binary tree).
    """
    seconds_a_byte = 8.0 / bps
    ring = 2 * (members - 1) * (hop_s + volume_bytes / members * seconds_a_byte)
    tree = 2 * math.ceil(math.log2(members)) * hop_s + 2 * volume_bytes * seconds_a_byte
    return (ring, "ring") if ring <= tree else (tree, "tree")


def communication_cost(
    cluster: Cluster, paths: Paths, node: NDArray[np.integer], parallelism: Parallelism
) -> CommunicationCost:
    """Estimate a gang's communication where it lies.

    Parameters
    ----------
    node
        (W,) the node of each GPU in rank order. If ``parallelism`` does not multiply to W, all W count as one dp group.
    """
    node = np.asarray(node)
    if parallelism.gpus != len(node):
        parallelism = Parallelism(dp=max(len(node), 1))
    cube = node.reshape(parallelism.pp, parallelism.dp, parallelism.tp)
    groups = {
        "tp": (cube.reshape(-1, parallelism.tp), parallelism.tp),
        "ep": (node.reshape(-1, parallelism.ep), parallelism.ep),
        "dp": (np.moveaxis(cube, 1, 2).reshape(-1, parallelism.dp), parallelism.dp * parallelism.tp),
        "pp": (np.moveaxis(cube, 0, 2).reshape(-1, parallelism.pp), parallelism.gpus),
    }
    total = best = worst = 0.0
    bottleneck, slowest, algorithm = "node", "tp", "none"
    for dimension, (members, extent) in groups.items():
        size = members.shape[1]
        if size == 1:
            continue
        tier = tiers_of(cluster, paths, members)
        seconds, kind = _dimension_s(dimension, size, paths, tier)
        ideal = int(np.argmax(paths.largest >= extent)) if (paths.largest >= extent).any() else len(paths.largest) - 1
        total += seconds
        best += _dimension_s(dimension, size, paths, min(ideal, tier))[0]
        if seconds > worst:
            worst, bottleneck, slowest, algorithm = seconds, paths.names[tier], dimension, kind
    return CommunicationCost(
        bottleneck=bottleneck,
        dimension=slowest,
        algorithm=algorithm,
        step_s=total,
        relative=total / best if best > 0 else 1.0,
    )


def _dimension_s(dimension: str, size: int, paths: Paths, tier: int) -> tuple[float, Literal["ring", "tree"]]:
    bps, hop_s = float(paths.bps[tier]), HOP_S[min(tier, max(HOP_S))]
    if dimension == "pp":  # point to point between neighbouring stages
        return hop_s + VOLUME_BYTES["pp"] * 8.0 / bps, "ring"
    return collective_s(size, VOLUME_BYTES[dimension], bps, hop_s)
