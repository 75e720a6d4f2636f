"""Fleets to explicit manifests that read back to the same arrays; identical nodes share an inline template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from plenum.adapters.manifests.document import API_VERSION
from plenum.adapters.manifests.fields import ALIASES
from plenum.graph.build import INNER_LEVELS, NUMA_LEVEL, PCIE_LEVEL
from plenum.model.fleet import AXES, AXIS, CPU, LEVEL, LEVELS, NODE_LEVEL, DeviceKind, Fleet, Health
from plenum.model.units import unit_of

NVLINK_LEVEL = LEVEL["scaleup.nvlink"]
_SHORT = {resource: name for name, resource in ALIASES.items()}
_BINARY = (("PiB", 2**50), ("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20))
_DECIMAL = (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3))


def dump_fleet(fleet: Fleet) -> str:
    """Write a fleet as an explicit ``Fleet`` manifest.

    Returns
    -------
    str
        YAML in which every value stands in JSON notation, one domain, template or run of nodes a line.
        :func:`~plenum.adapters.manifests.fleet.parse_fleet` reads it back to an equal fleet.
    """
    writing = _Writing(fleet)
    nodes = [writing.node(n) for n in range(fleet.n_nodes)]
    names = {key: f"t{i}" for i, key in enumerate(dict.fromkeys(node.template for node in nodes))}
    metadata: dict[str, object] = {"name": fleet.name}
    if fleet.labels:
        metadata["labels"] = dict(fleet.labels)
    lines = [f"apiVersion: {API_VERSION}", "kind: Fleet", f"metadata: {_flow(metadata)}", "spec:"]
    lines += _section("domains", (f"{_flow(path)}: {_flow(spec)}" for path, spec in writing.domains()))
    lines += _section("templates", _template_lines(names))
    lines += _section("nodes", (f"- {_flow(entry)}" for entry in _node_entries(nodes, names)))
    lines += _section("overrides", (f"- {_flow(entry)}" for entry in writing.overrides()))
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    template: str
    homes: tuple[str, ...]


class _Writing:
    """What is looked up again and again while a fleet is written."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._level = fleet.domain_level.tolist()
        self._paths = [f"{LEVELS[lid]}:{name}" for lid, name in zip(self._level, fleet.domain_name, strict=True)]
        self._parent = fleet.domain_parent.tolist()
        self._home = fleet.node_home.T.tolist()
        self._budgets: dict[int, dict[str, int]] = {}
        rows = zip(
            fleet.budget_domain.tolist(), fleet.budget_resource.tolist(), fleet.budget_capacity.tolist(), strict=True
        )
        for domain, resource, amount in rows:
            self._budgets.setdefault(domain, {})[fleet.resources[resource]] = amount
        self._numa: dict[int, list[int]] = {}
        for domain in fleet.domains_at(NUMA_LEVEL).tolist():
            self._numa.setdefault(self._parent[domain], []).append(domain)
        self._cores = {n: self._numa_cores(n) for n in range(fleet.n_nodes)}
        self._first_device = np.searchsorted(fleet.device_node, np.arange(fleet.n_nodes + 1)).tolist()
        columns = (fleet.device_kind, fleet.device_model, fleet.device_capacity)
        self._device_columns = list(zip(*(c.tolist() for c in columns), strict=True))
        self._device_domains = fleet.device_domain.T.tolist()
        self._own_nvlink = self._find_own_nvlink()

    def domains(self) -> Iterator[tuple[str, dict[str, object]]]:
        """Yield each domain that does not come with a node, and the budgets of those that do but that no template can give."""
        own = {self._home[n][AXIS["scaleup"]] for n in self._own_nvlink}
        in_template = {self._home[n][0] for n in range(self._fleet.n_nodes)}
        in_template |= {domain for cores in self._cores.values() for domain in cores}
        for domain, path in enumerate(self._paths):
            inner = self._level[domain] in INNER_LEVELS
            budgets = dict(self._budgets.get(domain, {}))
            if inner:
                if domain in in_template:
                    budgets = (
                        {} if self._level[domain] == NODE_LEVEL else {r: a for r, a in budgets.items() if r != CPU}
                    )
                if not budgets:
                    continue
            elif domain in own:
                continue
            spec: dict[str, object] = {}
            if not inner and self._parent[domain] >= 0:
                spec["in"] = self._paths[self._parent[domain]]
            if budgets:
                spec["budgets"] = _budgets(budgets)
            yield path, spec

    def node(self, n: int) -> _Node:
        """Return a node's name, its template as text, and the domains it is in."""
        fleet, home = self._fleet, self._home[n]
        name = fleet.node_name(n)
        spec: dict[str, object] = {}
        if budgets := self._budgets.get(home[0]):
            spec["budgets"] = _budgets(budgets)
        if cores := self._cores[n]:
            spec["numaCpu"] = [_milli(self._budgets[domain][CPU]) for domain in cores]
        if power_w := int(fleet.node_gpu_power_w[n]):
            spec["gpuPower"] = power_w
        if traits := [t for t, has in zip(fleet.traits, fleet.node_traits[n].tolist(), strict=True) if has]:
            spec["traits"] = traits
        if n in self._own_nvlink:
            spec["nodesPerNvlink"] = 1
        devices = range(self._first_device[n], self._first_device[n + 1])
        if devices:
            spec["devices"] = [self._device(d, name, home) for d in devices]
        above = [self._parent[home[0]], *home[1:]]
        if n in self._own_nvlink:
            above[AXIS["scaleup"]] = -1
        return _Node(name, _flow(spec), tuple(self._paths[d] for d in above if d >= 0))

    def overrides(self) -> Iterator[dict[str, object]]:
        """Yield what is not well: cordons, nodes and devices."""
        fleet = self._fleet
        sick: dict[int, dict[str, list[str]]] = {}
        for d in np.flatnonzero(fleet.device_health != Health.HEALTHY).tolist():
            state = Health(int(fleet.device_health[d])).name.lower()
            device = f"{DeviceKind(int(fleet.device_kind[d])).name.lower()}{fleet.device_index[d]}"
            sick.setdefault(int(fleet.device_node[d]), {}).setdefault(state, []).append(device)
        unwell = np.flatnonzero((fleet.node_health != Health.HEALTHY) | fleet.node_cordoned).tolist()
        entries: dict[str, list[str]] = {}
        for n in sorted({*sick, *unwell}):
            entry: dict[str, object] = dict(sick.get(n, {}))
            if fleet.node_health[n] != Health.HEALTHY:
                entry["health"] = Health(int(fleet.node_health[n])).name.lower()
            if fleet.node_cordoned[n]:
                entry["cordoned"] = True
            entries.setdefault(json.dumps(entry), []).append(fleet.node_name(n))
        for text, names in entries.items():
            yield {"nodes": names, **json.loads(text)}

    def _numa_cores(self, n: int) -> list[int]:
        """Return the NUMA domains of a node whose cores its template gives: numbered from 0 in the order they were added."""
        node = self._home[n][0]
        name = self._fleet.domain_name[node]
        cores = []
        for q, domain in enumerate(self._numa.get(node, [])):
            if self._fleet.domain_name[domain] != f"{name}/numa{q}" or CPU not in self._budgets.get(domain, {}):
                break
            cores.append(domain)
        return cores

    def _find_own_nvlink(self) -> frozenset[int]:
        """Return the nodes whose scale-up domain reading makes again by itself: named after the node, last, in their order."""
        fleet, axis = self._fleet, AXIS["scaleup"]
        own = []
        for n, home in enumerate(self._home):
            d = home[axis]
            plain = d >= 0 and self._level[d] == NVLINK_LEVEL and self._parent[d] < 0 and d not in self._budgets
            if plain and fleet.domain_name[d] == fleet.node_name(n):
                own.append(n)
        domains = [self._home[n][axis] for n in own]
        last = fleet.domains_at(NVLINK_LEVEL).tolist()[-len(domains) :]
        return frozenset(own) if domains == last else frozenset()

    def _device(self, d: int, node: str, home: list[int]) -> dict[str, object]:
        kind, model, capacity = self._device_columns[d]
        spec: dict[str, object] = {"kind": DeviceKind(kind).name.lower()}
        if self._fleet.models[model]:
            spec["model"] = self._fleet.models[model]
        if capacity:
            own = {DeviceKind.GPU: "memory", DeviceKind.NIC: "speed"}.get(DeviceKind(kind), "capacity")
            spec[own] = _amount(capacity, "bps" if own == "speed" else "bytes")
        places = self._device_domains[d]
        at = places[AXIS["place"]]
        if self._level[at] == PCIE_LEVEL:
            spec["pcie"] = self._fleet.domain_name[at][len(node) + 1 :]
            at = self._parent[at]
        if self._level[at] == NUMA_LEVEL:
            spec["numa"] = int(self._fleet.domain_name[at][len(node) + len("/numa") :])
        domains = {
            LEVELS[self._level[places[a]]]: self._pattern(places[a], node, home[a])
            for a in range(len(AXES))
            if a != AXIS["place"] and places[a] != home[a]
        }
        if domains:
            spec["domains"] = domains
        return spec

    def _pattern(self, domain: int, node: str, home: int) -> str:
        """Write a domain's name by the node's domain or name where it starts with one, so that equal nodes read equal."""
        name = self._fleet.domain_name[domain]
        above = self._fleet.domain_name[home] if home >= 0 else ""
        if above and name.startswith(above):
            return "{home}" + name[len(above) :]
        return "{node}" + name[len(node) :] if name.startswith(node) else name


