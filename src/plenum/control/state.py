"""The projection: what the log adds up to at a position. The same records give the same bytes.

Way in: :class:`State`, :meth:`State.apply`. What can be computed from the rest (indices) is not part of the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec

from plenum.control.endpoints import state as es
from plenum.control.events import (
    Binding,
    DecisionMade,
    Event,
    FleetApplied,
    FleetDeleted,
    Grant,
    JobChanged,
    JobEnded,
    JobForgotten,
    JobScaled,
    JobStopRequested,
    JobSubmitted,
    JobWaiting,
    LeaderChanged,
    MixLearned,
    NodeCordoned,
    NodeFacts,
    NodeLost,
    NodeReady,
    RunReported,
    TenantApplied,
    TenantDeleted,
    TokenIssued,
    TokenRevoked,
    UnitBound,
    UnitReleased,
    UnitStopped,
    UserApplied,
    UserDeleted,
    event_of,
)
from plenum.model.errors import InvariantError, PlenumError
from plenum.model.fleet import CPU, GPU_MILLI, MEMORY
from plenum.model.process import Process
from plenum.model.workload import Parallelism, Request, Workload
from plenum.ports.nodes import EXITED, RUNNING, STARTING, Assignment
from plenum.ports.policy import NOTHING, Policy
from plenum.ports.store import TERM_GAP, Record, Snapshot

BOUND = "bound"
"""Phase of a run that its node has not reported yet; then come the phases of :mod:`plenum.ports.nodes`."""

PENDING, STARTING_JOB, RUNNING_JOB, STOPPING = "Pending", "Starting", "Running", "Stopping"
SUCCEEDED, FAILED, DELETED = "Succeeded", "Failed", "Deleted"
ENDED = (SUCCEEDED, FAILED, DELETED)
"""Phases of jobs."""

MAX_BACKOFF_S = 300.0
"""Longest wait before another attempt."""

UIDS_A_LOG = 10**12
"""Uids of one log; after a restore the same positions come again, and uids go on from the next multiple of this."""

FIRST_PORT, PORTS = 20_000, 10_000
"""Where rendezvous ports are taken from; a new attempt gets another."""


class DamagedError(PlenumError):
    """What was stored is not what comes back."""

    code = "store.damaged"


class Tenant(msgspec.Struct, kw_only=True):
    """A tenant; ``version`` is the position of its last change, as of every resource."""

    name: str
    version: int
    created_at: float
    quota: dict[str, int] = {}
    max_jobs: int = 0
    labels: dict[str, str] = {}
    policy: Policy = NOTHING


class User(msgspec.Struct, kw_only=True):
    """Somebody, and what they may do."""

    name: str
    version: int
    created_at: float
    grants: tuple[Grant, ...] = ()


class Token(msgspec.Struct, kw_only=True):
    """A bearer token; see :class:`~plenum.control.events.TokenIssued`."""

    id: str
    user: str
    hash: str
    kind: str
    version: int
    created_at: float
    expires_at: float = 0.0
    note: str = ""
    revoked: bool = False


class FleetRecord(msgspec.Struct, kw_only=True):
    """Hardware as described, by one manifest."""

    name: str
    manifest: str
    driver: str
    agent: str
    address: str
    version: int
    created_at: float
    nodes: tuple[str, ...] = ()
    noted: int = 0


class Node(msgspec.Struct, kw_only=True):
    """A node: what it is, whether it is there, whether it takes work."""

    name: str
    fleet: str
    facts: NodeFacts
    version: int
    phase: str = "Unknown"
    """``Unknown`` (never reported), ``Ready`` or ``Lost``."""
    cordoned: bool = False
    draining: bool = False
    why: str = ""
    since: float = 0.0

    @property
    def schedulable(self) -> bool:
        """Whether new work may land here."""
        return self.phase == "Ready" and not self.cordoned


class Run(msgspec.Struct, kw_only=True):
    """One replica of one attempt."""

    id: str
    role: str
    rank: int
    node: str
    gpu_mask: int = 0
    nic_mask: int = 0
    mig_mask: int = 0
    numa_mask: int = 0
    phase: str = BOUND
    exit_code: int | None = None
    cause: str = ""
    message: str = ""
    url: str = ""
    weights_digest: str = ""
    started_at: float = 0.0
    ready_at: float = 0.0
    """Of one that says when it is ready: since when it has been."""
    reported_at: float = 0.0
    ended_at: float = 0.0

    @property
    def slot(self) -> str:
        """``role-rank``: which replica, over all attempts."""
        return f"{self.role}-{self.rank}"


class Unit(msgspec.Struct, kw_only=True):
    """What is bound, stopped and restarted as one: a whole gang (key ``""``) or one independent replica (key: its slot).

    Parameters
    ----------
    phase
        ``waiting``, ``bound`` (it holds devices), ``succeeded`` or ``failed``.
    generation
        The job's that it was last bound in.
    stop
        Why its runs are to end; empty: they are to run.
    """

    key: str
    phase: str = "waiting"
    attempt: int = 0
    generation: int = 0
    failures: int = 0
    not_before: float = 0.0
    stop: str = ""
    runs: dict[str, Run] = {}
    inside: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()
    relative_cost: float | None = None
    hopeless: bool = False
    """Whether its last attempt ended as the next one will, unless somebody does something about it."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job waits, as of the last decision that said something new."""

    code: str
    constraint: str
    sentence: str
    decision: int
    since: float


