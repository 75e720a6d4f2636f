from typing import Any

import numpy as np
import pytest

from plenum.model.process import Process, Simulated
from plenum.ports.nodes import Assignment, Fence, Report
from plenum.sim.clock import VirtualClock
from plenum.sim.nodes import MAX_FORGOTTEN, SPARE_CHANGES, Faults, SimulatedDriver

FENCE = Fence(term=1)


def assignment(run: str, node: str = "n0", **simulated: Any) -> Assignment:
    process = Process(simulated=Simulated(**simulated) if simulated else None, grace_s=10)
    return Assignment(
        run=run, job="t/j", uid=1, tenant="t", node=node, slot="w-0", attempt=1, role="w", rank=0, process=process
    )


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def report(driver: SimulatedDriver, run: str) -> Report:
    return next(report for report in driver.observe() if report.run == run)


def test_a_run_follows_its_script_however_seldom_one_looks(clock) -> None:
    driver = SimulatedDriver(["n0"], clock)
    begin = clock.now()
    driver.start(assignment("r", start_s=2, duration_s=5, exit_code=7), FENCE)
    assert report(driver, "r") == Report(run="r", phase="starting")
    clock.advance(2)
    assert report(driver, "r") == Report(run="r", phase="running", started_at=begin + 2)
    clock.advance(100)
    assert report(driver, "r") == Report(run="r", phase="exited", exit_code=7, started_at=begin + 2, ended_at=begin + 7)


def test_the_default_script_lasts_a_minute(clock) -> None:
    driver = SimulatedDriver(["n0"], clock)
    driver.start(assignment("r"), FENCE)
    assert report(driver, "r").phase == "running"
    clock.advance(60)
    assert (report(driver, "r").phase, report(driver, "r").exit_code) == ("exited", 0)


def test_a_slow_stop_ends_by_force_when_grace_runs_out(clock) -> None:
    driver = SimulatedDriver(["n0"], clock, stop_s=3)
    for run in ("patient", "forced"):
        driver.start(assignment(run, duration_s=0), FENCE)
    driver.stop("patient", 5, FENCE)
    driver.stop("forced", 2, FENCE, cause="preempted")
    clock.advance(2.5)
    assert report(driver, "patient").phase == "running"
    assert (report(driver, "forced").exit_code, report(driver, "forced").cause) == (137, "preempted")
    clock.advance(0.5)
    assert (report(driver, "patient").exit_code, report(driver, "patient").cause) == (143, "stopped")


def test_a_second_stop_can_only_hasten_the_end(clock) -> None:
    driver = SimulatedDriver(["n0"], clock, faults=Faults(rng=np.random.default_rng(1), ignores_sigterm=1))
    driver.start(assignment("r", duration_s=0), FENCE)
    driver.stop("r", 10, FENCE, cause="first")
    driver.stop("r", 100, FENCE, cause="second")
    driver.stop("r", 1, FENCE, cause="third")
    clock.advance(1)
    assert (report(driver, "r").phase, report(driver, "r").cause) == ("exited", "first")


def test_a_crashed_node_falls_silent_and_tells_after_its_reboot(clock) -> None:
    driver = SimulatedDriver(["n0", "n1"], clock)
    driver.start(assignment("done", duration_s=1), FENCE)
    driver.start(assignment("lost"), FENCE)
    driver.start(assignment("other", "n1"), FENCE)
    clock.advance(2)
    driver.crash("n0")
    driver.start(assignment("unheard"), FENCE)
    driver.stop("lost", 0, FENCE)
    assert driver.nodes() == ("n1",)
    assert [r.run for r in driver.observe()] == ["other"]
    driver.reboot("n0")
    assert driver.nodes() == ("n0", "n1")
    told = {r.run: (r.phase, r.cause, r.exit_code) for r in driver.observe()}
    assert told == {"done": ("exited", "", 0), "lost": ("exited", "vanished", -1), "other": ("running", "", None)}


def test_a_lapsed_lease_ends_runs_when_it_lapsed_and_new_ones_at_once(clock) -> None:
    driver = SimulatedDriver(["n0"], clock)
    driver.start(assignment("early", duration_s=4), FENCE)
    driver.start(assignment("late"), FENCE)
    driver.renew(5)
    lapses_at = clock.now() + 5
    clock.advance(30)
    driver.renew(5)
    assert (report(driver, "early").cause, report(driver, "early").exit_code) == ("", 0)
    assert (report(driver, "late").cause, report(driver, "late").ended_at) == ("lease-lost", lapses_at)
    clock.advance(6)
    driver.start(assignment("after"), FENCE)
    assert report(driver, "after").cause == "lease-lost"


