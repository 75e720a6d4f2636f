"""Templates agree with the figures that their makers publish."""

from __future__ import annotations

import pytest

from plenum.graph.templates import TEMPLATES, with_rails
from plenum.model import CPU, MEMORY, POWER, DeviceKind

GPU, NIC = DeviceKind.GPU, DeviceKind.NIC


@pytest.mark.parametrize(
    ("name", "gpus", "gpu_gb", "gpu_w", "cores", "nics", "nic_gbps", "max_w", "per_nvlink"),
    [
        ("dgx-h100", 8, 80, 700, 112, 8, 400, 10_200, 1),
        ("dgx-h200", 8, 141, 700, 112, 8, 400, 10_200, 1),
        ("gb200-nvl72", 4, 186, 1200, 144, 4, 400, 5_400, 18),
        ("mi300x", 8, 192, 750, 192, 8, 400, 10_000, 1),
        ("l40s", 8, 48, 350, 64, 4, 200, 4_500, 0),
        ("a100", 8, 80, 400, 128, 8, 200, 6_500, 1),
        ("cpu-only", 0, 0, 0, 192, 1, 200, 1_100, 0),
    ],
)
def test_published_figures(
    name: str, gpus: int, gpu_gb: int, gpu_w: int, cores: int, nics: int, nic_gbps: int, max_w: int, per_nvlink: int
) -> None:
    template = TEMPLATES[name]
    shape = template.shape
    assert [d.capacity for d in shape.devices if d.kind == GPU] == [gpu_gb * 10**9] * gpus
    assert [d.capacity for d in shape.devices if d.kind == NIC] == [nic_gbps * 10**9] * nics
    assert (shape.gpu_power_w, template.nodes_per_nvlink) == (gpu_w, per_nvlink)
    assert shape.budgets[CPU] == cores * 1000 == sum(shape.numa_cpu_milli)
    assert template.idle_power_w + shape.budgets[POWER] == max_w
    assert shape.budgets[MEMORY] > 0


@pytest.mark.parametrize("name", [n for n, t in TEMPLATES.items() if t.shape.count(GPU)])
def test_all_gpus_fit_into_the_power_of_their_node(name: str) -> None:
    shape = TEMPLATES[name].shape
    assert shape.count(GPU) * shape.gpu_power_w <= shape.budgets[POWER]


@pytest.mark.parametrize("name", ["dgx-h100", "dgx-h200", "mi300x"])
def test_each_gpu_shares_a_switch_and_a_socket_with_its_nic(name: str) -> None:
    devices = TEMPLATES[name].shape.devices
    gpus = [(d.numa, d.pcie) for d in devices if d.kind == GPU]
    assert gpus == [(d.numa, d.pcie) for d in devices if d.kind == NIC]
    assert len(set(gpus)) == 8


def test_eighteen_trays_make_72_gpus() -> None:
    template = TEMPLATES["gb200-nvl72"]
    assert template.nodes_per_nvlink * template.shape.count(GPU) == 72


def test_rails_take_nic_k_and_the_gpus_that_go_with_it() -> None:
    rails = {
        kind: [
            (d.domains or {}).get("fabric.rail") for d in with_rails(TEMPLATES["l40s"].shape).devices if d.kind == kind
        ]
        for kind in (GPU, NIC)
    }
    assert rails[NIC] == [f"{{home}}/rail{k}" for k in range(4)]
    assert rails[GPU] == [f"{{home}}/rail{k // 2}" for k in range(8)]