class Job(msgspec.Struct, kw_only=True):
    """A TrainingJob, Endpoint or Task, from submission until it is forgotten."""

    id: str
    uid: int
    version: int
    generation: int
    workload: Workload
    process: Process
    manifest: dict[str, Any]
    submitted_at: float
    asked: int = 0
    """Position of the last thing that somebody asked of it; ``version`` moves with whatever becomes of it."""
    actor: str
    trace: str = ""
    owner: str = ""
    """Endpoint whose replicas it is; empty: somebody's own."""
    phase: str = PENDING
    units: dict[str, Unit] = {}
    before: tuple[Workload, Process] | None = None
    """What units of the generation before were bound with, while any are left."""
    waiting: Waiting | None = None
    stop: str = ""
    message: str = ""
    started_at: float = 0.0
    ended_at: float = 0.0
    yielded: bool = False
    """Made room for others, and has not had all its replicas since."""
    shrink_to: int = 0
    """Replicas that it goes on with where it has just made room: it gets those first, and no more. 0: it waits like others."""
    attempts: int = 0
    """Most attempts of a unit that a change took away; should it come back, it goes on counting from there: no run has another's name."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.workload.tenant

    def bound_as(self, unit: Unit) -> tuple[Workload, Process]:
        """Return what a bound unit was bound with."""
        if unit.generation != self.generation and self.before is not None:
            return self.before
        return self.workload, self.process

    def runs(self) -> Iterator[Run]:
        """Yield its present runs."""
        for unit in self.units.values():
            yield from unit.runs.values()


FORMAT = 1
"""Of snapshots; another one whenever the same records come to mean another state."""


def _foreign(snapshot: Snapshot, why: str) -> DamagedError:
    return DamagedError(
        f"the snapshot at position {snapshot.position} was written by another version of Plenum ({why}); "
        "`plenum rebuild` makes it anew from the log"
    )


class _Stored(msgspec.Struct, kw_only=True):
    """What a snapshot holds."""

    format: int = FORMAT
    position: int = 0
    at: float = 0.0
    term: int = 0
    holder: str = ""
    address: str = ""
    lease_s: float = 0.0
    tenants: dict[str, Tenant] = {}
    users: dict[str, User] = {}
    tokens: dict[str, Token] = {}
    fleets: dict[str, FleetRecord] = {}
    nodes: dict[str, Node] = {}
    agents: dict[str, str] = {}
    """Agent to the instance of it that its nodes reported in through."""
    jobs: dict[str, Job] = {}
    mix: tuple[tuple[Request, int], ...] = ()
    decided: int = 0
    endpoints: dict[str, es.EndpointRecord] = {}
    keys: dict[str, es.InferenceKey] = {}
    metered: dict[str, es.Metered] = {}
    """Gateway to how far its journal is in the log."""
    forgotten_at: float = 0.0
    """Until when gateways were heard of whose place here others have by now; what is older counts as taken."""
    billed: dict[int, dict[str, es.Used]] = {}
    """Day (since the epoch) to what was used on it."""


_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODER = msgspec.json.Decoder(_Stored)


class State(_Stored, kw_only=True, dict=True):
    """Everything that is so at :attr:`position`.

    Changed by :meth:`apply` only; readers on the same thread may look at it between two calls.
    """

    def __post_init__(self) -> None:
        self.token_by_hash: dict[str, Token] = {t.hash: t for t in self.tokens.values()}
        self.by_node: dict[str, dict[str, tuple[Job, Unit]]] = {name: {} for name in self.nodes}
        """Node to its runs that hold devices there: run id to (job, unit)."""
        self.held: dict[str, dict[str, tuple[Job, Unit]]] = {}
        """The same by agent."""
        self.orders: dict[str, dict[str, Assignment]] = {}
        """Agent to what it is to run now; whatever else it runs is to end."""
        self.called_off: dict[str, dict[str, tuple[Job, Unit]]] = {}
        """Those of the held runs that are to end and that their agent has not spoken of yet; it may never have heard of them."""
        self.bound: dict[str, tuple[int, int]] = {}
        """Bound unit, as ``job`` or ``job#unit``, to the job's uid and the unit's attempt."""
        self.rebound: dict[str, None] = {}
        """Units bound or released since the decider last looked."""
        self.waiting: dict[str, None] = {}
        """Live jobs with units that wait and may be placed."""
        self.placeable = 0
        """Position at which something last changed that could let a waiting unit start."""
        self.usage: dict[str, dict[str, int]] = {}
        """Tenant to what its bound units hold, by resource."""
        self.agent_version: dict[str, int] = {f.agent: self.position for f in self.fleets.values()}
        """Agent to the position at which its orders last changed; from a snapshot on, at the latest the snapshot's."""
        self.touched: dict[str, None] = dict.fromkeys(self.jobs)
        """Jobs changed since somebody last looked after them."""
        self.live: dict[str, None] = {}
        """Jobs that have not ended."""
        self.yielded: dict[str, None] = {}
        """Live jobs that made room for others and have not had all their replicas since."""
        self.ended: dict[str, None] = {}
        """Jobs that have, the longest ended first."""
        self.served_version = self.position
        """Position at which something last changed that gateways are told; from a snapshot on, at the latest the snapshot's."""
        self.fleet_version = max((f.version for f in self.fleets.values()), default=0)
        for job in self.jobs.values():
            if job.phase not in ENDED:
                self.live[job.id] = None
                self._note_waiting(job)
                self._note_yielded(job)
            for unit in job.units.values():
                if unit.phase == "bound":
                    self._index(job, unit)
        self.placeable = self.position
        for job in sorted((j for j in self.jobs.values() if j.phase in ENDED), key=lambda j: (j.ended_at, j.id)):
            self.ended[job.id] = None

    # -- from and to bytes -------------------------------------------------------------------------

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot | None) -> State:
        """Return the state of a snapshot; of none, the empty state.

        Raises
        ------
        DamagedError
            The bytes are not those that were saved.
        """
        if snapshot is None:
            return cls()
        if hashlib.sha256(snapshot.data).hexdigest() != snapshot.digest:
            raise DamagedError(
                f"the snapshot at position {snapshot.position} is damaged: its digest does not fit; `plenum rebuild` makes it anew "
                "from the log. Look at the disk, too"
            )
        try:
            stored = _DECODER.decode(snapshot.data)
        except msgspec.MsgspecError as error:
            raise _foreign(snapshot, str(error)) from None
        if stored.format != FORMAT:
            raise _foreign(snapshot, f"its format is {stored.format}, not {FORMAT}")
        return cls(**{name: getattr(stored, name) for name in _Stored.__struct_fields__})

    def snapshot(self) -> Snapshot:
        """Return the state as bytes."""
        stored = {name: getattr(self, name) for name in _Stored.__struct_fields__}
        # Bytes are the same for the same state only where keys can be put in order, and those of these are numbers.
        stored |= {name: msgspec.to_builtins(stored[name], str_keys=True) for name in ("endpoints", "billed")}
        data = _ENCODER.encode(_Stored(**stored))
        return Snapshot(position=self.position, digest=hashlib.sha256(data).hexdigest(), data=data)

    # -- one record further ------------------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """Take the next record in.

        Raises
        ------
        InvariantError
            It is not the next, or it contradicts what is so: a bug of ours.
        """
        if record.position != self.position + 1:
            raise InvariantError(f"record {record.position} does not follow position {self.position}")
        event = event_of(record)
        handler = _HANDLERS.get(type(event))
        owned = self._is_of_endpoint(event)
        if handler is not None:
            handler(self, event, record)
        if owned or isinstance(event, _SERVED):
            self.served_version = record.position
        found = self.endpoints.get(getattr(event, "endpoint", ""))
        if found is not None:
            found.version = record.position
        if isinstance(event, _OPENING):
            self.placeable = record.position
        self.position, self.at = record.position, record.at

    def _is_of_endpoint(self, event: Event) -> bool:
        """Whether an event is about an endpoint, or about a job of one."""
        job = self.jobs.get(getattr(event, "job", ""))
        return type(event) in es.TOLD or (job is not None and bool(job.owner))

    # -- questions ---------------------------------------------------------------------------------

    def uid_at(self, position: int) -> int:
        """Return the uid of what begins with the record at a position: unique for ever, also over restores."""
        return position + _restored(self) * UIDS_A_LOG

    def agent_of(self, node: str) -> str:
        """Return the agent that serves a node; empty: the node is gone."""
        known = self.nodes.get(node)
        return self.fleets[known.fleet].agent if known is not None else ""

    def nodes_of(self, agent: str) -> Iterator[Node]:
        """Yield the nodes that an agent serves."""
        for fleet in self.fleets.values():
            if fleet.agent == agent:
                for name in fleet.nodes:
                    yield self.nodes[name]

    # -- indices -----------------------------------------------------------------------------------

    def _index(self, job: Job, unit: Unit) -> None:
        """Note the runs of a bound unit under their nodes and agents."""
        self.bound[unit_id(job, unit.key)] = (job.uid, unit.attempt)
        self.rebound[unit_id(job, unit.key)] = None
        self._count(job, unit, 1)
        orders = () if unit.stop else assignments_of(self, job, unit)
        for run in unit.runs.values():
            self.by_node.setdefault(run.node, {})[run.id] = (job, unit)
            self.held.setdefault(self.agent_of(run.node), {})[run.id] = (job, unit)
            self._note_called_off(job, unit, run)
        for order in orders:
            if unit.runs[order.run].phase == EXITED:
                continue
            self.orders.setdefault(self.agent_of(order.node), {})[order.run] = order

    def _unorder(self, job: Job, unit: Unit, position: int) -> None:
        """Take a unit's runs off what its agents are to run."""
        for run in unit.runs.values():
            agent = self.agent_of(run.node)
            self.orders.get(agent, {}).pop(run.id, None)
            self.agent_version[agent] = position
            self._note_called_off(job, unit, run)

    def _note_called_off(self, job: Job, unit: Unit, run: Run) -> None:
        if unit.stop and run.phase == BOUND:
            self.called_off.setdefault(self.agent_of(run.node), {})[run.id] = (job, unit)

    def _count(self, job: Job, unit: Unit, sign: int) -> None:
        used = self.usage.setdefault(job.tenant, {})
        for resource, amount in held_by(job, unit).items():
            used[resource] = used.get(resource, 0) + sign * amount

    def _unindex(self, job: Job, unit: Unit, position: int) -> None:
        self.bound.pop(unit_id(job, unit.key), None)
        self.rebound[unit_id(job, unit.key)] = None
        self._count(job, unit, -1)
        self._unorder(job, unit, position)
        for run in unit.runs.values():
            self.by_node.get(run.node, {}).pop(run.id, None)
            self.held.get(self.agent_of(run.node), {}).pop(run.id, None)
            self.called_off.get(self.agent_of(run.node), {}).pop(run.id, None)

    def _note_waiting(self, job: Job) -> None:
        if not job.stop and any(unit.phase == "waiting" for unit in job.units.values()):
            self.waiting[job.id] = None
        else:
            self.waiting.pop(job.id, None)

    def _note_yielded(self, job: Job) -> None:
        if job.yielded:
            self.yielded[job.id] = None
        else:
            self.yielded.pop(job.id, None)

    def revision_of(self, job: Job) -> es.Revision | None:
        """Return the revision of an endpoint whose replicas a job holds."""
        if (found := self.endpoints.get(job.owner)) is None:
            return None
        of_it = (r for r in found.revisions.values() if job.id in (found.child(r.number, pool) for pool in r.pools))
        return next(of_it, None)

    def weights_of(self, job: Job) -> str:
        """Return the digest of the weights that a job's replicas are to serve; empty: of whatever they find."""
        revision = self.revision_of(job) if job.owner else None
        return "" if revision is None else revision.weights_digest

    def _settle(self, job: Job, record: Record) -> None:
        """Bring a job's phase in line with its units after a record about it."""
        self.touched[job.id] = None
        job.version = record.position
        if job.phase in ENDED:
            return
        self._note_waiting(job)
        self._note_yielded(job)
        runs = [run for unit in job.units.values() if unit.phase == "bound" for run in unit.runs.values()]
        if job.stop:
            job.phase = STOPPING
        elif any(run.phase == RUNNING or (run.phase == EXITED and run.started_at) for run in runs):
            job.phase = RUNNING_JOB
            job.started_at = job.started_at or record.at
        elif runs:
            job.phase = STARTING_JOB
        else:
            job.phase = PENDING


