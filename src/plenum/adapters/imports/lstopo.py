"""A host as hwloc sees it: ``lstopo --of xml host.xml`` (hwloc 2.0 and later).

GPUs, NICs, NVMe drives and CXL memory are PCI devices; those under one root port share a ``place.pcie`` domain. The NUMA node of
a device is that of the nearest object above it. XGMI hives are the groups that NVLink groups are on NVIDIA hosts; hwloc does not
export NVLink by itself.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax import SAXException, SAXParseException
from xml.sax.handler import ContentHandler

from defusedxml import DefusedXmlException
from defusedxml import sax as safe_sax

from plenum.adapters.host import Host, HostDevice, fleet_of, gpu_model, pci_kind
from plenum.adapters.imports.source import located, read_bytes, shown
from plenum.model.errors import FieldError, FileError, Where
from plenum.model.fleet import DeviceKind, Fleet

MAX_BYTES = 32 * 2**20
MAX_DEPTH = 64
KIB = 1024
COMPUTE = {"CUDA", "NVML", "RSMI", "LevelZero", "OpenCL"}
"""Back-ends of hwloc that show a device to be one that computes."""

_PCI_TYPE = re.compile(r"(?P<kind>[0-9a-fA-F]{4})\s*\[(?P<vendor>[0-9a-fA-F]{4}):")
_MEMORY_INFO = ("CUDAGlobalMemorySize", "RSMIVRAMSize", "LevelZeroHBMSize", "LevelZeroMemorySize")


def read_fleet(path: Path, *, names: Sequence[str] = (), name: str = "lstopo") -> Fleet:
    """Read a host, and make a fleet of as many copies as there are names.

    Parameters
    ----------
    names
        Of the nodes; empty: one, named as the file says.

    Raises
    ------
    FieldError
        An attribute that cannot be meant.
    FileError
        A file that is missing, too large or not such a file.
    """
    file = shown(path)
    machine = _machine(read_bytes(path, MAX_BYTES), file)
    found = [obj for obj in machine.children if obj.attributes.get("type") == "Machine"]
    if not found:
        raise FileError("holds no Machine; write it with `lstopo --of xml`", Where(file=file))
    host = _host(found[0], file)
    with located(file):
        return fleet_of(host, list(names) or [found[0].info.get("HostName") or "host"], fleet_name=name)


@dataclass(slots=True)
class _Object:
    """One ``object`` of the file and the ``info`` elements right below it."""

    line: int
    attributes: dict[str, str]
    parent: _Object | None = None
    children: list[_Object] = field(default_factory=list)
    info: dict[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        return self.attributes.get("type", "")

    def walk(self) -> Iterator[_Object]:
        """Yield the object and all below it, top down."""
        yield self
        for child in self.children:
            yield from child.walk()

    def above(self) -> Iterator[_Object]:
        """Yield the objects above, nearest first."""
        at = self.parent
        while at is not None:
            yield at
            at = at.parent


class _Handler(ContentHandler):
    """Builds the tree of objects; notes where each stands."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file, self.depth = file, 0
        self.root = self.at = _Object(0, {})
        self.version = ""

    def startElement(self, name: str, attrs: object) -> None:  # noqa: N802 (the interface of SAX)
        self.depth += 1
        values = dict(attrs.items())  # type: ignore[attr-defined]
        line = self._locator.getLineNumber() or 0  # type: ignore[attr-defined]
        if self.depth > MAX_DEPTH:
            raise FileError(f"is nested deeper than {MAX_DEPTH} levels", Where(file=self.file, line=line))
        if self.depth == 1 and name != "topology":
            raise FileError(
                f"is not of hwloc: its root is <{name[:40]}>, not <topology>", Where(file=self.file, line=line)
            )
        if self.depth == 1 and not values.get("version", "1").startswith(("2", "3")):
            raise FileError("is of hwloc 1; write it with hwloc 2.0 or later", Where(file=self.file, line=line))
        if name == "object":
            self.at = _Object(line, values, self.at)
            self.at.parent.children.append(self.at)  # type: ignore[union-attr]
        elif name == "info":
            self.at.info[values.get("name", "")] = values.get("value", "")

    def endElement(self, name: str) -> None:  # noqa: N802
        self.depth -= 1
        if name == "object" and self.at.parent is not None:
            self.at = self.at.parent


def _machine(data: bytes, file: str) -> _Object:
    handler = _Handler(file)
    try:
        # hwloc names a DTD, which the parser of the standard library does not fetch; entities, which it never needs, are refused.
        safe_sax.parse(io.BytesIO(data), handler, forbid_dtd=False, forbid_entities=True, forbid_external=False)
    except DefusedXmlException:
        raise FileError("declares XML entities, which hwloc never does; it is not read", Where(file=file)) from None
    except SAXParseException as error:
        line = error.getLineNumber() or 0
        raise FileError(f"is not well-formed XML: {error.getMessage()}", Where(file=file, line=line)) from None
    except (SAXException, ValueError, LookupError) as error:
        raise FileError(f"is not XML that can be read: {error}", Where(file=file)) from None
    return handler.root


