"""Each finding is found where it is, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from plenum.adapters.manifests.fleet import parse_fleet, read_fleet
from plenum.graph.validate import Finding, findings

EXAMPLES = Path(__file__).parents[3] / "examples"
HEAD = "apiVersion: plenum.dev/v1alpha1\nkind: Fleet\nmetadata: {name: f}\nspec:\n"


def found(spec: str) -> dict[str, Finding]:
    return {finding.code: finding for finding in findings(parse_fleet(HEAD + spec))}


@pytest.mark.parametrize("name", ["fleet-lab.yaml", "fleet-100k.yaml"])
def test_the_examples_are_sound(name: str) -> None:
    assert findings(read_fleet(EXAMPLES / name)) == ()


@pytest.mark.parametrize(
    ("spec", "code", "where", "severity", "count"),
    [
        (
            "  groups: [{name: a, template: l40s, nodes: 2}]\n  overrides: [{nodes: ['a-*'], cordoned: true}]",
            "fleet.closed", "", "error", 1,
        ),
        (
            "  templates: {t: {devices: [{kind: gpu}, {kind: nic}], budgets: {memory: 1}}}\n"
            "  groups: [{name: a, template: t, nodes: 2}]",
            "node.budget", "place.node:a-0", "error", 2,
        ),
        (
            "  templates: {t: {extends: l40s, devices: [{kind: gpu}]}}\n  groups: [{name: a, template: t, nodes: 3}]",
            "node.nic", "place.node:a-0", "warning", 3,
        ),
        (
            "  groups: [{name: a, template: dgx-h100, nodes: 8, power: {rackLimit: 30kW}}]",
            "power.short", "power.rack:a-rack0", "warning", 2,
        ),
        (
            "  groups: [{name: a, template: l40s, nodes: 4, fabric: {nodesPerLeaf: 4, oversubscription: {leaf: 9}}}]",
            "fabric.oversubscribed", "fabric.leaf:a-leaf0", "warning", 1,
        ),
        (
            "  groups: [{name: a, template: l40s, nodes: 4}]\n  domains: {'place.hall:h': {}}",
            "domain.empty", "place.hall:h", "warning", 1,
        ),
        (
            "  templates: {t: {extends: l40s, numaCpu: [10, 10]}}\n  groups: [{name: a, template: t, nodes: 2}]",
            "numa.cores", "place.node:a-0", "warning", 2,
        ),
        (
            "  groups: [{name: a, template: l40s, nodes: 2, fabric: {nodesPerLeaf: 1}}]",
            "leaf.lonely", "fabric.leaf:a-leaf0", "warning", 2,
        ),
        (
            "  groups: [{name: a, template: l40s, nodes: 2, fabric: {nodesPerLeaf: 2}}, {name: b, template: l40s, nodes: 3}]",
            "node.left-out", "place.node:b-0", "warning", 3,
        ),
        (
            "  templates: {t: {extends: l40s, devices: [{kind: gpu, model: A}, {kind: gpu, model: B}, {kind: nic}],"
            " nodesPerNvlink: 1}}\n  groups: [{name: a, template: t, nodes: 2}]",
            "nvlink.mixed", "scaleup.nvlink:a-0", "warning", 2,
        ),
        (
            "  groups: [{name: a, template: l40s, nodes: 2}]\n  domains: {'fabric.leaf:l': {budgets: {uplink: 0}}}\n"
            "  nodes: [{names: [x, y], template: l40s, in: ['fabric.leaf:l']}]",
            "fabric.cut", "fabric.leaf:l", "error", 1,
        ),
    ],
)  # fmt: skip
def test_findings(spec: str, code: str, where: str, severity: str, count: int) -> None:
    finding = found(spec)[code]
    assert (finding.where, finding.severity, finding.count) == (where, severity, count)


def test_too_many_traits() -> None:
    traits = ", ".join(f"t{i}" for i in range(65))
    spec = f"  templates: {{t: {{extends: l40s, traits: [{traits}]}}}}\n  groups: [{{name: a, template: t, nodes: 2}}]"
    assert "65 traits" in found(spec)["fleet.names"].sentence


def test_errors_come_first() -> None:
    spec = (
        "  groups: [{name: a, template: l40s, nodes: 2, fabric: {nodesPerLeaf: 1}}]\n"
        "  overrides: [{nodes: [a-0, a-1], health: down}]"
    )
    assert [f.severity for f in findings(parse_fleet(HEAD + spec))] == ["error", "warning"]
