"""Requests as rows of numbers: equal requests share one shape, so that every cache is kept once a shape."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plenum.graph.cluster import Cluster
from plenum.model.fleet import CPU, GPU_MILLI, MEMORY, PODS, POWER
from plenum.model.workload import MIG_SLICES, Request

ALIGNED = {"": 0, "numa": 1, "pcie": 2}

MAX_SHAPES = 1 << 20
"""Distinct requests one engine will hold."""


class ShapeArrays(NamedTuple):
    """S shapes as arrays.

    ``need`` (S, R) is the demand of one replica in the cluster's columns; its ``power_w`` is -1 where it follows from the
    node's watts a GPU. ``mig`` is the number of memory eighths (0: no MIG) and ``mig_profile`` the profile's number.
    ``allowed`` (S, N): the node's model, traits, HBM and health permit the shape, whatever is free.
    """

    need: NDArray[np.int64]
    gpus: NDArray[np.int32]
    milli: NDArray[np.int32]
    mig: NDArray[np.int32]
    mig_profile: NDArray[np.int32]
    nics: NDArray[np.int32]
    aligned: NDArray[np.int32]
    allowed: NDArray[np.bool_]


class Shapes:
    """Interned requests of one cluster; grows by doubling."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ids: dict[Request, int] = {}
        self.requests: list[Request] = []
        self.arrays = _empty(cluster, 16)

    def __len__(self) -> int:
        return len(self.requests)

    def intern(self, request: Request) -> int:
        """Return the shape id of a request."""
        known = self._ids.get(request)
        if known is not None:
            return known
        s = len(self.requests)
        if s == len(self.arrays.gpus):
            self.arrays = _grown(self.arrays, 2 * s)
        self._fill(s, request)
        self._ids[request] = s
        self.requests.append(request)
        return s

    def _fill(self, s: int, request: Request) -> None:
        a, cluster = self.arrays, self._cluster
        column = {name: i for i, name in enumerate(cluster.columns)}
        a.need[s] = 0
        amounts = {
            CPU: request.cpu_milli,
            MEMORY: request.memory_bytes,
            PODS: 1,
            GPU_MILLI: request.total_gpu_milli,
            POWER: -1,
        }
        known = True
        for name, amount in (amounts | dict(request.extra)).items():
            if name in column:
                a.need[s, column[name]] = amount
            else:
                known = known and amount == 0
        a.gpus[s], a.milli[s] = request.gpus, request.gpu_milli if request.gpus else 0
        a.mig[s] = MIG_SLICES[request.mig] if request.mig else 0
        a.mig_profile[s] = list(MIG_SLICES).index(request.mig) if request.mig else -1
        a.nics[s], a.aligned[s] = request.nics, ALIGNED[request.aligned]
        a.allowed[s] = allowed_nodes(cluster, request) & known


def allowed_nodes(cluster: Cluster, request: Request) -> NDArray[np.bool_]:
    """(N,) whether health, model, traits and HBM permit the request on each node, whatever is free."""
    fleet = cluster.fleet
    ok = cluster.schedulable.copy()
    for trait in request.traits:
        ok &= fleet.node_traits[:, fleet.traits.index(trait)] if trait in fleet.traits else False
    if request.gpus:
        ok &= cluster.nodes.gpu_count >= request.gpus
        if request.gpu_models:
            wanted = np.uint64(sum(1 << i for i, model in enumerate(fleet.models) if request.accepts(model)))
            ok &= (cluster.gpu_model_bits & ~wanted) == 0
        if request.mig and "mig" in fleet.traits:  # where no node says so, nothing is known
            ok &= fleet.node_traits[:, fleet.traits.index("mig")]
        if request.hbm_bytes:
            ok &= cluster.hbm_bytes >= request.hbm_bytes
    return ok


def _empty(cluster: Cluster, size: int) -> ShapeArrays:
    n, r = cluster.n, len(cluster.columns)
    flat = (np.zeros(size, np.int32) for _ in range(6))
    return ShapeArrays._make((np.zeros((size, r), np.int64), *flat, np.zeros((size, n), bool)))


def _grown(arrays: ShapeArrays, size: int) -> ShapeArrays:
    def grow(old: NDArray) -> NDArray:
        new = np.zeros((size, *old.shape[1:]), old.dtype)
        new[: len(old)] = old
        return new

    return ShapeArrays._make(grow(a) for a in arrays)