def test_a_node_that_is_not_there_fails_the_start(clock) -> None:
    driver = SimulatedDriver(["n0"], clock)
    driver.start(assignment("r", "elsewhere"), FENCE)
    assert (report(driver, "r").phase, report(driver, "r").exit_code) == ("exited", -1)
    assert report(driver, "r").cause == "start-failed"


def run_with_faults(seed: int, steps: int) -> tuple[Report, ...]:
    clock = VirtualClock()
    faults = Faults(
        rng=np.random.default_rng(seed),
        start_failures=0.2,
        crashes_per_hour=20,
        slow_start_s=3,
        slow_stop_s=8,
        ignores_sigterm=0.3,
    )
    driver = SimulatedDriver(["n0"], clock, faults=faults)
    for i in range(200):
        driver.start(assignment(f"r{i}", duration_s=0 if i % 2 else 60), FENCE)
    for _ in range(steps):
        clock.advance(120 / steps)
        driver.observe()
    for i in range(200):
        driver.stop(f"r{i}", 10, FENCE)
    clock.advance(10)
    return driver.observe()


def test_faults_strike_the_same_way_for_a_seed_at_every_pace() -> None:
    reports = run_with_faults(5, steps=1)
    assert [(r.run, r.phase, r.exit_code, r.cause) for r in reports] == [
        (r.run, r.phase, r.exit_code, r.cause) for r in run_with_faults(5, steps=64)
    ]
    assert reports != run_with_faults(6, steps=1)
    assert {r.exit_code for r in reports} == {-1, 0, 137, 139, 143}
    failed = sum(r.cause == "start-failed" for r in reports)
    assert 20 <= failed <= 60


def test_looking_again_costs_nothing_until_something_changes(clock) -> None:
    driver = SimulatedDriver(["n0"], clock)
    for i in range(100):
        driver.start(assignment(f"r{i}"), FENCE)
    first = driver.observe()
    clock.advance(1)
    assert driver.observe() is first
    driver.stop("r7", 0, FENCE)
    changed = [new for new, old in zip(driver.observe(), first, strict=True) if new is not old]
    assert [r.run for r in changed] == ["r7"]


def test_memory_does_not_grow_with_what_was_forgotten(clock) -> None:
    driver = SimulatedDriver(["n0"], clock)
    for i in range(3 * SPARE_CHANGES):
        driver.start(assignment(f"r{i}", duration_s=10_000_000), FENCE)
        driver.stop(f"r{i}", 0, FENCE)
        driver.forget([f"r{i}"], FENCE)
    assert len(driver._changes) <= SPARE_CHANGES + 1
    assert len(driver._forgotten) == MAX_FORGOTTEN
    assert driver.observe() == ()


def test_logs_only_ever_grow(clock) -> None:
    driver = SimulatedDriver(["n0"], clock)
    driver.start(assignment("r", duration_s=20), FENCE)
    text = b""
    for _ in range(25):
        clock.advance(1)
        chunk = driver.logs("r", "stdout", 0, 10_000)
        assert chunk.data.startswith(text)
        text = chunk.data
    assert text.decode().splitlines() == [
        "started t/j w-0 attempt 1 on n0 (simulated)",
        *(f"running for {s} s" for s in (1, 2, 4, 8, 16)),
        "exited with 0",
    ]


@pytest.mark.parametrize(("since_s", "phases"), [(-1, "starting running exited"), (1, "running running exited")])
def test_a_run_taken_over_goes_on_where_it_was(clock, since_s, phases) -> None:
    """Also one that was still starting: it will run in a second."""
    driver = SimulatedDriver(["n0"], clock)
    began = clock.now() - since_s
    driver.adopt(assignment("r", start_s=2, duration_s=5), began)
    told = [report(driver, "r").phase]
    clock.advance(2.5)
    told.append(report(driver, "r").phase)
    clock.advance(3.5)
    assert " ".join([*told, report(driver, "r").phase]) == phases
    assert report(driver, "r").ended_at == pytest.approx(began + 5)
