"""Kubernetes nodes: what ``kubectl get nodes -o json`` prints.

Labels become the trees (:data:`LEVEL_LABELS`), allocatable resources the budgets, devices and MIG slices the GPUs. Racks are named
``zone/rack``, since sites number their racks anew. A node that is unschedulable is cordoned; one that is not Ready is
down; one under memory, disk or process pressure is degraded. Other taints become traits ``taint:key=value:effect``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plenum.adapters.host import gpu_model
from plenum.adapters.imports.json_lines import line_of
from plenum.adapters.imports.source import read_text, shown
from plenum.graph.build import Device, FleetBuilder
from plenum.model import units
from plenum.model.errors import FieldError, FileError, Where
from plenum.model.fleet import CPU, MAX_GPUS_PER_NODE, MEMORY, PODS, DeviceKind, Fleet, Health, level_id
from plenum.model.workload import MIG_SLICES, MIG_STARTS

MAX_BYTES = 256 * 2**20
MAX_PODS = 1_000_000
MAX_MIG_SLICES = 7 * MAX_GPUS_PER_NODE
MIB = 2**20

LEVEL_LABELS: Mapping[str, tuple[str, ...]] = {
    "place.site": ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
    "place.hall": ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    "place.row": ("topology.kubernetes.io/row",),
    "place.rack": ("topology.kubernetes.io/rack",),
    "fabric.pod": (
        "network.topology.nvidia.com/core",
        "fabric.topograph.run/tier-2",
        "topology.k8s.aws/network-node-layer-1",
    ),
    "fabric.spine": (
        "network.topology.nvidia.com/spine",
        "fabric.topograph.run/tier-1",
        "topology.k8s.aws/network-node-layer-2",
        "cloud.google.com/gce-topology-block",
    ),
    "fabric.leaf": (
        "network.topology.nvidia.com/leaf",
        "fabric.topograph.run/tier-0",
        "topology.k8s.aws/network-node-layer-3",
        "cloud.google.com/gce-topology-subblock",
    ),
    "scaleup.nvlink": (
        "nvidia.com/gpu.clique",
        "network.topology.nvidia.com/accelerator",
        "accelerator.topograph.run/domain",
    ),
}
"""Level to the labels that name its domain, most telling first. Sources: Kubernetes well-known labels; NVIDIA GPU feature
discovery and Topograph; AWS and Google Cloud node labels."""

TRAIT_LABELS = ("kubernetes.io/arch", "node.kubernetes.io/instance-type")
_PRESSURE = ("MemoryPressure", "DiskPressure", "PIDPressure")
_OWN_TAINTS = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
_MIG = re.compile(r"(?:nvidia\.com/mig-|.*-MIG-)(?P<profile>(?P<g>[1-7]g)\.\d+gb.*)")


def read_fleet(
    path: Path, *, name: str = "kubernetes", level_labels: Mapping[str, str] | None = None, traits: Sequence[str] = ()
) -> Fleet:
    """Read the nodes of a cluster.

    Parameters
    ----------
    path
        A ``List``, a ``NodeList`` or one ``Node`` as JSON; ``-`` reads standard input.
    level_labels
        ``axis.level`` to a label that names its domain, tried before :data:`LEVEL_LABELS`.
    traits
        Labels that become traits ``key=value``, besides :data:`TRAIT_LABELS`.

    Raises
    ------
    FieldError
        A value that cannot be meant, a node listed twice, a domain in two places.
    FileError
        A file that is missing, too large, not JSON or not a list of nodes.
    """
    for level in level_labels or {}:
        level_id(level, "--label")
    labels = {
        level: tuple(key for key in ((level_labels or {}).get(level), *LEVEL_LABELS.get(level, ())) if key)
        for level in (*LEVEL_LABELS, *(level_labels or {}))
    }
    text = read_text(path, MAX_BYTES)
    builder = FleetBuilder(name)
    try:
        for item in _items(text, shown(path)):
            _add_node(builder, item, labels, (*TRAIT_LABELS, *traits))
        return builder.build()
    except _FaultError as fault:
        error = fault.error
        line = line_of(text, fault.path)
        raise FieldError(_dotted(fault.path), error.sentence, file=shown(path), line=line) from None


class _FaultError(Exception):
    """An error and the path of the value at fault; becomes a FieldError with a line once, where the text is at hand."""

    def __init__(self, path: tuple[str | int, ...], error: FieldError) -> None:
        self.path, self.error = path, error


@dataclass(frozen=True, slots=True)
class _Value:
    """A JSON value and its path."""

    raw: object
    path: tuple[str | int, ...] = ()

    def wrong(self, sentence: str) -> _FaultError:
        return _FaultError(self.path, FieldError("", sentence))

    def get(self, key: str) -> _Value:
        """Return a member; absent ones, and those of an absent object, hold None."""
        return _Value(self.members().get(key), (*self.path, key))

    def members(self) -> dict:
        """Return an object; an absent one is empty."""
        if self.raw is None:
            return {}
        if not isinstance(self.raw, dict):
            raise self.wrong(f"must be an object, not {_kind(self.raw)}")
        return self.raw

    def items(self) -> list[_Value]:
        """Return the members of a list; of an absent one, none."""
        if self.raw is None:
            return []
        if not isinstance(self.raw, list):
            raise self.wrong(f"must be a list, not {_kind(self.raw)}")
        return [_Value(item, (*self.path, i)) for i, item in enumerate(self.raw)]

    def text(self) -> str:
        """Return a string; an absent one is empty."""
        if self.raw is not None and not isinstance(self.raw, str):
            raise self.wrong(f"must be a string, not {_kind(self.raw)}")
        return (self.raw or "").strip()

    def flag(self) -> bool:
        if self.raw is not None and not isinstance(self.raw, bool):
            raise self.wrong(f"must be true or false, not {_kind(self.raw)}")
        return bool(self.raw)

    def quantity(self, unit: str) -> int | None:
        """Return a Kubernetes quantity in the base unit; None where absent."""
        if self.raw is None:
            return None
        if not isinstance(self.raw, (str, int, float)):
            raise self.wrong(f"must be a quantity, not {_kind(self.raw)}")
        milli = unit != "milli" and isinstance(self.raw, str) and self.raw.endswith("m")
        try:
            amount = units.parse(str(self.raw)[:-1] if milli else self.raw, unit, "")
        except FieldError as error:
            raise _FaultError(self.path, error) from None
        return amount // 1000 if milli else amount

    def count(self, high: int) -> int:
        """Return a whole number of [0, high], written as a number or a string; 0 where absent."""
        text = "0" if self.raw is None else str(self.raw).strip()
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= high):
            raise self.wrong(f"must be a whole number from 0 to {high}, not {str(self.raw)[:40]!r}")
        return int(text)


def _items(text: str, file: str) -> list[_Value]:
    try:
        root = _Value(json.loads(text))
    except json.JSONDecodeError as error:
        raise FileError(
            f"is not JSON: {error.msg} in column {error.colno}", Where(file=file, line=error.lineno)
        ) from None
    except (RecursionError, ValueError):
        raise FileError(
            "is not JSON that can be read: nested too deep, or a number too long", Where(file=file)
        ) from None
    if not isinstance(root.raw, dict):
        raise FileError("must be what `kubectl get nodes -o json` prints: an object", Where(file=file, line=1))
    if root.raw.get("kind") == "Node":
        return [root]
    items = root.get("items").items()
    if not items:
        raise FileError("lists no nodes; print them with `kubectl get nodes -o json`", Where(file=file, field="items"))
    return items


def _add_node(
    builder: FleetBuilder, node: _Value, level_labels: Mapping[str, tuple[str, ...]], trait_labels: Sequence[str]
) -> None:
    kind = node.get("kind").text()
    if kind not in ("", "Node"):
        raise node.get("kind").wrong(f"is {kind!r}; only nodes can be imported, so print `kubectl get nodes -o json`")
    name = node.get("metadata").get("name")
    if not name.text():
        raise name.wrong("must not be empty")
    labels = node.get("metadata").get("labels")
    homes = _homes(builder, labels, level_labels)
    status = node.get("status")
    allocatable = status.get("allocatable")
    budgets = {
        CPU: allocatable.get("cpu").quantity("milli"),
        MEMORY: allocatable.get("memory").quantity("bytes"),
        PODS: allocatable.get("pods").count(MAX_PODS) if "pods" in allocatable.members() else None,
    }
    devices, mig = _gpus(labels, allocatable, status.get("capacity"))
    traits = {f"{key}={labels.get(key).text()}" for key in trait_labels if key in labels.members()}
    try:
        builder.node(
            name.text(),
            domains=homes,
            budgets={resource: amount for resource, amount in budgets.items() if amount is not None},
            devices=devices,
            traits=sorted(traits | _taints(node) | ({"mig"} if mig else set())),
            health=_health(status),
            cordoned=node.get("spec").get("unschedulable").flag(),
        )
    except FieldError as error:
        raise _FaultError(name.path, error) from None


def _homes(builder: FleetBuilder, labels: _Value, level_labels: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return axis to the node's lowest labelled domain, made with all that is above it."""
    homes: dict[str, str] = {}
    present = labels.members()
    for level in sorted(level_labels, key=lambda level: level_id(level, "--label")):
        key = next((key for key in level_labels[level] if key in present), None)
        text = labels.get(key).text() if key else ""
        if not key or not text:
            continue
        axis = level.partition(".")[0]
        above = homes.get(axis)
        if level == "place.rack" and above:
            text = f"{above.partition(':')[2]}/{text}"
        try:
            builder.domain(level, text, parent=above)
        except FieldError as error:
            raise _FaultError(labels.get(key).path, error) from None
        homes[axis] = f"{level}:{text}"
    return homes