def unit_workload(whole: Workload, key: str) -> Workload:
    """Return what the engine places for a unit: the gang itself, or one replica, named ``name#slot``."""
    if not key:
        return whole
    role = next(r for r in whole.roles if r.name == key.rpartition("-")[0])
    return replace(
        whole,
        name=f"{whole.name}#{key}",
        roles=(replace(role, replicas=1, min_replicas=0, step=1),),
        together=tuple(replace(c, block=0) for c in whole.together if c.role in ("", role.name)),
        apart=tuple(c for c in whole.apart if c.role in ("", role.name)),
    )


def sized(gang: Workload) -> Iterator[Workload]:
    """Yield a gang at each of its acceptable sizes, largest first; a smaller one without a way to split its model."""
    sizes = [role.sizes() for role in gang.roles]
    yield gang
    for k in range(1, max(len(s) for s in sizes)):
        roles = tuple(replace(role, replicas=s[min(k, len(s) - 1)]) for role, s in zip(gang.roles, sizes, strict=True))
        yield replace(gang, roles=roles, parallelism=Parallelism())


def unit_id(job: Job, key: str) -> str:
    """Return the name of a unit among all: ``tenant/name``, or ``tenant/name#slot`` for one replica of several."""
    return f"{job.id}#{key}" if key else job.id


