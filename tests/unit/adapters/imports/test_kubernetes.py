"""Kubernetes nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from plenum.adapters.imports import kubernetes
from plenum.adapters.imports.json_lines import line_of
from plenum.model import Fleet
from plenum.model.errors import PlenumError
from plenum.model.fleet import AXIS, CPU, MEMORY, PODS, Health

from .samples import kubernetes_node

PLACE = {
    "topology.kubernetes.io/region": "eu",
    "topology.kubernetes.io/zone": "eu-1",
    "topology.kubernetes.io/rack": "r1",
}
FABRIC = {
    "network.topology.nvidia.com/core": "c",
    "network.topology.nvidia.com/spine": "s",
    "network.topology.nvidia.com/leaf": "l",
}
H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "nvidia.com/gpu.memory": "81559"}


def test_labels_become_trees_and_resources_budgets(tmp_path: Path) -> None:
    fleet = _read(tmp_path, kubernetes_node(labels={**PLACE, **FABRIC, **H100, "nvidia.com/gpu.clique": "u.1"}))
    assert _way(fleet, "place") == ["a", "eu-1/r1", "eu-1", "eu"]
    assert _way(fleet, "fabric") == ["l", "s", "c"]
    assert _way(fleet, "scaleup") == ["u.1"]
    assert fleet.models == ("H100-80GB-HBM3",)
    assert set(fleet.device_capacity.tolist()) == {81559 * 2**20}
    amounts = dict(
        zip((fleet.resources[r] for r in fleet.budget_resource), fleet.budget_capacity.tolist(), strict=True)
    )
    assert amounts == {CPU: 191_900, MEMORY: 2113466308 * 1024, PODS: 110}


def test_racks_are_numbered_anew_in_each_zone(tmp_path: Path) -> None:
    other = {**PLACE, "topology.kubernetes.io/zone": "eu-2"}
    fleet = _read(tmp_path, kubernetes_node(labels=PLACE), kubernetes_node("b", labels=other))
    assert {"eu-1/r1", "eu-2/r1"} < set(fleet.domain_name)


def test_own_labels_come_first(tmp_path: Path) -> None:
    node = kubernetes_node(labels={**PLACE, "acme.com/rack": "x", "acme.com/pool": "p"})
    fleet = _read(tmp_path, node, level_labels={"place.rack": "acme.com/rack"}, traits=["acme.com/pool"])
    assert _way(fleet, "place")[1] == "eu-1/x"
    assert "acme.com/pool=p" in fleet.traits


def test_state_becomes_cordon_health_and_traits(tmp_path: Path) -> None:
    node, sick, full = kubernetes_node("a"), kubernetes_node("b"), kubernetes_node("c")
    node["spec"] = {
        "unschedulable": True,
        "taints": [
            {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
            {"key": "team", "value": "ml", "effect": "NoSchedule"},
        ],
    }
    sick["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    full["status"]["conditions"].append({"type": "DiskPressure", "status": "True"})
    fleet = _read(tmp_path, node, sick, full)
    assert fleet.node_cordoned.tolist() == [True, False, False]
    assert fleet.node_health.tolist() == [Health.HEALTHY, Health.DOWN, Health.DEGRADED]
    assert fleet.traits == ("taint:team=ml:NoSchedule",)


def test_gpus_that_are_not_allocatable_are_down(tmp_path: Path) -> None:
    node = kubernetes_node()
    node["status"]["allocatable"]["nvidia.com/gpu"] = "6"
    assert _read(tmp_path, node).device_health.tolist() == [Health.HEALTHY] * 6 + [Health.DOWN] * 2


@pytest.mark.parametrize(
    ("labels", "resources", "gpus", "mig"),
    [
        ({}, {"nvidia.com/gpu": "8"}, 8, False),
        ({}, {"nvidia.com/gpu": "0", "nvidia.com/mig-1g.10gb": "56"}, 8, True),
        ({}, {"nvidia.com/gpu": "6", "nvidia.com/mig-3g.40gb": "4"}, 8, True),
        ({}, {"nvidia.com/gpu": "0", "nvidia.com/mig-2g.20gb": "24"}, 8, True),
        ({"nvidia.com/gpu.product": "A100-SXM4-40GB-MIG-1g.5gb"}, {"nvidia.com/gpu": "14"}, 2, True),
        (
            {"nvidia.com/gpu.product": "Tesla-T4-SHARED", "nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.count": "2"},
            {"nvidia.com/gpu": "8"},
            2,
            False,
        ),
        (
            {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"},
            {"nvidia.com/gpu": "0", "amd.com/gpu": "8"},
            8,
            False,
        ),
        ({}, {"nvidia.com/gpu": "0"}, 0, False),
    ],
)
def test_physical_gpus_are_counted(tmp_path: Path, labels: dict, resources: dict, gpus: int, mig: bool) -> None:
    fleet = _read(tmp_path, kubernetes_node(labels=labels, **resources))
    assert fleet.n_gpus == gpus
    assert ("mig" in fleet.traits) == mig
    assert (fleet.device_health == Health.HEALTHY).all()
    if labels:
        model = fleet.models[fleet.device_model[0]]
        assert model in ("A100-SXM4-40GB", "T4", "Instinct-MI300X-OAM")


def test_one_node_is_a_fleet_too(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(json.dumps(kubernetes_node("only")))
    assert kubernetes.read_fleet(path).node_name(0) == "only"


@pytest.mark.parametrize(
    ("at", "value", "line_holds", "field", "says"),
    [
        (("metadata", "name"), "", '"name"', "items[0].metadata.name", "must not be empty"),
        (("metadata", "name"), 7, '"name"', "items[0].metadata.name", "must be a string"),
        (("metadata",), [], '"metadata"', "items[0].metadata", "must be an object"),
        (("spec", "unschedulable"), "yes", '"unschedulable"', "items[0].spec.unschedulable", "true or false"),
        (("status", "allocatable", "cpu"), "-1", '"cpu"', "items[0].status.allocatable.cpu", "at least 0"),
        (("status", "allocatable", "memory"), "lots", '"memory"', "items[0].status.allocatable.memory", "not a size"),
        (("status", "allocatable", "pods"), "1.5", '"pods"', "items[0].status.allocatable.pods", "whole number"),
        (
            ("status", "allocatable", "nvidia.com/gpu"),
            "x",
            '"nvidia.com/gpu": "x"',
            'items[0].status.allocatable["nvidia.com/gpu"]',
            "whole number",
        ),
        (("status", "conditions"), {}, '"conditions"', "items[0].status.conditions", "must be a list"),
        (("kind",), "Pod", '"kind": "Pod"', "items[0].kind", "only nodes"),
    ],
)
def test_a_wrong_value_is_found_with_its_line(
    tmp_path: Path, at: tuple[str, ...], value: object, line_holds: str, field: str, says: str
) -> None:
    node = kubernetes_node()
    inner = node
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    with pytest.raises(PlenumError) as caught:
        _read(tmp_path, node)
    where = caught.value.where
    assert where.field == field
    assert line_holds in Path(where.file).read_text().splitlines()[where.line - 1]
    assert says in caught.value.sentence


def test_a_leaf_under_two_spines_is_refused_where_it_stands(tmp_path: Path) -> None:
    other = {**FABRIC, "network.topology.nvidia.com/spine": "t"}
    with pytest.raises(PlenumError, match="in two places") as caught:
        _read(tmp_path, kubernetes_node(labels=FABRIC), kubernetes_node("b", labels=other))
    assert caught.value.where.field == 'items[1].metadata.labels["network.topology.nvidia.com/leaf"]'


def test_a_node_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlenumError, match="listed twice") as caught:
        _read(tmp_path, kubernetes_node(), kubernetes_node())
    assert caught.value.where.field == "items[1].metadata.name"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 0, "is empty"),
        ("[]", 1, "must be what"),
        ('{"items": []}', 0, "lists no nodes"),
        ('{"items": [\n{"kind": "Node", "metada', 2, "is not JSON"),
        ("[" * 2_000_000, 0, "nested too deep"),
        ("x" * 10_000_000, 1, "is not JSON"),
        ('{"items": ' + "9" * 10_000 + "}", 0, "number too long"),
    ],
)
def test_junk_ends_in_a_sentence(tmp_path: Path, text: str, line: int, says: str) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(text)
    with pytest.raises(PlenumError) as caught:
        kubernetes.read_fleet(path)
    assert (caught.value.where.file, caught.value.where.line) == (str(path), line)
    assert says in caught.value.sentence
    assert len(str(caught.value)) < 400


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlenumError, match="there is no level"):
        _read(tmp_path, kubernetes_node(), level_labels={"place.shelf": "x"})


def test_lines_are_found_in_any_layout() -> None:
    value = {"a": [1, {"b": "x,]}"}, [2]], "c": {"d": None}}
    for indent in (None, 0, 2):
        text = json.dumps(value, indent=indent)
        for path, mark in ((("a", 1, "b"), '"b"'), (("c", "d"), '"d"'), (("c", "absent"), '"c"')):
            assert mark in text.splitlines()[line_of(text, path) - 1]


def _read(folder: Path, *nodes: dict, **options) -> Fleet:
    path = folder / "nodes.json"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": nodes}, indent=4))
    return kubernetes.read_fleet(path, **options)


def _way(fleet: Fleet, axis: str) -> list[str]:
    """Return the names from the node's home to the top."""
    at, names = int(fleet.node_home[AXIS[axis], 0]), []
    while at >= 0:
        names.append(fleet.domain_name[at])
        at = int(fleet.domain_parent[at])
    return names
