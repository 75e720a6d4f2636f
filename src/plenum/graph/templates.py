"""What machines are made of: shapes of well-known nodes, as published by their makers.

Watts, cores and devices come from the data sheets named beside each template. Makers publish the most that a system draws, not what
it draws idle: idle watts are estimates (GPUs at about a tenth of their limit, processors, switches and fans), and every fleet can
state its own. HBM is counted in the decimal gigabytes of the data sheet, which is a little less than the memory there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from plenum.graph.build import Device, NodeShape
from plenum.model.fleet import CPU, MEMORY, POWER, DeviceKind

_GB, _GIB, _GBPS = 10**9, 2**30, 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTemplate:
    """A kind of node and how it is usually built into a hall.

    Parameters
    ----------
    shape
        Its ``power_w`` budget is what workloads may add to the idle draw.
    idle_power_w
        Watts drawn with nothing running.
    nodes_per_nvlink
        Nodes that share one scale-up domain (NVLink, Infinity Fabric): 1 within the node, 18 in an NVL72 rack, 0 where there is none.
    nodes_per_rack
        How many usually stand in one rack.
    """

    shape: NodeShape
    idle_power_w: int = 0
    nodes_per_nvlink: int = 0
    nodes_per_rack: int = 4

    @property
    def nic_bps(self) -> int:
        """Bandwidth of all NICs of one node."""
        return sum(d.capacity for d in self.shape.devices if d.kind == DeviceKind.NIC)


def with_rails(shape: NodeShape) -> NodeShape:
    """Return a shape whose NICs, and the GPUs that go with them, hang off rails of the node's fabric domain.

    NIC k is on rail k. With fewer NICs than GPUs, neighbouring GPUs share a rail.
    """
    gpus, nics = shape.count(DeviceKind.GPU), shape.count(DeviceKind.NIC)
    seen = dict.fromkeys(DeviceKind, 0)
    devices = []
    for device in shape.devices:
        k = seen[device.kind]
        seen[device.kind] += 1
        if device.kind == DeviceKind.GPU and nics:
            k = k * nics // gpus
        elif device.kind != DeviceKind.NIC:
            devices.append(device)
            continue
        domains = dict(device.domains or {}) | {"fabric.rail": f"{{home}}/rail{k}"}
        devices.append(replace(device, domains=domains))
    return replace(shape, devices=tuple(devices))


def _node(
    *,
    sockets: tuple[int, ...],
    memory_gib: int,
    idle_w: int,
    max_w: int,
    traits: tuple[str, ...],
    gpu_model: str = "",
    gpu_memory_bytes: int = 0,
    gpu_power_w: int = 0,
    gpu_numa: tuple[int, ...] = (),
    gpu_switch: tuple[str, ...] = (),
    nic_bps: int = 0,
    nic_numa: tuple[int, ...] = (),
    nic_switch: tuple[str, ...] = (),
    nodes_per_nvlink: int = 0,
    nodes_per_rack: int = 4,
) -> NodeTemplate:
    gpus = [
        Device(kind=DeviceKind.GPU, model=gpu_model, capacity=gpu_memory_bytes, numa=numa, pcie=switch)
        for numa, switch in zip(gpu_numa, gpu_switch, strict=True)
    ]
    nics = [
        Device(kind=DeviceKind.NIC, capacity=nic_bps, numa=numa, pcie=switch)
        for numa, switch in zip(nic_numa, nic_switch, strict=True)
    ]
    shape = NodeShape(
        budgets={CPU: sum(sockets) * 1000, MEMORY: memory_gib * _GIB, POWER: max_w - idle_w},
        numa_cpu_milli=tuple(cores * 1000 for cores in sockets),
        devices=(*gpus, *nics),
        gpu_power_w=gpu_power_w,
        traits=traits,
    )
    return NodeTemplate(
        shape=shape, idle_power_w=idle_w, nodes_per_nvlink=nodes_per_nvlink, nodes_per_rack=nodes_per_rack
    )


def _dgx_hopper(model: str, memory_gb: int) -> NodeTemplate:
    """DGX H100 and H200 (DGX H100/H200 user guide, system specifications and network modules).

    Two Xeon Platinum 8480C of 56 cores, 2 TB, at most 10.2 kW; eight GPUs of 700 W on four NVSwitches. Each GPU reaches its own
    400 Gb/s ConnectX-7 through that card's PCIe switch, four pairs a socket. The two storage cards are left out, so that a job that
    asks for NICs gets those of the compute fabric.
    """
    socket, switch = (0,) * 4 + (1,) * 4, tuple(f"switch{k}" for k in range(8))
    return _node(
        sockets=(56, 56),
        memory_gib=2048,
        idle_w=2000,
        max_w=10_200,
        traits=("fp8", "mig", "nvlink", "rdma"),
        gpu_model=model,
        gpu_memory_bytes=memory_gb * _GB,
        gpu_power_w=700,
        gpu_numa=socket,
        gpu_switch=switch,
        nic_bps=400 * _GBPS,
        nic_numa=socket,
        nic_switch=switch,
        nodes_per_nvlink=1,
    )


def _gb200_tray() -> NodeTemplate:
    """Compute tray of a GB200 NVL72 (NVIDIA GB200 NVL72 data sheet; DGX GB200 user guide).

    Two superchips, each one Grace of 72 cores with 480 GB and two GPUs of 1.2 kW; a tray draws at most 5.4 kW. 18 trays and nine
    NVLink switch trays make one rack and one scale-up domain of 72 GPUs. There is no PCIe switch: GPUs and the four 400 Gb/s
    ConnectX-7 hang off their Grace, whose root complex stands in for one.
    """
    return _node(
        sockets=(72, 72),
        memory_gib=894,  # 2 x 480 GB, decimal
        idle_w=600,
        max_w=5_400,
        traits=("arm64", "fp4", "fp8", "mig", "nvlink", "rdma"),
        gpu_model="GB200",
        gpu_memory_bytes=186 * _GB,
        gpu_power_w=1200,
        gpu_numa=(0, 0, 1, 1),
        gpu_switch=("grace0", "grace0", "grace1", "grace1"),
        nic_bps=400 * _GBPS,
        nic_numa=(0, 0, 1, 1),
        nic_switch=("grace0", "grace0", "grace1", "grace1"),
        nodes_per_nvlink=18,
        nodes_per_rack=18,
    )


def _mi300x() -> NodeTemplate:
    """Eight MI300X on one Infinity Fabric mesh (AMD Instinct MI300X platform data sheet: 192 GB and 750 W each).

    The host is the usual one: two EPYC 9654 of 96 cores, 24 DIMMs of 96 GB, eight 400 Gb/s NICs paired with the GPUs; 10 kW is an
    estimate of the whole.
    """
    socket, switch = (0,) * 4 + (1,) * 4, tuple(f"switch{k}" for k in range(8))
    return _node(
        sockets=(96, 96),
        memory_gib=2304,
        idle_w=2200,
        max_w=10_000,
        traits=("fp8", "infinity-fabric", "rdma", "rocm"),
        gpu_model="MI300X",
        gpu_memory_bytes=192 * _GB,
        gpu_power_w=750,
        gpu_numa=socket,
        gpu_switch=switch,
        nic_bps=400 * _GBPS,
        nic_numa=socket,
        nic_switch=switch,
        nodes_per_nvlink=1,
    )


def _l40s() -> NodeTemplate:
    """Eight L40S on PCIe (NVIDIA L40S data sheet: 48 GB, 350 W, no NVLink, no MIG; NVIDIA OVX server reference configuration).

    Two sockets of 32 cores; four PCIe switches, each with two GPUs and one 200 Gb/s NIC; 4.5 kW is an estimate of the whole.
    """
    return _node(
        sockets=(32, 32),
        memory_gib=1024,
        idle_w=900,
        max_w=4_500,
        traits=("fp8", "rdma"),
        gpu_model="L40S",
        gpu_memory_bytes=48 * _GB,
        gpu_power_w=350,
        gpu_numa=(0, 0, 0, 0, 1, 1, 1, 1),
        gpu_switch=tuple(f"switch{k // 2}" for k in range(8)),
        nic_bps=200 * _GBPS,
        nic_numa=(0, 0, 1, 1),
        nic_switch=tuple(f"switch{k}" for k in range(4)),
    )


def _a100() -> NodeTemplate:
    """DGX A100 640GB (DGX A100 user guide and system architecture white paper).

    Two EPYC 7742 of 64 cores, each four NUMA nodes; 2 TB, at most 6.5 kW; eight 80 GB GPUs of 400 W on six NVSwitches. Four PCIe
    switches of two GPUs and two 200 Gb/s ConnectX-6 each, on NUMA nodes 3, 1, 7 and 5.
    """
    numa = (3, 3, 1, 1, 7, 7, 5, 5)
    switch = tuple(f"switch{k // 2}" for k in range(8))
    return _node(
        sockets=(16,) * 8,
        memory_gib=2048,
        idle_w=1500,
        max_w=6_500,
        traits=("mig", "nvlink", "rdma"),
        gpu_model="A100",
        gpu_memory_bytes=80 * _GB,
        gpu_power_w=400,
        gpu_numa=numa,
        gpu_switch=switch,
        nic_bps=200 * _GBPS,
        nic_numa=numa,
        nic_switch=switch,
        nodes_per_nvlink=1,
    )


def _cpu_only() -> NodeTemplate:
    """Two-socket server without accelerators: two EPYC 9654 of 96 cores (360 W each), 24 DIMMs of 64 GB, one 200 Gb/s NIC."""
    return _node(
        sockets=(96, 96),
        memory_gib=1536,
        idle_w=250,
        max_w=1_100,
        traits=("rdma",),
        nic_bps=200 * _GBPS,
        nic_numa=(0,),
        nic_switch=("switch0",),
        nodes_per_rack=20,
    )


TEMPLATES: dict[str, NodeTemplate] = {
    "dgx-h100": _dgx_hopper("H100", 80),
    "dgx-h200": _dgx_hopper("H200", 141),
    "gb200-nvl72": _gb200_tray(),
    "mi300x": _mi300x(),
    "l40s": _l40s(),
    "a100": _a100(),
    "cpu-only": _cpu_only(),
}
"""Name to template, as a fleet manifest names them."""