def unit_keys(workload: Workload) -> list[str]:
    """Return the keys of a workload's units: ``""`` for a gang, else a slot a replica."""
    if workload.gang:
        return [""]
    return [f"{role.name}-{rank}" for role in workload.roles for rank in range(role.replicas)]


def is_wanted(job: Job, unit: Unit) -> bool:
    """Tell whether a unit has a place in its job as it is asked for now; not if the job has shrunk below it."""
    if not unit.key:
        return True
    name, _, rank = unit.key.rpartition("-")
    return any(role.name == name and int(rank) < role.replicas for role in job.workload.roles)


def may_start(unit: Unit, now: float) -> bool:
    """Tell whether a unit waits, and long enough; no wait is longer than the longest backoff, even if the clock was set back since."""
    return unit.phase == "waiting" and not now < unit.not_before <= now + MAX_BACKOFF_S


def held_by(job: Job, unit: Unit) -> dict[str, int]:
    """Return what a bound unit holds, by resource."""
    workload, _ = job.bound_as(unit)
    requests = {role.name: role.request for role in workload.roles}
    total: dict[str, int] = {}
    for run in unit.runs.values():
        for resource, amount in amounts_of(requests[run.role]):
            total[resource] = total.get(resource, 0) + amount
    return total


def amounts_of(request: Request) -> list[tuple[str, int]]:
    """Return what one replica takes, by resource, in base units; nothing of what it does not ask for."""
    amounts = (
        (GPU_MILLI, request.total_gpu_milli),
        (CPU, request.cpu_milli),
        (MEMORY, request.memory_bytes),
        *request.extra,
    )
    return [(resource, amount) for resource, amount in amounts if amount]


