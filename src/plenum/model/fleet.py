"""The fleet: devices at the leaves of several trees, budgets on any domain, held as immutable arrays."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError

CPU, MEMORY, PODS, POWER, GPU_MILLI = "cpu_milli", "memory_bytes", "pods", "power_w", "gpu_milli"
"""Resources that every part of Plenum knows by name; any other name is as good."""

GPU = 1000
"""Milli-units of a whole GPU."""

MAX_GPUS_PER_NODE = 64
"""A node's GPUs are named by the bits of one uint64."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One tree over the devices: its name and its levels, top to bottom."""

    name: str
    levels: tuple[str, ...]


AXES = (
    Axis("place", ("site", "hall", "row", "rack", "node", "numa", "pcie")),
    Axis("fabric", ("pod", "spine", "leaf", "rail")),
    Axis("scaleup", ("nvlink",)),
    Axis("power", ("feed", "pdu", "rack")),
)
"""The axes of every fleet, in the order that arrays index them."""

AXIS = {axis.name: i for i, axis in enumerate(AXES)}
LEVELS: tuple[str, ...] = tuple(f"{axis.name}.{level}" for axis in AXES for level in axis.levels)
"""Every level as ``axis.level``; its place in this tuple is its level id."""
LEVEL = {name: i for i, name in enumerate(LEVELS)}
NODE_LEVEL = LEVEL["place.node"]


def level_id(name: str, field_name: str) -> int:
    """Return the id of ``axis.level``, or say which levels there are.

    Raises
    ------
    FieldError
        There is no such level.
    """
    if name not in LEVEL:
        raise FieldError(field_name, f"there is no level {name!r}; the levels are {', '.join(LEVELS)}")
    return LEVEL[name]


class DeviceKind(IntEnum):
    """What a leaf is. CPU cores and memory are budgets of their NUMA or node domain instead."""

    GPU = 0
    NIC = 1
    NVME = 2
    CXL = 3


class Health(IntEnum):
    """Whether new work may land on a node or device: only on healthy ones."""

    HEALTHY = 0
    DEGRADED = 1
    DOWN = 2


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous read-only copy."""
    copy: NDArray[Any] = np.array(array, order="C")
    copy.setflags(write=False)
    return copy


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fleet:
    """Hardware as struct-of-arrays: M domains, N nodes, D devices, B budgets.

    Built by :class:`plenum.graph.build.FleetBuilder`, which checks what the arrays cannot show. All
    arrays are read-only.

    Parameters
    ----------
    name
        What people call the fleet.
    domain_level
        (M,) int16, id in :data:`LEVELS`. A parent stands before its children.
    domain_parent
        (M,) int32, the domain above on the same axis; -1 at the top of a tree.
    domain_name
        M names, unique within a level.
    node_home
        (A, N) int32, the lowest domain that holds the whole node on each axis: on ``place`` its own ``place.node``
        domain; -1: the node is not in that tree as a whole.
    node_gpu_power_w
        (N,) int32, watts that one busy GPU of the node adds; 0 where unknown.
    node_traits
        (N, T) bool over ``traits``.
    node_health, node_cordoned
        (N,) uint8 and bool.
    device_kind, device_node, device_index, device_model, device_health
        (D,) arrays; devices stand in the order (node, kind, index). ``device_model`` indexes ``models``.
    device_capacity
        (D,) int64: a GPU's HBM bytes (0: unknown), a NIC's bit/s, storage in bytes.
    device_domain
        (A, D) int32, the lowest domain that holds the device on each axis; -1: not on that axis.
    budget_domain, budget_resource, budget_capacity
        (B,) int32 domain, int16 index into ``resources``, int64 amount in the resource's unit.
    """

    name: str
    domain_level: NDArray[np.int16]
    domain_parent: NDArray[np.int32]
    domain_name: tuple[str, ...]
    node_home: NDArray[np.int32]
    node_gpu_power_w: NDArray[np.int32]
    node_traits: NDArray[np.bool_]
    node_health: NDArray[np.uint8]
    node_cordoned: NDArray[np.bool_]
    device_kind: NDArray[np.uint8]
    device_node: NDArray[np.int32]
    device_index: NDArray[np.int16]
    device_model: NDArray[np.int16]
    device_health: NDArray[np.uint8]
    device_capacity: NDArray[np.int64]
    device_domain: NDArray[np.int32]
    budget_domain: NDArray[np.int32]
    budget_resource: NDArray[np.int16]
    budget_capacity: NDArray[np.int64]
    models: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    resources: tuple[str, ...] = (CPU, MEMORY, PODS, POWER)
    labels: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        for item in fields(self):
            value: Any = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                object.__setattr__(self, item.name, frozen(cast("NDArray[Any]", value)))

    @property
    def n_nodes(self) -> int:
        """N."""
        return self.node_home.shape[1]

    @property
    def node_domain(self) -> NDArray[np.int32]:
        """(N,) the ``place.node`` domain of each node."""
        return self.node_home[AXIS["place"]]

    @property
    def n_gpus(self) -> int:
        """GPUs of any health."""
        return int(np.count_nonzero(self.device_kind == DeviceKind.GPU))

    def node_name(self, node: int) -> str:
        """Return the name of node ``node``."""
        return self.domain_name[int(self.node_domain[node])]

    def domain_path(self, domain: int) -> str:
        """Return ``axis.level name``, for people: ``place.rack r07``."""
        return f"{LEVELS[self.domain_level[domain]]} {self.domain_name[domain]}"

    def domains_at(self, level: int) -> NDArray[np.int64]:
        """Return the indices of the domains of one level, ascending."""
        found: NDArray[np.int64] = np.flatnonzero(self.domain_level == level)
        return found

    def replaced(self, **changes: Any) -> Fleet:
        """Return a copy with some fields changed (a node cordoned, a health report)."""
        return replace(self, **changes)
