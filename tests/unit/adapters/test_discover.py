"""Discovery of this host: a made-up sysfs, the real NVML binding over a stub library, and this very machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from plenum.adapters.discover import discover
from plenum.adapters.nvml import NvmlGpu
from plenum.model import Fleet
from plenum.model.fleet import AXIS, CPU, MEMORY, DeviceKind

ROOT = "devices/pci0000:00"
GIB = 2**30


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """Two sockets; on each a switch with two GPUs and a NIC; a drive, a virtual function and a board controller's console."""
    sys_root = tmp_path / "sys"
    for numa, cpus in enumerate(("0-3,8-11", "4-7,12-15")):
        _put(sys_root / f"devices/system/node/node{numa}/cpulist", cpus)
        _put(sys_root / f"devices/system/node/node{numa}/meminfo", f"Node {numa} MemTotal:    1048576 kB")
    _put(sys_root / "devices/system/node/node2/cpulist", "")  # memory of a GPU or CXL: no CPUs
    _put(sys_root / "devices/system/node/online", "0-2")
    _put(sys_root / "devices/system/cpu/online", "0-15")
    for numa in (0, 1):
        port = f"{ROOT}/0000:00:{numa + 1:02x}.0/0000:{numa}1:00.0"
        for slot in (0, 1):
            _function(
                sys_root, f"{port}/0000:{numa}2:0{slot}.0/0000:{1 + 2 * numa + slot}0:00.0", "0x030200", "0x10de", numa
            )
        nic = _function(sys_root, f"{port}/0000:{numa}2:02.0/0000:{numa}5:00.0", "0x020700", "0x15b3", numa)
        _put(nic / f"infiniband/mlx5_{numa}/ports/1/rate", "400 Gb/sec (4X NDR)")
    drive = _function(sys_root, f"{ROOT}/0000:00:05.0/0000:06:00.0", "0x010802", "0x144d", -1)
    _put(drive / "nvme/nvme0/nvme0n1/size", "2000")
    port = _function(sys_root, f"{ROOT}/0000:00:06.0/0000:07:00.0", "0x020000", "0x8086", 1)
    _put(port / "net/eth0/speed", "25000")
    virtual = _function(sys_root, f"{ROOT}/0000:00:06.0/0000:07:00.1", "0x020000", "0x8086", 1)
    (virtual / "physfn").symlink_to(port)
    _function(sys_root, f"{ROOT}/0000:00:07.0", "0x030000", "0x1a03", 0)
    return sys_root


def no_nvml() -> None:
    return None


def test_the_trees_come_from_sysfs(sysfs: Path, tmp_path: Path) -> None:
    fleet = discover(sysfs, proc_root=tmp_path / "absent", name="h", gpus=no_nvml)
    kinds = [DeviceKind(kind).name for kind in fleet.device_kind]
    assert kinds == ["GPU"] * 4 + ["NIC"] * 3 + ["NVME"]
    one, two = "h/0000:00:01.0", "h/0000:00:02.0"
    assert _homes(fleet, "place") == [one, one, two, two, one, "h/numa1", two, "h"]
    assert fleet.device_capacity[4:].tolist() == [400 * 10**9, 25 * 10**9, 400 * 10**9, 2000 * 512]
    amounts = {
        (fleet.domain_name[d], fleet.resources[r]): c
        for d, r, c in zip(fleet.budget_domain, fleet.budget_resource, fleet.budget_capacity.tolist(), strict=True)
    }
    assert amounts == {("h", CPU): 16_000, ("h", MEMORY): 2**31, ("h/numa0", CPU): 8000, ("h/numa1", CPU): 8000}


def test_nvml_tells_models_links_and_which_gpus_are_ours(sysfs: Path) -> None:
    def gpus() -> list[NvmlGpu]:
        first = NvmlGpu(
            pci="0000:10:00.0", name="NVIDIA A100", memory_bytes=40, power_w=400, links=frozenset({"0000:30:00.0"})
        )
        return [first, NvmlGpu(pci="0000:30:00.0", name="NVIDIA A100", memory_bytes=40, mig=True)]

    fleet = discover(sysfs, name="h", gpus=gpus)
    assert fleet.n_gpus == 2
    assert {fleet.models[m] for m in fleet.device_model[:2]} == {"A100"}
    assert _homes(fleet, "scaleup")[:2] == ["h/nvlink0"] * 2
    assert _homes(fleet, "place")[:2] == ["h/0000:00:01.0", "h/0000:00:02.0"]
    assert fleet.node_gpu_power_w.tolist() == [400]
    assert "mig" in fleet.traits


def test_nothing_readable_is_no_failure(tmp_path: Path) -> None:
    fleet = discover(tmp_path / "absent", proc_root=tmp_path, name="h", gpus=no_nvml)
    assert (fleet.n_nodes, fleet.device_kind.size) == (1, 0)
    assert fleet.resources[fleet.budget_resource[0]] == CPU