def assignments_of(state: State, job: Job, unit: Unit) -> list[Assignment]:
    """Return the runs of a bound unit as orders, ranks numbered for rendezvous."""
    workload, process = job.bound_as(unit)
    requests = {role.name: role.request for role in workload.roles}
    order = {role.name: i for i, role in enumerate(workload.roles)}
    runs = sorted(unit.runs.values(), key=lambda r: (order[r.role], r.rank))
    node_rank = {name: i for i, name in enumerate(dict.fromkeys(r.node for r in runs))}
    on_node = {name: [r.id for r in runs if r.node == name] for name in node_rank}
    first = state.nodes.get(runs[0].node) if runs else None
    address = state.fleets[first.fleet].address if first is not None else "127.0.0.1"
    return [
        Assignment(
            run=run.id,
            job=job.id,
            uid=job.uid,
            tenant=job.tenant,
            node=run.node,
            slot=run.slot,
            attempt=unit.attempt,
            role=run.role,
            rank=run.rank,
            process=process,
            global_rank=i,
            world_size=len(runs),
            node_rank=node_rank[run.node],
            nodes=len(node_rank),
            local_rank=on_node[run.node].index(run.id),
            local_world_size=len(on_node[run.node]),
            master_addr=address,
            master_port=FIRST_PORT + (job.uid * 31 + unit.attempt) % PORTS,
            gpus=members(run.gpu_mask),
            gpu_milli=requests[run.role].gpu_milli if run.gpu_mask else 0,
            numa=members(run.numa_mask),
            cpu_milli=requests[run.role].cpu_milli,
            memory_bytes=requests[run.role].memory_bytes,
            trace=job.trace,
            weights_digest=state.weights_of(job),
        )
        for i, run in enumerate(runs)
    ]


def members(mask: int) -> tuple[int, ...]:
    """Return the numbers of the set bits, ascending."""
    return tuple(i for i in range(mask.bit_length()) if mask >> i & 1)


# -- handlers ---------------------------------------------------------------------------------------


def _leader(state: State, event: LeaderChanged, record: Record) -> None:
    state.term, state.holder, state.address, state.lease_s = event.term, event.holder, event.address, event.lease_s


