"""One machine as its own tools describe it, and fleets made of copies of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from plenum.graph.build import MAX_NUMA_PER_NODE, Device, FleetBuilder, NodeShape
from plenum.model.errors import FieldError
from plenum.model.fleet import CPU, MAX_GPUS_PER_NODE, MEMORY, DeviceKind, Fleet

NVIDIA, AMD = 0x10DE, 0x1002
MAX_COPIES = 100_000
_VENDOR_PREFIX = re.compile(r"^(NVIDIA|AMD|Tesla)[ _-]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDevice:
    """A GPU, NIC, NVMe drive or CXL memory of a host.

    Parameters
    ----------
    capacity
        A GPU's memory in bytes, a NIC's bit/s, storage in bytes; 0 where unknown.
    numa
        Number of its NUMA node as the host counts them; None where unknown.
    pcie
        Name of the PCIe switch that it shares with others; None where there is none.
    nvlink
        Number of the group of GPUs that it reaches by NVLink (or XGMI); None where there is none.
    """

    kind: DeviceKind
    model: str = ""
    capacity: int = 0
    numa: int | None = None
    pcie: str | None = None
    nvlink: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine: its devices, and CPU and memory by NUMA node where known.

    Parameters
    ----------
    numa_cpu_milli
        NUMA node, as the host counts them, to its logical CPUs in thousandths; empty where unknown.
    cpu_milli, memory_bytes
        Of the whole host; None where unknown.
    gpu_power_w
        Watts that one busy GPU draws at most; 0 where unknown.
    """

    devices: tuple[HostDevice, ...] = ()
    numa_cpu_milli: Mapping[int, int] = field(default_factory=dict)
    cpu_milli: int | None = None
    memory_bytes: int | None = None
    gpu_power_w: int = 0
    traits: tuple[str, ...] = ()


def fleet_of(host: Host, names: Sequence[str], *, fleet_name: str) -> Fleet:
    """Return a fleet of one copy of the host per name.

    NUMA nodes are renumbered from 0 without gaps. More of them than Plenum tracks are left out as a whole: the host's
    CPUs then stand as one budget.

    Raises
    ------
    FieldError
        A name twice, too many names, or a host that breaks a limit of the model.
    """
    if len(names) > MAX_COPIES:
        raise FieldError("names", f"{len(names):,} copies of a host; at most {MAX_COPIES:,} are made")
    if sum(device.kind == DeviceKind.GPU for device in host.devices) > MAX_GPUS_PER_NODE:
        raise FieldError("GPU", f"a host with more than {MAX_GPUS_PER_NODE} GPUs is not supported")
    number = _numa_numbers(host)
    totals = {CPU: host.cpu_milli, MEMORY: host.memory_bytes}
    shape = NodeShape(
        budgets={resource: amount for resource, amount in totals.items() if amount is not None},
        numa_cpu_milli=tuple(milli for _, milli in sorted(host.numa_cpu_milli.items())) if number else (),
        devices=tuple(_device(device, number) for device in host.devices),
        gpu_power_w=host.gpu_power_w,
        traits=host.traits,
    )
    builder = FleetBuilder(fleet_name)
    groups = sorted({device.nvlink for device in host.devices if device.nvlink is not None})
    for name in names:
        for group in groups:
            builder.domain("scaleup.nvlink", f"{name}/nvlink{group}", parent=None)
    builder.nodes(names, shape)
    return builder.build()


def gpu_model(name: str) -> str:
    """Return a GPU's product name in one spelling: ``NVIDIA H100 80GB HBM3`` and ``NVIDIA-H100-80GB-HBM3`` alike."""
    return re.sub(r"[\s_-]+", "-", _VENDOR_PREFIX.sub("", name.strip())).strip("-")


def pci_kind(device_class: int, vendor: int) -> DeviceKind | None:
    """Return what a PCI function is, or None where it is nothing that workloads ask for.

    Parameters
    ----------
    device_class
        Base class and subclass, 16 bits (PCI Code and ID Assignment): ``0x0302`` is a 3D controller.
    vendor
        PCI vendor. A plain display adapter counts as a GPU only from a maker of compute GPUs, so that the console of
        a board controller does not.
    """
    if device_class in (0x0302, 0x1200):  # 3D controller, processing accelerator
        return DeviceKind.GPU
    if device_class in (0x0300, 0x0380) and vendor in (NVIDIA, AMD):
        return DeviceKind.GPU
    return {0x0200: DeviceKind.NIC, 0x0207: DeviceKind.NIC, 0x0108: DeviceKind.NVME, 0x0502: DeviceKind.CXL}.get(
        device_class
    )


def connected(members: Sequence[int], links: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return each member's group, numbered by lowest member, of the groups of two or more that links join."""
    root = {member: member for member in members}

    def find(member: int) -> int:
        while root[member] != member:
            root[member] = root[root[member]]
            member = root[member]
        return member

    for a, b in links:
        low, high = sorted((find(a), find(b)))
        root[high] = low
    sizes: dict[int, int] = {}
    for member in members:
        sizes[find(member)] = sizes.get(find(member), 0) + 1
    order = {top: i for i, top in enumerate(sorted(top for top, size in sizes.items() if size > 1))}
    return {member: order[find(member)] for member in members if find(member) in order}


def _numa_numbers(host: Host) -> dict[int, int]:
    """Return our number of each NUMA node that has CPUs; memory-only ones (HBM, CXL) are no place for work."""
    used = {device.numa for device in host.devices if device.numa is not None}
    seen = sorted(host.numa_cpu_milli or used)
    return {} if len(seen) > MAX_NUMA_PER_NODE else {numa: i for i, numa in enumerate(seen)}


def _device(device: HostDevice, number: Mapping[int, int]) -> Device:
    return Device(
        kind=device.kind,
        model=device.model,
        capacity=device.capacity,
        numa=None if device.numa is None else number.get(device.numa),
        pcie=device.pcie,
        domains=None if device.nvlink is None else {"scaleup.nvlink": f"{{node}}/nvlink{device.nvlink}"},
    )
