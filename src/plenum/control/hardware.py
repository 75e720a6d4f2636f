"""What lists of nodes show, read off a fleet."""

from __future__ import annotations

import numpy as np

from plenum.control.events import NodeFacts
from plenum.graph.cluster import CPU_COLUMN, MEMORY_COLUMN, UNLIMITED, Cluster
from plenum.model.fleet import DeviceKind, Fleet


def node_facts(fleet: Fleet) -> tuple[NodeFacts, ...]:
    """Return a line a node, in the fleet's order."""
    gpu = fleet.device_kind == DeviceKind.GPU
    gpus = np.bincount(fleet.device_node[gpu], minlength=fleet.n_nodes).tolist()
    model = {int(n): fleet.models[m] for n, m in zip(fleet.device_node[gpu], fleet.device_model[gpu], strict=True)}
    capacity = Cluster.of(fleet).capacity
    capacity = np.where(capacity >= UNLIMITED, 0, capacity)
    return tuple(
        NodeFacts(
            name=fleet.node_name(n),
            gpus=gpus[n],
            gpu_model=model.get(n, ""),
            cpu_milli=int(capacity[n, CPU_COLUMN]),
            memory_bytes=int(capacity[n, MEMORY_COLUMN]),
            power_w=int(fleet.node_gpu_power_w[n]),
            traits=tuple(t for t, has in zip(fleet.traits, fleet.node_traits[n].tolist(), strict=True) if has),
        )
        for n in range(fleet.n_nodes)
    )
