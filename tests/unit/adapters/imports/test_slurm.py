"""Slurm's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from plenum.adapters.imports.slurm import read_fleet
from plenum.model import Fleet
from plenum.model.errors import PlenumError
from plenum.model.fleet import AXIS, CPU, MEMORY, DeviceKind, Health

from .samples import GRES_CONF, SLURM_CONF, TOPOLOGY_CONF


def test_the_three_files_together(tmp_path: Path) -> None:
    fleet = _read(tmp_path, topology=TOPOLOGY_CONF, gres=GRES_CONF, slurm=SLURM_CONF)
    assert [fleet.node_name(n) for n in range(fleet.n_nodes)] == ["n01", "n02", "n03", "n04"]
    assert fleet.n_gpus == 32
    leaf = [fleet.domain_path(int(d)) for d in fleet.node_home[AXIS["fabric"]]]
    assert leaf == ["fabric.leaf leaf0"] * 2 + ["fabric.leaf leaf1"] * 2
    assert fleet.domain_path(int(fleet.domain_parent[fleet.node_home[AXIS["fabric"], 0]])) == "fabric.spine top"
    assert fleet.node_cordoned.tolist() == [False, False, False, True]
    assert [fleet.traits[i] for i in fleet.node_traits[0].nonzero()[0]] == ["h100", "ib"]
    numa = [fleet.domain_name[d] for d in fleet.device_domain[AXIS["place"], :8]]
    assert numa == ["n01/numa0"] * 4 + ["n01/numa1"] * 4
    own = fleet.budget_domain == fleet.node_domain[0]
    amounts = {
        fleet.resources[r]: c
        for r, c in zip(fleet.budget_resource[own], fleet.budget_capacity[own].tolist(), strict=True)
    }
    assert amounts == {CPU: 128_000, MEMORY: 2_000_000 * 2**20, "gres_nvme": 2}


def test_gres_alone_tells_the_nodes(tmp_path: Path) -> None:
    fleet = _read(tmp_path, gres=GRES_CONF)
    assert (fleet.n_nodes, fleet.n_gpus) == (4, 32)


def test_slurm_conf_alone_tells_the_gpus(tmp_path: Path) -> None:
    fleet = _read(tmp_path, slurm="NodeName=a CPUs=4 Gres=gpu:a100:2\nNodeName=b CPUs=4 Gres=gpu:4 State=DOWN\n")
    assert fleet.device_node.tolist() == [0, 0, 1, 1, 1, 1]
    assert fleet.models[fleet.device_model[0]] == "a100"
    assert fleet.node_health.tolist() == [Health.HEALTHY, Health.DOWN]


def test_a_gres_line_without_nodes_is_of_those_that_declare_it(tmp_path: Path) -> None:
    slurm = "NodeName=a CPUs=4 Gres=gpu:2\nNodeName=b CPUs=4\n"
    fleet = _read(tmp_path, gres="Name=gpu Type=t4 File=/dev/nvidia[0-1]\n", slurm=slurm)
    assert fleet.device_node.tolist() == [0, 0]
    assert fleet.models == ("t4",)


def test_blocks_are_scaleup_domains(tmp_path: Path) -> None:
    text = "BlockName=b0 Nodes=n[0-1]\nBlockName=b1 Nodes=n[2-3]\nBlockSizes=2,4\n"
    fleet = _read(tmp_path, topology=text, gres="NodeName=n[0-3] Name=gpu Count=4\n")
    blocks = [fleet.domain_path(int(d)) for d in fleet.node_home[AXIS["scaleup"]]]
    assert blocks == ["scaleup.nvlink b0"] * 2 + ["scaleup.nvlink b1"] * 2
    assert (fleet.device_domain[AXIS["scaleup"]] >= 0).all()


def test_blocks_can_be_leaves(tmp_path: Path) -> None:
    path = tmp_path / "topology.conf"
    path.write_text("BlockName=b0 Nodes=n[0-1]\n")
    fleet = read_fleet(path, block_level="fabric.leaf")
    assert fleet.domain_path(int(fleet.node_home[AXIS["fabric"], 1])) == "fabric.leaf b0"


def test_tiers_above_the_third_are_left_out(tmp_path: Path) -> None:
    text = "SwitchName=a Nodes=n1\nSwitchName=b Switches=a\nSwitchName=c Switches=b\nSwitchName=d Switches=c\n"
    fleet = _read(tmp_path, topology=text)
    assert set(fleet.domain_name) == {"a", "b", "c", "n1"}
    assert not (fleet.device_kind == DeviceKind.GPU).any()


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("", 0, "", "is empty"),
        ("# nothing\n", 0, "", "no SwitchName"),
        ("SwitchName=a Nodes=n1\nSwitchName=b Nodes=n1\n", 2, "Nodes", "under two switches, a and b"),
        (
            "SwitchName=a Nodes=n1\nSwitchName=b Switches=a\nSwitchName=c Switches=a\n",
            3,
            "Switches",
            "under two switches",
        ),
        ("SwitchName=a Switches=b\nSwitchName=b Switches=a\n", 1, "Switches", "a > b > a"),
        ("SwitchName=l Nodes=n\nSwitchName=a Switches=b,l\nSwitchName=b Switches=a\n", 2, "Switches", "ring"),
        ("SwitchName=a Switches=x\n", 1, "Switches", "there is no switch 'x'"),
        ("SwitchName=a\n", 1, "SwitchName", "either Nodes= or Switches="),
        ("SwitchName=a Nodes=n1\n\nSwitchName=a Nodes=n2\n", 3, "SwitchName", "first on line 1"),
        ("SwitchName=a Nodes=n[1-\n", 1, "Nodes", "left open"),
        ("BlockName=a Nodes=n1\nBlockName=b Nodes=n1\n", 2, "Nodes", "in two blocks"),
        ("BlockName=a Nodes=n1\nBlockName=a Nodes=n2\n", 2, "BlockName", "defined twice"),
        ("some junk\n", 1, "line", "not Key=Value"),
        ("Colour=red\n", 1, "line", "must start with"),
        ("j" * 10_000_000, 1, "", "more than 1,000,000 characters"),
        ("junk\n" * 2_000_000, 1, "line", "not Key=Value"),
        ("\0" * 100, 1, "", "not UTF-8 text"),
    ],
)
def test_a_wrong_topology_ends_in_a_sentence(tmp_path: Path, text: str, line: int, field: str, says: str) -> None:
    _fails(tmp_path, "topology", {"topology": text}, line, field, says)


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("NodeName=n[01-04] Name=gpu Count=-1\n", 1, "Count", "at least 0"),
        ("NodeName=n01 Name=gpu Count=lots\n", 1, "Count", "not a number"),
        ("NodeName=n01 Name=gpu Count=3 File=/dev/nvidia[0-3]\n", 1, "Count", "names 4 devices"),
        ("NodeName=n01 Name=gpu Count=65\n", 1, "Count", "at most 64"),
        ("NodeName=n01 Name=gpu Cores=a\n", 1, "Cores", "not a list of numbers"),
        ("NodeName=n07 Name=gpu\n", 1, "NodeName", "not in slurm.conf"),
        ("NodeName=n01 Type=h100\n", 1, "Name", "is missing"),
    ],
)
def test_a_wrong_gres_ends_in_a_sentence(tmp_path: Path, text: str, line: int, field: str, says: str) -> None:
    _fails(tmp_path, "gres", {"gres": text, "slurm": SLURM_CONF}, line, field, says)


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("ClusterName=x\n", 0, "", "no NodeName lines"),
        ("NodeName=a CPUs=-4\n", 1, "CPUs", "whole number"),
        ("NodeName=a RealMemory=2G\n", 1, "RealMemory", "whole number"),
        ("NodeName=a\nNodeName=a\n", 2, "NodeName", "first on line 1"),
        ("NodeName=a Gres=gpu:0.5x\n", 1, "Gres", "not a number"),
        ("NodeName=a CPUs=1 CPUs=2\n", 1, "CPUs", "twice"),
    ],
)
def test_a_wrong_slurm_conf_ends_in_a_sentence(tmp_path: Path, text: str, line: int, field: str, says: str) -> None:
    _fails(tmp_path, "slurm", {"slurm": text}, line, field, says)


def test_counts_that_disagree_are_named(tmp_path: Path) -> None:
    files = {"gres": "NodeName=n01 Name=gpu Count=4\n", "slurm": SLURM_CONF}
    _fails(tmp_path, "slurm", files, 4, "Gres", "has 8 GPUs here and 4 in gres.conf")


def test_some_file_is_needed() -> None:
    with pytest.raises(PlenumError, match="at least one"):
        read_fleet()


def _read(folder: Path, **files: str) -> Fleet:
    paths = {}
    for name, text in files.items():
        paths[name] = folder / f"{name}.conf"
        paths[name].write_text(text)
    return read_fleet(**paths)


def _fails(folder: Path, blamed: str, files: dict[str, str], line: int, field: str, says: str) -> None:
    with pytest.raises(PlenumError) as caught:
        _read(folder, **files)
    where = caught.value.where
    assert (where.file, where.line, where.field) == (str(folder / f"{blamed}.conf"), line, field)
    assert says in caught.value.sentence
    assert len(str(caught.value)) < 400
