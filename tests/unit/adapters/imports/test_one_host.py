"""Hosts as ``lstopo`` and ``nvidia-smi topo -m`` see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from plenum.adapters.imports import lstopo, nvidia_smi
from plenum.adapters.imports.source import read_bytes
from plenum.model import Fleet
from plenum.model.errors import FileError, PlenumError
from plenum.model.fleet import AXIS, CPU, MEMORY, DeviceKind

from .samples import BILLION_LAUGHS, LSTOPO, TOPO


def test_lstopo_gives_devices_their_numa_node_and_switch(tmp_path: Path) -> None:
    fleet = _lstopo(tmp_path, LSTOPO)
    assert fleet.node_name(0) == "gpu01"
    kinds = [DeviceKind(kind) for kind in fleet.device_kind]
    assert kinds == [DeviceKind.GPU, DeviceKind.NIC, DeviceKind.NVME]  # and not the console of the board controller
    assert [fleet.models[m] for m in fleet.device_model] == ["H100-80GB-HBM3", "ConnectX-7", ""]
    assert fleet.device_capacity.tolist() == [83035648 * 1024, 0, 1_000_000 * 1024]
    assert _homes(fleet, "place") == ["gpu01/0000:00:01.0", "gpu01/0000:00:01.0", "gpu01/numa1"]
    assert _own_budgets(fleet) == {CPU: 4000, MEMORY: 2**31}


def test_a_host_is_stamped_out(tmp_path: Path) -> None:
    fleet = _lstopo(tmp_path, LSTOPO, names=["x", "y"])
    assert [fleet.node_name(n) for n in (0, 1)] == ["x", "y"]
    assert fleet.n_gpus == 2


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("", 0, "", "is empty"),
        ("junk", 1, "", "not well-formed"),
        ("x" * 10_000_000, 1, "", "not well-formed"),
        (LSTOPO[:900], 13, "", "not well-formed"),
        (BILLION_LAUGHS, 0, "", "declares XML entities"),
        (BILLION_LAUGHS.replace('"ha"', 'SYSTEM "file:///etc/hostname"'), 0, "", "declares XML entities"),
        ("<html></html>", 1, "", "root is <html>"),
        ('<topology version="2.0"></topology>', 0, "", "holds no Machine"),
        ('<topology><object type="Machine"/></topology>', 1, "", "hwloc 1"),
        ('<topology version="2.0">' + "<object>" * 100, 1, "", "deeper than 64"),
        (LSTOPO.replace('local_memory="1073741824"', 'local_memory="-1"'), 7, "local_memory", "whole number"),
        (LSTOPO.replace('cpuset="0x00000003"', 'cpuset="all"'), 7, "cpuset", "bitmap"),
        (LSTOPO.replace('pci_type="0207 ', 'pci_type="zzzz '), 24, "pci_type", "class and vendor"),
        (LSTOPO.replace('value="1000000"', 'value="big"'), 36, "Size", "number of KiB"),
    ],
)
def test_wrong_xml_ends_in_a_sentence(tmp_path: Path, text: str, line: int, field: str, says: str) -> None:
    _fails(lambda: _lstopo(tmp_path, text), tmp_path, line, field, says)


def test_the_matrix_gives_nvlink_groups_switches_and_numa_nodes(tmp_path: Path) -> None:
    fleet = _matrix(tmp_path, TOPO, model="H100")
    assert fleet.n_gpus == 4
    assert fleet.models[fleet.device_model[0]] == "H100"
    assert _homes(fleet, "scaleup") == ["host/nvlink0"] * 2 + ["host/nvlink1"] * 2 + [None, None]
    switch0 = "host/switch0"
    assert _homes(fleet, "place") == [switch0, switch0, "host/numa1", "host/numa1", switch0, "host/numa1"]
    assert _own_budgets(fleet) == {CPU: 16_000}


def test_a_matrix_pasted_with_spaces_reads_alike(tmp_path: Path) -> None:
    pasted = TOPO.expandtabs(8).replace("\x1b[4m", "").replace("\x1b[0m", "")
    assert _homes(_matrix(tmp_path, pasted), "place") == _homes(_matrix(tmp_path, TOPO), "place")


def test_an_old_matrix_without_numa_reads_too(tmp_path: Path) -> None:
    fleet = _matrix(
        tmp_path,
        "\tGPU0\tGPU1\tmlx5_0\tCPU Affinity\nGPU0\tX\tPIX\tSOC\t0-3\nGPU1\tPIX\tX\tSOC\t0-3\nmlx5_0\tSOC\tSOC\tX\n",
    )
    assert _homes(fleet, "place") == ["host/switch0", "host/switch0", "host"]


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("", 0, "", "is empty"),
        ("NVIDIA-SMI has failed\n", 0, "", "holds no matrix"),
        ("y\n" * 1_000_000, 0, "", "holds no matrix"),
        ("x" * 10_000_000, 0, "", "larger than 2 MiB"),
        ("\tGPU0\tGPU1\nGPU0\tX\tPIX\n", 0, "", "no row for GPU1"),
        ("\tGPU0\tGPU1\nGPU0\tX\n", 2, "GPU0", "has 1 cells"),
        ("\tGPU0\tGPU1\nGPU0\tX\tFOO\n", 2, "GPU0, column GPU1", "not 'FOO'"),
        ("\tGPU0\tGPU1\nGPU0\tPIX\tPIX\n", 2, "GPU0, column GPU0", "X on the diagonal"),
        ("\tGPU0\tGPU1\nGPU0\tX\tPIX\nGPU1\tSYS\tX\n", 3, "GPU1, column GPU0", "both ways must agree"),
        ("\tGPU0\tGPU1\nGPU0\tX\tPIX\nGPU0\tX\tPIX\n", 3, "GPU0", "two rows"),
        ("\tGPU0\tGPU0\n", 1, "header", "twice"),
        ("\tGPU0\tCPU Affinity\nGPU0\tX\tabc\n", 2, "CPU Affinity", "not a list of numbers"),
        ("\tGPU0\tCPU Affinity\nGPU0\tX\t0-999999\n", 2, "CPU Affinity", "below 65536"),
        ("\tGPU0\nGPU9\tX\n", 2, "row", "not one of the columns"),
    ],
)
def test_a_wrong_matrix_ends_in_a_sentence(tmp_path: Path, text: str, line: int, field: str, says: str) -> None:
    _fails(lambda: _matrix(tmp_path, text), tmp_path, line, field, says)


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "host").write_bytes(b"x" * 2**20 + b"x")
    with pytest.raises(FileError, match="larger than 1 MiB"):
        read_bytes(tmp_path / "host", 2**20)
    with pytest.raises(FileError, match="no such file"):
        read_bytes(tmp_path / "absent", 2**20)


def _lstopo(folder: Path, text: str, **options) -> Fleet:
    (folder / "host").write_text(text)
    return lstopo.read_fleet(folder / "host", **options)


def _matrix(folder: Path, text: str, **options) -> Fleet:
    (folder / "host").write_text(text)
    return nvidia_smi.read_fleet(folder / "host", **options)


def _homes(fleet: Fleet, axis: str) -> list[str | None]:
    return [fleet.domain_name[d] if d >= 0 else None for d in fleet.device_domain[AXIS[axis]]]


def _own_budgets(fleet: Fleet) -> dict[str, int]:
    own = fleet.budget_domain == fleet.node_domain[0]
    amounts = fleet.budget_capacity[own].tolist()
    return {fleet.resources[r]: amount for r, amount in zip(fleet.budget_resource[own], amounts, strict=True)}


def _fails(read, folder: Path, line: int, field: str, says: str) -> None:
    with pytest.raises(PlenumError) as caught:
        read()
    where = caught.value.where
    assert (where.file, where.line, where.field) == (str(folder / "host"), line, field)
    assert says in caught.value.sentence
    assert len(str(caught.value)) < 400
