"""Reasons read like sentences, name what binds, and every "starts if" is true."""

from __future__ import annotations

import pytest
from tests.fleets import gpu_nodes

from plenum.graph.build import FleetBuilder
from plenum.graph.join import joined, with_trait
from plenum.model import Apart, Kind, Reason, Request, Role, Together, View, Workload
from plenum.placement import Cap, Engine, Policy
from plenum.scheduling import decide, explain

NODE = Request(gpus=8, cpu_milli=8_000)


def gang(name: str, replicas: int, request: Request = NODE, **more) -> Workload:
    return Workload(name=name, kind=Kind.TRAINING_JOB, roles=(Role(replicas=replicas, request=request),), **more)


def busy(*workloads: Workload, **fleet) -> Engine:
    engine = Engine(View(fleet=gpu_nodes(**fleet)))
    for workload in workloads:
        assert not isinstance(engine.place(workload), Reason)
    return engine


@pytest.mark.parametrize(
    ("request_", "more", "code", "words"),
    [
        (Request(gpus=16), {}, "never.gpus", "no node has 16 GPUs (the largest has 8)"),
        (
            Request(gpus=1, gpu_models=("B200",)),
            {},
            "never.models",
            "no node has a GPU of model B200 (there are: H100)",
        ),
        (Request(traits=("fp4",)), {}, "never.traits", "no node has the trait fp4"),
        (Request(cpu_milli=65_000), {}, "never.resource", "no node has 65 cores (the most is 64)"),
        (Request(extra=(("licences", 1),)), {}, "never.resource", "no node has 1 licence (none has any)"),
        (Request(gpus=1, hbm_bytes=2**38), {}, "never.hbm", "no GPU has 256 GiB of memory (the largest has 80 GiB)"),
        (NODE, {"together": (Together(level="fabric.leaf"),)}, "never.together", "the largest holds 4"),
        (NODE, {"together": (Together(level="place.hall"),)}, "never.together", "the fleet has no place.hall domains"),
    ],
)
def test_never_says_what_the_fleet_lacks(request_: Request, more: dict, code: str, words: str) -> None:
    reason = explain(Engine(View(fleet=gpu_nodes())), gang("x", 5, request_, **more))
    assert reason.code == code
    assert words in reason.sentence
    assert reason.sentence.startswith("default/x can never start on this fleet: ")


def with_a_host() -> Engine:
    """A fleet of imitated nodes, and one real host of two cores."""
    builder = FleetBuilder("host")
    builder.node("vm", domains={}, budgets={"cpu_milli": 2_000, "memory_bytes": 2**30}, traits=["process"])
    return Engine(View(fleet=joined([with_trait(gpu_nodes(), "simulated"), builder.build()])))


def engine_host(name: str, cpu_milli: int, **more) -> Workload:
    return gang(name, 1, Request(cpu_milli=cpu_milli, traits=("process",), **more))


@pytest.mark.parametrize(
    ("cpu_milli", "more", "words"),
    [
        (8_000, {}, "no real host has 8 cores (the most is 2)"),
        (1_000, {"gpus": 1}, "no real host has 1 GPU (none has any)"),
    ],
)
def test_what_needs_a_real_host_is_told_what_those_lack(cpu_milli: int, more: dict, words: str) -> None:
    assert words in explain(with_a_host(), engine_host("x", cpu_milli, **more)).sentence
    alone = Engine(View(fleet=with_trait(gpu_nodes(), "simulated")))
    assert "it has no real host" in explain(alone, engine_host("x", cpu_milli, **more)).sentence


def test_what_waits_for_a_real_host_waits_for_room_there_and_not_because_of_traits() -> None:
    engine = with_a_host()
    assert not isinstance(engine.place(engine_host("a", 2_000)), Reason)
    reason = explain(engine, engine_host("x", 1_000))
    assert reason.sentence == (
        "default/x waits for cores: what there is of real hosts comes closest, with room for 0 of 1 core; it starts when default/a ends."
    )
    assert [(gap.free, gap.capacity) for gap in reason.short] == [(0, 2_000)]
    assert not any("trait" in what_if.sentence for what_if in reason.counterfactuals)


def test_the_whole_fleet_may_be_too_small() -> None:
    reason = explain(Engine(View(fleet=gpu_nodes())), gang("x", 9))
    assert (reason.code, reason.sentence) == (
        "never.capacity",
        "default/x can never start on this fleet: the whole fleet holds 8 of its 9 replicas of 8 GPUs, 8 cores.",
    )


def test_a_required_level_that_binds_is_named_with_its_price() -> None:
    engine = busy(gang("a", 2), gang("b", 2), gang("c", 2))
    engine.release("default/a")  # two nodes free in each leaf
    reason = explain(engine, gang("x", 4, together=(Together(level="fabric.leaf"),)))
    assert reason.code == "wait.together"
    assert reason.constraint == "together within fabric.leaf"
    assert reason.sentence == (
        "default/x waits because of together within fabric.leaf: fabric.leaf l0 comes closest, with room for 16 of 32 GPUs; "
        "it starts when default/b ends."
    )
    relaxed = reason.counterfactuals[0]
    assert relaxed.starts
    assert relaxed.relative_cost is not None
    assert relaxed.relative_cost > 1
    assert [b.workload for b in reason.blockers] == ["default/b"]


