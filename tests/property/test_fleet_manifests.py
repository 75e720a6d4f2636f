"""Any fleet that can be built can be written and read back; no text can do more than be refused."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.property.strategies import fleets

from plenum.adapters.manifests.dump import dump_fleet
from plenum.adapters.manifests.fleet import parse_fleet
from plenum.adapters.manifests.workloads import parse_workloads
from plenum.graph.build import Device, FleetBuilder
from plenum.graph.templates import TEMPLATES
from plenum.graph.validate import findings
from plenum.model import DeviceKind, Fleet, Health, PlenumError

names = st.text(st.characters(exclude_characters="{}:/", exclude_categories=("C", "Z")), min_size=1, max_size=8)
amounts = st.one_of(st.integers(0, 10**6), st.integers(0, 2**62 - 1), st.sampled_from((2**41, 10**12, 400 * 10**9)))
budgets = st.dictionaries(
    st.sampled_from(("cpu_milli", "memory_bytes", "power_w", "gpu_milli", "uplink_bps", "cxl_bytes", "tokens_milli", "licences")),
    amounts,
    max_size=4,
)  # fmt: skip
health = st.sampled_from((Health.HEALTHY, Health.HEALTHY, Health.DEGRADED, Health.DOWN))


@st.composite
def devices(draw: st.DrawFn, rails: bool) -> Device:
    numa = draw(st.one_of(st.none(), st.integers(0, 3)))
    pcie = draw(st.one_of(st.none(), st.just(f"s{draw(st.integers(0, 1))}of{numa}")))
    domains = {}
    if rails and draw(st.booleans()):
        domains["fabric.rail"] = draw(st.sampled_from(("{home}/rail0", "l0/rail1", "lone")))
    if draw(st.booleans()):
        domains["scaleup.nvlink"] = draw(st.sampled_from(("{node}/pair", "v0")))
    return Device(
        kind=draw(st.sampled_from(DeviceKind)),
        model=draw(st.sampled_from(("", "H100", "A 100"))),
        capacity=draw(amounts),
        numa=numa,
        pcie=pcie,
        domains=domains or None,
        health=draw(health),
    )


@st.composite
def odd_fleets(draw: st.DrawFn) -> Fleet:
    """Fleets as no generator makes them: devices in any order and place, budgets on anything, names of all sorts."""
    b = FleetBuilder(draw(names), draw(st.dictionaries(names, names, max_size=2)))
    b.domain("scaleup.nvlink", "v0", parent=None)
    b.domain("fabric.rail", "lone", parent=None)
    for i in range(2):
        b.domain("fabric.leaf", f"l{i}", parent=None)
        b.domain("fabric.rail", f"l{i}/rail0", parent=f"fabric.leaf:l{i}")
    b.domain("fabric.rail", "l0/rail1", parent="fabric.leaf:l0")
    rack = b.domain("place.rack", draw(names), parent=None)
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        b.domain("scaleup.nvlink", f"{name}/pair", parent=None)
        own = b.domain("scaleup.nvlink", name, parent=None)
        fabric = draw(st.sampled_from((None, "fabric.leaf:l0", "fabric.leaf:l1")))
        homes = {
            "place": draw(st.sampled_from((None, rack))),
            "fabric": fabric,
            "scaleup": draw(st.sampled_from((None, own, own, "scaleup.nvlink:v0"))),
        }
        b.node(
            name,
            domains={axis: path for axis, path in homes.items() if path},
            budgets=draw(budgets),
            numa_cpu_milli=draw(st.lists(amounts, max_size=3)),
            devices=draw(st.lists(devices(rails=fabric is not None), max_size=6)),
            gpu_power_w=draw(st.integers(0, 2000)),
            traits=draw(st.lists(names, max_size=2)),
            health=draw(health),
            cordoned=draw(st.booleans()),
        )
        if b.has(f"place.numa:{name}/numa2") and draw(st.booleans()):
            b.budget(f"place.numa:{name}/numa2", "memory_bytes", draw(amounts))
    for resource, amount in draw(budgets).items():
        b.budget(rack, resource, amount)
    return b.build()


@st.composite
def group_manifests(draw: st.DrawFn) -> str:
    """Fleet manifests of one or two generated groups."""
    some = st.one_of(st.none(), st.integers(1, 4))
    groups = []
    for name in ("a", "b")[: draw(st.integers(1, 2))]:
        per_row, per_spine, per_pdu = draw(some), draw(some), draw(some)
        groups.append(
            {
                "name": name,
                "template": draw(st.sampled_from(sorted(set(TEMPLATES) - {"cpu-only"}))),
                "nodes": draw(st.integers(1, 24)),
                "place": {"nodesPerRack": draw(some), "racksPerRow": per_row, "rowsPerHall": per_row and draw(some)},
                "fabric": {
                    "nodesPerLeaf": draw(st.integers(1, 8)),
                    "leavesPerSpine": per_spine,
                    "spinesPerPod": per_spine and draw(some),
                    "rails": draw(st.booleans()),
                    "oversubscription": {"leaf": draw(st.floats(1, 10)), "spine": draw(st.integers(1, 10))},
                },
                "power": {"rackLimit": "90kW", "racksPerPdu": per_pdu, "pdusPerFeed": per_pdu and draw(some)},
            }
        )
    spec = {"site": draw(st.one_of(st.none(), names)), "groups": groups}
    head = {"apiVersion": "plenum.dev/v1alpha1", "kind": "Fleet", "metadata": {"name": "f"}}
    return yaml.safe_dump({**head, "spec": _without_none(spec)}, allow_unicode=True)


def _without_none(value: object) -> object:
    if isinstance(value, dict):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    return [_without_none(v) for v in value] if isinstance(value, list) else value


def assert_equal(one: Fleet, other: Fleet) -> None:
    for item in fields(Fleet):
        a, b = getattr(one, item.name), getattr(other, item.name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, item.name
            np.testing.assert_array_equal(a, b, err_msg=item.name)
        else:
            assert a == b, item.name


@given(odd_fleets())
def test_odd_fleets_read_back_equal(fleet: Fleet) -> None:
    assert_equal(parse_fleet(dump_fleet(fleet)), fleet)


@given(fleets())
def test_small_fleets_read_back_equal(fleet: Fleet) -> None:
    assert_equal(parse_fleet(dump_fleet(fleet)), fleet)


@given(group_manifests())
def test_generated_fleets_read_back_equal(text: str) -> None:
    fleet = parse_fleet(text)
    assert_equal(parse_fleet(dump_fleet(fleet)), fleet)
    assert not [finding for finding in findings(fleet) if finding.severity == "error"]


@given(odd_fleets())
def test_findings_never_fail(fleet: Fleet) -> None:
    assert all(finding.sentence and finding.count >= 1 for finding in findings(fleet))


keys = st.sampled_from(
    ("apiVersion", "kind", "metadata", "spec", "name", "nodes", "groups", "in", "budgets", "domains", "power", "roles")
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


@given(st.sampled_from(("Fleet", "Task", "TrainingJob")), values)
def test_whatever_stands_in_a_spec_is_read_or_refused_in_one_line(kind: str, spec: object) -> None:
    head = {"apiVersion": "plenum.dev/v1alpha1", "kind": kind, "metadata": {"name": "x"}}
    text = yaml.safe_dump({**head, "spec": spec}, allow_unicode=True)
    _read_or_refuse(kind, text)


@given(st.one_of(st.text(max_size=200), st.text(st.sampled_from("[]{}:-,&*!|>'\"#?%@ \n\tab1"), max_size=200)))
def test_any_text_is_refused_in_one_line(text: str) -> None:
    _read_or_refuse("Fleet", text)
    _read_or_refuse("Task", text)


def _read_or_refuse(kind: str, text: str) -> None:
    refusal = ""
    try:
        if kind == "Fleet":
            parse_fleet(text, "f.yaml")
        else:
            parse_workloads(text, "f.yaml")
    except PlenumError as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert refusal.startswith("f.yaml") or not refusal
