"""Small fleets that several tests share."""

from __future__ import annotations

from plenum.graph.build import Device, FleetBuilder
from plenum.model import DeviceKind, Fleet

GPUS, NICS = 8, 8


def gpu_nodes(
    leaves: int = 2,
    racks_per_leaf: int = 2,
    nodes_per_rack: int = 2,
    *,
    rack_power_w: int = 0,
    cordoned: tuple[str, ...] = (),
) -> Fleet:
    """Nodes of eight GPUs and eight NICs, two NUMA nodes, four PCIe switches; racks in leaves in one spine group and pod."""
    b = FleetBuilder("test")
    b.domain("fabric.pod", "p0", parent=None)
    b.domain("fabric.spine", "s0", parent="fabric.pod:p0")
    number = 0
    for leaf in range(leaves):
        b.domain("fabric.leaf", f"l{leaf}", parent="fabric.spine:s0")
        for rack in range(leaf * racks_per_leaf, (leaf + 1) * racks_per_leaf):
            b.domain("place.rack", f"r{rack}", parent=None)
            b.domain("power.rack", f"r{rack}", parent=None)
            if rack_power_w:
                b.budget(f"power.rack:r{rack}", "power_w", rack_power_w)
            for _ in range(nodes_per_rack):
                name = f"n{number}"
                number += 1
                b.domain("scaleup.nvlink", name, parent=None)
                homes = {"place": f"place.rack:r{rack}", "fabric": f"fabric.leaf:l{leaf}"}
                homes |= {"power": f"power.rack:r{rack}", "scaleup": f"scaleup.nvlink:{name}"}
                b.node(
                    name,
                    domains=homes,
                    budgets={"cpu_milli": 64_000, "memory_bytes": 2**40},
                    numa_cpu_milli=(32_000, 32_000),
                    gpu_power_w=700,
                    devices=[_device(DeviceKind.GPU, i) for i in range(GPUS)]
                    + [_device(DeviceKind.NIC, i) for i in range(NICS)],
                    cordoned=name in cordoned,
                )
    return b.build()


def _device(kind: DeviceKind, i: int) -> Device:
    model, capacity = ("H100", 80 * 2**30) if kind == DeviceKind.GPU else ("CX7", 400 * 10**9)
    return Device(kind=kind, model=model, capacity=capacity, numa=i // 4, pcie=f"sw{i // 2}")
