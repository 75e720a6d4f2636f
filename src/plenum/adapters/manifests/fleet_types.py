"""The kind ``Fleet`` as people write it: generators, and domains and nodes one by one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from plenum.adapters.manifests.fields import (
    BitsPerSecond,
    Budgets,
    Bytes,
    Cores,
    Level,
    Manifest,
    Name,
    Path,
    Strict,
    Watts,
)

MAX_NODES = 1_000_000

DeviceState = Literal["healthy", "degraded", "down"]
Count = Annotated[int, Field(ge=1, le=MAX_NODES)]
Ratio = Annotated[float, Field(ge=1, le=1000)]


class DeviceSpec(Strict):
    """A device, or several like it, of a node template.

    ``memory`` goes with GPUs, ``speed`` with NICs and ``capacity`` with storage. ``domains`` maps a level to the domain of the device
    where that differs from the node's; ``{home}`` stands for the node's domain on that axis, ``{node}`` for the node.
    """

    kind: Literal["gpu", "nic", "nvme", "cxl"]
    count: Annotated[int, Field(ge=1, le=64)] = 1
    model: str = ""
    memory: Bytes | None = None
    speed: BitsPerSecond | None = None
    capacity: Bytes | None = None
    numa: Annotated[int, Field(ge=0, le=7)] | None = None
    pcie: Name | None = None
    domains: dict[Level, str] = Field(default_factory=dict)


class TemplateSpec(Strict):
    """A kind of node. What is not said comes from ``extends``.

    ``budgets.power`` is what workloads may add to ``idlePower``. ``nodesPerNvlink`` is how many nodes share one scale-up domain: 1 makes
    one for each node, named after it.
    """

    extends: str | None = None
    budgets: Budgets = Field(default_factory=dict)
    numa_cpu: list[Cores] | None = None
    devices: list[DeviceSpec] | None = None
    gpu_power: Watts | None = None
    idle_power: Watts | None = None
    traits: list[Name] | None = None
    nodes_per_nvlink: Annotated[int, Field(ge=0, le=MAX_NODES)] | None = None
    nodes_per_rack: Count | None = None


class Place(Strict):
    """How a group's nodes stand in a site. ``hall`` names one hall for all; ``rowsPerHall`` makes as many as are needed."""

    nodes_per_rack: Count | None = None
    racks_per_row: Count | None = None
    rows_per_hall: Count | None = None
    hall: Name | None = None

    @model_validator(mode="after")
    def _whole(self) -> Place:
        _needs(self.rows_per_hall, "rowsPerHall", self.racks_per_row, "racksPerRow")
        _excludes(self.hall, "hall", self.rows_per_hall, "rowsPerHall")
        return self


class Oversubscription(Strict):
    """Bandwidth below a switch tier over bandwidth above it; 1 is non-blocking."""

    leaf: Ratio = 1.0
    spine: Ratio = 1.0


class Fabric(Strict):
    """Leaves, spine groups and pods. With ``rails``, NIC and GPU k of each node of a leaf (a scalable unit) are on its rail k."""

    nodes_per_leaf: Count
    leaves_per_spine: Count | None = None
    spines_per_pod: Count | None = None
    pod: Name | None = None
    rails: bool = False
    oversubscription: Oversubscription = Field(default_factory=Oversubscription)

    @model_validator(mode="after")
    def _whole(self) -> Fabric:
        _needs(self.spines_per_pod, "spinesPerPod", self.leaves_per_spine, "leavesPerSpine")
        _excludes(self.pod, "pod", self.spines_per_pod, "spinesPerPod")
        return self


class Power(Strict):
    """Watts, idle draw included. Racks hang off PDUs and those off feeds, where numbers say so."""

    rack_limit: Watts | None = None
    racks_per_pdu: Count | None = None
    pdu_limit: Watts | None = None
    pdus_per_feed: Count | None = None
    feed: Name | None = None
    feed_limit: Watts | None = None

    @model_validator(mode="after")
    def _whole(self) -> Power:
        _needs(self.pdu_limit, "pduLimit", self.racks_per_pdu, "racksPerPdu")
        _needs(self.pdus_per_feed, "pdusPerFeed", self.racks_per_pdu, "racksPerPdu")
        _needs(self.feed_limit, "feedLimit", self.pdus_per_feed or self.feed, "pdusPerFeed or feed")
        _excludes(self.feed, "feed", self.pdus_per_feed, "pdusPerFeed")
        return self


class Group(Strict):
    """A number of equal nodes, ``<name>-<number>``, and the trees above them."""

    name: Name
    template: str
    nodes: Count
    traits: list[Name] = Field(default_factory=list)
    place: Place = Field(default_factory=Place)
    fabric: Fabric | None = None
    power: Power | None = None


class Pool(Strict):
    """A budget on every domain of a level whose name matches: CXL memory of a rack, NVMe-oF of a row, licences of a site."""

    on: Level
    match: str = "*"
    budgets: Budgets


class DomainSpec(Strict):
    """A domain: the one above it on the same axis, and its budgets."""

    within: Annotated[Path | None, Field(alias="in")] = None
    budgets: Budgets = Field(default_factory=dict)


class NodeSpec(Strict):
    """One node, or several in the same domains, one by one."""

    name: Name | None = None
    names: list[Name] | None = None
    template: str
    within: Annotated[list[Path], Field(alias="in", default_factory=list)]


class Override(Strict):
    """What is different about some nodes; names may hold ``*`` and ``?``. Devices are named ``gpu3``, ``nic0``."""

    nodes: list[str]
    cordoned: bool = False
    health: DeviceState = "healthy"
    traits: list[Name] = Field(default_factory=list)
    down: list[str] = Field(default_factory=list)
    degraded: list[str] = Field(default_factory=list)


class FleetSpec(Strict):
    """What the fleet is made of."""

    site: Name | None = None
    templates: dict[str, TemplateSpec] = Field(default_factory=dict)
    groups: list[Group] = Field(default_factory=list)
    domains: dict[Path, DomainSpec] = Field(default_factory=dict)
    nodes: list[NodeSpec] = Field(default_factory=list)
    pools: list[Pool] = Field(default_factory=list)
    overrides: list[Override] = Field(default_factory=list)


class FleetManifest(Manifest):
    """Hardware: groups of nodes from templates, or domains and nodes one by one, or both."""

    kind: Literal["Fleet"]
    spec: FleetSpec


def _needs(value: object, name: str, other: object, other_name: str) -> None:
    if value is not None and not other:
        raise PydanticCustomError("wrong", "{sentence}", {"sentence": f"{name} needs {other_name}; give both"})


def _excludes(value: object, name: str, other: object, other_name: str) -> None:
    if value is not None and other is not None:
        sentence = f"{name} names one for all and {other_name} makes several; give one of the two"
        raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
