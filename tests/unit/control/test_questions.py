"""Why a job waits, as the control plane sees it: whole, in part, and beside its siblings."""

from __future__ import annotations

from tests.unit.control.cloud import Cloud, job

from plenum.control.questions import explained, utilisation
from plenum.model import Apart, Kind
from plenum.model.process import Process


def reason(cloud: Cloud, job_id: str = "red/j"):
    return explained(cloud.state, cloud.controller.decider, job_id, cloud.clock.now())


def test_a_replica_without_a_place_beside_its_siblings_is_not_said_to_fit() -> None:
    cloud = Cloud(nodes=2)
    cloud.submit(job(replicas=3, apart=(Apart(level="place.node"),)))
    cloud.run(5)
    assert cloud.phases().count("running") == 2
    said = reason(cloud)
    assert said.code == "wait.partly"
    assert said.sentence.startswith("2 of 3 replicas of red/j have places. All 3 together: ")
    assert "at most 1 per place.node" in said.sentence
    assert said.workload == "red/j"


def test_a_replica_that_fits_beside_its_siblings_is_said_to() -> None:
    cloud = Cloud(nodes=2)
    cloud.submit(job(replicas=2, apart=(Apart(level="place.node"),)))
    cloud.run(5)
    (unit,) = [u for u in cloud.state.jobs["red/j"].units.values() if u.key == "worker-1"]
    unit.phase = "waiting"  # as if it had just been released
    cloud.controller.decider.reset()
    cloud.state.bound.pop("red/j#worker-1")
    assert reason(cloud).code == "ready"


def test_explaining_leaves_the_engine_as_it_was() -> None:
    cloud = Cloud(nodes=2)
    cloud.submit(job(replicas=3, apart=(Apart(level="place.node"),)))
    cloud.run(5)
    engine = cloud.controller.decider.engine(cloud.state)
    assert engine is not None
    before = (engine.free_gpu_milli, sorted(engine.running))
    reason(cloud)
    assert (engine.free_gpu_milli, sorted(engine.running)) == before


def test_a_command_that_only_imitated_nodes_could_hold_is_told_so() -> None:
    cloud = Cloud(nodes=2)
    cloud.submit(job(), Process(command=("true",)))
    cloud.run(3)
    said = reason(cloud)
    assert said.code.startswith("never")
    assert "it has no real host. Commands run on real hosts only" in said.sentence


def test_what_is_held_is_counted_by_tenant_and_resource() -> None:
    cloud = Cloud(nodes=2)
    cloud.submit(job(kind=Kind.TRAINING_JOB, replicas=2, gpus=4))
    cloud.run(3)
    use = utilisation(cloud.state, cloud.clock.now())
    assert (use.resources["gpu_milli"].held, use.resources["gpu_milli"].total) == (8_000, 16_000)
    assert use.resources["power_w"].held == 8 * 700
    assert [(t.name, t.running, t.held["gpu_milli"]) for t in use.tenants] == [("red", 1, 8_000)]
