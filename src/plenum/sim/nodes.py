"""A virtual fleet: nodes that imitate what real ones report, faults included.

Nothing happens between calls: each call first catches up with the clock, change by change in order of time. The same orders
at the same times with the same generator give the same reports, and it makes no difference to them how often one looks.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plenum.model.process import Simulated
from plenum.ports.clock import Clock
from plenum.ports.nodes import (
    EXITED,
    LEASE_GRACE_S,
    RUNNING,
    STARTING,
    AbsentLogsError,
    Assignment,
    Fence,
    LogChunk,
    Report,
    StaleOrderError,
)

SIGKILL_EXIT, SIGSEGV_EXIT, SIGTERM_EXIT = 137, 139, 143
"""128 and the number of the signal."""
MAX_FORGOTTEN = 1_000
"""Forgotten runs whose logs can still be read."""
SPARE_CHANGES = 1_000
"""Changes in the queue beyond one a run, such as those that a stop has overtaken, before the queue is made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong with runs, how often.

    Parameters
    ----------
    rng
        Where the dice come from. Each run draws the same number of times when it is started, whatever the rates.
    start_failures
        Share of runs, 0 to 1, that fail to start.
    crashes_per_hour
        Rate at which a running process ends with a segmentation fault.
    slow_start_s, slow_stop_s
        Mean of the seconds (exponentially distributed) that starting and stopping take beyond what was asked.
    ignores_sigterm
        Share of runs, 0 to 1, that only end by force.
    """

    rng: np.random.Generator
    start_failures: float = 0.0
    crashes_per_hour: float = 0.0
    slow_start_s: float = 0.0
    slow_stop_s: float = 0.0
    ignores_sigterm: float = 0.0


class SimulatedDriver:
    """A :class:`~plenum.ports.nodes.NodeDriver` of any number of nodes that exist only here.

    Parameters
    ----------
    nodes
        Their names.
    clock
        Drives everything.
    faults
        None: all goes well. May be replaced at any time; runs keep the fate they have drawn.
    stop_s
        Seconds from the request to stop to the exit, as far as the grace allows.
    """

    def __init__(
        self, nodes: Iterable[str], clock: Clock, *, faults: Faults | None = None, stop_s: float = 0.0
    ) -> None:
        self.faults = faults
        self._clock = clock
        self._stop_s = stop_s
        self._nodes = tuple(nodes)
        self._known = frozenset(self._nodes)
        self._down: set[str] = set()
        self._fence = Fence()
        self._lease_ends_s, self._lapsed = math.inf, False
        self._runs: dict[str, _Run] = {}
        self._forgotten: dict[str, _Run] = {}
        self._reports: dict[str, Report] = {}
        self._seen: tuple[Report, ...] | None = ()
        self._changes: list[tuple[float, int, str]] = []
        self._orders = 0
        self._lock = threading.Lock()

    def nodes(self) -> tuple[str, ...]:
        """Return the names of the nodes that are up."""
        with self._lock:
            return tuple(node for node in self._nodes if node not in self._down) if self._down else self._nodes

    def start(self, assignment: Assignment, fence: Fence) -> None:
        """Start a run; see the port. An order to a node that is down is lost."""
        with self._lock:
            now_s = self._catch_up()
            self._admit(fence)
            if assignment.run in self._runs or assignment.run in self._forgotten or assignment.node in self._down:
                return
            run = self._imagine(assignment, now_s)
            self._runs[assignment.run] = run
            self._show(run)
            self._schedule(run)
            if self._lapsed:
                self._ask_to_end(run, now_s, min(assignment.process.grace_s, LEASE_GRACE_S), "lease-lost")
            self._catch_up()

    def adopt(self, assignment: Assignment, started_at: float) -> None:
        """Go on with a run of another driver of these nodes, as if that had lived on.

        Parameters
        ----------
        started_at
            When its process began to run, or will (seconds since the epoch).
        """
        with self._lock:
            now_s = self._catch_up()
            if assignment.run in self._runs:
                return
            start_s = (assignment.process.simulated or Simulated()).start_s
            ran_s = max(self._clock.now() - started_at, -start_s)
            run = self._imagine(assignment, now_s - ran_s - start_s)
            self._runs[assignment.run] = run
            self._show(run)
            self._schedule(run)
            self._catch_up()

    def stop(self, run: str, grace_s: float, fence: Fence, *, cause: str = "stopped") -> None:
        """Ask a run to end; see the port. An order to a node that is down is lost."""
        with self._lock:
            now_s = self._catch_up()
            self._admit(fence)
            known = self._runs.get(run)
            if known is not None and known.assignment.node not in self._down:
                self._ask_to_end(known, now_s, grace_s, cause)
                self._catch_up()

    def forget(self, runs: Sequence[str], fence: Fence) -> None:
        """Drop what is known of exited runs; see the port."""
        with self._lock:
            self._catch_up()
            self._admit(fence)
            for name in runs:
                run = self._runs.get(name)
                if run is not None and run.phase == EXITED and run.assignment.node not in self._down:
                    self._forgotten[name] = self._runs.pop(name)
                    self._reports.pop(name, None)
                    self._seen = None
            while len(self._forgotten) > MAX_FORGOTTEN:
                del self._forgotten[next(iter(self._forgotten))]
            if len(self._changes) > len(self._runs) + SPARE_CHANGES:
                self._changes = [change for change in self._changes if self._is_due(change)]
                heapq.heapify(self._changes)

    def renew(self, until_s: float) -> None:
        """Note that work may go on for ``until_s`` more seconds; see the port. Without any renewal it may go on for ever."""
        with self._lock:
            self._lease_ends_s, self._lapsed = self._catch_up() + until_s, False

    def observe(self) -> tuple[Report, ...]:
        """Return a report on every run of the nodes that are up; see the port. Costs only what has changed."""
        with self._lock:
            self._catch_up()
            if self._seen is None:
                self._seen = tuple(self._reports.values())
            return self._seen

    def logs(self, run: str, stream: str, offset: int, limit: int) -> LogChunk:
        """Return a few lines made up from what the run went through; see the port."""
        with self._lock:
            now_s = self._catch_up()
            known = self._runs.get(run) or self._forgotten.get(run)
            if known is None or stream not in ("stdout", "stderr") or known.assignment.node in self._down:
                raise AbsentLogsError(run, stream)
            text = known.written(now_s) if stream == "stdout" else b""
            start = min(max(len(text) + offset, 0) if offset < 0 else offset, len(text))
            data = text[start : start + max(limit, 0)]
            return LogChunk(offset=start, data=data, end=known.phase == EXITED and start + len(data) == len(text))

    def close(self) -> None:
        """Do nothing: what runs goes on as long as the driver exists."""

    def crash(self, node: str) -> None:
        """Take a node down: its runs end, nothing is heard of it any more and orders to it are lost, until it is rebooted."""
        with self._lock:
            now_s = self._catch_up()
            if node not in self._known:
                raise ValueError(f"there is no node {node!r} here")
            if node not in self._down:
                self._down.add(node)
                self._end_all(now_s, node)
                self._hide(node)

    def reboot(self, node: str) -> None:
        """Bring a node back, crashing it first if it is up: it reports its earlier runs, the unfinished ones as vanished."""
        self.crash(node)
        with self._lock:
            self._down.discard(node)
            for run in self._runs.values():
                if run.assignment.node == node:
                    self._show(run)

    def _admit(self, fence: Fence) -> None:
        if fence < self._fence:
            raise StaleOrderError(f"the order ({fence}) is older than one that was carried out before ({self._fence})")
        self._fence = fence

    def _imagine(self, assignment: Assignment, now_s: float) -> _Run:
        """Return a new run with its fate: when it runs, when and how it ends if left alone."""
        script = assignment.process.simulated or Simulated()
        run = _Run(assignment, self._clock.now() - now_s, stop_s=self._stop_s)
        run.runs_at_s = now_s + script.start_s
        lasts_s, run.exit_code = script.duration_s or math.inf, script.exit_code
        if assignment.node not in self._known:
            return run.fail_to_start(f"there is no node {assignment.node!r} here")
        if self.faults is not None:
            failed, crash_s, slow_start_s, slow_stop_s, ignores = _fate(self.faults)
            run.runs_at_s += slow_start_s
            run.stop_s += slow_stop_s
            run.ignores_sigterm = ignores
            if failed:
                return run.fail_to_start("the simulated process could not be started")
            if crash_s < lasts_s:
                lasts_s, run.exit_code = crash_s, SIGSEGV_EXIT
        run.exits_at_s = run.runs_at_s + lasts_s
        return run

    def _catch_up(self) -> float:
        """Let everything happen that is due, the end of the lease included, and return the monotonic time."""
        now_s = self._clock.monotonic()
        self._happen(min(now_s, self._lease_ends_s))
        if now_s > self._lease_ends_s and not self._lapsed:
            self._lapsed = True
            for run in self._runs.values():
                grace_s = min(run.assignment.process.grace_s, LEASE_GRACE_S)
                self._ask_to_end(run, self._lease_ends_s, grace_s, "lease-lost")
        self._happen(now_s)
        return now_s

    def _happen(self, until_s: float) -> None:
        while self._changes and self._changes[0][0] <= until_s:
            change = heapq.heappop(self._changes)
            if self._is_due(change):
                run = self._runs[change[2]]
                run.phase = RUNNING if change[0] < run.exits_at_s else EXITED
                run.ran = run.ran or run.phase == RUNNING
                self._show(run)
                self._schedule(run)

    def _is_due(self, change: tuple[float, int, str]) -> bool:
        run = self._runs.get(change[2])
        return run is not None and run.phase != EXITED and run.changes_at_s == change[0]

    def _schedule(self, run: _Run) -> None:
        if run.phase != EXITED and math.isfinite(run.changes_at_s):
            self._orders += 1
            heapq.heappush(self._changes, (run.changes_at_s, self._orders, run.assignment.run))

    def _ask_to_end(self, run: _Run, at_s: float, grace_s: float, cause: str) -> None:
        if run.phase == EXITED:
            return
        forced = run.ignores_sigterm or run.stop_s > grace_s
        ends_at_s = at_s + (max(grace_s, 0.0) if forced else run.stop_s)
        run.ordered = run.ordered or cause
        if ends_at_s < run.exits_at_s:
            run.exits_at_s, run.exit_code = ends_at_s, SIGKILL_EXIT if forced else SIGTERM_EXIT
            run.cause, run.message = run.ordered, ""
            self._schedule(run)
        elif not run.cause:
            run.cause = run.ordered

    def _end_all(self, at_s: float, node: str) -> None:
        for run in self._runs.values():
            if run.assignment.node == node and run.phase != EXITED:
                run.exits_at_s, run.cause, run.exit_code, run.phase = at_s, "vanished", -1, EXITED

    def _show(self, run: _Run) -> None:
        if run.assignment.node not in self._down:
            self._reports[run.assignment.run] = run.report()
            self._seen = None

    def _hide(self, node: str) -> None:
        for run in self._runs.values():
            if run.assignment.node == node:
                self._reports.pop(run.assignment.run, None)
        self._seen = None


class _Run:
    """One run and its fate. Times are monotonic; ``wall_s`` turns them into seconds since the epoch."""

    __slots__ = (
        "assignment",
        "cause",
        "exit_code",
        "exits_at_s",
        "ignores_sigterm",
        "message",
        "ordered",
        "phase",
        "ran",
        "runs_at_s",
        "stop_s",
        "wall_s",
    )

    def __init__(self, assignment: Assignment, wall_s: float, *, stop_s: float) -> None:
        self.assignment = assignment
        self.wall_s = wall_s
        self.stop_s = stop_s
        self.phase = STARTING
        self.ran = self.ignores_sigterm = False
        self.cause = self.ordered = self.message = ""
        self.exit_code = 0
        self.runs_at_s, self.exits_at_s = 0.0, math.inf

    @property
    def changes_at_s(self) -> float:
        """When its phase changes next, unless it has exited."""
        return min(self.runs_at_s, self.exits_at_s) if self.phase == STARTING else self.exits_at_s

    def fail_to_start(self, message: str) -> _Run:
        """Seal that it ends where it would have begun to run."""
        self.exits_at_s, self.exit_code, self.cause, self.message = self.runs_at_s, -1, "start-failed", message
        return self

    def report(self) -> Report:
        """Return what a node would tell of it."""
        exited = self.phase == EXITED
        return Report(
            run=self.assignment.run,
            phase=self.phase,
            exit_code=self.exit_code if exited else None,
            cause=self.cause if exited else "",
            message=self.message if exited else "",
            started_at=self.wall_s + self.runs_at_s if self.ran else 0.0,
            ended_at=self.wall_s + self.exits_at_s if exited else 0.0,
        )

    def written(self, now_s: float) -> bytes:
        """Return what it has written so far: a line at the start, after 1, 2, 4, 8, … seconds, and at the end."""
        if not self.ran:
            return b""
        a = self.assignment
        lines = [f"started {a.job} {a.slot} attempt {a.attempt} on {a.node} (simulated)"]
        until_s = min(now_s, self.exits_at_s)
        elapsed_s = 1
        while self.runs_at_s + elapsed_s < until_s:
            lines.append(f"running for {elapsed_s} s")
            elapsed_s *= 2
        if self.phase == EXITED:
            lines.append(f"exited with {self.exit_code}")
        return "".join(line + "\n" for line in lines).encode()


def _fate(faults: Faults) -> tuple[bool, float, float, float, bool]:
    """Return whether it fails to start, seconds to its crash, extra seconds to start and to stop, and whether it ignores SIGTERM."""
    failed, ignores = faults.rng.random(2)
    crash, start, stop = faults.rng.exponential(size=3)
    crash_s = crash * 3600 / faults.crashes_per_hour if faults.crashes_per_hour > 0 else math.inf
    return (
        bool(failed < faults.start_failures),
        float(crash_s),
        float(start * faults.slow_start_s),
        float(stop * faults.slow_stop_s),
        bool(ignores < faults.ignores_sigterm),
    )
