"""Collects domains, nodes, devices and budgets in any order of trees and freezes them into a fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from plenum.model.errors import FieldError
from plenum.model.fleet import (
    AXES,
    AXIS,
    CPU,
    LEVEL,
    LEVELS,
    MAX_GPUS_PER_NODE,
    MEMORY,
    NODE_LEVEL,
    PODS,
    POWER,
    DeviceKind,
    Fleet,
    Health,
    level_id,
)
from plenum.model.units import MAX_QUANTITY

MAX_NUMA_PER_NODE = 8
MAX_NICS_PER_NODE = 64
MAX_DOMAINS = 8_000_000

NUMA_LEVEL, PCIE_LEVEL = LEVEL["place.numa"], LEVEL["place.pcie"]
INNER_LEVELS = (NODE_LEVEL, NUMA_LEVEL, PCIE_LEVEL)
"""Levels whose domains come with a node; every other domain is added by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of a node, as given to :meth:`FleetBuilder.node`.

    Parameters
    ----------
    capacity
        A GPU's HBM bytes, a NIC's bit/s, storage in bytes; 0 where unknown.
    domains
        Lowest domain on each axis where it differs from the node's own, as ``{"fabric.rail": "su0/rail3"}``. ``{home}`` stands for
        the name of the node's domain on that axis and ``{node}`` for the node's name: ``{"fabric.rail": "{home}/rail3"}``.
    numa, pcie
        Index of the NUMA node and name of the PCIe switch within the node; None where unknown.
    """

    kind: DeviceKind
    model: str = ""
    capacity: int = 0
    numa: int | None = None
    pcie: str | None = None
    domains: Mapping[str, str] | None = None
    health: Health = Health.HEALTHY


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShape:
    """What identical nodes have in common.

    Parameters
    ----------
    budgets
        Resource to amount, owned by the node's domain.
    numa_cpu_milli
        Cores of each NUMA node, in thousandths; empty where unknown.
    devices
        Kept in the order (kind, as given); a device's index counts those of its kind.
    gpu_power_w
        Watts that one busy GPU adds.
    """

    budgets: Mapping[str, int] = field(default_factory=dict)
    numa_cpu_milli: tuple[int, ...] = ()
    devices: tuple[Device, ...] = ()
    gpu_power_w: int = 0
    traits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", tuple(sorted(self.devices, key=lambda device: device.kind)))

    def count(self, kind: DeviceKind) -> int:
        """Return the number of devices of a kind."""
        return sum(device.kind == kind for device in self.devices)


class FleetBuilder:
    """Grows a fleet part by part; every mistake is a :class:`FieldError` that names it.

    Examples
    --------
    >>> b = FleetBuilder("lab")
    >>> b.domain("place.rack", "r0", parent=None)
    'place.rack:r0'
    >>> b.node("n0", domains={"place": "place.rack:r0"}, budgets={"cpu_milli": 64000}, devices=[Device(kind=DeviceKind.GPU)])
    0
    >>> b.build().n_gpus
    1
    """

    def __init__(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        self._name = name
        self._labels = tuple(sorted((labels or {}).items()))
        self._level: list[int] = []
        self._parent: list[int] = []
        self._names: list[str] = []
        self._ids: list[dict[str, int]] = [{} for _ in LEVELS]
        self._nodes = _Nodes()
        self._devices: list[_Devices] = []
        self._device_health: dict[tuple[int, int, int], Health] = {}
        self._budgets: dict[tuple[int, str], int] = {}
        self._models: dict[str, int] = {}

    def domain(self, level: str, name: str, *, parent: str | None) -> str:
        """Add a domain, or find it if it is there already with the same parent; return ``axis.level:name``.

        Parameters
        ----------
        parent
            ``axis.level:name`` of the domain above on the same axis; None at the top.

        Raises
        ------
        FieldError
            Unknown level or parent, a parent that is not above (a cycle would need one), or a second parent.
        """
        lid = level_id(level, "level")
        if lid in INNER_LEVELS:
            raise FieldError(level, f"{level} domains come with their node; add the node instead")
        _check_names([name], level)
        up = -1 if parent is None else self._find(parent, level)
        if up >= 0:
            check_parent(level, name, LEVELS[self._level[up]], self._names[up])
        known = self._ids[lid].get(name)
        if known is None:
            self._append(lid, name, up)
        elif self._parent[known] != up:
            old = self._describe(self._parent[known])
            raise FieldError(
                level, f"{level}:{name} is in two places, {old} and {self._describe(up)}; it can be in one only"
            )
        return f"{level}:{name}"

    def node(
        self,
        name: str,
        *,
        domains: Mapping[str, str] | None = None,
        budgets: Mapping[str, int] | None = None,
        numa_cpu_milli: Sequence[int] = (),
        devices: Sequence[Device] = (),
        gpu_power_w: int = 0,
        traits: Sequence[str] = (),
        health: Health = Health.HEALTHY,
        cordoned: bool = False,
    ) -> int:
        """Add a node and its devices; return its index.

        Parameters
        ----------
        domains
            Axis to the domain that holds the node there: ``{"place": "place.rack:r0", "fabric": "fabric.leaf:l0"}``. The
            domains must exist; on ``scaleup`` a missing entry leaves the GPUs without a domain.
        budgets, numa_cpu_milli, devices, gpu_power_w, traits
            See :class:`NodeShape`.
        """
        shape = NodeShape(
            budgets=budgets or {},
            numa_cpu_milli=tuple(numa_cpu_milli),
            devices=tuple(devices),
            gpu_power_w=gpu_power_w,
            traits=tuple(traits),
        )
        homes = {axis: [path] for axis, path in (domains or {}).items()}
        index = self.nodes([name], shape, domains=homes).start
        self.mark(name, health=health, cordoned=cordoned)
        return index

    def nodes(
        self, names: Sequence[str], shape: NodeShape, *, domains: Mapping[str, Sequence[str]] | None = None
    ) -> range:
        """Add identical nodes, n of them, healthy and open for work; return their indices.

        Parameters
        ----------
        domains
            Axis to n domains, as in :meth:`node`.

        Raises
        ------
        FieldError
            A node is listed twice, a domain is missing, or the shape cannot be built.
        """
        n = len(names)
        first = len(self._nodes)
        _check_names(names, "place.node")
        self._check_new(names)
        slots, slot_of_device = _inner_slots(shape, names[0] if names else "")
        homes = self._homes(names, domains or {})
        base = len(self._names)
        width = len(slots)
        if base + n * width > MAX_DOMAINS:
            raise FieldError("place.node", f"a fleet holds at most {MAX_DOMAINS:,} domains")
        rack = homes[AXIS["place"]].tolist()
        own = range(base, base + n * width, width)
        self._names += [name + slot.suffix for name in names for slot in slots]
        self._level += [slot.level for slot in slots] * n
        self._parent += [
            up if slot.parent < 0 else at + slot.parent for at, up in zip(own, rack, strict=True) for slot in slots
        ]
        for j, slot in enumerate(slots):
            ids = range(base + j, base + j + n * width, width)
            self._ids[slot.level].update(zip((name + slot.suffix for name in names), ids, strict=True))
        homes[AXIS["place"]] = np.array(own, np.int32)
        self._add_budgets(shape, slots, own, names)
        self._add_devices(names, shape, homes, slot_of_device, first)
        self._nodes.extend(homes, shape)
        return range(first, first + n)

    def mark(
        self,
        node: str,
        *,
        health: Health = Health.HEALTHY,
        cordoned: bool = False,
        traits: Sequence[str] = (),
        devices: Mapping[tuple[DeviceKind, int], Health] | None = None,
    ) -> None:
        """Set a node's health and cordon, add traits to it, and set the health of some of its devices.

        Parameters
        ----------
        devices
            (kind, index) to health.

        Raises
        ------
        FieldError
            There is no such node or device.
        """
        domain = self._ids[NODE_LEVEL].get(node)
        if domain is None:
            raise FieldError("nodes", f"there is no node {node!r}")
        index = self._nodes.index_of(domain)
        self._nodes.health[index] = health
        self._nodes.cordoned[index] = cordoned
        if traits:
            self._nodes.traits[index] = (*self._nodes.traits[index], *traits)
        for (kind, number), state in (devices or {}).items():
            have = self._nodes.shapes[index].count(kind)
            if not 0 <= number < have:
                raise FieldError(kind.name.lower(), f"node {node} has no {kind.name} {number}; it has {have}")
            self._device_health[index, int(kind), number] = state

    def budget(self, domain: str, resource: str, amount: int) -> None:
        """Give a domain (``axis.level:name``) a budget of a resource; usage below it adds up against it.

        Raises
        ------
        FieldError
            Unknown domain, negative amount, or a second, different budget of the same resource there.
        """
        _check_amount(domain, resource, amount)
        key = (self._find(domain, resource), resource)
        if self._budgets.setdefault(key, int(amount)) != amount:
            raise FieldError(resource, f"{domain} has two budgets of it, {self._budgets[key]} and {amount}; keep one")

    def has(self, domain: str) -> bool:
        """Tell whether ``axis.level:name`` exists."""
        level, _, name = domain.partition(":")
        return name in self._ids[level_id(level, "level")]

    def names_at(self, level: str) -> list[str]:
        """Return the names of the domains of a level, in the order they were added."""
        return list(self._ids[level_id(level, "level")])

    def build(self) -> Fleet:
        """Freeze what was added.

        Domains are numbered level by level, top to bottom, and within a level in the order they were added; models, traits and
        resources stand in alphabetical order: the same parts give the same arrays, whatever tree was added first.

        Raises
        ------
        FieldError
            There is no node.
        """
        if not len(self._nodes):
            raise FieldError("nodes", "a fleet needs at least one node")
        level = np.array(self._level, np.int16)
        order = np.argsort(level, kind="stable")
        number = np.full(len(level) + 1, -1, np.int32)  # the last entry serves -1: no domain
        number[order] = np.arange(len(level), dtype=np.int32)
        traits, table = self._nodes.trait_table()
        resources = tuple(sorted({r for _, r in self._budgets} | {CPU, MEMORY, PODS, POWER}))
        budget_domain, budget_resource, budget_capacity = self._budget_arrays(number, resources)
        models = tuple(sorted(self._models))
        model_number = np.array([models.index(m) for m in self._models], np.int16)
        devices = _Devices.joined(self._devices)
        return Fleet(
            name=self._name,
            labels=self._labels,
            domain_level=level[order],
            domain_parent=number[np.array(self._parent, np.int32)[order]],
            domain_name=tuple(self._names[d] for d in order.tolist()),
            node_home=number[self._nodes.homes()],
            node_gpu_power_w=np.array([shape.gpu_power_w for shape in self._nodes.shapes], np.int32),
            node_traits=table,
            node_health=np.array(self._nodes.health, np.uint8),
            node_cordoned=np.array(self._nodes.cordoned, bool),
            device_node=devices.node,
            device_kind=devices.kind,
            device_index=devices.index,
            device_model=model_number[devices.model] if len(models) else devices.model,
            device_health=self._health_of(devices),
            device_capacity=devices.capacity,
            device_domain=number[devices.domain],
            budget_domain=budget_domain,
            budget_resource=budget_resource,
            budget_capacity=budget_capacity,
            models=models,
            traits=traits,
            resources=resources,
        )

    # -- parts of it ------------------------------------------------------------------------------

    def _append(self, level: int, name: str, parent: int) -> None:
        if len(self._names) >= MAX_DOMAINS:
            raise FieldError(LEVELS[level], f"a fleet holds at most {MAX_DOMAINS:,} domains")
        self._ids[level][name] = len(self._names)
        self._level.append(level)
        self._parent.append(parent)
        self._names.append(name)

    def _check_new(self, names: Sequence[str]) -> None:
        known, fresh = self._ids[NODE_LEVEL], set()
        for name in names:
            if name in known or name in fresh:
                raise FieldError("place.node", f"node {name!r} is listed twice; it can be in one place only")
            fresh.add(name)

    def _homes(self, names: Sequence[str], domains: Mapping[str, Sequence[str]]) -> NDArray[np.int32]:
        homes = np.full((len(AXES), len(names)), -1, np.int32)
        for axis, paths in domains.items():
            if axis not in AXIS:
                raise FieldError("domains", f"there is no axis {axis!r}; the axes are {', '.join(AXIS)}")
            for i, (name, path) in enumerate(zip(names, paths, strict=True)):
                at = self._find(path, f"node {name}")
                above = LEVELS[self._level[at]]
                if above.split(".")[0] != axis:
                    raise FieldError(f"node {name}", f"{path} is not on the axis {axis}")
                if axis == "place":
                    check_parent("place.node", name, above, self._names[at])
                homes[AXIS[axis], i] = at
        return homes

    def _add_budgets(self, shape: NodeShape, slots: Sequence[_Slot], own: range, names: Sequence[str]) -> None:
        owned = [(0, resource, amount) for resource, amount in shape.budgets.items()]
        owned += [(j, CPU, slot.cpu_milli) for j, slot in enumerate(slots) if slot.cpu_milli is not None]
        for j, resource, amount in owned:
            _check_amount(f"place.node:{names[0]}{slots[j].suffix}" if names else "node", resource, amount)
            for at in own:
                self._budgets[at + j, resource] = int(amount)

    def _add_devices(
        self,
        names: Sequence[str],
        shape: NodeShape,
        homes: NDArray[np.int32],
        slot_of_device: Sequence[int],
        first: int,
    ) -> None:
        n, width = len(names), len(shape.devices)
        if not n * width:
            return
        index = _indices(shape.devices, names[0])
        domain = np.empty((len(AXES), n, width), np.int32)
        for column, device in enumerate(shape.devices):
            domain[:, :, column] = homes
            domain[AXIS["place"], :, column] += slot_of_device[column]
            for level, pattern in (device.domains or {}).items():
                axis = AXIS[LEVELS[level_id(level, f"node {names[0]}")].split(".")[0]]
                domain[axis, :, column] = self._matches(level, pattern, names, homes[axis])
        parts = shape.devices
        models = [self._models.setdefault(d.model, len(self._models)) for d in parts]
        self._devices.append(
            _Devices(
                node=np.repeat(np.arange(first, first + n, dtype=np.int32), width),
                kind=np.tile(np.array([d.kind for d in parts], np.uint8), n),
                index=np.tile(np.array(index, np.int16), n),
                model=np.tile(np.array(models, np.int16), n),
                health=np.tile(np.array([d.health for d in parts], np.uint8), n),
                capacity=np.tile(np.array([d.capacity for d in parts], np.int64), n),
                domain=domain.reshape(len(AXES), n * width),
            )
        )

    def _matches(
        self, level: str, pattern: str, names: Sequence[str], homes: NDArray[np.int32]
    ) -> NDArray[np.int32] | int:
        """Return the domain that a device's pattern names for each node."""
        field_name = f"node {names[0]}"
        if "{node}" in pattern:
            pairs = zip(names, homes.tolist(), strict=True)
            per_node = [self._find(f"{level}:{self._expand(pattern, n, h)}", f"node {n}") for n, h in pairs]
            return np.array(per_node, np.int32)
        if "{home}" in pattern:
            unique, inverse = np.unique(homes, return_inverse=True)
            found = [self._find(f"{level}:{self._expand(pattern, '', h)}", field_name) for h in unique.tolist()]
            return np.array(found, np.int32)[inverse]
        return self._find(f"{level}:{pattern}", field_name)

    def _expand(self, pattern: str, node: str, home: int) -> str:
        return pattern.replace("{node}", node).replace("{home}", "" if home < 0 else self._names[home])

    def _budget_arrays(
        self, number: NDArray[np.int32], resources: tuple[str, ...]
    ) -> tuple[NDArray[np.int32], NDArray[np.int16], NDArray[np.int64]]:
        column = {resource: i for i, resource in enumerate(resources)}
        domain = number[np.array([d for d, _ in self._budgets], np.int64)]
        resource = np.array([column[r] for _, r in self._budgets], np.int16)
        order = np.lexsort((resource, domain))
        return domain[order], resource[order], np.array(list(self._budgets.values()), np.int64)[order]

    def _health_of(self, devices: _Devices) -> NDArray[np.uint8]:
        health = devices.health.copy()
        for (node, kind, number), state in self._device_health.items():
            start, stop = np.searchsorted(devices.node, (node, node + 1))
            here = slice(start, stop)
            health[here][(devices.kind[here] == kind) & (devices.index[here] == number)] = state
        return health

    def _find(self, path: str, field_name: str) -> int:
        level, _, name = path.partition(":")
        found = self._ids[level_id(level, field_name)].get(name)
        if found is None:
            raise FieldError(field_name, f"there is no {path}; add the domain first")
        return found

    def _describe(self, domain: int) -> str:
        return "the top" if domain < 0 else f"{LEVELS[self._level[domain]]}:{self._names[domain]}"


