"""What a node agent does, without I/O: what it tells, and what it makes of an answer.

The loop around it (in a process of its own, or inside the control plane) is always the same::

    request, sent_at = agent.request(), clock.monotonic()
    response = link.sync(request)          # may be lost, late, or answered twice
    agent.take(request, sent_at, response)
    agent.tick()                           # also while there is no answer
"""

from __future__ import annotations

from plenum.control.protocol import LEASE_GRACE_S, LEASE_S, MAX_REPORTS, LogAnswer, LogWant, SyncRequest, SyncResponse
from plenum.model.errors import PlenumError
from plenum.ports.clock import Clock
from plenum.ports.nodes import EXITED, Assignment, Fence, NodeDriver, Report, StaleOrderError

MAX_LOG_BYTES = 256 * 1024
"""Of one log answer."""

MAX_ANSWERED_BYTES = 1024 * 1024
"""Of all pieces of logs in one request; the rest follow in the next. A request that is too large would be refused whole."""


class Agent:
    """Serves the nodes of one driver.

    Parameters
    ----------
    name
        As the control plane knows it.
    instance
        Tells it from another agent of the same name; the same over restarts on the same folder.
    """

    def __init__(self, name: str, driver: NodeDriver, clock: Clock, *, instance: str = "") -> None:
        self.name = name
        self.instance = instance
        self.driver = driver
        self.fence = Fence()
        self._clock = clock
        self._orders: dict[str, Assignment] | None = None
        self._version = -1
        self._known: frozenset[str] = frozenset()
        self._over: set[str] = set()
        """Runs that ended and are in the log as such, and that the last orders still name."""
        self._acknowledged: dict[str, Report] = {}
        self._vanished: dict[str, Report] = {}
        self._grace_s: dict[str, float] = {}
        self._lease_ends = clock.monotonic() + LEASE_S
        self._answers: list[LogAnswer] = []

    @property
    def version(self) -> int:
        """Version of the orders that it follows; -1: none."""
        return self._version

    def request(self, wait_s: float = 0.0) -> SyncRequest:
        """Return what to tell the control plane now."""
        known = {report.run: report for report in self.driver.observe()} | self._vanished
        changed = [report for run, report in known.items() if self._acknowledged.get(run) != report]
        orders = self._orders or {}
        answers = self._answered()
        return SyncRequest(
            agent=self.name,
            nodes=self.driver.nodes(),
            reports=tuple(changed[:MAX_REPORTS]),
            leftover=tuple(run for run, r in known.items() if r.phase != EXITED and run not in orders),
            seen=self.fence,
            version=self._version,
            wait_s=wait_s,
            instance=self.instance,
            logs=answers,
        )

    def take(self, request: SyncRequest, sent_at: float, response: SyncResponse) -> bool:
        """Follow an answer; an old one is not followed at all.

        Parameters
        ----------
        request, sent_at
            What it answers, and the monotonic time at which that was sent.

        Returns
        -------
        bool
            Whether it was followed.
        """
        if response.fence < self.fence:
            return False
        try:
            self._take(request, sent_at, response)
        except StaleOrderError:  # the driver remembers more than this process does; it refuses before anything is done
            return False
        self.fence = response.fence
        return True

    def _take(self, request: SyncRequest, sent_at: float, response: SyncResponse) -> None:
        self._acknowledge(request, response.fence)
        if response.orders is not None:
            self._orders, self._version = response.orders, response.version
            self._known = frozenset(response.known)
            again, self._over = sorted(self._over & response.orders.keys()), set()
            for run in again:  # its end was in the log, which was restored from a backup since
                self._vanish(run)
        left_s = sent_at + response.lease_s - self._clock.monotonic()
        if left_s > 0:
            self._lease_ends = sent_at + response.lease_s
            self.driver.renew(self._lease_ends - self._clock.monotonic())
            self._follow(response.fence)
        self._answer(response.wants)

    def tick(self) -> bool:
        """End all work if the lease is lost; returns whether it is."""
        if self._clock.monotonic() < self._lease_ends:
            return False
        self._orders, self._version = None, -1
        try:
            for report in self.driver.observe():
                if report.phase != EXITED:
                    self.driver.stop(report.run, LEASE_GRACE_S, self.fence, cause="lease-lost")
        except StaleOrderError:
            # A new process over an old driver: the lease that the driver knows of is older than ours, and it ends the work itself.
            return True
        return True

    def _answered(self) -> tuple[LogAnswer, ...]:
        """Take as many of the answers that wait as one request holds, at least one."""
        size = taken = 0
        for answer in self._answers:
            size += len(answer.chunk.data) if answer.chunk is not None else len(answer.error)
            if taken and size > MAX_ANSWERED_BYTES:
                break
            taken += 1
        answers, self._answers = tuple(self._answers[:taken]), self._answers[taken:]
        return answers

    def _acknowledge(self, request: SyncRequest, fence: Fence) -> None:
        """Let go of runs whose end is in the log; raises StaleOrderError, with nothing done, where the driver knows a newer fence."""
        over = [report.run for report in request.reports if report.phase == EXITED]
        self.driver.forget(over, fence)
        self._acknowledged.update((r.run, r) for r in request.reports if r.phase != EXITED)
        self._over.update(over)
        for run in over:
            for notes in (self._acknowledged, self._vanished, self._grace_s):
                notes.pop(run, None)

    def _follow(self, fence: Fence) -> None:
        """End what is there and not ordered, start what is ordered and not there."""
        if self._orders is None:
            return
        here = {report.run: report for report in self.driver.observe()}
        for run, report in here.items():
            if run not in self._orders and report.phase != EXITED:
                self.driver.stop(run, self._grace_s.get(run, LEASE_GRACE_S), fence)
        started: list[Assignment] = []
        for run, order in self._orders.items():
            if run in here:
                self._grace_s[run] = order.process.grace_s
            elif run in self._known or run in self._acknowledged:
                self._vanish(run)
            elif run not in self._over:
                self.driver.start(order, fence)
                started.append(order)
        if started:
            self._check(started)

    def _check(self, started: list[Assignment]) -> None:
        """Report what the driver did not start: it ended and was forgotten before, and the log, restored from a backup, does not say so."""
        here, nodes = {report.run for report in self.driver.observe()}, self.driver.nodes()
        for order in started:
            if order.run not in here and order.node in nodes:
                self._vanish(order.run)

    def _vanish(self, run: str) -> None:
        if run not in self._vanished and run not in self._over:
            message = "the node no longer knows this run; it may have been restarted"
            self._vanished[run] = Report(
                run=run, phase=EXITED, exit_code=-1, cause="vanished", message=message, ended_at=self._clock.now()
            )

    def _answer(self, wants: tuple[LogWant, ...]) -> None:
        for want in wants:
            try:
                chunk = self.driver.logs(want.run, want.stream, want.offset, min(want.limit, MAX_LOG_BYTES))
                self._answers.append(LogAnswer(id=want.id, chunk=chunk))
            except PlenumError as error:
                self._answers.append(LogAnswer(id=want.id, error=error.sentence))
