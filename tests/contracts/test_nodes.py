"""What every node driver has to do: one suite, run over all of them."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.nodes.local import LocalDriver
from plenum.model.process import Process, Simulated
from plenum.ports.nodes import AbsentLogsError, Assignment, Fence, LogChunk, NodeDriver, Report, StaleOrderError
from plenum.sim.clock import VirtualClock
from plenum.sim.nodes import Faults, SimulatedDriver

OLD, FENCE, NEW = Fence(term=1, position=9), Fence(term=2, position=3), Fence(term=2, position=4)


class SimulatedHost:
    """A simulated driver whose time passes while one waits."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.driver = SimulatedDriver(["n0"], self.clock)

    def lasting(self) -> Process:
        return Process(simulated=Simulated(duration_s=0))

    def exiting(self, code: int) -> Process:
        return Process(simulated=Simulated(duration_s=1, exit_code=code))

    def stubborn(self) -> Process:
        self.driver.faults = Faults(rng=np.random.default_rng(1), ignores_sigterm=1)
        return self.lasting()

    def unstartable(self) -> Process:
        self.driver.faults = Faults(rng=np.random.default_rng(1), start_failures=1)
        return self.lasting()

    def pass_time(self) -> None:
        self.clock.advance(0.25)

    def now(self) -> float:
        return self.clock.now()


