"""The projection: what the log adds up to at a position. The same records give the same bytes.

Way in: :class:`State`, :meth:`State.apply`. What can be computed from the rest (indices) is not part of the bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import msgspec

from plenum.control.endpoints import state as es
from plenum.control.events import (
    Event,
    event_of,
)
from plenum.control.handlers import HANDLERS, OPENING, SERVED
from plenum.control.records import (
    BOUND,
    ENDED,
    PENDING,
    RUNNING_JOB,
    STARTING_JOB,
    STOPPING,
    FleetRecord,
    Job,
    Node,
    Run,
    Tenant,
    Token,
    Unit,
    User,
)
from plenum.control.units import (
    UIDS_A_LOG,
    assignments_of,
    held_by,
    outlives,
    restorations,
    unit_id,
)
from plenum.model.errors import InvariantError, PlenumError
from plenum.model.workload import Request
from plenum.ports.nodes import EXITED, RUNNING, Assignment
from plenum.ports.store import Record, Snapshot


class DamagedError(PlenumError):
    """What was stored is not what comes back."""

    code = "store.damaged"


FORMAT = 2
"""Of snapshots; a higher one whenever the same records come to mean another state: what code before made of them is then passed over."""


class _Written(msgspec.Struct):
    format: int = FORMAT


def is_outdated(snapshot: Snapshot) -> bool:
    """Tell whether a snapshot says what earlier code made of the records, which the code of now may read otherwise."""
    try:
        return msgspec.json.decode(snapshot.data, type=_Written).format < FORMAT
    except msgspec.MsgspecError:
        return False  # not a snapshot at all: reading it says so


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
                    self.index(job, unit)
        self.placeable = self.position
        for job in sorted((j for j in self.jobs.values() if j.phase in ENDED), key=lambda j: (j.ended_at, j.id)):
            self.ended[job.id] = None

    # -- from and to bytes -------------------------------------------------------------------------

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot | None) -> State:
        """Return the state of a snapshot; of none, the empty state. One of an earlier format is good enough where its records are gone.

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
        if stored.format > FORMAT:
            raise _foreign(snapshot, f"its format is {stored.format}, and this one knows those up to {FORMAT}")
        stored.format = FORMAT
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
        handler = HANDLERS.get(type(event))
        owned = self._is_of_endpoint(event)
        if handler is not None:
            handler(self, event, record)
        if owned or isinstance(event, SERVED):
            self.served_version = record.position
        found = self.endpoints.get(getattr(event, "endpoint", ""))
        if found is not None:
            found.version = record.position
        if isinstance(event, OPENING):
            self.placeable = record.position
        self.position, self.at = record.position, record.at

    def _is_of_endpoint(self, event: Event) -> bool:
        """Whether an event is about an endpoint, or about a job of one."""
        job = self.jobs.get(getattr(event, "job", ""))
        return type(event) in es.TOLD or (job is not None and bool(job.owner))

    # -- questions ---------------------------------------------------------------------------------

    def uid_at(self, position: int) -> int:
        """Return the uid of what begins with the record at a position: unique for ever, also over restores."""
        return position + restorations(self) * UIDS_A_LOG

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

    def index(self, job: Job, unit: Unit) -> None:
        """Note the runs of a bound unit under their nodes and agents."""
        self.bound[unit_id(job, unit.key)] = (job.uid, unit.attempt)
        self.rebound[unit_id(job, unit.key)] = None
        self._count(job, unit, 1)
        orders = assignments_of(self, job, unit)
        for run in unit.runs.values():
            self.by_node.setdefault(run.node, {})[run.id] = (job, unit)
            self.held.setdefault(self.agent_of(run.node), {})[run.id] = (job, unit)
            self._note_called_off(job, unit, run)
        for order in orders:
            run = unit.runs[order.run]
            if run.phase == EXITED or (unit.stop and not outlives(unit, run)):
                continue
            self.orders.setdefault(self.agent_of(order.node), {})[order.run] = order

    def unorder(self, job: Job, unit: Unit, position: int) -> None:
        """Take a unit's runs off what its agents are to run, but for those that others need to finish."""
        for run in unit.runs.values():
            if unit.phase == "bound" and outlives(unit, run):
                continue
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

    def unindex(self, job: Job, unit: Unit, position: int) -> None:
        """Take back what :meth:`index` noted."""
        self.bound.pop(unit_id(job, unit.key), None)
        self.rebound[unit_id(job, unit.key)] = None
        self._count(job, unit, -1)
        self.unorder(job, unit, position)
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

    def settle(self, job: Job, record: Record) -> None:
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
