"""What runs is a fact: it stays on the books when its hardware fails or its budget shrinks, and leaves them cleanly."""

from __future__ import annotations

import numpy as np
import pytest

from plenum.graph.build import Device, FleetBuilder
from plenum.model import Fleet, Health, InvariantError, Plan, Request, Role, View, Workload
from plenum.model.fleet import DeviceKind
from plenum.placement import Engine, place

GPU0, NIC0 = 0, 2


def job(name: str, **request: int) -> Workload:
    return Workload(name=name, roles=(Role(request=Request(**request)),))  # type: ignore[arg-type]


@pytest.fixture
def running() -> View:
    """One node of two GPUs, one NIC and eight cores; a job holds GPU 0, the NIC and four cores."""
    b = FleetBuilder("lab")
    devices = [Device(kind=DeviceKind.GPU), Device(kind=DeviceKind.GPU), Device(kind=DeviceKind.NIC)]
    b.node("n", budgets={"cpu_milli": 8000, "memory_bytes": 2**40}, devices=devices)
    view = View(fleet=b.build())
    return place(view, [job("old", gpus=1, nics=1, cpu_milli=4000)]).applied_to(view)


def on(view: View, fleet: Fleet) -> View:
    return View(fleet=fleet, running=view.running, rows=view.rows)


def with_down(view: View, device: int) -> View:
    health = view.fleet.device_health.copy()
    health[device] = Health.DOWN
    return on(view, view.fleet.replaced(device_health=health))


def masks(plan: Plan) -> list[int]:
    return [int(mask) for p in plan.placements for mask in p.rows.gpu_mask]


def test_a_failed_gpu_is_nobodys_even_once_its_job_has_ended(running: View) -> None:
    engine = Engine(with_down(running, GPU0))
    assert engine.free_gpu_milli == 1000
    engine.release("default/old")
    assert engine.free_gpu_milli == 1000
    assert masks(place(engine.view(), [job("two", gpus=2)])) == []
    assert masks(place(engine.view(), [job("one", gpus=1)])) == [0b10]


def test_a_failed_nic_is_not_given_again(running: View) -> None:
    down = with_down(running, NIC0)
    assert place(down, [job("net", nics=1)]).placements == ()
    assert place(down.without(frozenset({"default/old"})), [job("net", nics=1)]).placements == ()
    assert len(place(running.without(frozenset({"default/old"})), [job("net", nics=1)]).placements) == 1


def test_a_budget_below_what_runs_takes_nothing_more_until_it_recovers(running: View) -> None:
    small = on(running, running.fleet.replaced(budget_capacity=np.array([2000, 2**40])))
    assert place(small, [job("cores", cpu_milli=1)]).placements == ()
    assert masks(place(small, [job("gpu", gpus=1)])) == [0b10]
    assert len(place(small.without(frozenset({"default/old"})), [job("cores", cpu_milli=2000)]).placements) == 1


def test_a_gpu_given_twice_is_a_bug(running: View) -> None:
    twice = running.with_placed([(job("thief", gpus=1), running.rows)])
    with pytest.raises(InvariantError, match="takes a device that is not free on node n"):
        Engine(twice)