def _tenant(state: State, event: TenantApplied, record: Record) -> None:
    old = state.tenants.get(event.name)
    state.tenants[event.name] = Tenant(
        name=event.name,
        version=record.position,
        created_at=old.created_at if old else record.at,
        quota=event.quota,
        max_jobs=event.max_jobs,
        labels=event.labels,
        policy=event.policy,
    )


def _tenant_deleted(state: State, event: TenantDeleted, record: Record) -> None:
    del state.tenants[event.name]


def _user(state: State, event: UserApplied, record: Record) -> None:
    old = state.users.get(event.name)
    created_at = old.created_at if old else record.at
    state.users[event.name] = User(name=event.name, version=record.position, created_at=created_at, grants=event.grants)


def _user_deleted(state: State, event: UserDeleted, record: Record) -> None:
    del state.users[event.name]
    for token in [t for t in state.tokens.values() if t.user == event.name and t.kind == "user"]:
        _drop_token(state, token)


def _token(state: State, event: TokenIssued, record: Record) -> None:
    token = Token(
        id=event.id,
        user=event.user,
        hash=event.hash,
        kind=event.kind,
        version=record.position,
        created_at=record.at,
        expires_at=event.expires_at,
        note=event.note,
    )
    state.tokens[token.id] = token
    state.token_by_hash[token.hash] = token


def _token_revoked(state: State, event: TokenRevoked, record: Record) -> None:
    _drop_token(state, state.tokens[event.id])


def _drop_token(state: State, token: Token) -> None:
    del state.tokens[token.id]
    del state.token_by_hash[token.hash]


def _fleet(state: State, event: FleetApplied, record: Record) -> None:
    old = state.fleets.get(event.name)
    names = tuple(facts.name for facts in event.nodes)
    for gone in set(old.nodes if old else ()) - set(names):
        state.nodes.pop(gone)
        state.by_node.pop(gone, None)
    for facts in event.nodes:
        known = state.nodes.get(facts.name)
        if known is None:
            state.nodes[facts.name] = Node(
                name=facts.name, fleet=event.name, facts=facts, version=record.position, since=record.at
            )
            state.by_node[facts.name] = {}
        elif known.facts != facts or known.fleet != event.name:
            known.facts, known.fleet, known.version = facts, event.name, record.position
    state.fleets[event.name] = FleetRecord(
        name=event.name,
        manifest=event.manifest,
        driver=event.driver,
        agent=event.agent,
        address=event.address,
        version=record.position,
        created_at=old.created_at if old else record.at,
        nodes=names,
        noted=event.noted,
    )
    state.fleet_version = record.position


def _fleet_deleted(state: State, event: FleetDeleted, record: Record) -> None:
    fleet = state.fleets.pop(event.name)
    for name in fleet.nodes:
        state.nodes.pop(name)
        state.by_node.pop(name, None)
    if all(other.agent != fleet.agent for other in state.fleets.values()):
        state.agents.pop(fleet.agent, None)
    state.fleet_version = record.position


def _node_lost(state: State, event: NodeLost, record: Record) -> None:
    node = state.nodes[event.node]
    node.phase, node.why, node.since, node.version = "Lost", event.why, record.at, record.position
    state.fleet_version = record.position
    for run_id, (job, unit) in state.by_node[event.node].items():
        run = unit.runs[run_id]
        if run.phase != EXITED and event.gone:
            run.phase, run.cause, run.ended_at = EXITED, "node-lost", record.at
            run.exit_code, run.message = -1, event.why
            agent = state.agent_of(event.node)
            state.orders.get(agent, {}).pop(run.id, None)
            state.agent_version[agent] = record.position
        state._settle(job, record)


def _node_ready(state: State, event: NodeReady, record: Record) -> None:
    node = state.nodes[event.node]
    node.phase, node.since, node.version = "Ready", record.at, record.position
    node.why = node.why if node.cordoned else ""
    state.fleet_version = record.position
    state.agents[state.agent_of(event.node)] = event.instance


def _node_cordoned(state: State, event: NodeCordoned, record: Record) -> None:
    node = state.nodes[event.node]
    node.cordoned, node.draining, node.why = event.cordoned, event.cordoned and event.drain, event.why
    node.since, node.version = record.at, record.position
    state.fleet_version = record.position
    for job, _ in state.by_node[event.node].values():
        state.touched[job.id] = None


def _submitted(state: State, event: JobSubmitted, record: Record) -> None:
    state.ended.pop(event.job, None)  # a job of the same name that ended makes room
    job = Job(
        id=event.job,
        uid=state.uid_at(record.position),
        version=record.position,
        generation=1,
        workload=event.workload,
        process=event.process,
        manifest=event.manifest,
        submitted_at=record.at,
        asked=record.position,
        actor=record.actor,
        trace=record.trace,
        owner=event.owner,
        units={key: Unit(key=key) for key in unit_keys(event.workload)},
    )
    state.jobs[job.id] = job
    state.live[job.id] = None
    state.touched[job.id] = None
    state.waiting[job.id] = None


