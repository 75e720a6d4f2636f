from dataclasses import fields, replace

import numpy as np
import pytest
from tests.fleets import gpu_nodes

from plenum.graph.cluster import Cluster
from plenum.graph.join import joined, with_trait
from plenum.model import FieldError, Fleet, View
from plenum.model.workload import Kind, Request, Role, Together, Workload
from plenum.placement import place


def renamed(fleet: Fleet, name: str) -> Fleet:
    """The same fleet with nodes (and all else) of other names."""
    return replace(fleet, name=name, domain_name=tuple(f"{name}-{d}" for d in fleet.domain_name))


def test_one_fleet_is_itself() -> None:
    fleet = gpu_nodes()
    assert joined([fleet]) is fleet


def test_no_fleet_is_an_error() -> None:
    with pytest.raises(FieldError, match="no hardware yet"):
        joined([])


def test_every_node_keeps_its_devices_budgets_and_trees() -> None:
    one, two = gpu_nodes(leaves=1, rack_power_w=9_000), renamed(gpu_nodes(leaves=2), "b")
    both = joined([one, two])
    assert both.n_nodes == one.n_nodes + two.n_nodes
    assert both.n_gpus == one.n_gpus + two.n_gpus
    alone, together = [Cluster.of(f) for f in (one, two)], Cluster.of(both)
    capacity = np.concatenate([c.capacity for c in alone])
    columns = [together.columns.index(name) for name in alone[0].columns]
    assert np.array_equal(together.capacity[:, columns], capacity)
    assert np.array_equal(together.gpu_ok, np.concatenate([c.gpu_ok for c in alone]))
    second = slice(one.n_nodes, None)
    for level in range(len(together.level_domain)):
        own, there = alone[1].level_domain[level], together.level_domain[level, second]
        assert np.array_equal(own < 0, there < 0)
        assert len(set(zip(own.tolist(), there.tolist(), strict=True))) == len(set(own.tolist()))


def test_domains_of_one_name_stay_apart() -> None:
    one, two = gpu_nodes(leaves=1), replace(gpu_nodes(leaves=1), name="b")
    both = joined([one, two])
    assert len(set(zip(both.domain_level.tolist(), both.domain_name, strict=True))) == len(both.domain_name)
    assert {both.node_name(n) for n in range(one.n_nodes, both.n_nodes)} == {f"b/n{n}" for n in range(one.n_nodes)}
    gang = Workload(
        name="g",
        kind=Kind.TRAINING_JOB,
        roles=(Role(replicas=one.n_nodes, request=Request(gpus=8)),),
        together=(Together(level="fabric.pod"),),
    )
    (placement,) = place(View(fleet=both), [gang]).placements
    assert len({int(n) // one.n_nodes for n in placement.rows.node}) == 1


def test_models_traits_and_resources_are_renumbered() -> None:
    one = with_trait(gpu_nodes(leaves=1), "red")
    two = renamed(with_trait(gpu_nodes(leaves=1), "blue"), "b")
    two = replace(two, models=tuple(f"Z-{m}" for m in two.models))
    both = joined([one, two])
    red, blue = both.traits.index("red"), both.traits.index("blue")
    assert both.node_traits[: one.n_nodes, red].all()
    assert not both.node_traits[: one.n_nodes, blue].any()
    assert both.node_traits[one.n_nodes :, blue].all()
    names = {both.models[m] for m in both.device_model[both.device_node >= one.n_nodes]}
    assert names == {m for m in two.models if m.startswith("Z-")}


def test_a_trait_is_added_once() -> None:
    fleet = with_trait(with_trait(gpu_nodes(), "red"), "red")
    assert fleet.traits.count("red") == 1
    assert {f.name for f in fields(fleet)} == {f.name for f in fields(Fleet)}
