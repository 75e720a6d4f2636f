"""Endpoints in a simulated cloud: people who apply and delete them, and gateways that see load and bill for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from plenum.control import commands as c
from plenum.control.commands import Command
from plenum.control.controller import Outcome
from plenum.control.endpoints import commands as ec
from plenum.control.endpoints.state import EndpointRecord
from plenum.control.endpoints.table import table_of
from plenum.control.state import State
from plenum.model import process
from plenum.model.endpoint import DECODE, PREFILL, SERVE, Endpoint, Pool, Rollout
from plenum.model.errors import PlenumError
from plenum.model.process import Simulated
from plenum.model.workload import Parallelism, Request
from plenum.ports.gateway import LoadReport, PoolLoad, Table, Usage, UsageBatch
from plenum.sim.chaos.books import FULL, must
from plenum.sim.chaos.clients import Client
from plenum.sim.chaos.network import Network
from plenum.sim.chaos.replica import Replica
from plenum.sim.chaos.scenery import TENANTS, any_job
from plenum.sim.chaos.schedule import Life, Process, Schedule

NAMES = ("chat", "code", "search")
ROUND_S = 2.0


def imitated_engine(spec: Endpoint, pool: Pool) -> process.Process:
    """Return an engine that exists only here."""
    return process.Process(
        simulated=Simulated(start_s=1.0 + len(spec.arguments), duration_s=0.0), grace_s=4.0, backoff_s=0.5
    )


def any_endpoint(s: Schedule) -> Endpoint:
    """Draw an endpoint by one of few names: of one pool or two, of some version, with some limits."""
    request = Request(gpus=1, gpu_milli=(250, 1000)[s.below(2)], cpu_milli=3000, memory_bytes=4 * 2**30)
    low = (0, 1, 1, 2)[s.below(4)]
    high = max(low, 1) + s.below(3)
    names = (PREFILL, DECODE) if s.chance(0.25) else (SERVE,)
    name = NAMES[s.below(len(NAMES))]
    nodes = 2 if name == "search" and request.gpu_milli == FULL else 1
    spread = Parallelism(tp=nodes)
    return Endpoint(
        name=name,
        tenant=TENANTS[s.below(len(TENANTS))],
        model="imagined",
        engine="llamacpp" if nodes == 1 else "vllm",
        pools=tuple(
            Pool(name=pool, min_replicas=low, max_replicas=high, request=request, parallelism=spread, nodes=nodes)
            for pool in names
        ),
        priority=s.below(4),
        idle_s=10.0 + s.about(20.0),
        arguments=("--more",) * s.below(3),
        rollout=Rollout(canary=(0.0, 0.2, 0.2)[s.below(3)], hold_s=1.0 + s.about(4.0)),
    )


class Customer(Client):
    """Somebody who serves models, and has work that may yield to them."""

    def _idea(self) -> Command | None:
        s = self.schedule
        known = sorted(self._auditor.replayed.endpoints)
        if known and s.chance(0.2):
            return ec.delete_endpoint(known[s.below(len(known))])
        if s.chance(0.2):
            workload, run, manifest = any_job(s)
            return c.apply_job(replace(workload, priority=0, preemptible=True), run, manifest)
        spec = any_endpoint(s)
        if known and s.chance(0.5):  # another version of one that is there
            there = self._auditor.replayed.endpoints[known[s.below(len(known))]].spec
            spec = replace(there, arguments=spec.arguments, rollout=spec.rollout)
        return ec.apply_endpoint(spec, {"spec": str(spec)})


class Gateway(Process):
    """Says what it sees, reads the table, and sends its journal until it is acknowledged; the journal outlives its lives."""

    def __init__(self, schedule: Schedule, network: Network, name: str, replicas: Sequence[Replica]) -> None:
        super().__init__(schedule, name)
        self.quiet = False
        """Nothing is asked of it any more."""
        self.journal: list[UsageBatch] = []
        self.billed_tokens = 0
        self._network, self._replicas = network, replicas
        self._number = self._asked = 0
        self._table = Table(version=0)

    def life(self) -> Life:
        """See, say, bill; and now and then be gone for a while."""
        s = self.schedule
        while True:
            yield 0.1 + s.about(ROUND_S if self.quiet or s.chance(0.97) else 20 * ROUND_S)
            if not self.quiet and s.chance(0.3):
                self._note()
            self._exchange(self._replicas[self._asked % len(self._replicas)])
            self._asked += 1

    def _note(self) -> None:
        self._number += 1
        tokens = 1 + self.schedule.below(100)
        self.billed_tokens += tokens
        row = Usage(
            request=f"{self.name}-{self._number}",
            at=self.schedule.clock.now(),
            tenant="red",
            key="k",
            endpoint="red/chat",
            model="imagined",
            revision=1,
            prompt_tokens=tokens,
            cached_tokens=0,
            output_tokens=0,
        )
        self.journal.append(UsageBatch(gateway=self.name, number=self._number, rows=(row,)))

    def _exchange(self, replica: Replica) -> None:
        report, batch = self._report(), self.journal[0] if self.journal else None

        def arrive() -> None:
            controller = replica.controller
            if not replica.up or controller is None or not controller.leading:
                return
            controller.loads.take(report, controller.clock.monotonic())
            table = table_of(controller.state)
            self._network.send(replica.name, self.name, lambda: self._read(table))
            if batch is not None:
                replica.ask(ec.record_usage(batch).by(self.name), lambda outcome: come_back(outcome))

        def come_back(outcome: Outcome | PlenumError) -> None:
            self._network.send(replica.name, self.name, lambda: self._acknowledged(batch, outcome))

        self._network.send(self.name, replica.name, arrive)

    def _read(self, table: Table) -> None:
        self._table = table

    def _acknowledged(self, batch: UsageBatch | None, outcome: Outcome | PlenumError) -> None:
        must(not isinstance(outcome, ec.MissedError), "usage-lost", f"a batch of {self.name} is said to be missing")
        if isinstance(outcome, Outcome) and self.journal and batch is self.journal[0]:
            del self.journal[0]

    def _report(self) -> LoadReport:
        s = self.schedule
        pools: list[PoolLoad] = []
        for served in self._table.served:
            for revision, spec in served.specs.items():
                for pool in spec.pools:
                    busy = not self.quiet and s.chance(0.6)
                    pools.append(
                        PoolLoad(
                            endpoint=spec.id,
                            revision=revision,
                            pool=pool.name,
                            arrived=s.below(6) if busy else 0,
                            finished=s.below(6) if busy else 0,
                            failed=s.below(2) if busy and s.chance(0.05) else 0,
                            waiting=s.below(6) if busy and s.chance(0.3) else 0,
                            running=s.below(12) if busy else 0,
                            ttft_s=tuple(s.about(0.2) for _ in range(s.below(6))) if busy else (),
                        )
                    )
        draining = [r.run for served in self._table.served for r in served.replicas if r.phase == "draining"]
        open_ = {run: 1 for run in draining if not self.quiet and s.chance(0.4)}
        return LoadReport(
            gateway=self.name, seconds=ROUND_S, table=self._table.version, pools=tuple(pools), draining=open_
        )


def is_at_rest(state: State, found: EndpointRecord) -> bool:
    """Tell whether an endpoint is as it is wanted, or waits for room."""
    active = found.active()
    jobs = {(r.number, p): state.jobs.get(found.child(r.number, p)) for r in found.listed() for p in r.pools}
    if any(job is not None and job.waiting is not None for job in jobs.values()):
        return True
    if found.stop or len(active) != 1:
        return False
    (revision,) = active
    for (number, pool), job in jobs.items():
        size = found.wanted.get(pool, 0) if number == revision.number else 0
        if (job.workload.replicas if job is not None else 0) != size:
            return False
    return True


def wishes_to_end(state: State) -> list[Command]:
    """Return what ends everything: endpoints, and the jobs that are not theirs."""
    jobs = [c.delete_job(name) for name in sorted(state.jobs) if not state.jobs[name].owner]
    return [*(ec.delete_endpoint(name) for name in sorted(state.endpoints)), *jobs]


def check_billed(state: State, gateways: Sequence[Gateway]) -> None:
    """Raise Violation unless every token was billed, once."""
    billed = sum(used.prompt_tokens for sums in state.billed.values() for used in sums.values())
    wanted = sum(gateway.billed_tokens for gateway in gateways)
    must(billed == wanted, "billed-once", f"{billed} tokens are billed of {wanted}")
