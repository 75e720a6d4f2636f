from dataclasses import replace

import numpy as np
from tests.fleets import gpu_nodes

from plenum.model import Placement, Reason, Rows, View
from plenum.model.workload import Apart, Kind, Request, Role, Together, Workload
from plenum.placement import Cap, Engine, policy_named
from plenum.placement.beside import place_beside


def replica(n: int, gpus: int = 1, **more: object) -> Workload:
    return Workload(name=f"w#{n}", kind=Kind.ENDPOINT, roles=(Role(request=Request(gpus=gpus)),), **more)  # pyright: ignore[reportArgumentType]


def grown(engine: Engine, count: int, **more: object) -> list[Placement | Reason]:
    outcomes: list[Placement | Reason] = []
    rows: list[Rows] = []
    for n in range(count):
        outcomes.append(place_beside(engine, replica(n, **more), Rows.joined(rows)))  # pyright: ignore[reportArgumentType]
        if isinstance(outcomes[-1], Placement):
            rows.append(outcomes[-1].rows)
    return outcomes


def racks(engine: Engine, outcomes: list[Placement | Reason]) -> list[int]:
    fleet = engine.cluster.fleet
    nodes = np.concatenate([o.rows.node for o in outcomes if isinstance(o, Placement)])
    return [int(fleet.domain_parent[fleet.node_domain[n]]) for n in nodes]


def test_a_required_spread_counts_the_siblings() -> None:
    engine = Engine(View(fleet=gpu_nodes()))  # four racks
    outcomes = grown(engine, 5, apart=(Apart(level="place.rack"),))
    assert [type(o) for o in outcomes] == [Placement] * 4 + [Reason]
    assert len(set(racks(engine, outcomes))) == 4


def test_a_preferred_spread_is_given_up_and_says_so() -> None:
    engine = Engine(View(fleet=gpu_nodes()))
    outcomes = grown(engine, 5, apart=(Apart(level="place.rack", required=False),))
    assert all(isinstance(o, Placement) for o in outcomes)
    assert len(set(racks(engine, outcomes[:4]))) == 4
    assert isinstance(outcomes[4], Placement)
    assert outcomes[4].degraded == ("preferred apart across place.rack given up",)


def test_siblings_that_must_be_together_stay_in_their_domain() -> None:
    engine = Engine(View(fleet=gpu_nodes()))
    outcomes = grown(engine, 5, gpus=4, together=(Together(level="place.rack"),))  # a rack holds four of them
    assert [type(o) for o in outcomes] == [Placement] * 4 + [Reason]
    assert len(set(racks(engine, outcomes))) == 1


def test_a_refusal_changes_nothing_and_a_placement_is_recorded() -> None:
    engine = Engine(View(fleet=gpu_nodes(leaves=1, racks_per_leaf=1, nodes_per_rack=1)))
    first = place_beside(engine, replica(0, gpus=8), Rows())
    assert isinstance(first, Placement)
    free, running = engine.free_gpu_milli, dict(engine.running)
    assert isinstance(place_beside(engine, replica(1), Rows()), Reason)
    assert (engine.free_gpu_milli, engine.running) == (free, running)
    engine.release("default/w#0")
    assert engine.free_gpu_milli == 8_000


def test_the_tenants_caps_hold() -> None:
    policy = replace(policy_named("plenum"), caps=(Cap(level="place.rack", resource="gpu_milli", amount=1_000),))
    engine = Engine(View(fleet=gpu_nodes()), policy)
    outcomes = grown(engine, 5)
    assert [type(o) for o in outcomes] == [Placement] * 4 + [Reason]
    assert len(set(racks(engine, outcomes))) == 4
