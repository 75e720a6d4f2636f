"""The world: replicas over one log, agents over simulated drivers, clients, a bad network, and mischief; all of one seed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

import numpy as np

from plenum.control.agent import Agent
from plenum.control.controller import Controller
from plenum.control.decider import Decider, next_start
from plenum.control.records import ENDED
from plenum.model.errors import PlenumError
from plenum.ports.nodes import NodeDriver
from plenum.ports.store import CommandKey, Record
from plenum.sim.chaos.audit import LEASES_S, Auditor
from plenum.sim.chaos.books import must
from plenum.sim.chaos.clients import Client, any_quota, fleet_as
from plenum.sim.chaos.defects import DEFECTS
from plenum.sim.chaos.hosts import Host
from plenum.sim.chaos.network import Network
from plenum.sim.chaos.replica import Replica
from plenum.sim.chaos.scenery import GPU_POWER_W, GPUS, MAX_NODES, TENANTS, Plot, plot, read_fleet
from plenum.sim.chaos.schedule import Life, MachineClock, Process, Schedule
from plenum.sim.chaos.serving import Customer, Gateway, check_billed, imitated_engine, is_at_rest, wishes_to_end
from plenum.sim.nodes import Faults, SimulatedDriver
from plenum.sim.store import AFTER, BEFORE, MemoryStore

FAULTS = (
    "agents",
    "clocks",
    "compaction",
    "network",
    "nodes",
    "partitions",
    "pauses",
    "processes",
    "replicas",
    "snapshots",
    "store",
    "twins",
)
"""Kinds of mischief; each can be left out."""

STORY = 60
"""Sentences kept of what happened last."""

MISCHIEF_S = 4.0
"""Mean time between two pieces of mischief."""

QUIET_S = 900.0
"""Longest until everything must have settled once nothing goes wrong any more: the longest backoff, twice, and some."""

COMPARE_EVERY = 64
"""Steps between two comparisons of the replicas with the log."""

KEYS_KEPT_S = 86_400.0


class AuditedStore(MemoryStore):
    """A log whose auditor sees every append that took place, whatever its writer was told."""

    appended: Callable[[Sequence[Record]], None]
    fences = True

    def append(
        self, records: Sequence[Record], *, expected: int, keys: Sequence[CommandKey] = (), term: int | None = None
    ) -> int:
        """Append; see the port."""
        before = self._head
        try:
            return super().append(records, expected=expected, keys=keys, term=term if self.fences else None)
        finally:
            if self._head > before:
                self.appended(self._records[before - self._head :])


class Chaos:
    """One world.

    Parameters
    ----------
    seed
        Everything is drawn from it.
    without
        Kinds of faults to leave out.
    defects
        Names of planted bugs, see :mod:`plenum.sim.chaos.defects`.
    serves
        Endpoints are served, too.
    """

    def __init__(
        self, seed: int, *, without: Collection[str] = (), defects: Collection[str] = (), serves: bool = False
    ) -> None:
        self.seed = seed
        self.schedule = s = Schedule(np.random.default_rng(seed))
        self.story: deque[tuple[int, float, str]] = deque(maxlen=STORY)
        self.without = frozenset(without)
        plots = {f"f{i}": self._plots(f"f{i}") for i in range(2 + s.below(2))}
        manifests = {p.manifest: p for several in plots.values() for p in several}
        self.auditor = Auditor(manifests, lambda: s.now_s, self.tell)
        self.store = AuditedStore(s.clock)
        self.store.appended = self.auditor.appended
        self.network = Network(s)
        self._parts = DEFECTS.parts(defects)
        self.store.fences = self._parts.fences
        self._store_fails = 0.0
        self.replicas = [Replica(s, f"c{i}", self._controller) for i in range(2 + s.below(2))]
        self._clocks = {r.name: self._clock() for r in self.replicas}
        self.hosts = [self._host(name) for name in plots]
        self.twin = self._host("f0", instance="f0-twin")
        self.machines = [*self.hosts, self.twin]
        self.clients = [Client(s, self.network, f"u{i}", self.replicas, self.auditor, plots) for i in range(2)]
        self.clients[0].wishes = [fleet_as(several[0]) for several in plots.values()]
        self.clients[0].wishes += [any_quota(s, t) for t in TENANTS]
        self.gateways: list[Gateway] = []
        if serves:
            self.clients.append(Customer(s, self.network, "s0", self.replicas, self.auditor, plots))
            self.gateways = [Gateway(s, self.network, f"g{i}", self.replicas) for i in range(2)]
        self.mischief = Mischief(self)
        self._still_at = -1
        for process in (*self.replicas, *self.hosts, *self.clients, *self.gateways, self.mischief):
            process.start()

    # -- parts -------------------------------------------------------------------------------------

    def _plots(self, name: str) -> tuple[Plot, ...]:
        """Draw what a fleet may be like: one to three nodes; another number of them, later on."""
        s = self.schedule
        power_w = GPU_POWER_W * (GPUS + s.below(GPUS)) if s.chance(0.5) else 0
        nodes = 1 + s.below(MAX_NODES)
        return (plot(name, nodes, power_w), plot(name, nodes % MAX_NODES + 1, power_w))

    def _clock(self) -> MachineClock:
        return MachineClock(self.schedule.clock, self.schedule.between(0.985, 1.015))

    def _controller(self, name: str) -> Controller:
        lease_s = LEASES_S[self.schedule.below(len(LEASES_S))]
        return self._parts.controller(
            self.store,
            self._clocks[name],
            read_fleet,
            holder=name,
            address=name,
            lease_s=lease_s,
            engine_process=imitated_engine,
        )

    def _host(self, name: str, *, instance: str = "") -> Host:
        return Host(
            self.schedule,
            self.network,
            name,
            instance or name,
            self.replicas,
            self._clock(),
            self._driver,
            self._agent,
            adopts=self._parts.adopts,
        )

    def _driver(self, host: Host) -> SimulatedDriver:
        names = plot(host.name, MAX_NODES, 0).nodes
        driver = self._parts.driver(names, host.clock, stop_s=0.3)
        faults = self.mischief.faults()
        if "processes" not in self.without:
            driver.faults = faults
        return driver

    def _agent(self, host: Host, driver: NodeDriver) -> Agent:
        return self._parts.agent(host.name, driver, host.clock, instance=host.instance)

    def tell(self, sentence: str) -> None:
        """Add to the story."""
        self.story.append((self.schedule.steps, self.schedule.now_s, sentence))

    # -- running -----------------------------------------------------------------------------------

    def step(self) -> None:
        """Let the next event happen, and check.

        Raises
        ------
        Violation
            An invariant does not hold.
        """
        self.schedule.step()
        self.auditor.look(self.machines)
        if self.schedule.steps % COMPARE_EVERY == 0:
            self.compare()

    def compare(self) -> None:
        """Hold every replica to the log."""
        for replica in self.replicas:
            if replica.up and replica.controller is not None:
                self.auditor.compare(replica.name, replica.controller.state)

    def store_fault(self, operation: str) -> str:
        """Return what goes wrong with a call of the store."""
        if not self._store_fails or not self.schedule.chance(self._store_fails):
            return ""
        return BEFORE if self.schedule.chance(0.5) else AFTER

    def let_store_fail(self, share: float) -> None:
        """Set the share of calls of the store that fail."""
        self._store_fails = share
        self.store.fault = self.store_fault if share else None

    def settle(self) -> None:
        """End all mischief, and wait until the world is as it should be.

        Raises
        ------
        Violation
            It never is; or an invariant does not hold on the way there.
        """
        self.tell("no more mischief")
        self._heal()
        self._wait_until(self._are_clients_idle, "clients to be told")
        self._wait_until(self._is_settled, "what waits to fit, and to run what the log says")
        if self.gateways:
            self._wait_until(self._is_served, "endpoints to come to rest, and journals to be in the log")
            check_billed(self.auditor.replayed, self.gateways)
        self.compare()
        self.tell("everything is deleted")
        self._wait_until(self._delete_all, "deleted jobs to go")
        self._wait_until(lambda: not self.auditor.runs(), "deleted jobs to end")
        for replica in self.replicas:
            self._wait_until(
                lambda r=replica: (
                    r.controller is not None and r.controller.state.position == self.auditor.books.position
                ),
                "replicas to catch up",
            )
        self.compare()

    def _heal(self) -> None:
        self.mischief.kill()
        self.network.loss = self.network.repeats = self.network.delays = 0.0
        self.network.cut.clear()
        self.let_store_fail(0.0)
        for replica in self.replicas:
            replica.store_s = 0.01
        for process in (*self.replicas, *self.hosts, *self.clients):
            process.paused_until_s = min(process.paused_until_s, self.schedule.now_s)
            process.start()
        self.twin.kill()
        for host in self.hosts:
            for driver in host.drivers:
                driver.driver.faults = None
                for node in set(plot(host.name, MAX_NODES, 0).nodes) - set(driver.nodes()):
                    driver.driver.reboot(node)
        for client in self.clients:
            client.has_ideas = False
        for gateway in self.gateways:
            gateway.quiet = True

    def _wait_until(self, holds: Callable[[], bool], what: str) -> None:
        until_s = self.schedule.now_s + QUIET_S
        checked_at_s = -1.0
        while True:
            if self.schedule.now_s >= checked_at_s + 2.0:
                checked_at_s = self.schedule.now_s
                if holds():
                    return
            must(self.schedule.now_s < until_s, "settles", f"{QUIET_S:.0f} quiet seconds were not enough for {what}")
            self.step()

    def _delete_all(self) -> bool:
        """Ask for all jobs to go, also those of requests that were long on their way; returns whether they are gone."""
        state = self.auditor.replayed
        if (self.auditor.books.jobs or state.endpoints) and self._are_clients_idle():
            self.clients[0].wishes = wishes_to_end(state)
            self.clients[0].wake()
        return not (self.auditor.books.jobs or state.endpoints)

    def _is_served(self) -> bool:
        state = self.auditor.replayed
        told = not any(gateway.journal for gateway in self.gateways)
        return told and all(is_at_rest(state, found) for found in state.endpoints.values())

    def _are_clients_idle(self) -> bool:
        return not any(client.wishes or client.busy for client in self.clients)

    def _is_settled(self) -> bool:
        """Whether all that is bound runs, nothing else does, and nothing that waits could start."""
        state = self.auditor.replayed
        now = max(clock.now() for clock in self._clocks.values())
        if any(node.phase != "Ready" for node in state.nodes.values()):
            return False
        runs: set[str] = set()
        for job in state.jobs.values():
            if job.phase in ENDED:
                continue
            for unit in job.units.values():
                if unit.phase == "bound" and unit.stop:
                    return False
                if unit.phase == "bound":
                    runs |= {run.id for run in unit.runs.values() if run.phase != "exited"}
        if runs != self.auditor.runs() or any(state.jobs[j].stop for j in state.live):
            return False
        if any(state.jobs[j].phase == "Starting" for j in state.live) or next_start(state, now) is not None:
            return False
        if state.position != self._still_at:  # to decide is dear: wait until the log stands still
            self._still_at = state.position
            return False
        decision = Decider(read_fleet).decide(state, now)
        return decision is None or not decision.bound


class Mischief(Process):
    """What goes wrong, one thing after another."""

    def __init__(self, world: Chaos) -> None:
        super().__init__(world.schedule, "mischief")
        self._world = world
        done: dict[str, tuple[Callable[[], None], ...]] = {
            "agents": (self._kill_agent, self._kill_agent),
            "clocks": (self._set_clock,),
            "compaction": (self._compact,),
            "network": (self._weather, self._weather),
            "nodes": (self._crash, self._crash, self._reboot, self._reboot),
            "partitions": (self._cut, self._cut),
            "pauses": (self._pause, self._pause),
            "processes": (self._fates,),
            "replicas": (self._kill_replica, self._kill_replica, self._abdicate),
            "snapshots": (self._snapshot, self._snapshot),
            "store": (self._store, self._store),
            "twins": (self._start_twin,),
        }
        self._deeds = [(kind, deed) for kind in FAULTS for deed in done[kind]]

    def life(self) -> Life:
        """Do something bad, from time to time."""
        s = self.schedule
        while True:
            yield s.about(MISCHIEF_S)
            kind, deed = self._deeds[s.below(len(self._deeds))]
            if (
                kind not in self._world.without
            ):  # so a run without a kind is the same up to where that would have struck
                deed()

    def faults(self) -> Faults:
        """Draw how often processes go wrong."""
        s = self.schedule
        return Faults(
            rng=s.rng,
            start_failures=(0.0, 0.1)[s.below(2)],
            crashes_per_hour=(0.0, 60.0)[s.below(2)],
            slow_start_s=(0.0, 3.0)[s.below(2)],
            slow_stop_s=(0.0, 4.0)[s.below(2)],
            ignores_sigterm=(0.0, 0.3)[s.below(2)],
        )

    def _any_host(self) -> Host:
        return self._world.hosts[self.schedule.below(len(self._world.hosts))]

    def _any_replica(self) -> Replica:
        return self._world.replicas[self.schedule.below(len(self._world.replicas))]

    def _outage_s(self) -> float:
        """Draw how long something is out: mostly short, now and then longer than any lease."""
        return self.schedule.about(60.0 if self.schedule.chance(0.3) else 6.0)

    def _kill_agent(self) -> None:
        self._kill(self._any_host())

    def _kill_replica(self) -> None:
        self._kill(self._any_replica())

    def _kill(self, process: Process) -> None:
        outage_s = self._outage_s()
        self._world.tell(f"{process.name} is killed for {outage_s:.0f} s")
        process.kill()
        self.schedule.after(outage_s, process.start)

    def _abdicate(self) -> None:
        replica = self._any_replica()
        self._world.tell(f"the lease of {replica.name} is taken away")
        self._quietly(lambda: self._world.store.release(replica.name))

    def _start_twin(self) -> None:
        """Start a second machine under a name that another has."""
        outage_s = self._outage_s()
        self._world.tell(f"a second {self._world.twin.name} is up for {outage_s:.0f} s")
        self._world.twin.start()
        self.schedule.after(outage_s, self._world.twin.kill)

    def _pause(self) -> None:
        everybody = (*self._world.replicas, *self._world.hosts)
        process, outage_s = everybody[self.schedule.below(len(everybody))], self._outage_s()
        self._world.tell(f"{process.name} stands still for {outage_s:.0f} s")
        process.pause(outage_s)

    def _crash(self) -> None:
        host = self._any_host()
        if host.drivers:
            node = f"{host.name}-n{self.schedule.below(MAX_NODES)}"
            self._world.tell(f"{node} crashes")
            for driver in host.drivers:
                driver.driver.crash(node)

    def _reboot(self) -> None:
        host = self._any_host()
        if host.drivers:
            node = f"{host.name}-n{self.schedule.below(MAX_NODES)}"
            self._world.tell(f"{node} is rebooted")
            for driver in host.drivers:
                driver.driver.reboot(node)

    def _cut(self) -> None:
        everybody = (*self._world.replicas, *self._world.hosts)
        name, outage_s = everybody[self.schedule.below(len(everybody))].name, self._outage_s()
        self._world.tell(f"{name} is cut off for {outage_s:.0f} s")
        self._world.network.cut[name] = self.schedule.now_s + outage_s

    def _weather(self) -> None:
        s, network = self.schedule, self._world.network
        network.loss = (0.0, 0.05, 0.4)[s.below(3)]
        network.repeats = (0.0, 0.2)[s.below(2)]
        network.delays = (0.0, 0.1, 0.4)[s.below(3)]
        network.slow_s = (2.0, 10.0, 40.0)[s.below(3)]

    def _store(self) -> None:
        share = (0.0, 0.02, 0.1, 0.6)[self.schedule.below(4)]
        self._world.tell(f"{share:.0%} of the store's calls fail")
        self._world.let_store_fail(share)
        for replica in self._world.replicas:
            replica.store_s = (0.005, 0.05, 1.0)[self.schedule.below(3)]

    def _fates(self) -> None:
        for driver in self._any_host().drivers:
            driver.driver.faults = self.faults()

    def _set_clock(self) -> None:
        clocks = [*self._world._clocks.values(), *(host.clock for host in self._world.hosts)]
        clock = clocks[self.schedule.below(len(clocks))]
        clock.jumped_s += (-1.0 if self.schedule.chance(0.5) else 1.0) * self.schedule.about(600.0)
        self._world.tell("a wall clock is set")

    def _snapshot(self) -> None:
        controller = self._any_replica().controller
        if controller is not None:
            self._quietly(lambda: controller.save_snapshot(force=True))

    def _compact(self) -> None:
        store = self._world.store
        self._snapshot()

        def compact() -> None:
            newest = store.snapshot()
            if newest is not None:
                self._world.tell(f"the log is compacted up to {newest.position}")
                store.compact(newest.position, keys_before=self._world.schedule.clock.now() - KEYS_KEPT_S)

        self._quietly(compact)

    def _quietly(self, deed: Callable[[], object]) -> None:
        """Do what an operator would try again had the store failed."""
        try:
            deed()
        except PlenumError:
            return
