"""This host as a fleet of one node: NUMA and PCIe from sysfs, GPUs from NVML where there is one.

What is not there, or may not be read (in a container, say), is left out; discovery never fails for it.
"""

from __future__ import annotations

import os
import platform
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from plenum.adapters.host import NVIDIA, Host, HostDevice, connected, fleet_of, gpu_model, pci_kind
from plenum.adapters.imports.hostlist import numbers
from plenum.adapters.nvml import NvmlGpu, read_gpus
from plenum.model.errors import FieldError
from plenum.model.fleet import DeviceKind, Fleet

MAX_CPUS = 65_536
MAX_FILE_BYTES = 65_536
SECTOR_BYTES = 512

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def discover(
    sysfs_root: str | Path = "/sys",
    *,
    proc_root: str | Path = "/proc",
    name: str = "",
    gpus: Callable[[], Sequence[NvmlGpu] | None] = read_gpus,
) -> Fleet:
    """Describe this host.

    Parameters
    ----------
    sysfs_root, proc_root
        Where sysfs and procfs are mounted.
    name
        Of the node and the fleet; empty: the host name.
    gpus
        What asks NVML. Where it answers, NVIDIA GPUs that it does not list (not given to this container) are left out.
    """
    name = name or platform.node() or "localhost"
    sysfs = Path(sysfs_root)
    numa = {
        number: path for path in _numbered(sysfs / "devices/system/node", "node") for number in [_number(path.name)]
    }
    cpus = {number: len(_list(path / "cpulist")) for number, path in numa.items()}
    online = len(_list(sysfs / "devices/system/cpu/online")) or sum(cpus.values()) or os.cpu_count() or 1
    known = gpus()
    functions = _placed(list(_functions(sysfs)), known)
    host = Host(
        devices=_devices(functions, known or ()),
        numa_cpu_milli={number: count * 1000 for number, count in cpus.items() if count},
        cpu_milli=online * 1000,
        memory_bytes=_memory_bytes(sysfs, Path(proc_root), numa.values()),
        gpu_power_w=max((gpu.power_w for gpu in known or ()), default=0),
        traits=tuple(
            sorted({platform.machine() or "unknown"} | ({"mig"} if any(g.mig for g in known or ()) else set()))
        ),
    )
    return fleet_of(host, [name], fleet_name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Function:
    """A PCI function that is a device, and the root port that it hangs under (empty: none)."""

    pci: str
    kind: DeviceKind
    vendor: int
    model: str = ""
    capacity: int = 0
    numa: int | None = None
    port: str = ""


def _functions(sysfs: Path) -> Iterator[_Function]:
    """Yield the devices on PCI by address; virtual functions belong to their physical one."""
    for link in _children(sysfs / "bus/pci/devices"):
        device_class, vendor = _hex(link / "class") >> 8, _hex(link / "vendor")
        kind = pci_kind(device_class, vendor)
        if kind is None or not _ADDRESS.fullmatch(link.name) or (link / "physfn").exists():
            continue
        numa = _text(link / "numa_node")
        way = [part for part in link.resolve().parts if _ADDRESS.fullmatch(part)]
        yield _Function(
            pci=link.name,
            kind=kind,
            vendor=vendor,
            model=f"{vendor:04x}:{_hex(link / 'device'):04x}",
            capacity=_capacity(kind, link),
            numa=int(numa) if numa.isdigit() else None,  # -1: the firmware does not say
            port=way[0] if len(way) > 1 else "",
        )


def _placed(functions: list[_Function], gpus: Sequence[NvmlGpu] | None) -> list[_Function]:
    """Return the devices that can be used: of NVIDIA's GPUs, where NVML answers, exactly those that it lists."""
    if gpus is None:
        return functions
    seen = {function.pci: function for function in functions if function.kind == DeviceKind.GPU}
    listed = [
        seen.get(gpu.pci) or _Function(pci=gpu.pci, kind=DeviceKind.GPU, vendor=NVIDIA, model=gpu.name) for gpu in gpus
    ]
    return listed + [f for f in functions if f.kind != DeviceKind.GPU or f.vendor != NVIDIA]


def _devices(functions: Sequence[_Function], gpus: Sequence[NvmlGpu]) -> tuple[HostDevice, ...]:
    by_address = {gpu.pci: gpu for gpu in gpus}
    crowd = Counter(function.port for function in functions if function.port)
    nvlink = _nvlink_groups(gpus)
    devices = []
    for function in functions:
        gpu = by_address.get(function.pci)
        devices.append(
            HostDevice(
                kind=function.kind,
                model=gpu_model(gpu.name) if gpu else function.model,
                capacity=gpu.memory_bytes if gpu else function.capacity,
                numa=function.numa,
                pcie=function.port if crowd[function.port] > 1 else None,
                nvlink=nvlink.get(function.pci),
            )
        )
    return tuple(devices)


def _nvlink_groups(gpus: Sequence[NvmlGpu]) -> dict[str, int]:
    """Return GPU to group: GPUs are joined by a link between them, or by links to one switch."""
    at = {gpu.pci: i for i, gpu in enumerate(gpus)}
    first: dict[str, int] = {}
    links = []
    for i, gpu in enumerate(gpus):
        links += [(i, at.get(peer, first.setdefault(peer, i))) for peer in gpu.links]
    return {gpus[i].pci: group for i, group in connected(range(len(gpus)), links).items()}


def _capacity(kind: DeviceKind, device: Path) -> int:
    """Return a NIC's bit/s (its fastest port) or a drive's bytes; 0 where unknown."""
    if kind == DeviceKind.NIC:
        speeds = [_text(path) for pattern in ("net/*/speed", "virtio*/net/*/speed") for path in _glob(device, pattern)]
        rates = [_text(path).split(" ")[0] for path in _glob(device, "infiniband/*/ports/*/rate")]
        ethernet = [int(speed) * 10**6 for speed in speeds if speed.isdigit()]  # Mbit/s; -1 while the link is down
        infiniband = [int(float(rate) * 10**9) for rate in rates if re.fullmatch(r"\d{1,6}(\.\d+)?", rate)]
        # 2^32-1 is how drivers without a speed say that they have none.
        return max((rate for rate in ethernet + infiniband if rate < (2**32 - 1) * 10**6), default=0)
    if kind == DeviceKind.NVME:
        sizes = [_text(path) for path in _glob(device, "nvme/nvme*/nvme*n*/size")]
        return sum(int(size) for size in sizes if size.isdigit()) * SECTOR_BYTES
    return 0


def _memory_bytes(sysfs: Path, proc: Path, numa: Iterable[Path]) -> int | None:
    """Return the memory that this process may use: what procfs says, else the NUMA nodes, within the limit of its control group.

    None where nobody says. The sum over the NUMA nodes comes second: memory that a virtual machine was given later may be missing there.
    """
    found = [re.search(r"MemTotal:\s*(\d{1,15}) kB", _text(proc / "meminfo"))]
    if not any(found):
        found = [re.search(r"MemTotal:\s*(\d{1,15}) kB", _text(path / "meminfo")) for path in numa]
    whole = [sum(int(match[1]) * 1024 for match in found if match)] if any(found) else []
    return min((*whole, *_memory_limits(sysfs / "fs/cgroup", proc)), default=None) if whole else None


def _memory_limits(cgroups: Path, proc: Path) -> Iterator[int]:
    """Yield the limits of this process's control group and of all above it (version 2: memory.max, version 1 beside it)."""
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "none", "")
        if controllers not in ("", "memory"):
            continue
        root, name = (cgroups, "memory.max") if not controllers else (cgroups / "memory", "memory.limit_in_bytes")
        # In a container the path may be that of the host, and only the root is to be seen.
        for group in (PurePosixPath(path), *PurePosixPath(path).parents):
            limit = _text(root / str(group).lstrip("/") / name)
            if limit.isdigit():
                yield int(limit)


def _list(path: Path) -> frozenset[int]:
    """Return the members of a list such as ``0-3,8``; none where it is absent or odd."""
    text = _text(path)
    try:
        ranges = numbers(text, "cpulist") if text else []
    except FieldError:
        return frozenset()
    return frozenset(i for first, last in ranges for i in range(first, min(last, MAX_CPUS) + 1))


def _numbered(folder: Path, prefix: str) -> list[Path]:
    return [path for path in _children(folder) if re.fullmatch(prefix + r"\d{1,5}", path.name)]


def _number(name: str) -> int:
    return int(re.sub(r"\D", "", name))


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _hex(path: Path) -> int:
    text = _text(path)
    return int(text, 16) if re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else 0


def _text(path: Path) -> str:
    """Return a small file's text, stripped; empty where it cannot be read (a speed cannot while the link is down)."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_FILE_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""