def _changed(state: State, event: JobChanged, record: Record) -> None:
    job = state.jobs[event.job]
    if event.restart:
        job.generation += 1
        wanted = unit_keys(event.workload)
        bound = {key: unit for key, unit in job.units.items() if unit.phase == "bound"}
        job.before = (job.workload, job.process) if bound else None
        gone = [unit.attempt for key, unit in job.units.items() if key not in wanted and key not in bound]
        job.attempts = max([job.attempts, *gone])
        tried = {key: unit.attempt for key, unit in job.units.items()}
        fresh = {key: Unit(key=key, attempt=tried.get(key, job.attempts)) for key in wanted if key not in bound}
        job.units = {**bound, **fresh}
        job.waiting, job.yielded, job.shrink_to = None, False, 0
    job.workload, job.process, job.manifest = event.workload, event.process, event.manifest
    job.asked = record.position
    state._settle(job, record)


def _scaled(state: State, event: JobScaled, record: Record) -> None:
    job = state.jobs[event.job]
    (role,) = job.workload.roles
    job.workload = replace(job.workload, roles=(replace(role, replicas=event.replicas),))
    wanted = dict.fromkeys(unit_keys(job.workload))
    for key, unit in list(job.units.items()):
        if key not in wanted and unit.phase != "bound":
            job.attempts = max(job.attempts, unit.attempt)
            del job.units[key]
    for key in wanted:
        if key not in job.units:
            job.units[key] = Unit(key=key, attempt=job.attempts)
    job.asked = record.position
    state._settle(job, record)


def _stop_requested(state: State, event: JobStopRequested, record: Record) -> None:
    job = state.jobs[event.job]
    job.stop, job.asked = event.why, record.position
    state._settle(job, record)


def _waiting(state: State, event: JobWaiting, record: Record) -> None:
    job = state.jobs[event.job]
    job.version = record.position
    job.waiting = Waiting(
        code=event.code,
        constraint=event.constraint,
        sentence=event.sentence,
        decision=event.decision,
        since=record.at,
    )


def _bound(state: State, event: UnitBound, record: Record) -> None:
    job = state.jobs[event.job]
    unit = job.units[event.unit]
    if unit.phase != "waiting":
        raise InvariantError(f"{event.job} {event.unit} is bound at {record.position} while it is {unit.phase}")
    unit.phase, unit.attempt, unit.generation, unit.stop = "bound", event.attempt, event.generation, ""
    unit.inside, unit.given_up, unit.relative_cost = event.inside, event.given_up, event.relative_cost
    unit.runs = {b.run: run_of(b) for b in event.bindings}
    job.shrink_to = 0
    job.yielded = job.yielded and job.workload.gang and len(unit.runs) < job.workload.replicas
    if all(u.phase != "waiting" for u in job.units.values()):
        job.waiting = None
    state._index(job, unit)
    for run in unit.runs.values():
        state.agent_version[state.agent_of(run.node)] = record.position
    state._settle(job, record)


def _restored(state: State) -> int:
    """Return how often the log was restored from a backup, by the terms; more after very many changes of leader, which does no harm."""
    return state.term // TERM_GAP


def submitted_position(job: Job) -> int:
    """Return the position of the record that a job began with."""
    return job.uid % UIDS_A_LOG


def run_name(state: State, job: Job, attempt: int, slot: str) -> str:
    """Return the name of a run: unique for ever, also where attempts of the same number were made after the backup that was restored."""
    restored = _restored(state)
    again = "" if restored == job.uid // UIDS_A_LOG else f".{restored}"
    return f"{job.uid}-{attempt}{again}-{slot}"


def run_of(binding: Binding) -> Run:
    """Return the run that a binding begins."""
    return Run(
        id=binding.run,
        role=binding.role,
        rank=binding.rank,
        node=binding.node,
        gpu_mask=binding.gpu_mask,
        nic_mask=binding.nic_mask,
        mig_mask=binding.mig_mask,
        numa_mask=binding.numa_mask,
    )


def _stopped(state: State, event: UnitStopped, record: Record) -> None:
    job = state.jobs[event.job]
    unit = job.units[event.unit]
    unit.stop = event.why
    job.yielded = job.yielded or event.why == "preempted"
    job.shrink_to = event.shrink_to
    state._unorder(job, unit, record.position)
    state._settle(job, record)