def _gpus(labels: _Value, allocatable: _Value, capacity: _Value) -> tuple[list[Device], bool]:
    """Return a node's physical GPUs, and whether some are cut into MIG slices.

    Devices that the plugin reports but does not allocate are down; which they are, Kubernetes does not say, so the last.
    Time-sliced GPUs are counted by their label. Of MIG slices only the number is known: the fewest GPUs that hold them count.
    """
    label = labels.get
    if "amd.com/gpu" in {*capacity.members(), *allocatable.members()}:
        model = label("amd.com/gpu.product-name").text() or label("beta.amd.com/gpu.product-name").text()
        return _devices(model, 0, *_counts("amd.com/gpu", allocatable, capacity)), False
    product = label("nvidia.com/gpu.product").text().removesuffix("-SHARED")
    memory_bytes = label("nvidia.com/gpu.memory").count(10**8) * MIB
    whole, working = _counts("nvidia.com/gpu", allocatable, capacity)
    slices: dict[str, int] = {}
    for key in allocatable.members():
        match = _MIG.fullmatch(key.partition(".shared")[0])
        if match:
            slices[match["g"]] = slices.get(match["g"], 0) + allocatable.get(key).count(MAX_MIG_SLICES)
    single = _MIG.fullmatch(product)
    if single:  # every GPU cut alike, and each slice reported as a GPU
        slices, whole, working = {single["g"]: whole}, 0, 0
        product, memory_bytes = product.partition("-MIG-")[0], 0
    elif label("nvidia.com/gpu.replicas").count(10**6) > 1:
        whole = working = label("nvidia.com/gpu.count").count(MAX_GPUS_PER_NODE) or whole
    cut = _gpus_of_slices(slices)
    devices = _devices(product, memory_bytes, whole, working) + _devices(product, memory_bytes, cut, cut)
    return devices, cut > 0