class LocalHost:
    """A local driver in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.driver = LocalDriver(folder, "n0")

    def lasting(self) -> Process:
        return Process(command=("sh", "-c", "echo started; exec sleep 600"))

    def exiting(self, code: int) -> Process:
        return Process(command=("sh", "-c", f"echo started; exit {code}"))

    def stubborn(self) -> Process:
        # The line is written once SIGTERM is ignored: it says that the process is ready.
        return Process(command=("sh", "-c", "trap '' TERM; echo started; while :; do sleep 0.1; done"))

    def unstartable(self) -> Process:
        return Process(command=(f"{sys.prefix}/no/such/program",))

    def pass_time(self) -> None:
        time.sleep(0.01)

    def now(self) -> float:
        return time.time()


Host = SimulatedHost | LocalHost


@pytest.fixture(params=["simulated", "local"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    if request.param == "simulated":
        yield SimulatedHost()
        return
    host = LocalHost(tmp_path / "node")
    yield host
    assert host.driver.stop_all(0)
    host.driver.close()


@pytest.fixture
def driver(host: Host) -> NodeDriver:
    return host.driver


def assignment(run: str, process: Process, *, node: str = "n0") -> Assignment:
    return Assignment(
        run=run, job="t/j", uid=7, tenant="t", node=node, slot=f"w-{run}", attempt=1, role="w", rank=0, process=process
    )


def report(driver: NodeDriver, run: str) -> Report:
    return next(report for report in driver.observe() if report.run == run)


def await_true(host: Host, happened: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < give_up_s, f"did not happen; seen: {host.driver.observe()}"
        host.pass_time()


def await_phase(host: Host, run: str, phase: str) -> Report:
    await_true(host, lambda: report(host.driver, run).phase == phase)
    return report(host.driver, run)


def await_started(host: Host, run: str) -> None:
    """Wait until the process itself has said that it is up."""
    await_true(host, lambda: b"started" in host.driver.logs(run, "stdout", 0, 1000).data)


def test_serves_its_nodes(driver) -> None:
    assert driver.nodes() == ("n0",)
    assert driver.observe() == ()


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_goes_from_start_to_exit_and_never_back(host, code) -> None:
    host.driver.start(assignment("r", host.exiting(code)), FENCE)
    order = ["starting", "running", "exited"]
    seen = [report(host.driver, "r").phase]
    while seen[-1] != "exited":
        await_true(host, lambda: report(host.driver, "r").phase != seen[-1])
        seen.append(report(host.driver, "r").phase)
    assert seen == sorted(seen, key=order.index)
    end = report(host.driver, "r")
    assert (end.exit_code, end.cause, end.message) == (code, "", "")
    assert 0 < end.started_at <= end.ended_at


def test_starting_again_changes_nothing(host) -> None:
    order = assignment("r", host.lasting())
    host.driver.start(order, FENCE)
    first = await_phase(host, "r", "running")
    host.driver.start(order, FENCE)
    assert host.driver.observe() == (first,)
    host.driver.stop("r", 0, FENCE)
    end = await_phase(host, "r", "exited")
    host.driver.start(order, NEW)
    assert host.driver.observe() == (end,)


def test_a_stop_ends_a_run_and_says_why(host) -> None:
    for run, cause in (("plain", {}), ("other", {"cause": "preempted"})):
        host.driver.start(assignment(run, host.lasting()), FENCE)
        await_started(host, run)
        host.driver.stop(run, 60, FENCE, **cause)
        end = await_phase(host, run, "exited")
        assert (end.exit_code, end.cause) == (143, cause.get("cause", "stopped"))


def test_what_ignores_sigterm_is_killed_when_grace_is_over(host) -> None:
    host.driver.start(assignment("r", host.stubborn()), FENCE)
    await_started(host, "r")
    asked_at = host.now()
    host.driver.stop("r", 0.5, FENCE)
    seen = report(host.driver, "r")
    assert seen.phase == "running" or seen.ended_at - asked_at > 0.49, (
        "it is left the grace, unless we came late ourselves"
    )
    end = await_phase(host, "r", "exited")
    assert (end.exit_code, end.cause) == (137, "stopped")
    assert end.ended_at - end.started_at >= 0.5


def test_a_second_stop_hastens_the_end(host) -> None:
    host.driver.start(assignment("r", host.stubborn()), FENCE)
    await_started(host, "r")
    host.driver.stop("r", 10_000, FENCE)
    host.driver.stop("r", 0, FENCE, cause="other")
    assert await_phase(host, "r", "exited").cause == "stopped"


def test_a_stop_before_the_start_is_through_is_not_lost(host) -> None:
    host.driver.start(assignment("r", host.lasting()), FENCE)
    host.driver.stop("r", 5, FENCE)
    assert await_phase(host, "r", "exited").cause == "stopped"


def test_orders_about_unknown_and_exited_runs_do_nothing(host) -> None:
    host.driver.stop("nothing", 1, FENCE)
    host.driver.forget(["nothing"], FENCE)
    host.driver.start(assignment("r", host.exiting(0)), FENCE)
    end = await_phase(host, "r", "exited")
    host.driver.stop("r", 0, FENCE)
    assert host.driver.observe() == (end,)


def test_stale_orders_are_refused_and_equal_ones_taken(host) -> None:
    driver = host.driver
    driver.start(assignment("r", host.lasting()), FENCE)
    await_started(host, "r")
    for order in (
        lambda: driver.start(assignment("s", host.lasting()), OLD),
        lambda: driver.stop("r", 0, OLD),
        lambda: driver.forget(["r"], OLD),
    ):
        with pytest.raises(StaleOrderError) as refusal:
            order()
        assert refusal.value.code == "node.stale-order"
    host.pass_time()
    assert [(r.run, r.phase) for r in driver.observe()] == [("r", "running")]
    driver.start(assignment("s", host.lasting()), FENCE)
    driver.stop("nothing", 0, NEW)
    with pytest.raises(StaleOrderError):
        driver.stop("r", 0, FENCE)


def test_only_exited_runs_are_forgotten(host) -> None:
    host.driver.start(assignment("on", host.lasting()), FENCE)
    host.driver.start(assignment("over", host.exiting(0)), FENCE)
    await_started(host, "on")
    await_phase(host, "over", "exited")
    host.driver.forget(["on", "over"], FENCE)
    assert [r.run for r in host.driver.observe()] == ["on"]
    assert b"started" in host.driver.logs("over", "stdout", 0, 1000).data
    host.driver.start(assignment("over", host.exiting(0)), FENCE)
    assert [r.run for r in host.driver.observe()] == ["on"]


@pytest.mark.parametrize("node", ["n0", "elsewhere"])
def test_failing_to_start_is_reported(host, node) -> None:
    process = host.unstartable() if node == "n0" else host.lasting()
    host.driver.start(assignment("r", process, node=node), FENCE)
    end = await_phase(host, "r", "exited")
    assert (end.exit_code, end.cause) == (-1, "start-failed")
    assert end.message
    assert end.started_at == 0 < end.ended_at
    host.driver.forget(["r"], FENCE)
    assert host.driver.observe() == ()


def test_logs_are_read_by_offset(host) -> None:
    host.driver.start(assignment("r", host.exiting(0)), FENCE)
    await_phase(host, "r", "exited")
    whole = host.driver.logs("r", "stdout", 0, 10_000)
    assert whole.data.startswith(b"started")
    assert whole.end
    size = len(whole.data)
    assert host.driver.logs("r", "stdout", 3, 4) == LogChunk(offset=3, data=whole.data[3:7], end=False)
    assert host.driver.logs("r", "stdout", -2, 100) == LogChunk(offset=size - 2, data=whole.data[-2:], end=True)
    assert host.driver.logs("r", "stdout", -10_000, 100).offset == 0
    assert host.driver.logs("r", "stdout", size + 10, 100) == LogChunk(offset=size, data=b"", end=True)
    assert host.driver.logs("r", "stderr", 0, 100) == LogChunk(offset=0, data=b"", end=True)


def test_logs_of_a_run_that_goes_on_have_no_end(host) -> None:
    host.driver.start(assignment("r", host.lasting()), FENCE)
    await_started(host, "r")
    assert not host.driver.logs("r", "stdout", 0, 10_000).end


@pytest.mark.parametrize(
    ("run", "stream"),
    [("other", "stdout"), ("r", "stdin"), ("r", "../stdout"), ("../r", "stdout"), ("", "stdout"), ("r", "")],
)
def test_logs_that_are_not_there_are_said_to_be_absent(host, run, stream) -> None:
    host.driver.start(assignment("r", host.exiting(0)), FENCE)
    with pytest.raises(AbsentLogsError) as refusal:
        host.driver.logs(run, stream, 0, 100)
    assert refusal.value.code == "logs.absent"


def test_a_lost_lease_cuts_a_long_grace_short(host, monkeypatch) -> None:
    for room in ("plenum.adapters.nodes.local", "plenum.sim.nodes"):
        monkeypatch.setattr(f"{room}.LEASE_GRACE_S", 0.1)
    host.driver.start(assignment("r", replace(host.stubborn(), grace_s=10_000)), FENCE)
    await_started(host, "r")
    host.driver.renew(0.05)
    end = await_phase(host, "r", "exited")
    assert (end.exit_code, end.cause) == (137, "lease-lost")


def test_work_ends_when_its_lease_does(host) -> None:
    host.driver.renew(10_000)
    host.driver.start(assignment("r", host.lasting()), FENCE)
    await_started(host, "r")
    host.driver.renew(0.05)
    end = await_phase(host, "r", "exited")
    assert (end.exit_code, end.cause) == (143, "lease-lost")
    host.driver.start(assignment("s", host.lasting()), FENCE)
    assert await_phase(host, "s", "exited").cause == "lease-lost"
    host.driver.renew(10_000)
    host.driver.start(assignment("t", host.lasting()), FENCE)
    await_started(host, "t")
    assert report(host.driver, "t").phase == "running"