def test_odd_files_are_left_out(sysfs: Path) -> None:
    _put(sysfs / "devices/system/node/node0/cpulist", "\0junk")
    _put(sysfs / "devices/system/cpu/online", "0-999999999")
    for path in sysfs.glob("devices/pci0000:00/**/rate"):
        path.write_text("fast")
    for path in sysfs.glob("devices/pci0000:00/**/speed"):
        path.unlink()
        path.mkdir()
    fleet = discover(sysfs, name="h", gpus=no_nvml)
    assert fleet.n_gpus == 4
    assert fleet.device_capacity[4:7].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("", {}, 24 * GIB),
        ("0::/pod/job\n", {"pod/memory.max": str(8 * GIB), "pod/job/memory.max": "max"}, 8 * GIB),
        ("0::/of/the/host\n", {"memory.max": str(8 * GIB)}, 8 * GIB),
        ("0::/\n4:memory:/job\n", {"memory/job/memory.limit_in_bytes": str(2 * GIB)}, 2 * GIB),
        ("0::/\n4:memory:/job\n3:cpu:/a:b\n", {"memory/job/memory.limit_in_bytes": str(2**63 - 4096)}, 24 * GIB),
        ("junk\n", {"memory.max": "12"}, 24 * GIB),
    ],
)
def test_memory_is_what_may_be_used(
    sysfs: Path, tmp_path: Path, groups: str, limits: dict[str, str], expected: int
) -> None:
    # Virtual machines that were given memory later show only part of it under their NUMA nodes.
    _put(tmp_path / "proc/meminfo", f"MemTotal:       {24 * GIB // 1024} kB\nMemFree: 1 kB")
    _put(tmp_path / "proc/self/cgroup", groups)
    for file, text in limits.items():
        _put(sysfs / "fs/cgroup" / file, text)
    fleet = discover(sysfs, proc_root=tmp_path / "proc", name="h", gpus=no_nvml)
    assert fleet.budget_capacity[fleet.budget_resource == fleet.resources.index(MEMORY)].tolist() == [expected]


def test_more_numa_nodes_than_are_tracked_become_one(sysfs: Path) -> None:
    for numa in range(12):
        _put(sysfs / f"devices/system/node/node{numa}/cpulist", str(numa))
    fleet = discover(sysfs, name="h", gpus=no_nvml)
    assert not any("numa" in name for name in fleet.domain_name)
    assert fleet.n_gpus == 4


def test_this_machine_is_a_fleet() -> None:
    fleet = discover()
    assert fleet.n_nodes == 1
    assert fleet.budget_capacity[fleet.budget_resource == fleet.resources.index(CPU)].min() >= 1000


@pytest.fixture(scope="session")
def nvml_stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ``libnvidia-ml.so.1`` that knows eight GPUs."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the NVML stub with")
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml_stub.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libnvidia-ml.so.1", source], check=True)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="LD_LIBRARY_PATH is of Linux")
def test_the_real_binding_finds_eight_gpus(nvml_stub: Path, sysfs: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "host.yaml"
    command = [sys.executable, "-c", "from plenum.cli import main; main()", "fleet", "discover", "--sysfs", str(sysfs)]
    run = subprocess.run(
        [*command, "--name", "h", "-o", "json", "--out", str(manifest)],
        env={**os.environ, "LD_LIBRARY_PATH": str(nvml_stub)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    facts = json.loads(run.stdout)
    assert facts["gpus"] == 8
    assert facts["gpu_models"] == {"H100-80GB-HBM3": 8}
    assert facts["domains"]["scaleup.nvlink"] == 1

    from plenum.adapters.manifests.fleet import read_fleet

    fleet = read_fleet(str(manifest))
    gpu = fleet.device_kind == DeviceKind.GPU
    assert set(fleet.device_capacity[gpu].tolist()) == {85520809984}
    assert fleet.node_gpu_power_w.tolist() == [700]
    assert "mig" in fleet.traits
    # Four of the eight are in the made-up sysfs, two under each switch; the others are known to NVML alone.
    assert _homes(fleet, "place")[:5] == ["h/0000:00:01.0"] * 2 + ["h/0000:00:02.0"] * 2 + ["h"]


def _function(sysfs: Path, way: str, device_class: str, vendor: str, numa: int) -> Path:
    """Add a PCI function and the link to it on the bus."""
    device = sysfs / way
    for name, text in (("class", device_class), ("vendor", vendor), ("device", "0x2330"), ("numa_node", str(numa))):
        _put(device / name, text)
    bus = sysfs / "bus/pci/devices"
    bus.mkdir(parents=True, exist_ok=True)
    (bus / device.name).symlink_to(device)
    return device


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def _homes(fleet: Fleet, axis: str) -> list[str | None]:
    return [fleet.domain_name[d] if d >= 0 else None for d in fleet.device_domain[AXIS[axis]]]