def _counts(resource: str, allocatable: _Value, capacity: _Value) -> tuple[int, int]:
    """Return how many the node has, and how many of them work."""
    most = MAX_MIG_SLICES
    working = allocatable.get(resource).count(most)
    has = capacity.get(resource).count(most) if resource in capacity.members() else working
    return max(has, working), working


def _devices(product: str, memory_bytes: int, count: int, working: int) -> list[Device]:
    model = gpu_model(product)
    return [
        Device(
            kind=DeviceKind.GPU,
            model=model,
            capacity=memory_bytes,
            health=Health.HEALTHY if i < working else Health.DOWN,
        )
        for i in range(count)
    ]


def _gpus_of_slices(slices: Mapping[str, int]) -> int:
    """Return the fewest GPUs that hold MIG slices: by memory eighths, compute sevenths and places of each profile."""
    eighths = sum(MIG_SLICES[g] * count for g, count in slices.items())
    sevenths = sum(int(g[0]) * count for g, count in slices.items())
    places = max((-(-count // len(MIG_STARTS[g])) for g, count in slices.items() if g in MIG_STARTS), default=0)
    return max(-(-eighths // 8), -(-sevenths // 7), places)


def _taints(node: _Value) -> set[str]:
    """Return taints as traits, less those that the node's state already shows."""
    traits = set()
    for taint in node.get("spec").get("taints").items():
        key, value = taint.get("key").text(), taint.get("value").text()
        if not key.startswith(_OWN_TAINTS):
            traits.add(
                f"taint:{key}={value}:{taint.get('effect').text()}"
                if value
                else f"taint:{key}:{taint.get('effect').text()}"
            )
    return traits


def _health(status: _Value) -> Health:
    conditions = status.get("conditions").items()
    state = {condition.get("type").text(): condition.get("status").text() for condition in conditions}
    if state.get("Ready", "True") != "True":
        return Health.DOWN
    return Health.DEGRADED if any(state.get(kind) == "True" for kind in _PRESSURE) else Health.HEALTHY


def _dotted(path: Sequence[str | int]) -> str:
    parts = ""
    for step in path:
        if isinstance(step, int):
            parts += f"[{step}]"
        elif re.fullmatch(r"\w+", step):
            parts += f".{step}" if parts else step
        else:
            parts += f'["{step[:80]}"]'
    return parts


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
