"""A small cloud for tests of the control core: a log that is written by hand, and a controller with an agent on a virtual clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
from tests.fleets import gpu_nodes

from plenum.control import commands as c
from plenum.control import events as ev
from plenum.control.agent import Agent
from plenum.control.commands import Command
from plenum.control.controller import Controller, Outcome
from plenum.control.decider import Decider
from plenum.control.hardware import node_facts
from plenum.control.protocol import SyncRequest, SyncResponse
from plenum.control.records import Job
from plenum.control.state import State
from plenum.model import Fleet, Kind, Request, Role, Workload
from plenum.model.process import Process, Simulated
from plenum.ports.store import Record
from plenum.sim.clock import VirtualClock
from plenum.sim.nodes import SimulatedDriver
from plenum.sim.store import MemoryStore

TTL_S = 10.0


def read_fleet(manifest: str) -> Fleet:
    """Read ``NODES`` or ``NODES POWER_W``: one node or an even number of them, of eight GPUs, two a rack of so much power."""
    nodes, _, power_w = manifest.partition(" ")
    n = int(nodes)
    return gpu_nodes(1, (n + 1) // 2, min(n, 2), rack_power_w=int(power_w or 0))


def job(
    name: str = "j",
    kind: Kind = Kind.TASK,
    replicas: int = 1,
    gpus: int = 1,
    *,
    tenant: str = "red",
    roles: tuple[Role, ...] = (),
    **more: object,
) -> Workload:
    """Return a workload of one role."""
    roles = roles or (Role(replicas=replicas, request=Request(gpus=gpus)),)
    return Workload(name=name, kind=kind, tenant=tenant, roles=roles, **more)  # type: ignore[arg-type]


def imitation(duration_s: float = 0.0, **more: object) -> Process:
    """Return a process on simulated nodes; endless unless told otherwise."""
    exit_code = more.pop("exit_code", 0)
    return Process(simulated=Simulated(duration_s=duration_s, exit_code=exit_code), **more)  # type: ignore[arg-type]


@dataclass
class Log:
    """A state, and the records that lead to it, written by hand."""

    state: State = field(default_factory=State)
    records: list[Record] = field(default_factory=list)

    def write(self, *events: ev.Event, at: float = 0.0) -> Log:
        """Append and apply."""
        for event in events:
            record = ev.record_of(event, at or 1000.0 + self.state.position, "test")
            record = msgspec.structs.replace(record, position=self.state.position + 1)
            self.records.append(record)
            self.state.apply(record)
        return self

    def command(self, command: Command, now: float = 0.0) -> list[ev.Event]:
        """Decide a command on the state, write what it leads to, and return that."""
        events = list(command.decide(self.state, now or 1000.0 + self.state.position))
        self.write(*events)
        return events

    def job(self, name: str = "red/j") -> Job:
        """Return a job."""
        return self.state.jobs[name]

    def bind(self, decider: Decider | None = None, now: float = 5000.0) -> list[ev.UnitBound]:
        """Decide, and carry the decision out."""
        decision = (decider or Decider(read_fleet)).decide(self.state, now)
        bound = list(decision.bound) if decision else []
        self.write(*bound)
        return bound

    def report(self, run: str, phase: str, exit_code: int | None = None, cause: str = "") -> None:
        """Write what a node says of a run."""
        for known in self.state.jobs.values():
            for unit in known.units.values():
                if run in unit.runs:
                    node = unit.runs[run].node
                    said = {"phase": phase, "exit_code": exit_code, "cause": cause}
                    self.write(ev.RunReported(job=known.id, unit=unit.key, run=run, node=node, **said))
                    return
        raise KeyError(run)


def log(nodes: int = 2, *, power_w: int = 0, ready: bool = True, quota: dict[str, int] | None = None) -> Log:
    """Return a log with a fleet, whose nodes are ready, and the tenant red."""
    it = Log()
    manifest = f"{nodes} {power_w}"
    it.command(c.apply_fleet("lab", manifest, node_facts(read_fleet(manifest)), agent="a"))
    it.command(c.apply_tenant("red", quota or {}))
    if ready:
        it.write(*(ev.NodeReady(node=n) for n in it.state.nodes))
    return it


class Cloud:
    """A controller that leads, and an agent over a simulated driver; :meth:`run` lets time pass."""

    def __init__(self, nodes: int = 2, *, quota: dict[str, int] | None = None) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(self.clock)
        self.controller = self.replica("c0")
        self.controller.lead(TTL_S)
        facts = node_facts(read_fleet(f"{nodes}"))
        self.execute(c.apply_fleet("lab", f"{nodes}", facts, agent="a"))
        self.execute(c.apply_tenant("red", quota or {}))
        self.driver = SimulatedDriver([fact.name for fact in facts], self.clock)
        self.agent = Agent("a", self.driver, self.clock)

    def replica(self, holder: str) -> Controller:
        """Return another controller over the same log."""
        controller = Controller(self.store, self.clock, read_fleet, holder=holder)
        controller.load()
        return controller

    @property
    def state(self) -> State:
        """Of the controller."""
        return self.controller.state

    def execute(self, command: Command) -> Outcome:
        """Carry a command out."""
        return self.controller.execute(command)

    def submit(self, workload: Workload, process: Process | None = None) -> str:
        """Submit a job; returns its id."""
        self.execute(c.apply_job(workload, process or imitation(), {"name": workload.name, "text": str(workload)}))
        return workload.id

    def sync(self) -> tuple[SyncRequest, float, SyncResponse]:
        """Exchange once, and return what was said."""
        request, sent_at = self.agent.request(), self.clock.monotonic()
        response = self.controller.sync(request)
        self.agent.take(request, sent_at, response)
        return request, sent_at, response

    def work(self) -> None:
        """Let the controller do all there is to do now."""
        self.controller.lead(TTL_S)
        while self.controller.step():
            pass

    def run(self, seconds: float = 5.0, *, agent: bool = True) -> None:
        """Let time pass, second by second."""
        for _ in range(int(seconds)):
            if agent:
                self.sync()
                self.agent.tick()
            self.work()
            self.clock.advance(1.0)

    def phases(self, job_id: str = "red/j") -> list[str]:
        """Return the phases of a job's runs, by slot."""
        return [run.phase for run in sorted(self.state.jobs[job_id].runs(), key=lambda r: r.slot)]

    def alive(self) -> list[str]:
        """Return the runs that really run."""
        return [report.run for report in self.driver.observe() if report.phase != "exited"]
