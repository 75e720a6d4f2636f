"""One replica of the control plane, a step at a time: commands in, facts into the log, orders out.

Nothing here waits or runs by itself; :mod:`plenum.control.service` calls the steps on a live clock, the simulation on a virtual one.
Every change goes the same way: something decides against the state, the store takes the facts at the position they were decided on,
and only then does the state take them in. So what a reader sees is always in the log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from urllib.parse import urlsplit

import msgspec

from plenum.control import events as ev
from plenum.control.commands import Command, TakenError
from plenum.control.decider import Decider, Decision, learned_mix, next_start, rejections
from plenum.control.endpoints.loads import Loads
from plenum.control.endpoints.process import ProcessOf, engine_process
from plenum.control.endpoints.reconcile import tend_endpoints
from plenum.control.endpoints.table import table_of
from plenum.control.hardware import node_facts
from plenum.control.history import started
from plenum.control.protocol import (
    LEASE_GRACE_S,
    LEASE_MARGIN_S,
    LEASE_S,
    MAX_REPORTS,
    SyncRequest,
    SyncResponse,
)
from plenum.control.reclaim import reclaimed
from plenum.control.reconcile import overdue, tend, to_forget
from plenum.control.records import BOUND, Job, Run, Unit
from plenum.control.state import State
from plenum.control.units import MAX_BACKOFF_S
from plenum.model.errors import FieldError, PlenumError
from plenum.model.fleet import Fleet
from plenum.placement import DEFAULT, Policy
from plenum.ports.batches import check_batch
from plenum.ports.clock import Clock
from plenum.ports.gateway import Table, engine_key
from plenum.ports.nodes import EXITED, RUNNING, STARTING, Assignment, Fence, Report
from plenum.ports.store import CommandKey, ConflictError, EventStore, FencedError, Lease, Record, StoreError
from plenum.serving.calibration import Calibration

MAX_BATCH = 512
"""Commands decided and written together."""

MAX_RECORDS = 1_000
"""Facts written together, commands' own aside."""

READ_AT_ONCE = 2_000
"""Records read at a time while catching up."""

MAX_REBOUND = 50_000
"""Changed units noted for a decider that does not decide; beyond, it starts afresh when it does."""

SNAPSHOT_EVERY = 20_000
"""Records between two snapshots."""

_ORDER = {BOUND: 0, STARTING: 1, RUNNING: 2, EXITED: 3}

MAX_CAUSE, MAX_MESSAGE, MAX_INSTANCE, MAX_URL = 100, 500, 200, 300
"""Characters kept of what agents say, so that none of them can fill the log."""

MAX_EXIT_CODE = 2**31 - 1

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}(\+[0-9a-f]{1,64})?")
"""Of weights, and of adapters: nodes look in their caches under what another node says of its own."""

_SHA256 = re.compile(r"[0-9a-f]{64}")

SHORTEST_S = 1e-6
"""How long a run went on at least that its node says has run at all."""

NOTE_EVERY_S = 1.0
"""Least time between two facts about how far a run's start has come."""


class NotLeaderError(PlenumError):
    """Another replica of the control plane leads; ``address`` says where, if known."""

    code = "control.not-leader"

    def __init__(self, address: str) -> None:
        super().__init__(f"this control plane does not lead; ask {address or 'again in a few seconds'}")
        self.address = address


class MismatchError(FieldError):
    """A key that stands for another request already."""

    code = "idempotency.mismatch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a command came to.

    Parameters
    ----------
    position
        Up to which the log must be read to see it.
    replayed
        It had been carried out before, under the same key.
    events
        That it wrote; none: it was so already.
    """

    position: int
    replayed: bool = False
    events: tuple[ev.Event, ...] = ()


@dataclass(slots=True)
class Batch:
    """Commands decided together, and what to write for them."""

    position: int
    records: list[Record] = field(default_factory=list)
    keys: list[CommandKey] = field(default_factory=list)
    done: list[tuple[Command, Outcome | Exception]] = field(default_factory=list)
    """What came of each; a fault of ours in one command is that command's alone."""
    later: list[Command] = field(default_factory=list)
    """Commands about something that this batch touches already."""