def _reported(state: State, event: RunReported, record: Record) -> None:
    job = state.jobs[event.job]
    run = job.units[event.unit].runs[event.run]
    run.phase, run.exit_code, run.cause, run.message = event.phase, event.exit_code, event.cause, event.message
    run.url, run.weights_digest = event.url, event.weights_digest
    if (revision := state.revision_of(job)) is not None and not revision.weights_digest:
        revision.weights_digest = event.weights_digest
    if job.process.notify:  # of others the same records still make the same snapshot as before there was any notice
        run.reported_at = record.at
        run.ready_at = run.ready_at or (record.at if event.phase == RUNNING else 0.0)
    if job.owner and event.phase == RUNNING:
        job.message = ""
    if event.phase in (STARTING, RUNNING):
        run.started_at = run.started_at or record.at
    else:
        run.ended_at = record.at
        if event.ran_s:
            run.started_at = record.at - event.ran_s
            job.started_at = job.started_at or run.started_at
        state.orders.get(state.agent_of(run.node), {}).pop(run.id, None)
    state._settle(job, record)


def _released(state: State, event: UnitReleased, record: Record) -> None:
    job = state.jobs[event.job]
    unit = job.units[event.unit]
    state._unindex(job, unit, record.position)
    unit.phase = "waiting" if event.again else "succeeded" if event.outcome == "succeeded" else "failed"
    unit.failures = (0 if event.well else unit.failures) + (event.outcome == "failed")
    unit.not_before, unit.stop, unit.hopeless = event.not_before, "", event.hopeless
    if job.owner and event.outcome == "failed":
        job.message = event.why  # a server is started again for ever, so this is the only place to say why
    if event.again:
        unit.runs, unit.inside, unit.given_up, unit.relative_cost = {}, (), (), None
    if unit.generation != job.generation or not is_wanted(job, unit):
        _renew(job, unit)
    state._settle(job, record)


def _renew(job: Job, unit: Unit) -> None:
    """Put a unit of the generation before aside once it is released; its place in the new one, if it has one, waits afresh."""
    del job.units[unit.key]
    wanted = unit_keys(job.workload)
    if unit.key in wanted:
        job.units[unit.key] = Unit(key=unit.key, attempt=unit.attempt)
    else:
        job.attempts = max(job.attempts, unit.attempt)
    if all(u.phase != "bound" or u.generation == job.generation for u in job.units.values()):
        job.before = None


def _ended(state: State, event: JobEnded, record: Record) -> None:
    job = state.jobs[event.job]
    job.phase, job.message, job.ended_at, job.waiting = event.phase, event.message, record.at, None
    job.version = record.position
    for index in (state.live, state.touched, state.waiting, state.yielded):
        index.pop(job.id, None)
    if event.phase == DELETED:
        del state.jobs[job.id]
        state.ended.pop(job.id, None)
    else:
        state.ended[job.id] = None


def _forgotten(state: State, event: JobForgotten, record: Record) -> None:
    del state.jobs[event.job]
    state.ended.pop(event.job, None)


def _decision(state: State, event: DecisionMade, record: Record) -> None:
    state.decided = record.position


def _mix(state: State, event: MixLearned, record: Record) -> None:
    state.mix = event.mix


_SERVED = (TenantApplied, TenantDeleted, FleetApplied, FleetDeleted)
"""Events beside those of endpoints and their jobs after which gateways may have to be told something else."""

_OPENING = (JobSubmitted, JobChanged, JobScaled, UnitReleased, NodeReady, NodeCordoned, FleetApplied, TenantApplied)
"""Events after which something that waits may be able to start."""

_HANDLERS: dict[type[Event], Callable[[State, Any, Record], None]] = {
    LeaderChanged: _leader,
    TenantApplied: _tenant,
    TenantDeleted: _tenant_deleted,
    UserApplied: _user,
    UserDeleted: _user_deleted,
    TokenIssued: _token,
    TokenRevoked: _token_revoked,
    FleetApplied: _fleet,
    FleetDeleted: _fleet_deleted,
    NodeLost: _node_lost,
    NodeReady: _node_ready,
    NodeCordoned: _node_cordoned,
    JobSubmitted: _submitted,
    JobChanged: _changed,
    JobStopRequested: _stop_requested,
    JobWaiting: _waiting,
    UnitBound: _bound,
    UnitStopped: _stopped,
    RunReported: _reported,
    UnitReleased: _released,
    JobEnded: _ended,
    JobForgotten: _forgotten,
    DecisionMade: _decision,
    MixLearned: _mix,
    JobScaled: _scaled,
    **es.HANDLERS,
}
"""What each event changes; an event that is not here is kept for people (``Refused``)."""
