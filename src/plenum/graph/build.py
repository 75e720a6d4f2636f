"""Collects domains, nodes, devices and budgets in any order of trees and freezes them into a fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from plenum.model.errors import FieldError
from plenum.model.fleet import AXES, AXIS, LEVELS, MAX_GPUS_PER_NODE, NODE_LEVEL, DeviceKind, Fleet, Health, level_id
from plenum.model.units import MAX_QUANTITY

MAX_NUMA_PER_NODE = 8
MAX_DOMAINS = 8_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of a node, as given to :meth:`FleetBuilder.node`.

    Parameters
    ----------
    capacity
        A GPU's HBM bytes, a NIC's bit/s, storage in bytes; 0 where unknown.
    domains
        Lowest domain on each axis where it differs from the node's own, as ``{"fabric.rail": "su0/rail3"}``.
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


class FleetBuilder:
    """Grows a fleet part by part; every mistake is a :class:`FieldError` that names it.

    Examples
    --------
    >>> b = FleetBuilder("lab")
    >>> b.domain("place.rack", "r0", parent=None)
    0
    >>> b.node("n0", domains={"place": "place.rack:r0"}, budgets={"cpu_milli": 64000}, devices=[Device(kind=DeviceKind.GPU)])
    0
    >>> b.build().n_gpus
    1
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._level: list[int] = []
        self._parent: list[int] = []
        self._names: list[str] = []
        self._by_key: dict[tuple[int, str], int] = {}
        self._nodes: list[dict] = []
        self._devices: list[tuple] = []
        self._device_domains: list[list[int]] = []
        self._budgets: dict[tuple[int, str], int] = {}
        self._models: dict[str, int] = {}

    def domain(self, level: str, name: str, *, parent: str | None) -> int:
        """Add a domain, or return it if it is there already with the same parent.

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
        if not name:
            raise FieldError(level, "a domain needs a name")
        up = -1 if parent is None else self._find(parent, level)
        if up >= 0 and not (
            LEVELS[self._level[up]].split(".")[0] == level.split(".")[0] and self._level[up] < lid
        ):
            raise FieldError(level, f"{parent} cannot hold {level}:{name}: a parent is on the same axis and on a higher level; trees have no cycles")
        known = self._by_key.get((lid, name))
        if known is not None:
            if self._parent[known] != up:
                old = self._describe(self._parent[known])
                raise FieldError(level, f"{level}:{name} is in two places, {old} and {self._describe(up)}; it can be in one only")
            return known
        if len(self._names) >= MAX_DOMAINS:
            raise FieldError(level, f"a fleet holds at most {MAX_DOMAINS:,} domains")
        self._by_key[lid, name] = len(self._names)
        self._level.append(lid)
        self._parent.append(up)
        self._names.append(name)
        return len(self._names) - 1

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
        budgets
            Resource to amount, owned by the node's domain.
        numa_cpu_milli
            Cores of each NUMA node, in thousandths; empty where unknown.
        """
        key = (NODE_LEVEL, name)
        if key in self._by_key:
            raise FieldError("place.node", f"node {name!r} is listed twice; it can be in one place only")
        homes = {axis.name: -1 for axis in AXES}
        for axis, path in (domains or {}).items():
            if axis not in homes:
                raise FieldError("domains", f"there is no axis {axis!r}; the axes are {', '.join(homes)}")
            homes[axis] = self._find(path, f"node {name}")
        rack = homes["place"]
        node_domain = self.domain("place.node", name, parent=None if rack < 0 else self._path(rack))
        index = len(self._nodes)
        if len(numa_cpu_milli) > MAX_NUMA_PER_NODE:
            raise FieldError(f"node {name}", f"{len(numa_cpu_milli)} NUMA nodes; at most {MAX_NUMA_PER_NODE} are supported")
        self._nodes.append(
            {"power": gpu_power_w, "traits": tuple(traits), "health": health, "cordoned": cordoned}
        )
        for resource, amount in (budgets or {}).items():
            self.budget(f"place.node:{name}", resource, amount)
        homes["place"] = node_domain
        self._nodes[index]["homes"] = [homes[axis.name] for axis in AXES]
        inner: dict[tuple[str, str], int] = {}
        for q, milli in enumerate(numa_cpu_milli):
            inner["numa", str(q)] = self.domain("place.numa", f"{name}/numa{q}", parent=f"place.node:{name}")
            self.budget(f"place.numa:{name}/numa{q}", "cpu_milli", milli)
        self._add_devices(name, index, homes, inner, devices)
        return index

    def budget(self, domain: str, resource: str, amount: int) -> None:
        """Give a domain (``axis.level:name``) a budget of a resource; usage below it adds up against it.

        Raises
        ------
        FieldError
            Unknown domain, negative amount, or a second, different budget of the same resource there.
        """
        if isinstance(amount, bool) or not isinstance(amount, (int, np.integer)) or not 0 <= amount < MAX_QUANTITY:
            raise FieldError(resource, f"the budget of {domain} must be a whole number of at least 0, not {amount!r}")
        key = (self._find(domain, resource), resource)
        if self._budgets.setdefault(key, int(amount)) != amount:
            raise FieldError(resource, f"{domain} has two budgets of it, {self._budgets[key]} and {amount}; keep one")

    def has(self, domain: str) -> bool:
        """Tell whether ``axis.level:name`` exists."""
        level, _, name = domain.partition(":")
        return (level_id(level, "level"), name) in self._by_key

    def build(self) -> Fleet:
        """Freeze what was added.

        Raises
        ------
        FieldError
            There is no node.
        """
        if not self._nodes:
            raise FieldError("nodes", "a fleet needs at least one node")
        traits = tuple(sorted({t for n in self._nodes for t in n["traits"]}))
        column = {t: i for i, t in enumerate(traits)}
        table = np.zeros((len(self._nodes), len(traits)), bool)
        for i, node in enumerate(self._nodes):
            for trait in node["traits"]:
                table[i, column[trait]] = True
        resources = tuple(sorted({resource for _, resource in self._budgets} | {"cpu_milli", "memory_bytes", "pods", "power_w"}))
        rcol = {r: i for i, r in enumerate(resources)}
        budget_keys = sorted(self._budgets, key=lambda k: (k[0], k[1]))
        dev = sorted(range(len(self._devices)), key=lambda d: self._devices[d][:3])
        fields = list(zip(*(self._devices[d] for d in dev), strict=True)) if dev else [()] * 6
        return Fleet(
            name=self._name,
            domain_level=np.array(self._level, np.int16),
            domain_parent=np.array(self._parent, np.int32),
            domain_name=tuple(self._names),
            node_home=np.array([n["homes"] for n in self._nodes], np.int32).T,
            node_gpu_power_w=np.array([n["power"] for n in self._nodes], np.int32),
            node_traits=table,
            node_health=np.array([n["health"] for n in self._nodes], np.uint8),
            node_cordoned=np.array([n["cordoned"] for n in self._nodes], bool),
            device_node=np.array(fields[0], np.int32),
            device_kind=np.array(fields[1], np.uint8),
            device_index=np.array(fields[2], np.int16),
            device_model=np.array(fields[3], np.int16),
            device_health=np.array(fields[4], np.uint8),
            device_capacity=np.array(fields[5], np.int64),
            device_domain=np.array([self._device_domains[d] for d in dev], np.int32).reshape(len(dev), len(AXES)).T,
            budget_domain=np.array([d for d, _ in budget_keys], np.int32),
            budget_resource=np.array([rcol[r] for _, r in budget_keys], np.int16),
            budget_capacity=np.array([self._budgets[k] for k in budget_keys], np.int64),
            models=tuple(self._models),
            traits=traits,
            resources=resources,
        )

    # -- helpers ----------------------------------------------------------------------------------

    def _add_devices(
        self, name: str, index: int, homes: dict[str, int], inner: dict[tuple[str, str], int], devices: Sequence[Device]
    ) -> None:
        counts = dict.fromkeys(DeviceKind, 0)
        for device in devices:
            number = counts[device.kind]
            counts[device.kind] += 1
            if device.kind == DeviceKind.GPU and number >= MAX_GPUS_PER_NODE:
                raise FieldError(f"node {name}", f"more than {MAX_GPUS_PER_NODE} GPUs in one node")
            places = [homes[axis.name] for axis in AXES]
            places[AXIS["place"]] = self._inside(name, homes["place"], inner, device)
            for level, domain in (device.domains or {}).items():
                path = domain if ":" in domain else f"{level}:{domain}"
                places[AXIS[level.split(".")[0]]] = self._find(path, f"node {name}")
            model = self._models.setdefault(device.model, len(self._models))
            self._devices.append((index, int(device.kind), number, model, int(device.health), device.capacity))
            self._device_domains.append(places)

    def _inside(self, name: str, node: int, inner: dict[tuple[str, str], int], device: Device) -> int:
        """Return the NUMA or PCIe domain that holds a device, made on first use."""
        home, path = node, f"place.node:{name}"
        if device.numa is not None:
            key = ("numa", str(device.numa))
            if key not in inner:
                inner[key] = self.domain("place.numa", f"{name}/numa{device.numa}", parent=path)
            home, path = inner[key], f"place.numa:{name}/numa{device.numa}"
        if device.pcie is not None:
            key = ("pcie", device.pcie)
            if key not in inner:
                inner[key] = self.domain("place.pcie", f"{name}/{device.pcie}", parent=path)
            home = inner[key]
        return home

    def _find(self, path: str, field: str) -> int:
        level, _, name = path.partition(":")
        found = self._by_key.get((level_id(level, field), name))
        if found is None:
            raise FieldError(field, f"there is no {path}; add the domain first")
        return found

    def _path(self, domain: int) -> str:
        return f"{LEVELS[self._level[domain]]}:{self._names[domain]}"

    def _describe(self, domain: int) -> str:
        return "the top" if domain < 0 else self._path(domain)