def check_parent(level: str, name: str, above: str, above_name: str) -> None:
    """Check that a domain of the level ``above`` may hold one of ``level``.

    Raises
    ------
    FieldError
        Another axis, or not a higher level: a cycle would need that.
    """
    if level.split(".")[0] != above.split(".")[0] or LEVEL[above] >= LEVEL[level]:
        raise FieldError(
            level,
            f"{above}:{above_name} cannot hold {level}:{name}: a parent is on the same axis and on a higher level, "
            "so that trees have no cycles",
        )


# -- what the builder collects --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Slot:
    """A domain that each node of a shape brings: the node itself (slot 0), a NUMA node, a PCIe switch."""

    level: int
    suffix: str
    parent: int
    cpu_milli: int | None = None


class _Nodes:
    """Columns of the nodes added so far."""

    def __init__(self) -> None:
        self.health: list[Health] = []
        self.cordoned: list[bool] = []
        self.traits: list[tuple[str, ...]] = []
        self.shapes: list[NodeShape] = []
        self._home_parts: list[NDArray[np.int32]] = []
        self._index: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.shapes)

    def extend(self, homes: NDArray[np.int32], shape: NodeShape) -> None:
        """Add one node a column of ``homes`` (A, n)."""
        n = homes.shape[1]
        self._index.update(zip(homes[AXIS["place"]].tolist(), range(len(self), len(self) + n), strict=True))
        self.health += [Health.HEALTHY] * n
        self.cordoned += [False] * n
        self.traits += [shape.traits] * n
        self.shapes += [shape] * n
        self._home_parts.append(homes)

    def index_of(self, domain: int) -> int:
        """Return the index of the node with a ``place.node`` domain."""
        return self._index[domain]

    def homes(self) -> NDArray[np.int32]:
        """(A, N)."""
        return np.concatenate(self._home_parts, axis=1)

    def trait_table(self) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
        """Return the names of all traits and (N, T) who has them."""
        sets = {traits: i for i, traits in enumerate(dict.fromkeys(self.traits))}
        names = tuple(sorted({trait for traits in sets for trait in traits}))
        rows = np.array([[name in traits for name in names] for traits in sets], bool).reshape(len(sets), len(names))
        return names, rows[[sets[traits] for traits in self.traits]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Devices:
    """Columns of devices, in the order (node, kind, index)."""

    node: NDArray[np.int32]
    kind: NDArray[np.uint8]
    index: NDArray[np.int16]
    model: NDArray[np.int16]
    health: NDArray[np.uint8]
    capacity: NDArray[np.int64]
    domain: NDArray[np.int32]

    @staticmethod
    def joined(parts: Sequence[_Devices]) -> _Devices:
        """Return the devices of all parts, one after another."""
        empty = _Devices(
            node=np.zeros(0, np.int32),
            kind=np.zeros(0, np.uint8),
            index=np.zeros(0, np.int16),
            model=np.zeros(0, np.int16),
            health=np.zeros(0, np.uint8),
            capacity=np.zeros(0, np.int64),
            domain=np.zeros((len(AXES), 0), np.int32),
        )
        columns = _Devices.__dataclass_fields__
        return _Devices(**{c: np.concatenate([getattr(p, c) for p in (empty, *parts)], axis=-1) for c in columns})


def _inner_slots(shape: NodeShape, node: str) -> tuple[list[_Slot], list[int]]:
    """Return the domains that a node of the shape brings, and which of them holds each device."""
    if len(shape.numa_cpu_milli) > MAX_NUMA_PER_NODE:
        raise FieldError(
            f"node {node}", f"{len(shape.numa_cpu_milli)} NUMA nodes; at most {MAX_NUMA_PER_NODE} are supported"
        )
    slots = [_Slot(NODE_LEVEL, "", -1)]
    numa: dict[int, int] = {}
    pcie: dict[str, int] = {}

    def numa_slot(q: int, cpu_milli: int | None = None) -> int:
        if q not in numa:
            if not 0 <= q < MAX_NUMA_PER_NODE:
                raise FieldError(f"node {node}", f"NUMA node {q}: must be from 0 to {MAX_NUMA_PER_NODE - 1}")
            numa[q] = len(slots)
            slots.append(_Slot(NUMA_LEVEL, f"/numa{q}", 0, cpu_milli))
        return numa[q]

    for q, milli in enumerate(shape.numa_cpu_milli):
        numa_slot(q, milli)
    of_device = []
    for device in shape.devices:
        home = 0 if device.numa is None else numa_slot(device.numa)
        if device.pcie is not None:
            if device.pcie not in pcie:
                _check_names([device.pcie], f"node {node}")
                pcie[device.pcie] = len(slots)
                slots.append(_Slot(PCIE_LEVEL, f"/{device.pcie}", home))
            elif slots[pcie[device.pcie]].parent != home:
                raise FieldError(
                    f"node {node}", f"PCIe switch {device.pcie} is in two NUMA nodes; it can be in one only"
                )
            home = pcie[device.pcie]
        of_device.append(home)
    return slots, of_device


def _indices(devices: Sequence[Device], node: str) -> list[int]:
    """Number the devices of each kind from 0."""
    counts = dict.fromkeys(DeviceKind, 0)
    numbers = []
    for device in devices:
        numbers.append(counts[device.kind])
        counts[device.kind] += 1
    for kind, most in ((DeviceKind.GPU, MAX_GPUS_PER_NODE), (DeviceKind.NIC, MAX_NICS_PER_NODE)):
        if counts[kind] > most:
            raise FieldError(f"node {node}", f"more than {most} {kind.name}s in one node")
    return numbers


def _check_names(names: Sequence[str], field_name: str) -> None:
    for name in names:
        if not name:
            raise FieldError(field_name, "a domain needs a name")
        if "{" in name or "}" in name:
            raise FieldError(field_name, f"{name!r} holds a brace; braces stand for patterns")
        if not name.isprintable():
            raise FieldError(field_name, f"{name[:60]!r} holds characters that cannot be printed")


def _check_amount(domain: str, resource: str, amount: object) -> None:
    if isinstance(amount, bool) or not isinstance(amount, (int, np.integer)) or not 0 <= amount < MAX_QUANTITY:
        raise FieldError(resource, f"the budget of {domain} must be a whole number of at least 0, not {amount!r}")