def _template_lines(names: dict[str, str]) -> Iterator[str]:
    for text, name in names.items():
        yield f"{name}: {text}"


def _node_entries(nodes: list[_Node], names: dict[str, str]) -> Iterator[dict[str, object]]:
    for (template, homes), run in groupby(nodes, key=lambda node: (node.template, node.homes)):
        members = [node.name for node in run]
        entry: dict[str, object] = {"name": members[0]} if len(members) == 1 else {"names": members}
        entry["template"] = names[template]
        if homes:
            entry["in"] = list(homes)
        yield entry


def _section(name: str, lines: Iterator[str]) -> list[str]:
    body = [f"  {'' if line.startswith('- ') else '  '}{line}" for line in lines]
    return [f"  {name}:", *body] if body else []


def _budgets(budgets: dict[str, int]) -> dict[str, object]:
    written: dict[str, object] = {}
    for resource, amount in budgets.items():
        unit, short = unit_of(resource), _SHORT.get(resource)
        if unit != "milli":
            written[short or resource] = _amount(amount, unit)
        else:
            written[short or resource] = _milli(amount) if short else amount
    return written


def _milli(amount: int) -> object:
    return amount // 1000 if amount % 1000 == 0 else f"{amount}m"


def _amount(amount: int, unit: str) -> object:
    """Write an amount with the largest suffix that divides it, or as a plain number."""
    steps = {"bytes": _BINARY, "bps": tuple((p + "b/s", f) for p, f in _DECIMAL), "w": (("kW", 1000),)}.get(unit, ())
    for suffix, factor in steps:
        if amount and amount % factor == 0 and amount // factor < 10**6:
            return f"{amount // factor}{suffix}"
    return amount


def _flow(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