def _host(machine: _Object, file: str) -> Host:
    objects = list(machine.walk())
    pus = {_whole(obj, "os_index", file) for obj in objects if obj.type == "PU"}
    numa_nodes = [obj for obj in objects if obj.type == "NUMANode"]
    cpus = {_whole(obj, "os_index", file): _bits(obj, "cpuset", file) for obj in numa_nodes}
    devices = [device for obj in objects if obj.type == "PCIDev" and (device := _device(obj, file, set(cpus)))]
    hives = {device.hive for device in devices if device.hive}
    hive = {name: i for i, name in enumerate(sorted(hives)) if sum(d.hive == name for d in devices) > 1}
    crowded = {d.port for d in devices if sum(e.port == d.port for e in devices) > 1}
    return Host(
        devices=tuple(
            HostDevice(
                kind=device.kind,
                model=device.model,
                capacity=device.capacity,
                numa=device.numa,
                pcie=device.port if device.port in crowded and device.port else None,
                nvlink=hive.get(device.hive),
            )
            for device in devices
        ),
        numa_cpu_milli={numa: len(bits & pus) * 1000 for numa, bits in cpus.items() if bits & pus},
        cpu_milli=len(pus) * 1000 if pus else None,
        memory_bytes=sum(_whole(obj, "local_memory", file) for obj in numa_nodes) if numa_nodes else None,
    )


@dataclass(frozen=True, slots=True)
class _Found:
    kind: DeviceKind
    model: str
    capacity: int
    numa: int | None
    port: str
    hive: str


def _device(obj: _Object, file: str, numa_nodes: set[int]) -> _Found | None:
    text = obj.attributes.get("pci_type", "")
    match = _PCI_TYPE.match(text)
    if match is None:
        sentence = f"must be a class and vendor such as '0302 [10de:2330]', not {text[:40]!r}"
        raise FieldError("pci_type", sentence, file=file, line=obj.line)
    os_devices = [child for child in obj.children if child.type == "OSDev"]
    info = dict(obj.info)
    for child in os_devices:
        info |= child.info
    computes = any({child.attributes.get("subtype"), child.info.get("Backend")} & COMPUTE for child in os_devices)
    kind = DeviceKind.GPU if computes else pci_kind(int(match["kind"], 16), int(match["vendor"], 16))
    name = info.get("GPUModel") or info.get("PCIDevice", "")
    if kind is None or "Virtual Function" in name:
        return None
    return _Found(
        kind=kind,
        model=gpu_model(name) if kind == DeviceKind.GPU else name,
        capacity=_capacity(kind, info, obj, file),
        numa=_numa(obj, file, numa_nodes),
        port=_root_port(obj),
        hive=info.get("XGMIHiveID", ""),
    )


def _capacity(kind: DeviceKind, info: dict[str, str], obj: _Object, file: str) -> int:
    """Return bytes; hwloc writes KiB, since version 3 with the unit."""
    keys = _MEMORY_INFO if kind == DeviceKind.GPU else ("Size", "CXLRAMSize")
    text = next((info[key] for key in keys if key in info), "0").removesuffix("KiB").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise FieldError("Size", f"must be a number of KiB, not {text[:40]!r}", file=file, line=obj.line)
    return int(text) * KIB


def _numa(obj: _Object, file: str, numa_nodes: set[int]) -> int | None:
    """Return the NUMA node of the nearest object above that knows; None where it spans several."""
    for above in obj.above():
        if above.attributes.get("nodeset"):
            inside = _bits(above, "nodeset", file) & numa_nodes
            return min(inside) if len(inside) == 1 else None
    return None


def _root_port(obj: _Object) -> str:
    """Return the PCI address of the topmost bridge below the host bridge: its tree is reached without the host bridge."""
    port = ""
    for above in obj.above():
        if above.type != "Bridge" or above.attributes.get("bridge_type", "").startswith("0-"):
            break
        port = above.attributes.get("pci_busid", "")
    return port


def _whole(obj: _Object, key: str, file: str) -> int:
    text = obj.attributes.get(key, "")
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        sentence = f"of {obj.type} must be a whole number of at least 0, not {text[:40]!r}"
        raise FieldError(key, sentence, file=file, line=obj.line)
    return int(text)


def _bits(obj: _Object, key: str, file: str) -> set[int]:
    """Return the members of a bitmap such as ``0x00000001,0xffffffff``: 32-bit words, highest first."""
    text = obj.attributes.get(key, "")
    words = text.split(",")
    if len(words) > 1024 or not all(re.fullmatch(r"(0x)?[0-9a-fA-F]{0,8}", word) for word in words):
        raise FieldError(key, f"must be a bitmap such as 0x000000ff, not {text[:40]!r}", file=file, line=obj.line)
    bits: set[int] = set()
    for place, word in enumerate(reversed(words)):
        value = int(word.removeprefix("0x") or "0", 16)
        bits |= {place * 32 + bit for bit in range(32) if value >> bit & 1}
    return bits
