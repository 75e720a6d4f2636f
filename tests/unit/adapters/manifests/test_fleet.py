"""``Fleet`` manifests: what generators make, and what is refused where."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plenum.adapters.manifests.fleet import parse_fleet, read_fleet
from plenum.model import POWER, DeviceKind, FieldError, Fleet, Health
from plenum.model.fleet import AXIS, LEVEL

EXAMPLES = Path(__file__).parents[4] / "examples"
HEAD = "apiVersion: plenum.dev/v1alpha1\nkind: Fleet\nmetadata: {name: f}\nspec:\n"


def fleet_of(spec: str) -> Fleet:
    return parse_fleet(HEAD + spec, "fleet.yaml")


def budgets(fleet: Fleet, level: str, resource: str) -> dict[str, int]:
    wanted = fleet.budget_resource == fleet.resources.index(resource)
    return {
        fleet.domain_name[d]: int(c)
        for d, c in zip(fleet.budget_domain[wanted], fleet.budget_capacity[wanted], strict=True)
        if fleet.domain_level[d] == LEVEL[level]
    }


def count(fleet: Fleet, level: str) -> int:
    return len(fleet.domains_at(LEVEL[level]))


def test_a_hundred_thousand_gpus_in_thirty_lines() -> None:
    path = EXAMPLES / "fleet-100k.yaml"
    assert len(path.read_text().splitlines()) <= 30
    fleet = read_fleet(path)
    assert (fleet.n_nodes, fleet.n_gpus) == (12_500, 100_000)
    assert (count(fleet, "place.hall"), count(fleet, "place.row"), count(fleet, "place.rack")) == (5, 125, 3125)
    assert (count(fleet, "fabric.pod"), count(fleet, "fabric.spine"), count(fleet, "fabric.leaf")) == (5, 25, 391)
    assert (count(fleet, "fabric.rail"), count(fleet, "scaleup.nvlink")) == (391 * 8, 12_500)
    assert int(fleet.node_cordoned.sum()) == 10
    assert int((fleet.node_health == Health.DOWN).sum()) == 1
    bad = np.flatnonzero(fleet.device_health == Health.DOWN)
    assert [(fleet.node_name(int(fleet.device_node[d])), int(fleet.device_index[d])) for d in bad] == [
        ("h100-00042", 3),
        ("h100-00042", 3),
    ]


def test_a_small_mixed_fleet() -> None:
    fleet = read_fleet(EXAMPLES / "fleet-lab.yaml")
    assert fleet.labels == (("country", "de"), ("owner", "research"))
    assert set(fleet.models) == {"", "GB200", "H100", "L40S"}
    nvl = [d for d in fleet.domains_at(LEVEL["scaleup.nvlink"]) if fleet.domain_name[d].startswith("nvl")]
    gpus = fleet.device_kind == DeviceKind.GPU
    assert [int((fleet.device_domain[AXIS["scaleup"]][gpus] == d).sum()) for d in nvl] == [72]
    assert budgets(fleet, "place.hall", "nvmeof_bytes") == {"main": 500 * 10**12}
    assert budgets(fleet, "place.rack", "cxl_bytes") == {"h100-rack0": 4 * 2**40, "h100-rack1": 4 * 2**40}


def test_uplinks_follow_from_nics_and_oversubscription() -> None:
    fleet = fleet_of(
        "  groups:\n  - {name: a, template: dgx-h100, nodes: 6, fabric: {nodesPerLeaf: 4, leavesPerSpine: 2,"
        " oversubscription: {leaf: 2, spine: 4}}}"
    )
    node_bps = 8 * 400 * 10**9
    assert budgets(fleet, "fabric.leaf", "uplink_bps") == {"a-leaf0": 2 * node_bps, "a-leaf1": node_bps}
    assert budgets(fleet, "fabric.spine", "uplink_bps") == {"a-spine0": 3 * node_bps // 4}


def test_rails_hold_gpu_and_nic_k_of_every_node_of_a_leaf() -> None:
    fleet = fleet_of("  groups: [{name: a, template: dgx-h100, nodes: 4, fabric: {nodesPerLeaf: 2, rails: true}}]")
    for d in range(len(fleet.device_node)):
        leaf = fleet.domain_name[fleet.node_home[AXIS["fabric"], fleet.device_node[d]]]
        rail = fleet.domain_name[fleet.device_domain[AXIS["fabric"], d]]
        assert rail == f"{leaf}/rail{fleet.device_index[d]}"


def test_a_plain_leaf_spine_has_no_rails() -> None:
    fleet = fleet_of("  groups: [{name: a, template: dgx-h100, nodes: 4, fabric: {nodesPerLeaf: 2}}]")
    assert count(fleet, "fabric.rail") == 0
    assert set(fleet.device_domain[AXIS["fabric"]].tolist()) == set(fleet.domains_at(LEVEL["fabric.leaf"]).tolist())


def test_power_limits_become_what_workloads_may_add_to_the_idle_draw() -> None:
    fleet = fleet_of(
        "  groups:\n  - name: a\n    template: dgx-h100\n    nodes: 6\n"
        "    power: {rackLimit: 42kW, racksPerPdu: 2, pduLimit: 80kW, feed: F, feedLimit: 100kW}\n"
        "  - {name: b, template: l40s, nodes: 1, power: {rackLimit: 5kW, feed: F}}"
    )
    assert budgets(fleet, "power.rack", POWER) == {"a-rack0": 34_000, "a-rack1": 38_000, "b-rack0": 4_100}
    assert budgets(fleet, "power.pdu", POWER) == {"a-pdu0": 68_000}
    assert budgets(fleet, "power.feed", POWER) == {"F": 100_000 - 6 * 2000 - 900}


def test_templates_extend_others() -> None:
    fleet = fleet_of(
        "  templates:\n"
        "    big: {extends: dgx-h100, budgets: {memory: 4TiB, licences: 3}, traits: [big]}\n"
        "    bigger: {extends: big, numaCpu: [500m, 2], gpuPower: 1kW}\n"
        "  groups: [{name: a, template: bigger, nodes: 1, traits: [own]}]"
    )
    assert budgets(fleet, "place.node", "memory_bytes") == {"a-0": 4 * 2**40}
    assert budgets(fleet, "place.node", "licences") == {"a-0": 3}
    assert budgets(fleet, "place.numa", "cpu_milli") == {"a-0/numa0": 500, "a-0/numa1": 2000}
    assert (fleet.traits, int(fleet.node_gpu_power_w[0])) == (("big", "own"), 1000)


def test_domains_may_stand_before_the_ones_that_hold_them() -> None:
    fleet = fleet_of(
        "  domains:\n    place.rack:r: {in: place.row:w, budgets: {power: 40kW, gpu: 2, cpu_milli: 7}}\n"
        "    place.row:w: {}\n    place.numa:n0/numa0: {budgets: {memory: 1TiB}}\n"
        "  nodes:\n  - {name: n0, template: dgx-h100, in: [place.rack:r]}\n"
        "  - {names: [n1, n2], template: dgx-h100, in: [place.rack:r], }"
    )
    assert [fleet.node_name(n) for n in range(3)] == ["n0", "n1", "n2"]
    assert budgets(fleet, "place.rack", "gpu_milli") == {"r": 2000}
    assert budgets(fleet, "place.rack", "cpu_milli") == {"r": 7}
    assert budgets(fleet, "place.numa", "memory_bytes") == {"n0/numa0": 2**40}
    assert count(fleet, "scaleup.nvlink") == 3


BARE = "  templates: {t: {}}\n  groups: [{name: a, template: t, nodes: 1, "
RACKS = "  domains: {place.rack:a: {}, place.rack:b: {}}\n  nodes:\n"
CYCLE = "  domains:\n    place.rack:a: {in: place.rack:b}\n    place.rack:b: {in: place.rack:a}"
NODE = "\n  nodes: [{name: n, template: l40s}]"
GROUP = "  groups: [{name: a, template: dgx-h100, nodes: 4}]\n"


@pytest.mark.parametrize(
    ("spec", "line", "field", "sentence"),
    [
        ("  groups: [{name: a, template: dgx-h100, nodes: -4}]", 5, "spec.groups[0].nodes", "at least 1, not -4"),
        ("  groups: [{name: a, template: dgx-h100, nodes: 0.5}]", 5, "spec.groups[0].nodes", "a whole number, not 0.5"),
        ("  groups: [{name: a, template: dgx-h100, nodes: true}]", 5, "spec.groups[0].nodes", "a whole number"),
        ("  groups: [{name: a, nodes: 4}]", 5, "spec.groups[0].template", "is missing"),
        ("  groups: [{name: 7, template: l40s, nodes: 4}]", 5, "spec.groups[0].name", "must be text"),
        ("  groups: [{name: a, template: dgx-h10, nodes: 4}]", 5, "spec.groups[0].template", "did you mean 'dgx-h100'"),
        ("  groups: [{name: a, template: l40s, nodes: 4, fabrik: {}}]", 5, "spec.groups[0].fabrik", "did you mean 'fabric'"),
        ("  groups: {}", 5, "spec.groups", "must be a list, not a mapping"),
        ("  templates: {t: {budgets: {memory: -2TiB}}}\n" + GROUP, 5, "spec.templates.t.budgets.memory", "at least 0"),
        ("  templates: {t: {budgets: {memory: 2TB, memory_bytes: 1}}}\n" + GROUP, 5, "spec.templates.t.budgets.memory_bytes", "twice"),
        ("  templates: {t: {extends: no}}\n" + GROUP, 5, "spec.templates.t.extends", "there is no template 'no'"),
        ("  templates: {t: {devices: [{kind: nic, memory: 1}]}}\n" + GROUP, 5, "spec.templates.t.devices[0].memory", "give speed"),
        (GROUP + "  pools:\n  - {on: place.rak, budgets: {cxl: 1}}", 7, "spec.pools[0].on", "did you mean 'place.rack'"),
        (GROUP + "  pools:\n  - {on: place.rack, match: z*, budgets: {}}", 7, "spec.pools[0]", "such as a-rack0"),
        (GROUP + "  overrides:\n  - {nodes: [a-9]}", 7, "spec.overrides[0].nodes[0]", "there is no node 'a-9'"),
        (GROUP + "  overrides:\n  - {nodes: [a-1], down: [gpu9]}", 7, "spec.overrides[0]", "has no GPU 9; it has 8"),
        (GROUP + "  overrides:\n  - {nodes: [a-1], down: [fan1]}", 7, "spec.overrides[0].down[0]", "is not a device"),
        ("  groups: [{name: a, template: l40s, nodes: 4, power: {rackLimit: 40kg}}]", 5, "spec.groups[0].power.rackLimit", "not a power"),
        ("  groups: [{name: a, template: l40s, nodes: 4, power: {rackLimit: 3kW}}]", 5, "spec.groups", "draw idle, 3.6 kW"),
        ("  groups: [{name: a, template: l40s, nodes: 4, power: {pduLimit: 3kW}}]", 5, "spec.groups[0].power", "needs racksPerPdu"),
        ("  groups: [{name: a, template: l40s, nodes: 4, place: {rowsPerHall: 3}}]", 5, "spec.groups[0].place", "needs racksPerRow"),
        (BARE + "fabric: {nodesPerLeaf: 1, rails: true}}]", 6, "spec.groups[0]", "no NICs"),
        ("  nodes:\n  - {name: n, template: l40s, in: [place.rack:r]}", 6, "spec.nodes[0].in[0]", "there is no place.rack:r"),
        ("  nodes:\n  - {name: n, template: l40s, in: [rack]}", 6, "spec.nodes[0].in[0]", "write axis.level:name"),
        ("  nodes:\n  - {template: l40s}", 6, "spec.nodes[0]", "either name or names"),
        (RACKS + "  - {name: n, template: l40s, in: [place.rack:a, place.rack:b]}", 7, "spec.nodes[0].in[1]", "in one place only"),
        ("  nodes:\n  - {name: n, template: l40s}\n  - {name: n, template: l40s}", 7, "spec.nodes[1]", "first on line 6"),
        (CYCLE + NODE, 6, "spec.domains.place.rack:a.in", "no cycles"),
        ("  domains:\n    place.rack:a: {in: place.row:b}" + NODE, 6, "spec.domains.place.rack:a.in", "there is no place.row:b"),
        ("  domains:\n    place.node:n: {in: place.row:b}" + NODE, 6, "spec.domains.place.node:n.in", "only its budgets"),
        ("  domains:\n    place.rak:a: {}" + NODE, 6, "spec.domains.place.rak:a", "there is no level"),
        ("  {}", 4, "spec", "at least one node"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_line_and_field(spec: str, line: int, field: str, sentence: str) -> None:
    with pytest.raises(FieldError) as caught:
        fleet_of(spec)
    where = caught.value.where
    assert (where.file, where.line, where.field) == ("fleet.yaml", line, field)
    assert sentence in caught.value.sentence
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "field", "sentence"),
    [
        ("kind: Fleet", "apiVersion", "must be plenum.dev/v1alpha1, not empty"),
        ("apiVersion: plenum.dev/v2\nkind: Fleet", "apiVersion", "not 'plenum.dev/v2'"),
        ("apiVersion: plenum.dev/v1alpha1\nkind: Flet", "kind", "did you mean 'Fleet'"),
        ("apiVersion: plenum.dev/v1alpha1\nkind: Fleet", "metadata", "is missing"),
        (HEAD + GROUP + "---\na: 1", "", "holds one manifest"),
    ],
)
def test_the_wrong_sort_of_manifest(text: str, field: str, sentence: str) -> None:
    with pytest.raises(FieldError) as caught:
        parse_fleet(text, "f.yaml")
    assert caught.value.where.field == field
    assert sentence in caught.value.sentence
