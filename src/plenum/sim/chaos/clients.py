"""Clients: they want something, ask for it, and ask again with the same key until they are told."""

from __future__ import annotations

from collections.abc import Sequence

from plenum.control import commands as c
from plenum.control.commands import Command
from plenum.control.controller import NotLeaderError, Outcome
from plenum.control.hardware import node_facts
from plenum.model.errors import PlenumError
from plenum.ports.store import ConflictError, FencedError, StoreError
from plenum.sim.chaos.audit import Auditor
from plenum.sim.chaos.network import Network
from plenum.sim.chaos.replica import Replica
from plenum.sim.chaos.scenery import GPUS, TENANTS, Plot, any_job, read_fleet
from plenum.sim.chaos.schedule import Life, Process, Schedule

PATIENCE_S, THINK_S = 2.5, 4.0
MAX_TRIES = 12
UNKNOWN = (NotLeaderError, StoreError, ConflictError, FencedError)
"""Answers after which a client asks again: it was not done, or nobody knows."""


class Client(Process):
    """Somebody who wants one thing after another.

    Parameters
    ----------
    fleets
        What may be applied: fleet name to its plots.
    """

    def __init__(
        self,
        schedule: Schedule,
        network: Network,
        name: str,
        replicas: Sequence[Replica],
        auditor: Auditor,
        fleets: dict[str, tuple[Plot, ...]],
    ) -> None:
        super().__init__(schedule, name)
        self.done = 0
        self.wishes: list[Command] = []
        """What it wants first, before it has ideas of its own."""
        self.has_ideas = True
        self.busy = False
        """Whether it waits to be told."""
        self._network, self._replicas, self._auditor, self._fleets = network, replicas, auditor, fleets
        self._asks = 0
        self._outcome: Outcome | PlenumError | None = None

    def life(self) -> Life:
        """Want something, ask until told, think."""
        while True:
            self.busy = False
            if not self.wishes and not self.has_ideas:
                yield -60.0
                continue
            command = self.wishes.pop(0) if self.wishes else self._idea()
            if command is None:
                yield 0.1 + self.schedule.about(THINK_S)
                continue
            self.busy = True
            self._asks += 1
            key = f"{self.name}:{self._asks}"
            command = command.by(self.name, trace=key, key=key, digest=command.subject)
            for tries in range(MAX_TRIES):
                self._outcome = None
                self._send(command, tries)
                yield -PATIENCE_S
                if self._outcome is not None and not isinstance(self._outcome, UNKNOWN):
                    self._told(command, self._outcome)
                    break
                yield 0.2 + self.schedule.about(0.5)
            self.done += 1
            self.busy = False
            yield 0.1 if self.wishes else 0.1 + self.schedule.about(THINK_S)

    def _send(self, command: Command, tries: int) -> None:
        replica = self._replicas[(self._asks + tries) % len(self._replicas)]

        def come_back(outcome: Outcome | PlenumError) -> None:
            self._network.send(self.name, replica.name, lambda: self._hear(command.key, outcome))

        self._network.send(self.name, replica.name, lambda: replica.ask(command, come_back))

    def _hear(self, key: str, outcome: Outcome | PlenumError) -> None:
        if key == f"{self.name}:{self._asks}" and (self._outcome is None or isinstance(self._outcome, UNKNOWN)):
            self._outcome = outcome
            self.wake()

    def _told(self, command: Command, outcome: Outcome | PlenumError) -> None:
        if isinstance(outcome, Outcome):
            self._auditor.acknowledged(command.key, outcome.position, len(outcome.events))

    # -- ideas -------------------------------------------------------------------------------------

    def _idea(self) -> Command | None:
        s = self.schedule
        draw = s.rng.random()
        jobs = sorted(self._auditor.books.jobs)
        if draw < 0.62 or (draw < 0.86 and not jobs):
            workload, process, manifest = any_job(s)
            if workload.id in jobs and s.chance(0.6):
                return None
            return c.apply_job(workload, process, manifest)
        if draw < 0.86:
            return c.delete_job(jobs[s.below(len(jobs))])
        if draw < 0.95:
            nodes = [n for plot in self._auditor.books.plots.values() for n in plot.nodes]
            if not nodes:
                return None
            on = s.chance(0.5)
            return c.cordon(nodes[s.below(len(nodes))], on, drain=on and s.chance(0.5))
        if draw < 0.98:
            return any_quota(s, TENANTS[s.below(len(TENANTS))])
        name = sorted(self._fleets)[s.below(len(self._fleets))]
        return fleet_as(self._fleets[name][s.below(len(self._fleets[name]))])


def any_quota(s: Schedule, tenant: str) -> Command:
    """Return the wish for a tenant with some quota, or none."""
    quota = {"gpu_milli": 1000 * (2 + s.below(3 * GPUS))} if s.chance(0.6) else {}
    return c.apply_tenant(tenant, quota, max_jobs=3 + s.below(6) if s.chance(0.3) else 0)


def fleet_as(plot: Plot) -> Command:
    """Return the wish for a fleet."""
    facts = node_facts(read_fleet(plot.manifest))
    return c.apply_fleet(plot.name, plot.manifest, facts, agent=plot.name)
