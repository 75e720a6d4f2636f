"""What lists of nodes show, read off a fleet."""

from __future__ import annotations

import numpy as np

from plenum.control.events import NodeFacts
from plenum.graph.cluster import CPU_COLUMN, MEMORY_COLUMN, UNLIMITED, Cluster
from plenum.graph.occupancy import own_budgets
from plenum.graph.validate import UPLINK
from plenum.model.fleet import AXES, AXIS, LEVEL, DeviceKind, Fleet


def node_facts(fleet: Fleet) -> tuple[NodeFacts, ...]:
    """Return a line a node, in the fleet's order."""
    gpu = fleet.device_kind == DeviceKind.GPU
    gpus = np.bincount(fleet.device_node[gpu], minlength=fleet.n_nodes).tolist()
    model = {int(n): fleet.models[m] for n, m in zip(fleet.device_node[gpu], fleet.device_model[gpu], strict=True)}
    capacity = Cluster.of(fleet).capacity
    sites, uplinks = _sites(fleet), _uplinks(fleet)
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
            site=sites[n],
            site_bps=uplinks.get(sites[n], 0),
        )
        for n in range(fleet.n_nodes)
    )


def _uplinks(fleet: Fleet) -> dict[str, int]:
    """Return at what rate each site reaches what is outside it, of those that say so."""
    domains, rates = own_budgets(fleet, UPLINK)
    known = zip(domains.tolist(), rates.tolist(), strict=True)
    return {fleet.domain_name[n]: rate for n, rate in known if fleet.domain_level[n] == LEVEL["place.site"]}


def _sites(fleet: Fleet) -> list[str]:
    """Return the site that each node stands at; empty where none was described."""
    at = fleet.node_home[AXIS["place"]]
    for _ in AXES[AXIS["place"]].levels:
        below = (at >= 0) & (fleet.domain_level[at] != LEVEL["place.site"])
        at = np.where(below, fleet.domain_parent[at], at)
    return [fleet.domain_name[n] if n >= 0 else "" for n in at.tolist()]
