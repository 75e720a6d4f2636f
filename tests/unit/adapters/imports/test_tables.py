"""openb and Lingjun: the published tables, and tables that are wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from plenum.adapters.imports import lingjun, openb
from plenum.graph.templates import TEMPLATES
from plenum.model.errors import PlenumError
from plenum.model.fleet import AXIS, CPU, DeviceKind

DATA = Path(os.environ.get("PLENUM_DATA") or Path(__file__).parents[5] / "shared" / "data")
needs_data = pytest.mark.skipif(not (DATA / "openb").is_dir(), reason=f"the public traces are not in {DATA}")


@needs_data
@pytest.mark.data
@pytest.mark.parametrize(("table", "nodes"), [("gpu_node", 1213), ("all_node", 1523)])
def test_openb_has_its_published_size(table: str, nodes: int) -> None:
    fleet = openb.read_fleet(DATA / "openb" / f"openb_node_list_{table}.csv")
    assert (fleet.n_nodes, fleet.n_gpus) == (nodes, 6212)
    assert len(fleet.models) == 7
    names = [fleet.node_name(n) for n in range(fleet.n_nodes)]
    assert names == sorted(names)


@needs_data
@pytest.mark.data
def test_lingjun_is_a_tree_of_racks_of_at_most_eight() -> None:
    fleet = lingjun.read_fleet(DATA / "fabric" / "lingjun_topo.csv")
    leaf = fleet.node_home[AXIS["fabric"]]
    sizes = np.bincount(leaf)[np.unique(leaf)]
    assert (fleet.n_nodes, fleet.n_gpus) == (847, 6776)
    assert sizes.size == 119
    assert sizes.max() == 8
    spines = fleet.domain_parent[np.unique(leaf)]
    assert np.unique(spines).size == 3
    assert fleet.domain_path(int(fleet.domain_parent[spines[0]])) == "fabric.pod G6"


def test_nodes_stand_in_the_order_of_their_names(tmp_path: Path) -> None:
    fleet = openb.read_fleet(_write(tmp_path, "sn,cpu_milli,memory_mib,gpu,model\nb,2000,2,1,T4\na,1000,1,0,\n"))
    assert [fleet.node_name(n) for n in (0, 1)] == ["a", "b"]
    cpu = fleet.budget_resource == fleet.resources.index(CPU)
    assert fleet.budget_capacity[cpu].tolist() == [1000, 2000]
    assert fleet.models[fleet.device_model[0]] == "T4"
    assert fleet.device_node.tolist() == [1]


def test_a_switch_number_is_local_to_the_switch_above(tmp_path: Path) -> None:
    fleet = lingjun.read_fleet(_write(tmp_path, "ip,DSW,PSW,ASW\na,G1,P1,S1\nb,G1,P2,S1\nc,G1,P1,S1\n"))
    home = fleet.node_home[AXIS["fabric"]]
    assert home[0] == home[2] != home[1]


def test_hosts_follow_their_template(tmp_path: Path) -> None:
    path = _write(tmp_path, "ip,DSW,PSW,ASW\na,G1,P1,S1\n")
    fleet = lingjun.read_fleet(path, template=TEMPLATES["dgx-h100"])
    assert np.count_nonzero(fleet.device_kind == DeviceKind.NIC) == 8
    assert fleet.domain_path(int(fleet.node_home[AXIS["scaleup"], 0])) == "scaleup.nvlink a"


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("", 1, "", "lacks sn"),
        ("sn,cpu_milli,memory_mib,gpu,model\n", 0, "", "lists no nodes"),
        ("sn,cpu_milli,gpu,model\na,1,1,T4\n", 1, "", "lacks memory_mib"),
        ("sn,cpu_milli,memory_mib,gpu,model\na,-1,1,1,T4\n", 2, "cpu_milli", "from 0"),
        ("sn,cpu_milli,memory_mib,gpu,model\na,1,x,1,T4\n", 2, "memory_mib", "whole number"),
        ("sn,cpu_milli,memory_mib,gpu,model\na,1,1,99,T4\n", 2, "gpu", "64"),
        ("sn,cpu_milli,memory_mib,gpu,model\na,1,1,1,\n", 2, "model", "must name the model"),
        ("sn,cpu_milli,memory_mib,gpu,model\na,1,1,1,T4\na,1,1,1,T4\n", 3, "sn", "first on line 2"),
        ("sn,cpu_milli,memory_mib,gpu,model\na,1\n", 2, "row", "2 columns"),
        ("x" * 10_000_000, 1, "", "not a CSV table"),
    ],
)
def test_a_wrong_openb_table_ends_in_a_sentence(tmp_path: Path, text: str, line: int, field: str, says: str) -> None:
    _fails(lambda: openb.read_fleet(_write(tmp_path, text)), tmp_path, line, field, says)


@pytest.mark.parametrize(
    ("text", "line", "field", "says"),
    [
        ("ip,DSW,PSW\na,G,P\n", 1, "", "lacks ASW"),
        ("ip,DSW,PSW,ASW\n", 0, "", "lists no hosts"),
        ("ip,DSW,PSW,ASW\na,G,P,S1\na,G,P,S2\n", 3, "ip", "in one rack only"),
        ("ip,DSW,PSW,ASW\na,G,,S1\n", 2, "PSW", "must not be empty"),
    ],
)
def test_a_wrong_lingjun_table_ends_in_a_sentence(tmp_path: Path, text: str, line: int, field: str, says: str) -> None:
    _fails(lambda: lingjun.read_fleet(_write(tmp_path, text)), tmp_path, line, field, says)


def _write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text)
    return path


def _fails(read, folder: Path, line: int, field: str, says: str) -> None:
    with pytest.raises(PlenumError) as caught:
        read()
    where = caught.value.where
    assert (where.file, where.line, where.field) == (str(folder / "table.csv"), line, field)
    assert says in caught.value.sentence
    assert len(str(caught.value)) < 400
