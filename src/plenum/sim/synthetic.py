"""A generated stand-in for the public openb trace, for where the data folder is absent, and a default fleet for jobs.

Everything below was measured on the published openb files (Alibaba, Apache-2.0), then rounded:

- ``NODE_MIX``: every distinct (model, GPUs, cores, GiB) of the node list with the number of its nodes, memory rounded to
  16 GiB: 1,213 nodes, 6,212 GPUs, 7 models. Groups are exact, so the fleet is the published one but for that rounding.
- ``POD_MIX``: of the ``default`` pod list, the share of pods (in 1/10,000) of each class: no GPU 1,335, one shared GPU
  3,776, one whole GPU 4,798, two 20, four 18, eight 54. Within a class, requests were rounded to cores (to 100 milli below
  4 cores) and GiB and counted; requests rarer than about 0.3 % of all pods were dropped and the rest scaled to the class's
  share. This keeps the histogram of shares (810 milli is the most wanted) and its tie to cores and memory per GPU.
- ``MODEL_MIX``: of the ``gpuspec20`` list, where a fifth of the GPU pods name a model, the four lists named most.
- ``DEMAND_RATIO``: demand that arrives over the fleet's GPUs, as in the published replays (130 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from plenum.graph.build import Device, FleetBuilder
from plenum.model import CPU, GPU, MEMORY, PODS, DeviceKind, Fleet, Request
from plenum.sim.trace import Arrivals, ArrivalTrace

GIB = 2**30

NODE_MIX = (
    ("A10", 1, 128, 1024, 2),
    ("G2", 8, 96, 384, 549),
    ("G3", 8, 128, 768, 39),
    ("P100", 1, 8, 64, 3),
    ("P100", 2, 8, 64, 2),
    ("P100", 2, 16, 112, 107),
    ("P100", 2, 64, 256, 22),
    ("T4", 2, 104, 512, 387),
    ("T4", 4, 96, 384, 17),
    ("V100M16", 1, 8, 32, 19),
    ("V100M16", 4, 32, 128, 28),
    ("V100M16", 8, 64, 256, 7),
    ("V100M16", 8, 82, 336, 1),
    ("V100M32", 4, 48, 368, 9),
    ("V100M32", 8, 96, 768, 21),
)
"""(model, GPUs, cores, GiB, nodes)."""

POD_MIX = (
    # Without a GPU.
    (472, 0, GPU, 12_000, 56),
    (362, 0, GPU, 32_000, 48),
    (219, 0, GPU, 8_000, 30),
    (152, 0, GPU, 15_000, 50),
    (130, 0, GPU, 16_000, 50),
    # A share of one.
    (1_439, 1, 810, 3_200, 5),
    (43, 1, 810, 4_000, 10),
    (326, 1, 650, 12_000, 46),
    (103, 1, 590, 3_200, 5),
    (99, 1, 550, 4_000, 10),
    (533, 1, 470, 12_000, 46),
    (495, 1, 470, 8_000, 30),
    (70, 1, 460, 6_000, 6),
    (62, 1, 370, 4_000, 10),
    (153, 1, 320, 4_000, 22),
    (166, 1, 320, 4_000, 15),
    (99, 1, 320, 8_000, 30),
    (115, 1, 230, 4_000, 30),
    (73, 1, 160, 4_000, 15),
    # One.
    (1_157, 1, GPU, 11_000, 48),
    (721, 1, GPU, 11_000, 47),
    (635, 1, GPU, 3_200, 5),
    (344, 1, GPU, 19_000, 63),
    (263, 1, GPU, 10_000, 41),
    (217, 1, GPU, 12_000, 46),
    (349, 1, GPU, 12_000, 24),
    (213, 1, GPU, 16_000, 57),
    (146, 1, GPU, 16_000, 32),
    (214, 1, GPU, 8_000, 20),
    (140, 1, GPU, 4_000, 24),
    (126, 1, GPU, 14_000, 57),
    (113, 1, GPU, 24_000, 91),
    (160, 1, GPU, 11_000, 76),
    # Several.
    (15, 2, GPU, 16_000, 65),
    (5, 2, GPU, 30_000, 157),
    (18, 4, GPU, 32_000, 128),
    (27, 8, GPU, 64_000, 257),
    (23, 8, GPU, 88_000, 320),
    (4, 8, GPU, 120_000, 720),
)
"""(weight, GPUs, milli of each, milli-cores, GiB)."""

MODEL_MIX = ((718, ("T4",)), (213, ("G2",)), (212, ("P100",)), (95, ("V100M16", "V100M32")))
"""(weight, models), for pods of one GPU that name any."""

N_PODS = 8_152
DEMAND_RATIO = 1.3
MAX_PODS_PER_NODE = 1_001


def synthetic_trace(seeds: Sequence[int], *, list_seed: int = 0, named_model_share: float = 0.0) -> ArrivalTrace:
    """Generate a trace statistically similar to openb; the same arguments give the same trace.

    Parameters
    ----------
    seeds
        One order of arrival each.
    list_seed
        Seed of the pod list, common to all orders.
    named_model_share
        Share of the pods with one GPU that name a model: 0 in openb's ``default``, about 0.2 in ``gpuspec20``.
    """
    fleet = openb_like_fleet()
    pods = _pod_list(np.random.default_rng(list_seed), named_model_share)
    demand = np.array([pod.total_gpu_milli for pod in pods], np.int64)
    target = DEMAND_RATIO * GPU * fleet.n_gpus
    arrivals = {
        seed: _arrivals(np.random.default_rng([list_seed, seed]), demand, target, fleet.n_nodes) for seed in seeds
    }
    return ArrivalTrace.of_pods("synthetic", fleet, pods, arrivals)


def openb_like_fleet() -> Fleet:
    """Return the 1,213 nodes of :data:`NODE_MIX`."""
    builder = FleetBuilder("openb-like")
    number = 0
    for model, gpus, cores, gib, count in NODE_MIX:
        for _ in range(count):
            builder.node(
                f"node-{number:04d}",
                budgets={CPU: 1000 * cores, MEMORY: gib * GIB, PODS: MAX_PODS_PER_NODE},
                devices=[Device(kind=DeviceKind.GPU, model=model)] * gpus,
            )
            number += 1
    return builder.build()


def training_fleet(nodes: int = 96, gpus_per_node: int = 8, nodes_per_leaf: int = 16) -> Fleet:
    """Return a plain training cluster: full nodes under leaf switches under one spine.

    The default, 768 GPUs, lies between the median (626) and the 90th percentile (828) of what Philly's jobs would hold at
    once if none ever waited: there is a queue, and it empties.
    """
    builder = FleetBuilder("training")
    builder.domain("fabric.spine", "spine", parent=None)
    for number in range(nodes):
        leaf = f"leaf-{number // nodes_per_leaf:02d}"
        builder.domain("fabric.leaf", leaf, parent="fabric.spine:spine")
        builder.node(
            f"node-{number:03d}",
            domains={"fabric": f"fabric.leaf:{leaf}"},
            budgets={CPU: 96_000, MEMORY: 768 * GIB, PODS: 110},
            devices=[Device(kind=DeviceKind.GPU, model="V100M32")] * gpus_per_node,
        )
    return builder.build()


def _pod_list(rng: np.random.Generator, named_model_share: float) -> list[Request]:
    kinds = [
        Request(gpus=gpus, gpu_milli=milli, cpu_milli=cpu_milli, memory_bytes=gib * GIB)
        for _, gpus, milli, cpu_milli, gib in POD_MIX
    ]
    drawn = [kinds[k] for k in rng.choice(len(kinds), N_PODS, p=_shares([row[0] for row in POD_MIX]))]
    if not named_model_share:
        return drawn
    named = rng.random(N_PODS) < named_model_share
    models = rng.choice(len(MODEL_MIX), N_PODS, p=_shares([weight for weight, _ in MODEL_MIX]))
    return [
        replace(pod, gpu_models=MODEL_MIX[model][1]) if name and pod.gpus == 1 else pod
        for pod, name, model in zip(drawn, named, models, strict=True)
    ]


def _arrivals(rng: np.random.Generator, demand: NDArray[np.int64], target: float, n_nodes: int) -> Arrivals:
    """Add pods drawn again from the list until the demand reaches the target, and shuffle, as the published replays do."""
    order = np.arange(len(demand))
    missing = target - demand.sum()
    if missing > 0:
        again = rng.integers(0, len(demand), 4 * len(demand))
        order = np.concatenate([order, again[: np.searchsorted(np.cumsum(demand[again]), missing) + 1]])
    rng.shuffle(order)
    return Arrivals(order=order.astype(np.int32), node_rank=rng.permutation(n_nodes).astype(np.int32))


def _shares(weights: list[int]) -> NDArray[np.float64]:
    return np.array(weights, np.float64) / sum(weights)
