"""``Fleet`` manifests to fleets: explicit domains and nodes, groups from templates, pools and overrides."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import translate
from itertools import groupby
from typing import TypeVar

from plenum.adapters.manifests.document import Document, load_documents, read_text
from plenum.adapters.manifests.fields import check_head, one_of, validated, written
from plenum.adapters.manifests.fleet_types import DeviceSpec, FleetManifest, NodeSpec, Override, TemplateSpec
from plenum.adapters.manifests.groups import PowerLimits, add_group, add_nvlink
from plenum.graph.build import INNER_LEVELS, Device, FleetBuilder, NodeShape, check_parent
from plenum.graph.templates import TEMPLATES, NodeTemplate
from plenum.model.errors import FieldError
from plenum.model.fleet import LEVEL, POWER, DeviceKind, Fleet, Health
from plenum.model.units import show

T = TypeVar("T")
Path = tuple[int | str, ...]

_DEVICE = re.compile(r"(gpu|nic|nvme|cxl)(\d{1,4})")
_CAPACITY = {"gpu": "memory", "nic": "speed", "nvme": "capacity", "cxl": "capacity"}
"""Field that says how large or fast a device of a kind is."""


def read_fleet(path: pathlib.Path | str) -> Fleet:
    """Read a ``Fleet`` manifest.

    Raises
    ------
    FileError
        The file cannot be read or is not YAML.
    FieldError
        Something in it cannot be meant; names file, line and field.
    """
    return parse_fleet(read_text(path), str(path))


def parse_fleet(text: str, file: str = "") -> Fleet:
    """Read a ``Fleet`` manifest from text; ``file`` is used in errors. See :func:`read_fleet`."""
    document, *others = load_documents(text, file)
    check_head(document, ["Fleet"])
    if others:
        raise others[0].wrong((), "a fleet file holds one manifest; put another fleet into a file of its own")
    return fleet_of(written(document)[0])


def fleet_of(document: Document) -> Fleet:
    """Take a fleet from a document whose kind is known to be ``Fleet``. See :func:`read_fleet`."""
    return _Assembly(document).build()


class _Assembly:
    """Carries a manifest into a builder, part by part, locating every mistake in the file."""

    def __init__(self, document: Document) -> None:
        manifest = validated(FleetManifest, document)
        self._document = document
        self._spec = manifest.spec
        self._builder = FleetBuilder(manifest.metadata.name, manifest.metadata.labels)
        self._templates = self._all_templates()
        self._node_names: list[str] = []
        self._seen: dict[str, int] = {}
        self._limits = PowerLimits()

    def build(self) -> Fleet:
        """Return the fleet."""
        if not self._spec.groups and not self._spec.nodes:
            raise self._document.wrong(("spec",), "a fleet needs at least one node: give groups or nodes")
        self._add_domains()
        self._add_nodes()
        self._add_groups()
        self._add_budgets(lambda level: LEVEL[level] in INNER_LEVELS)
        self._add_pools()
        for i, override in enumerate(self._spec.overrides):
            self._override(override, ("spec", "overrides", i))
        with self._at("spec"):
            return self._builder.build()

    @contextmanager
    def _at(self, *path: int | str) -> Iterator[None]:
        """Locate errors that the builder raises."""
        try:
            yield
        except FieldError as error:
            if error.where.line:
                raise
            raise self._document.wrong(path, error.sentence) from None

    # -- templates --------------------------------------------------------------------------------

    def _all_templates(self) -> dict[str, NodeTemplate]:
        templates = dict(TEMPLATES)
        for name, spec in self._spec.templates.items():
            path = ("spec", "templates", name)
            if spec.extends is not None and spec.extends not in templates:
                raise self._document.wrong((*path, "extends"), one_of(spec.extends, templates, "template"))
            base = templates.get(spec.extends or "", NodeTemplate(shape=NodeShape()))
            templates[name] = self._template(spec, base, path)
        return templates

    def _template(self, spec: TemplateSpec, base: NodeTemplate, path: Path) -> NodeTemplate:
        shape, devices = base.shape, base.shape.devices
        if spec.devices is not None:
            specs = enumerate(spec.devices)
            devices = tuple(d for i, s in specs for d in [self._device(s, (*path, "devices", i))] * s.count)
        return NodeTemplate(
            shape=NodeShape(
                budgets={**shape.budgets, **spec.budgets},
                numa_cpu_milli=tuple(spec.numa_cpu) if spec.numa_cpu is not None else shape.numa_cpu_milli,
                devices=devices,
                gpu_power_w=_or(spec.gpu_power, shape.gpu_power_w),
                traits=tuple(spec.traits) if spec.traits is not None else shape.traits,
            ),
            idle_power_w=_or(spec.idle_power, base.idle_power_w),
            nodes_per_nvlink=_or(spec.nodes_per_nvlink, base.nodes_per_nvlink),
            nodes_per_rack=_or(spec.nodes_per_rack, base.nodes_per_rack),
        )

    def _device(self, spec: DeviceSpec, path: Path) -> Device:
        own = _CAPACITY[spec.kind]
        for name in ("memory", "speed", "capacity"):
            if name != own and getattr(spec, name) is not None:
                raise self._document.wrong((*path, name), f"does not go with kind {spec.kind}; give {own} instead")
        return Device(
            kind=DeviceKind[spec.kind.upper()],
            model=spec.model,
            capacity=getattr(spec, own) or 0,
            numa=spec.numa,
            pcie=spec.pcie,
            domains=spec.domains or None,
        )

    def _template_named(self, name: str, path: Path) -> NodeTemplate:
        if name not in self._templates:
            raise self._document.wrong((*path, "template"), one_of(name, self._templates, "template"))
        return self._templates[name]

    # -- domains and nodes one by one -------------------------------------------------------------

    def _add_domains(self) -> None:
        domains = self._spec.domains
        if self._spec.site is not None:
            self._builder.domain("place.site", self._spec.site, parent=None)
        # Top levels first, so that a domain may stand in the file before the one that holds it.
        for path in sorted(domains, key=lambda p: LEVEL[p.partition(":")[0]]):
            level, _, name = path.partition(":")
            above = domains[path].within
            with self._at("spec", "domains", path, *(["in"] if above else [])):
                if LEVEL[level] in INNER_LEVELS:
                    if above is not None:
                        raise FieldError("", "what a node brings is where the node is; give only its budgets here")
                    continue
                if above is not None:
                    check_parent(level, name, *above.split(":", 1))
                    self._check_domain(above)
                self._builder.domain(level, name, parent=above)
        self._add_budgets(lambda level: LEVEL[level] not in INNER_LEVELS)

    def _check_domain(self, path: str) -> None:
        if not self._builder.has(path):
            raise FieldError("", f"there is no {path}; add it under spec.domains")

    def _add_budgets(self, wanted: Callable[[str], bool]) -> None:
        for path, spec in self._spec.domains.items():
            if wanted(path.partition(":")[0]):
                for resource, amount in spec.budgets.items():
                    with self._at("spec", "domains", path, "budgets", resource):
                        self._builder.budget(path, resource, amount)

    def _add_nodes(self) -> None:
        nodes = [(i, spec, self._homes(spec, i)) for i, spec in enumerate(self._spec.nodes)]
        # Neighbours of one template on the same axes go in together: a large fleet has few kinds of neighbours.
        for (template_name, axes), run in groupby(nodes, key=lambda node: (node[1].template, tuple(sorted(node[2])))):
            entries = list(run)
            template = self._template_named(template_name, ("spec", "nodes", entries[0][0]))
            for i, spec, _ in entries:
                self._check_nodes(spec, ("spec", "nodes", i))
            names = [name for _, spec, _ in entries for name in _names(spec)]
            homes = {axis: [homes[axis] for _, spec, homes in entries for _ in _names(spec)] for axis in axes}
            with self._at("spec", "nodes", entries[0][0]):
                if template.nodes_per_nvlink == 1 and "scaleup" not in homes:
                    homes["scaleup"] = add_nvlink(self._builder, "", names, 1)
                self._builder.nodes(names, template.shape, domains=homes)

    def _homes(self, spec: NodeSpec, i: int) -> dict[str, str]:
        homes: dict[str, str] = {}
        for k, path in enumerate(spec.within):
            where = ("spec", "nodes", i, "in", k)
            axis = path.split(".", 1)[0]
            if axis in homes:
                sentence = f"a node is in one place only on each axis, and this one is in {homes[axis]} and in {path}"
                raise self._document.wrong(where, sentence)
            with self._at(*where):
                level = path.partition(":")[0]
                if axis == "place":
                    check_parent("place.node", "/".join(_names(spec)[:1]), *path.split(":", 1))
                if LEVEL[level] not in INNER_LEVELS:
                    self._check_domain(path)
            homes[axis] = path
        return homes

    def _check_nodes(self, spec: NodeSpec, path: Path) -> None:
        names = _names(spec)
        if not names or (spec.name is not None and spec.names is not None):
            raise self._document.wrong(path, "give either name or names")
        for name in names:
            if name in self._seen:
                sentence = (
                    f"node {name!r} is listed twice, first on line {self._seen[name]}; it can be in one place only"
                )
                raise self._document.wrong(path, sentence)
            self._seen[name] = self._document.line_of(path)
        self._node_names += names

    # -- groups, power, pools, overrides ----------------------------------------------------------

    def _add_groups(self) -> None:
        site = f"place.site:{self._spec.site}" if self._spec.site is not None else None
        for i, group in enumerate(self._spec.groups):
            path = ("spec", "groups", i)
            template = self._template_named(group.template, path)
            with self._at(*path):
                self._node_names += add_group(self._builder, group, template, site, self._limits)
        for domain, limit_w, idle_w in self._limits.budgets():
            with self._at("spec", "groups"):
                if idle_w > limit_w:
                    sentence = f"the limit of {domain}, {show(limit_w, POWER)}, is below what its nodes draw idle, {show(idle_w, POWER)}"
                    raise FieldError("", sentence)
                self._builder.budget(domain, POWER, limit_w - idle_w)

    def _add_pools(self) -> None:
        for i, pool in enumerate(self._spec.pools):
            path = ("spec", "pools", i)
            names = self._builder.names_at(pool.on)
            matching = _matching(pool.match, names)
            if not matching:
                choices = f"{len(names):,} domains there, such as {names[0]}" if names else "none there"
                raise self._document.wrong(path, f"no domain on {pool.on} matches {pool.match!r}; there are {choices}")
            for name in matching:
                for resource, amount in pool.budgets.items():
                    with self._at(*path, "budgets", resource):
                        self._builder.budget(f"{pool.on}:{name}", resource, amount)

    def _override(self, override: Override, path: Path) -> None:
        devices = dict(self._device_states(override, path))
        for k, pattern in enumerate(override.nodes):
            matching = _matching(pattern, self._node_names)
            if not matching:
                raise self._document.wrong((*path, "nodes", k), one_of(pattern, self._node_names[:8], "node"))
            for name in matching:
                with self._at(*path):
                    self._builder.mark(
                        name,
                        health=Health[override.health.upper()],
                        cordoned=override.cordoned,
                        traits=override.traits,
                        devices=devices,
                    )

    def _device_states(self, override: Override, path: Path) -> Iterator[tuple[tuple[DeviceKind, int], Health]]:
        for state in (Health.DOWN, Health.DEGRADED):
            key = state.name.lower()
            for k, device in enumerate(getattr(override, key)):
                match = _DEVICE.fullmatch(device)
                if match is None:
                    raise self._document.wrong((*path, key, k), f"{device!r} is not a device; write gpu3, nic0, nvme1")
                yield (DeviceKind[match[1].upper()], int(match[2])), state


def _names(spec: NodeSpec) -> Sequence[str]:
    return spec.names if spec.names is not None else [spec.name] if spec.name is not None else []


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    if not any(c in pattern for c in "*?["):
        return [pattern] if pattern in names else []
    match = re.compile(translate(pattern)).match
    return [name for name in names if match(name)]