def test_every_starts_if_is_true() -> None:
    engine = busy(gang("a", 3), gang("b", 2), gang("c", 2))
    wanted = gang("x", 3)
    reason = explain(engine, wanted)
    for name in (b.workload for b in reason.blockers):
        engine.release(name)
    assert not isinstance(engine.place(wanted), Reason)


def test_blockers_are_all_needed() -> None:
    engine = busy(gang("a", 3), gang("b", 2), gang("c", 2))
    reason = explain(engine, gang("x", 3))
    for left_out in reason.blockers:
        again = busy(gang("a", 3), gang("b", 2), gang("c", 2))
        again.release(*(b.workload for b in reason.blockers if b is not left_out))
        assert isinstance(again.place(gang("x", 3)), Reason)


def test_scarce_cores_are_told_from_scarce_gpus() -> None:
    hog = Workload(name="hog", roles=(Role(replicas=8, request=Request(cpu_milli=60_000)),))
    reason = explain(busy(hog), gang("x", 2))
    assert (reason.code, reason.constraint) == ("wait.resource", "cpu_milli")
    assert "waits for cores" in reason.sentence


def test_a_cordoned_node_that_would_help_is_named() -> None:
    engine = busy(gang("a", 6), cordoned=("n7",))
    reason = explain(engine, gang("x", 2))
    assert "starts if n7 is uncordoned" in [c.sentence for c in reason.counterfactuals]


def test_a_smaller_gang_that_would_start_is_offered() -> None:
    reason = explain(busy(gang("a", 5)), gang("x", 4))
    assert "starts now with 3 of its 4 replicas" in [c.sentence for c in reason.counterfactuals]


def test_what_fits_is_ready() -> None:
    assert explain(busy(), gang("x", 4)).code == "ready"


def test_explaining_changes_nothing() -> None:
    engine = busy(gang("a", 5))
    before = [array.copy() for array in engine.state]
    explain(engine, gang("x", 4))
    assert all((a == b).all() for a, b in zip(before, engine.state, strict=True))
    assert list(engine.running) == ["default/a"]


def test_decide_explains_everything_left_waiting() -> None:
    plan = decide(View(fleet=gpu_nodes()), [gang("a", 6), gang("b", 4), gang("c", 9)])
    assert {r.workload: r.code for r in plan.reasons} == {"default/b": "wait.gpus", "default/c": "never.capacity"}


def test_a_power_budget_that_binds_is_named() -> None:
    engine = busy(gang("a", 4), rack_power_w=6_000)  # one full node of 5.6 kW in each of four racks
    reason = explain(engine, gang("x", 1))
    assert (reason.code, reason.constraint) == ("wait.budget", "the power budget")
    assert reason.short[0].domain == "power.rack r0"
    assert (reason.short[0].free, reason.short[0].needed) == (400, 5_600)
    assert "with room for 400 W of 5.6 kW power" in reason.sentence
    assert [b.workload for b in reason.blockers] == ["default/a"]


def test_a_budget_too_small_for_one_replica_is_never() -> None:
    reason = explain(busy(rack_power_w=5_000), gang("x", 1))
    assert reason.code == "never.budget"
    assert "no place was found that keeps the power budget" in reason.sentence


def test_a_cap_that_binds_is_named() -> None:
    policy = Policy(
        name="capped", caps=(Cap(level="fabric.leaf", resource="gpu_milli", amount=8_000, tenant="default"),)
    )
    engine = Engine(View(fleet=gpu_nodes()), policy)
    engine.place(gang("a", 2))
    reason = explain(engine, gang("x", 1))
    assert reason.code == "wait.cap"
    assert reason.constraint == "the cap of 8 GPUs per fabric.leaf for default"
    assert "starts if the cap of 8 GPUs per fabric.leaf for default is lifted" in reason.counterfactuals[0].sentence


def test_a_spread_wider_than_the_fleet_is_not_found() -> None:
    reason = explain(busy(), gang("x", 5, apart=(Apart(level="place.rack"),)))
    assert (reason.code, reason.constraint) == ("never.apart", "at most 1 per place.rack")
    assert "as far as was searched" in reason.sentence


def test_a_cordon_is_no_never() -> None:
    reason = explain(busy(cordoned=("n7",)), gang("x", 8))
    assert reason.code == "wait.health"
    assert reason.sentence == (
        "default/x waits for a node out of service: on this fleet it could start if n7 is back in service."
    )


def test_one_blocker_is_named_where_one_will_do() -> None:
    engine = busy(gang("pair", 2), gang("a", 1), gang("b", 1), gang("c", 2), gang("d", 2))
    reason = explain(engine, gang("x", 2))
    assert len(reason.blockers) == 1


def test_an_endpoint_short_of_replicas_says_what_binds() -> None:
    endpoint = Workload(
        name="chat",
        kind=Kind.ENDPOINT,
        roles=(Role(replicas=9, request=Request(gpus=1)),),
        apart=(Apart(level="place.node"),),
    )
    (reason,) = decide(View(fleet=gpu_nodes()), [endpoint]).reasons
    assert reason.code == "wait.partly"
    assert reason.constraint == "at most 1 per place.node"
    assert reason.sentence.startswith("default/chat runs 8 of 9 replicas; ")