class Controller:
    """One replica.

    Parameters
    ----------
    store
        Shared by all replicas.
    read_fleet
        Reads a Fleet manifest.
    holder
        This replica's name among all.
    lease_s
        How long agents may go on without an answer.
    engine_process
        What the replicas of endpoints run.
    calibration
        By which scaling knows what replicas bear; None: the one that ships.
    """

    def __init__(
        self,
        store: EventStore,
        clock: Clock,
        read_fleet: Callable[[str], Fleet],
        *,
        holder: str = "control",
        address: str = "",
        policy: Policy = DEFAULT,
        lease_s: float = LEASE_S,
        engine_process: ProcessOf = engine_process,
        calibration: Calibration | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.holder = holder
        self.address = address
        self.lease_s = lease_s
        self.state = State()
        self.decider = Decider(read_fleet, policy)
        self.term = 0
        """Term in which this replica leads; 0: it does not."""
        self.heard: dict[str, float] = {}
        """Agent to the monotonic time from which its lease counts at the latest, were it as long as those of this replica."""
        self.on_record: Callable[[Record], None] = lambda record: None
        self._led_until = 0.0
        self._others_until = 0.0
        self._decided: tuple[int, float] = (-1, 0.0)
        self._snapshot_at = 0
        self._read_fleet = read_fleet
        self._policy = policy
        self._calibration = calibration
        self.loads = Loads(calibration)
        """What gateways saw of late."""
        self._engine_process = engine_process
        self._tended: tuple[int, int] = (-1, -1)
        self._reclaimed = -1
        self._table: Table | None = None
        self.engine_secret = ""
        """From which the keys of engines are derived (:func:`plenum.ports.gateway.engine_key`); empty: they ask for none."""

    # -- the log -----------------------------------------------------------------------------------

    def load(self) -> None:
        """Start from the newest snapshot that this code made, and the records after it."""
        self.state = started(self.store)
        self._snapshot_at = self.state.position
        self.decider.reset()
        self.catch_up()

    def catch_up(self) -> int:
        """Take in what others have written; returns how much further the state is."""
        before = self.state.position
        while records := self.store.read(self.state.position, READ_AT_ONCE):
            if not self.follow(records):
                self.load()
        if self.store.base() > self.state.position:  # what came after was compacted away to the last record
            self.load()
        return self.state.position - before

    def follow(self, records: Sequence[Record]) -> bool:
        """Take in records that others have written, as far as they follow on one another.

        Returns
        -------
        bool
            False: some between are gone, as the log was compacted meanwhile; only :meth:`load` leads on from here.
        """
        first = self.state.position + 1
        whole = [record for i, record in enumerate(records) if record.position == first + i]
        self.absorb(whole)
        return len(whole) == len(records)

    def absorb(self, records: Iterable[Record]) -> None:
        """Take in records that are in the log."""
        for record in records:
            self.state.apply(record)
            self.on_record(record)
        if len(self.state.rebound) > MAX_REBOUND:
            self.decider.reset()
            self.state.rebound.clear()

    def written(self, position: int, records: Sequence[Record]) -> list[Record]:
        """Return records as the log holds them after an append at a position."""
        return [msgspec.structs.replace(record, position=position + i) for i, record in enumerate(records, start=1)]

    def append(self, records: Sequence[Record], keys: Sequence[CommandKey] = ()) -> None:
        """Write records decided on the present state, and take them in.

        Raises
        ------
        NotLeaderError
            This replica was told that it leads no more; only leaders write.
        ConflictError, FencedError, StoreError
            As the store says; catch up with the log, and decide the records anew.
        """
        position = self.state.position
        if not records and not keys:
            return
        if not keys and len(records) > MAX_RECORDS:  # facts, each true by itself
            for i in range(0, len(records), MAX_RECORDS):
                self.append(records[i : i + MAX_RECORDS])
            return
        if not self.term:
            raise NotLeaderError(self.state.address)
        try:
            self.store.append(records, expected=position, keys=keys, term=self.term)
        except (ConflictError, FencedError, StoreError) as error:
            self.failed(error)
            raise
        self.absorb(self.written(position, records))

    def failed(self, error: PlenumError) -> None:
        """Note that an append failed: what was decided may be stale, and may have been written all the same."""
        self.decider.reset()
        self._decided = (-1, 0.0)
        self._tended = (-1, -1)
        self.state.touched.update(self.state.live)
        if isinstance(error, FencedError):
            self.term = 0

    def save_snapshot(self, *, force: bool = False) -> bool:
        """Keep a snapshot if the log has grown enough since the last one."""
        if self.state.position - self._snapshot_at < (1 if force else SNAPSHOT_EVERY):
            return False
        self.store.save_snapshot(self.state.snapshot())
        self._snapshot_at = self.state.position
        return True

    # -- leading -----------------------------------------------------------------------------------

    @property
    def leading(self) -> bool:
        """Whether this replica leads, as far as it can know without asking."""
        return self.term > 0 and self.clock.monotonic() < self._led_until

    def lead(self, ttl_s: float) -> bool:
        """Take or renew leadership; a new leader first catches up, then says so in the log.

        Raises
        ------
        StoreError
            The store does not answer.
        """
        asked_at = self.clock.monotonic()
        return self.led(self.store.acquire(self.holder, ttl_s, self.address), asked_at + ttl_s)

    def led(self, lease: Lease | None, until: float) -> bool:
        """Take note of what came of asking for leadership, which would hold until a monotonic time."""
        if lease is None:
            self.term = 0
            return False
        if lease.term == self.term:
            self._led_until = until
            return True
        self.term = 0  # until the log is read: others may have led meanwhile
        self.catch_up()
        self.term, self._led_until = lease.term, until
        # Agents that the leader before granted more time may take it: to them it is as if they were heard of so much later.
        heard_at = self.clock.monotonic() + max(0.0, self.state.lease_s - self.lease_s)
        self.heard = {fleet.agent: heard_at for fleet in self.state.fleets.values()}
        self._others_until = heard_at + self.lease_s
        self.loads = Loads(self._calibration)  # what gateways said when this replica led before is long over
        self.failed(NotLeaderError(""))  # whatever was thought of before another led is stale
        event = self._leads(max(self.lease_s, self.state.lease_s))
        try:
            self.append([ev.record_of(each, self.clock.now(), "control") for each in (event, *self._described_anew())])
        except PlenumError:
            self.term = 0
            raise
        return True

    def _described_anew(self) -> Iterator[ev.FleetApplied]:
        """Yield the fleets of which earlier versions noted less than is noted now, such as where nodes stand."""
        for fleet in self.state.fleets.values():
            if fleet.noted >= ev.NOTED:
                continue
            try:
                facts = node_facts(self._read_fleet(fleet.manifest))
            except PlenumError:
                continue  # what places work says so
            if [each.name for each in facts] == list(fleet.nodes):
                yield ev.FleetApplied(
                    name=fleet.name,
                    manifest=fleet.manifest,
                    driver=fleet.driver,
                    agent=fleet.agent,
                    address=fleet.address,
                    nodes=facts,
                    noted=ev.NOTED,
                )

    def _leads(self, longest_s: float) -> ev.LeaderChanged:
        return ev.LeaderChanged(term=self.term, holder=self.holder, address=self.address, lease_s=longest_s)

    def doubt(self) -> None:
        """Stop leading until the store has been asked again."""
        self._led_until = 0.0

    def require_lead(self) -> None:
        """Raise NotLeaderError unless this replica leads."""
        if not self.leading:
            raise NotLeaderError("" if self.state.holder == self.holder else self.state.address)

    # -- commands ----------------------------------------------------------------------------------

    def propose(self, commands: Sequence[Command], used: dict[str, CommandKey]) -> Batch:
        """Decide commands on the present state, without changing anything.

        Of several about the same subject the first is decided and the others wait for a later batch; a command that stands alone gets a
        batch of its own.

        Parameters
        ----------
        used
            Those of the commands' keys that were used before.
        """
        batch = Batch(position=self.state.position)
        now = self.clock.now()
        busy: set[str] = set()
        for i, command in enumerate(commands):
            claims = {command.subject, *command.also} | ({f"key/{command.key}"} if command.key else set())
            if len(batch.done) >= MAX_BATCH or claims & busy or (command.alone and batch.done):
                batch.later.append(command)
                busy.add(command.subject)
                continue
            self._decide(command, used.get(command.key), now, batch)
            busy |= claims if self._is_limited(batch) else claims.difference(command.also)
            if command.alone:
                batch.later += commands[i + 1 :]
                break
        return batch

    def _is_limited(self, batch: Batch) -> bool:
        """Whether the last command decided counts against a limit that others of its batch must not overrun."""
        outcome = batch.done[-1][1]
        events = outcome.events if isinstance(outcome, Outcome) else ()
        return any(isinstance(e, ev.JobSubmitted) and self.state.tenants[e.tenant()].max_jobs for e in events)

    def _decide(self, command: Command, used: CommandKey | None, now: float, batch: Batch) -> None:
        if used is not None:
            same = used.digest == command.digest
            batch.done.append((command, Outcome(position=used.position, replayed=True) if same else _mismatch()))
            return
        try:
            found = tuple(command.decide(self.state, now))
            records = [ev.record_of(event, now, command.actor, command.trace) for event in found]
            position = batch.position + len(batch.records) + len(records)
            keys = (
                [CommandKey(key=command.key, digest=command.digest, position=position, at=now)] if command.key else []
            )
            check_batch(records, keys)  # what no store takes is refused here, not with all that is written beside it
        except Exception as error:
            batch.done.append((command, error))
            return
        batch.records += records
        batch.keys += keys
        batch.done.append((command, Outcome(position=position, events=found)))

    def execute(self, command: Command) -> Outcome:
        """Carry one command out, here and now.

        Raises
        ------
        PlenumError
            It is refused, or could not be written.
        """
        self.require_lead()
        used = self.store.find_keys([command.key]) if command.key else {}
        batch = self.propose([command], used)
        self.append(batch.records, batch.keys)
        outcome = batch.done[0][1]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    # -- reconciling -------------------------------------------------------------------------------

    def tend(self, *, timers: bool = True) -> list[Record]:
        """Return what follows from the present state by itself: ends, restarts, lost nodes.

        Parameters
        ----------
        timers
            Also look at what depends on the time: silent nodes, jobs that run for too long, ended jobs to forget.
        """
        now = self.clock.now()
        found = [*self._silent(), *self._lapsed()] if timers else []
        jobs = list(self.state.touched)
        if timers:
            jobs += [job for job in overdue(self.state, now) if job not in self.state.touched]
            found += to_forget(self.state)
        gone = {event.job for event in found if isinstance(event, ev.JobForgotten)}
        if not any(isinstance(event, ev.NodeLost) for event in found):
            found += tend(self.state, [job for job in jobs if job not in gone], now)
            self.state.touched.clear()
        return [ev.record_of(event, now, "control") for event in found]

    def tend_endpoints(self, *, timers: bool = True) -> list[Record]:
        """Return what follows for the endpoints: revisions, replicas to start and to drain, canaries to judge.

        Parameters
        ----------
        timers
            Also look where nothing has changed but the time.
        """
        seen = (self.state.served_version, self.loads.version)
        if not self.state.endpoints or not (timers or seen != self._tended):
            return []
        self._tended = seen
        self.loads.advance(self.clock.monotonic())
        now = self.clock.now()
        found = tend_endpoints(self.state, self.loads, now, process_of=self._engine_process)
        return [ev.record_of(event, now, "control") for event in found]

    @property
    def lost_after_s(self) -> float:
        """How long an agent must be silent until its lease has surely lapsed and its work has ended."""
        return self.lease_s + LEASE_GRACE_S + LEASE_MARGIN_S

    def _lapsed(self) -> list[ev.Event]:
        """Say once that longer leases than ours, granted by leaders before, have lapsed: the next leader need not wait for them."""
        over = self.state.lease_s > self.lease_s and self.clock.monotonic() > self._others_until + LEASE_MARGIN_S
        return [self._leads(self.lease_s)] if over and self.term else []

    def _silent(self) -> list[ev.Event]:
        """Return the nodes whose agents were silent until their leases had surely lapsed and their work had ended."""
        limit_s = self.lost_after_s
        now = self.clock.monotonic()
        found: list[ev.Event] = []
        for fleet in self.state.fleets.values():
            silent_s = now - self.heard.setdefault(fleet.agent, now)
            if silent_s > limit_s:
                why = f"agent {fleet.agent} has been silent for {silent_s:.0f} s"
                found += [ev.NodeLost(node=n, why=why) for n in fleet.nodes if self._is_alive(n)]
        return found

    def _is_alive(self, node: str) -> bool:
        """Whether a node is up, or was said to be down and may have work still."""
        held = self.state.by_node[node].items()
        return self.state.nodes[node].phase == "Ready" or any(unit.runs[r].phase != EXITED for r, (_, unit) in held)

    def decide(self) -> Decision | None:
        """Return a decision, if anything has changed since the last that could let something start."""
        now = self.clock.now()
        if not self._is_due(now):
            return None
        decision = self.decider.decide(self.state, now)
        more = decision is not None and decision.more and bool(decision.bound)
        soon = next_start(self.state, now)
        self._decided = (-1 if more else self.state.position, inf if soon is None else soon)
        return decision

    def _is_due(self, now: float) -> bool:
        """Whether something may have become possible since the last decision; so too where the clock was set back since."""
        position, until = self._decided
        return position < self.state.placeable or (until < inf and not now < until <= now + MAX_BACKOFF_S)

    def next_start_s(self) -> float:
        """Return the seconds until a unit has waited out its backoff; at most the longest backoff."""
        return max(0.0, min(self._decided[1] - self.clock.now(), MAX_BACKOFF_S))

    def learn(self) -> list[Record]:
        """Return the fact that the mix of requests was learned anew, if it was."""
        now = self.clock.now()
        if not self._is_due(now):
            return []
        mix = learned_mix(self.state, now)
        return [] if mix is None else [ev.record_of(ev.MixLearned(mix=mix), now, "control")]

    def commit(self, decision: Decision) -> list[Record]:
        """Return the facts of a decision: those of its bindings that the state has not overtaken, and its reasons where they are new."""
        rejected = rejections(self.state, decision)
        bound = [b for b in decision.bound if (b.job, b.unit) not in rejected]
        placed = {b.job for b in bound}
        waiting = [
            ev.JobWaiting(
                job=reason.workload,
                decision=decision.inputs,
                code=reason.code,
                constraint=reason.constraint,
                sentence=reason.sentence,
            )
            for reason in decision.reasons
            if self._is_news(reason.workload, reason.code, reason.constraint, reason.workload in placed)
        ]
        if rejected:
            self.decider.reset()
            self._decided = (-1, 0.0)
        if not (bound or waiting or rejected):
            return []
        made = ev.DecisionMade(
            inputs=decision.inputs,
            now=decision.now,
            policy=decision.policy,
            term=self.term,
            considered=decision.considered,
            bound=len(bound),
            waiting=len(decision.reasons),
            rejected=tuple(ev.Rejected(job=job, unit=unit, why=why) for (job, unit), why in rejected.items()),
        )
        return [ev.record_of(event, self.clock.now(), "control") for event in (made, *bound, *waiting)]

    def _is_news(self, job_id: str, code: str, constraint: str, changed: bool) -> bool:
        job = self.state.jobs.get(job_id)
        if job is None or job.stop:
            return False
        said = job.waiting
        return changed or said is None or (said.code, said.constraint) != (code, constraint)

    def reclaim(self, *, timers: bool = True) -> list[Record]:
        """Return the orders to stop of work that makes room for endpoints, or that may have more room again.

        Parameters
        ----------
        timers
            Also look where nothing has changed but the time.
        """
        if not timers and self._reclaimed == self.state.placeable:
            return []
        self._reclaimed = self.state.placeable
        now = self.clock.now()
        return [ev.record_of(event, now, "control") for event in reclaimed(self.state, self.decider, now)]

    def step(self) -> bool:
        """Tend, learn, decide and make room once, each written before the next; returns whether anything was written.

        Raises
        ------
        ConflictError, FencedError, StoreError
            As :meth:`append`.
        """
        before = self.state.position
        self.append(self.tend())
        self.append(self.tend_endpoints())
        self.append(self.learn())
        decision = self.decide()
        if decision is not None:
            self.append(self.commit(decision))
        self.append(self.reclaim())
        return self.state.position > before

    # -- agents ------------------------------------------------------------------------------------

    def reported(self, request: SyncRequest) -> list[Record]:
        """Return the facts in what an agent says; what is known already says nothing new."""
        held = self.state.held.get(request.agent, {})
        now = self.clock.now()
        found: list[ev.Event] = []
        for report in request.reports:
            if report.run not in held:
                continue
            job, unit = held[report.run]
            run = unit.runs[report.run]
            # A phase that nobody knows is no news: one agent's nonsense must not stop the work for all.
            if _ORDER.get(report.phase, -1) > _ORDER[run.phase] or _got_further(job, run, report, now):
                found.append(
                    ev.RunReported(
                        job=job.id,
                        unit=unit.key,
                        run=run.id,
                        node=run.node,
                        phase=report.phase,
                        ran_s=_ran_s(job, run, report, now),
                        exit_code=_exit_code(report),
                        cause=report.cause[:MAX_CAUSE],
                        message=report.message[:MAX_MESSAGE],
                        url=self._own_url(run.node, report.url),
                        weights_digest=_if_whole(_DIGEST, report.weights_digest),
                        certificate_sha256=_if_whole(_SHA256, report.certificate_sha256),
                    )
                )
        found += self._never_started(request)
        found += self._up_or_down(request, held)
        return [ev.record_of(event, now, f"agent/{request.agent}") for event in found]

    def _own_url(self, node: str, url: str) -> str:
        """Return an address that a run answers at; empty if it is not its own node's: nobody is sent elsewhere by what an agent says."""
        known = self.state.nodes.get(node)
        if known is None or not url or len(url) > MAX_URL:
            return ""
        try:
            parts = urlsplit(url)
            own = parts.scheme in ("http", "https") and bool(parts.port) and parts.path in ("", "/") and "@" not in url
        except ValueError:
            return ""
        return url.rstrip("/") if own and parts.hostname == self.state.fleets[known.fleet].address.lower() else ""

    def table(self) -> Table:
        """Return what gateways are told, as of the state."""
        if self._table is None or self._table.version != self.state.served_version:
            self._table = table_of(self.state, self.engine_secret)
        return self._table

    def _never_started(self, request: SyncRequest) -> list[ev.Event]:
        """Return the end of runs that were called off before their agent heard of them, and that it will never start now.

        It has taken orders that leave them out, and any that name them are older: the fence keeps it from following those.
        """
        if not self._has_orders(request) or len(request.reports) >= MAX_REPORTS:
            return []
        there = {report.run for report in request.reports}.union(request.leftover)
        return [
            ev.RunReported(
                job=job.id,
                unit=unit.key,
                run=name,
                node=unit.runs[name].node,
                phase=EXITED,
                exit_code=-1,
                cause="not-started",
            )
            for name, (job, unit) in self.state.called_off.get(request.agent, {}).items()
            if unit.runs[name].phase == BOUND and name not in there
        ]

    def _up_or_down(self, request: SyncRequest, held: Mapping[str, tuple[Job, Unit]]) -> list[ev.Event]:
        """Return which nodes came up or went down by what their agent says; none comes up over work that is not in the log."""
        served = set(request.nodes)
        clean = all(run in held and held[run][1].runs[run].phase != EXITED for run in request.leftover)
        found: list[ev.Event] = []
        for node in self.state.nodes_of(request.agent):
            if node.name not in served and node.phase == "Ready":
                why = f"agent {request.agent} says that it is down"
                found.append(ev.NodeLost(node=node.name, why=why, gone=False))
            elif node.name in served and node.phase != "Ready" and clean:
                found.append(ev.NodeReady(node=node.name, instance=request.instance))
        return found

    def admit(self, request: SyncRequest) -> None:
        """Raise unless an agent may be listened to now.

        Raises
        ------
        NotLeaderError
            This replica does not lead.
        TakenError
            Another agent of this name is at work: were both told what to run, everything would run twice.
        FieldError
            What tells it from others is too long to keep.
        """
        self.require_lead()
        if len(request.instance) > MAX_INSTANCE:
            raise FieldError("instance", f"must be at most {MAX_INSTANCE} characters, not {len(request.instance):,}")
        agent = request.agent
        if self.state.agents.get(agent, request.instance) == request.instance:
            return
        if self.state.held.get(agent) or any(node.phase == "Ready" for node in self.state.nodes_of(agent)):
            raise TakenError(
                f"another agent of the name {agent} serves its nodes; if it is gone, this one may take its place once that has been "
                f"silent for {self.lost_after_s:.0f} s, else give it a name of its own"
            )

    def answer(self, request: SyncRequest) -> SyncResponse:
        """Return an agent's orders, once what it said is in the log; grants it a lease.

        Raises
        ------
        NotLeaderError
            This replica does not lead (any more).
        TakenError
            See :meth:`admit`.
        """
        self.admit(request)
        now = self.clock.monotonic()
        self.heard[request.agent] = max(
            self.heard.get(request.agent, now), now
        )  # the answer may be lost, and longer leases hold
        version = self.state.agent_version.get(request.agent, 0)
        orders, known = None, ()
        if not self._has_orders(request):
            orders = {run: self._keyed(order) for run, order in self.state.orders.get(request.agent, {}).items()}
        if request.version < 0 and orders:  # a new agent; one that goes on remembers what it has reported
            held = self.state.held.get(request.agent, {})
            known = tuple(run for run in orders if held[run][1].runs[run].phase != BOUND)
        fence = Fence(self.state.term, self.state.position)
        return SyncResponse(fence=fence, version=version, orders=orders, known=known, lease_s=self.lease_s)

    def _keyed(self, order: Assignment) -> Assignment:
        """Return an order with the key that its engine asks for, which is in no log."""
        if not (order.process.notify and self.engine_secret):
            return order
        return msgspec.structs.replace(order, secret=engine_key(self.engine_secret, order.run))

    def _has_orders(self, request: SyncRequest) -> bool:
        """Whether an agent follows its present orders: a version is a position, and after a restore another log has led to the same one."""
        return (request.version, request.seen.term) == (
            self.state.agent_version.get(request.agent, 0),
            self.state.term,
        )

    def sync(self, request: SyncRequest) -> SyncResponse:
        """Take in what an agent says and answer it, here and now.

        Raises
        ------
        PlenumError
            Not the leader, or the store failed; the agent asks again.
        """
        self.admit(request)
        self.append(self.reported(request))
        return self.answer(request)


def _got_further(job: Job, run: Run, report: Report, now: float) -> bool:
    """Whether a run that says itself how far its start has come says something new, and not too soon after the last time."""
    if (
        not (job.process.notify and report.phase == run.phase == STARTING)
        or report.message[:MAX_MESSAGE] == run.message
    ):
        return False
    return not 0 <= now - run.reported_at < NOTE_EVERY_S


def _ran_s(job: Job, run: Run, report: Report, now: float) -> float:
    """Return how long a run went on that was over before it was seen to run, at most since it was asked for; else 0."""
    if report.phase != EXITED or run.started_at or not report.started_at > 0:
        return 0.0
    ran_s = report.ended_at - report.started_at
    return min(ran_s if isfinite(ran_s) and ran_s > 0 else SHORTEST_S, now - job.submitted_at)


def _exit_code(report: Report) -> int | None:
    """Return the exit code that an agent reports; of one that no process has: unknown."""
    code = report.exit_code
    return code if code is None or abs(code) <= MAX_EXIT_CODE else -1


def _if_whole(pattern: re.Pattern[str], text: str) -> str:
    return text if pattern.fullmatch(text) else ""


def _mismatch() -> PlenumError:
    return MismatchError("Idempotency-Key", "was used before for another request; use a new key for a new request")
