"""What the readers of one host share."""

from __future__ import annotations

import pytest

from plenum.adapters.host import Host, HostDevice, connected, fleet_of, gpu_model, pci_kind
from plenum.model import DeviceKind
from plenum.model.errors import FieldError


@pytest.mark.parametrize("name", ["NVIDIA H100 80GB HBM3", "NVIDIA-H100-80GB-HBM3", " nvidia H100  80GB_HBM3 "])
def test_one_model_has_one_spelling(name: str) -> None:
    assert gpu_model(name) == "H100-80GB-HBM3"


def test_groups_are_joined_through_others() -> None:
    assert connected(range(6), [(3, 2), (1, 0), (2, 1)]) == {0: 0, 1: 0, 2: 0, 3: 0}
    assert connected(range(5), [(4, 3), (0, 2)]) == {0: 0, 2: 0, 3: 1, 4: 1}
    assert connected(range(3), []) == {}


@pytest.mark.parametrize(
    ("device_class", "vendor", "kind"),
    [
        (0x0302, 0x10DE, DeviceKind.GPU),
        (0x0300, 0x10DE, DeviceKind.GPU),
        (0x0300, 0x1A03, None),
        (0x1200, 0x1002, DeviceKind.GPU),
        (0x0207, 0x15B3, DeviceKind.NIC),
        (0x0108, 0x144D, DeviceKind.NVME),
        (0x0502, 0x8086, DeviceKind.CXL),
        (0x0604, 0x10DE, None),
    ],
)
def test_pci_classes(device_class: int, vendor: int, kind: DeviceKind | None) -> None:
    assert pci_kind(device_class, vendor) is kind


def test_numa_nodes_are_numbered_without_gaps() -> None:
    gpu = HostDevice(kind=DeviceKind.GPU, numa=8)
    fleet = fleet_of(Host(devices=(gpu,), numa_cpu_milli={0: 1000, 8: 2000}), ["h"], fleet_name="f")
    assert fleet.domain_name == ("h", "h/numa0", "h/numa1")


def test_limits_end_in_a_sentence() -> None:
    with pytest.raises(FieldError, match="more than 64"):
        fleet_of(Host(devices=(HostDevice(kind=DeviceKind.GPU),) * 65), ["h"], fleet_name="f")
    with pytest.raises(FieldError, match="twice"):
        fleet_of(Host(), ["h", "h"], fleet_name="f")
    with pytest.raises(FieldError, match="at most 100,000"):
        fleet_of(Host(), [str(i) for i in range(100_001)], fleet_name="f")
