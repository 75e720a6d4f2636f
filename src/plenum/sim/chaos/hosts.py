"""Machines: an agent that comes and goes over a driver that remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from plenum.control.agent import Agent
from plenum.control.protocol import SyncRequest, SyncResponse
from plenum.model.errors import PlenumError
from plenum.ports.nodes import Assignment, Fence, LogChunk, NodeDriver, Report
from plenum.sim.chaos.books import must
from plenum.sim.chaos.network import Network
from plenum.sim.chaos.replica import Replica
from plenum.sim.chaos.schedule import Life, MachineClock, Process, Schedule
from plenum.sim.nodes import SimulatedDriver

WAIT_S, ROUND_S = 3.0, 2.5
"""Longest wait for an answer, and the mean time between two exchanges."""


class Witness:
    """A driver, and a note of everything that it was ever told to start."""

    def __init__(self, name: str, driver: SimulatedDriver) -> None:
        self.name = name
        self.driver = driver
        self.assignments: dict[str, Assignment] = {}

    def nodes(self) -> tuple[str, ...]:
        """See the port."""
        return self.driver.nodes()

    def start(self, assignment: Assignment, fence: Fence) -> None:
        """See the port."""
        self.driver.start(assignment, fence)
        before = self.assignments.setdefault(assignment.run, assignment)
        must(before == assignment, "run-twice", f"{assignment.run} is to start as something else than before")

    def stop(self, run: str, grace_s: float, fence: Fence, *, cause: str = "stopped") -> None:
        """See the port."""
        self.driver.stop(run, grace_s, fence, cause=cause)

    def forget(self, runs: Sequence[str], fence: Fence) -> None:
        """See the port."""
        self.driver.forget(runs, fence)

    def renew(self, until_s: float) -> None:
        """See the port."""
        self.driver.renew(until_s)

    def observe(self) -> tuple[Report, ...]:
        """See the port."""
        return self.driver.observe()

    def logs(self, run: str, stream: str, offset: int, limit: int) -> LogChunk:
        """See the port."""
        return self.driver.logs(run, stream, offset, limit)

    def close(self) -> None:
        """See the port."""


class Host(Process):
    """A machine that serves a fleet: its driver outlives the agent, which may be killed, paused and started anew.

    Parameters
    ----------
    name, instance
        Its agent's name, and what tells it from another of that name.
    make_driver
        Makes a driver for this host; the last of :attr:`drivers` is in use.
    """

    def __init__(
        self,
        schedule: Schedule,
        network: Network,
        name: str,
        instance: str,
        replicas: Sequence[Replica],
        clock: MachineClock,
        make_driver: Callable[[Host], SimulatedDriver],
        make_agent: Callable[[Host, NodeDriver], Agent],
        *,
        adopts: bool = True,
    ) -> None:
        super().__init__(schedule, name)
        self.instance = instance
        self.clock = clock
        self.drivers: list[Witness] = []
        self.agent: Agent | None = None
        self._network, self._replicas = network, replicas
        self._make_driver, self._make_agent, self._adopts = make_driver, make_agent, adopts
        self._asks = 0
        self._answered = False
        self._late: list[Callable[[], None]] = []

    def life(self) -> Life:
        """Ask, follow, tick, and again."""
        if not self.drivers or not self._adopts:
            name = f"{self.instance}/{len(self.drivers)}"
            self.drivers.append(Witness(name, self._make_driver(self)))
        agent = self.agent = self._make_agent(self, self.drivers[-1])
        self._late = []
        while True:
            request, sent_at = agent.request(), self.clock.monotonic()
            self._answered = False
            self._send(agent, request, sent_at)
            yield -WAIT_S
            for follow in self._late:
                follow()
            self._late = []
            agent.tick()
            if not self._answered:
                self._asks += 1  # perhaps another replica answers
            yield 0.1 + self.schedule.about(ROUND_S)

    def _send(self, agent: Agent, request: SyncRequest, sent_at: float) -> None:
        replica = self._replicas[self._asks % len(self._replicas)]

        def come_back(outcome: SyncResponse | PlenumError) -> None:
            self._network.send(self.name, replica.name, lambda: self._receive(agent, request, sent_at, outcome))

        self._network.send(self.name, replica.name, lambda: replica.say(request, come_back))

    def _receive(self, agent: Agent, request: SyncRequest, sent_at: float, outcome: SyncResponse | PlenumError) -> None:
        if agent is not self.agent or not self.up or isinstance(outcome, PlenumError):
            return
        if self.paused:
            self._late.append(lambda: self._take(agent, request, sent_at, outcome))
            return
        self._take(agent, request, sent_at, outcome)
        self.wake()

    def _take(self, agent: Agent, request: SyncRequest, sent_at: float, response: SyncResponse) -> None:
        self._answered = agent.take(request, sent_at, response) or self._answered
