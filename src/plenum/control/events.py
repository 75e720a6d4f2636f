"""The facts of the log: typed, versioned, never changed once written.

A new field gets a default; a changed meaning gets a new ``version`` and a function in :data:`UPCASTS` that lifts older bodies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from plenum.control.endpoints import events as ep
from plenum.control.fact import Event as Event
from plenum.model.errors import InvariantError
from plenum.model.process import Process
from plenum.model.workload import Request, Workload
from plenum.ports.policy import NOTHING, Policy
from plenum.ports.store import Record


class _OfJob(Event, frozen=True, kw_only=True):
    job: str

    def subject(self) -> str:
        """Return ``job/tenant/name``."""
        return f"job/{self.job}"

    def tenant(self) -> str:
        """Return the tenant in the job's id."""
        return self.job.partition("/")[0]


# -- who --------------------------------------------------------------------------------------------


class LeaderChanged(Event, frozen=True, kw_only=True):
    """A control plane took the lead, or let the leases of those before it lapse.

    Parameters
    ----------
    lease_s
        Longest that an agent may go on from then without an answer, whoever granted it.
    """

    audit = True
    term: int
    holder: str
    address: str = ""
    lease_s: float = 30.0


class TenantApplied(Event, frozen=True, kw_only=True):
    """A tenant was made or changed.

    Parameters
    ----------
    quota
        Resource to the most that may be held at once, in base units (``gpu_milli``, ``cpu_milli``, ``memory_bytes``).
    max_jobs
        Live jobs at once.
    policy
        What gateways do with its requests.
    """

    audit = True
    name: str
    quota: dict[str, int] = msgspec.field(default_factory=dict)
    max_jobs: int = 0
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    policy: Policy = NOTHING

    def subject(self) -> str:
        """Return ``tenant/name``."""
        return f"tenant/{self.name}"

    def tenant(self) -> str:
        """Return the tenant."""
        return self.name


class TenantDeleted(Event, frozen=True, kw_only=True):
    """A tenant without live jobs was removed."""

    audit = True
    name: str

    def subject(self) -> str:
        """Return ``tenant/name``."""
        return f"tenant/{self.name}"

    def tenant(self) -> str:
        """Return the tenant."""
        return self.name


class Grant(msgspec.Struct, frozen=True, order=True):
    """A role in a tenant; tenant ``*`` is every tenant."""

    role: str
    tenant: str


class UserApplied(Event, frozen=True, kw_only=True):
    """A user was made, or its grants were changed."""

    audit = True
    name: str
    grants: tuple[Grant, ...] = ()

    def subject(self) -> str:
        """Return ``user/name``."""
        return f"user/{self.name}"


class UserDeleted(Event, frozen=True, kw_only=True):
    """A user was removed, and with it its tokens."""

    audit = True
    name: str

    def subject(self) -> str:
        """Return ``user/name``."""
        return f"user/{self.name}"


class TokenIssued(Event, frozen=True, kw_only=True):
    """A bearer token was handed out; only the hash of its secret is known here.

    Parameters
    ----------
    kind
        ``user``; ``join`` (lets an agent join) or ``agent`` (speaks for the agent named ``user``).
    hash
        SHA-256 of the secret (256 random bits), in hexadecimal.
    expires_at
        Seconds since the epoch; 0: never.
    """

    audit = True
    id: str
    user: str
    hash: str
    kind: str = "user"
    expires_at: float = 0.0
    note: str = ""

    def subject(self) -> str:
        """Return ``token/id``."""
        return f"token/{self.id}"


class TokenRevoked(Event, frozen=True, kw_only=True):
    """A token stopped being valid."""

    audit = True
    id: str

    def subject(self) -> str:
        """Return ``token/id``."""
        return f"token/{self.id}"


class Refused(Event, frozen=True, kw_only=True):
    """Somebody asked for what they may not have, or could not prove who they are."""

    audit = True
    verb: str
    path: str
    code: str
    sentence: str
    source: str = ""
    times: int = 1
    in_tenant: str = ""

    def subject(self) -> str:
        """Return ``refusals``."""
        return "refusals"

    def tenant(self) -> str:
        """Return the tenant that was asked about."""
        return self.in_tenant


# -- hardware ---------------------------------------------------------------------------------------


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of nodes shows of one."""

    name: str
    gpus: int = 0
    gpu_model: str = ""
    cpu_milli: int = 0
    memory_bytes: int = 0
    power_w: int = 0
    traits: tuple[str, ...] = ()
    site: str = ""
    site_bps: int = 0
    """Bit/s at which its site reaches others (its ``uplink_bps`` budget); 0: nobody said."""


NOTED = 1
"""How much :class:`NodeFacts` hold by now; a fleet of which less was noted is described anew by whoever leads next."""


class FleetApplied(Event, frozen=True, kw_only=True):
    """Hardware was described, or described anew.

    Parameters
    ----------
    manifest
        The ``Fleet`` manifest as YAML.
    driver
        ``simulated``: imitated inside the control plane; ``agent``: a node agent runs it.
    agent
        Which agent serves its nodes.
    address
        Where other nodes reach it.
    noted
        :data:`NOTED` as of then.
    """

    audit = True
    name: str
    manifest: str
    driver: str
    agent: str
    address: str = "127.0.0.1"
    nodes: tuple[NodeFacts, ...] = ()
    noted: int = 0

    def subject(self) -> str:
        """Return ``fleet/name``."""
        return f"fleet/{self.name}"


class FleetDeleted(Event, frozen=True, kw_only=True):
    """Hardware was taken out; nothing ran on it."""

    audit = True
    name: str

    def subject(self) -> str:
        """Return ``fleet/name``."""
        return f"fleet/{self.name}"


class _OfNode(Event, frozen=True, kw_only=True):
    node: str

    def subject(self) -> str:
        """Return ``node/name``."""
        return f"node/{self.node}"


class NodeLost(_OfNode, frozen=True, kw_only=True):
    """A node takes no work any more until it reports in again.

    Parameters
    ----------
    gone
        It was silent for so long that its lease has lapsed and its work has surely ended. False: its agent says that it is down; what
        became of its runs the agent reports one by one.
    """

    why: str = ""
    gone: bool = True


class NodeReady(_OfNode, frozen=True, kw_only=True):
    """A node reported in, for the first time or again; ``instance`` tells its agent from others of the same name."""

    instance: str = ""


class NodeCordoned(_OfNode, frozen=True, kw_only=True):
    """New work may not (or may again) land on a node; ``drain``: and what runs there moves elsewhere."""

    audit = True
    cordoned: bool = True
    drain: bool = False
    why: str = ""


# -- jobs -------------------------------------------------------------------------------------------


class JobSubmitted(_OfJob, frozen=True, kw_only=True):
    """A job was asked for; the record's position becomes its uid.

    Parameters
    ----------
    owner
        Endpoint (``tenant/name``) whose replicas it is; empty: somebody's own.
    """

    audit = True
    workload: Workload
    process: Process = Process()
    manifest: dict[str, Any] = msgspec.field(default_factory=dict)
    owner: str = ""


class JobChanged(_OfJob, frozen=True, kw_only=True):
    """A job was asked for differently; ``restart``: what runs is replaced."""

    audit = True
    workload: Workload
    process: Process = Process()
    manifest: dict[str, Any] = msgspec.field(default_factory=dict)
    restart: bool = True


class JobScaled(_OfJob, frozen=True, kw_only=True):
    """A job of one role and independent replicas is to have another number of them; those that stay are not touched."""

    replicas: int


class JobStopRequested(_OfJob, frozen=True, kw_only=True):
    """A job was deleted by somebody; it goes once nothing of it runs."""

    audit = True
    why: str = "deleted"


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's place: node by name, devices as bit masks over the node's indices.

    ``part`` counts the nodes of a replica that is spread over several; the first one answers.
    """

    run: str
    role: str
    rank: int
    node: str
    gpu_mask: int = 0
    nic_mask: int = 0
    mig_mask: int = 0
    numa_mask: int = 0
    part: int = 0

    @property
    def slot(self) -> str:
        """Which replica, and which part of it."""
        return slot_of(self.role, self.rank, self.part)


def slot_of(role: str, rank: int, part: int = 0) -> str:
    """Return the name of a replica's place over all attempts: ``serve-1``, and ``serve-1.2`` on the third node that it is spread over."""
    return f"{role}-{rank}.{part}" if part else f"{role}-{rank}"


class UnitBound(_OfJob, frozen=True, kw_only=True):
    """A unit (a whole gang, or one independent replica with all its nodes) was given its place.

    Parameters
    ----------
    unit
        Empty: the gang; else the replica's slot (``worker-3``).
    decision
        Position of the inputs of the decision that did it.
    inside
        Domains that hold it, as ``level name``; and the wishes given up, as sentences.
    """

    unit: str = ""
    attempt: int = 1
    generation: int = 1
    decision: int = 0
    bindings: tuple[Binding, ...] = ()
    inside: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()
    relative_cost: float | None = None


class JobWaiting(_OfJob, frozen=True, kw_only=True):
    """A job (or some of its replicas) found no place, for a new reason."""

    decision: int = 0
    code: str
    constraint: str = ""
    sentence: str = ""


class UnitStopped(_OfJob, frozen=True, kw_only=True):
    """A unit's runs were ordered to end.

    Parameters
    ----------
    why
        ``failed``, ``drained``, ``changed``, ``scaled``, ``preempted`` (it makes room for an endpoint), ``grown`` (it goes on with more
        replicas), ``deleted``, ``timeout``, ``shutdown``, ``lost`` or ``done``.
    shrink_to
        Replicas that an elastic gang which makes room goes on with at once; 0: it waits.
    """

    unit: str = ""
    attempt: int = 1
    why: str = ""
    shrink_to: int = 0


class RunReported(_OfJob, frozen=True, kw_only=True):
    """A node said what became of a run (see :class:`plenum.ports.nodes.Report`).

    Parameters
    ----------
    ran_s
        Of a run that was over before it was seen to run: how long it ran, by its node's clock. 0: it was seen, or did not run.
    """

    unit: str = ""
    run: str
    node: str
    phase: str
    ran_s: float = 0.0
    exit_code: int | None = None
    cause: str = ""
    message: str = ""
    url: str = ""
    weights_digest: str = ""
    certificate_sha256: str = ""


class UnitReleased(_OfJob, frozen=True, kw_only=True):
    """Nothing of a unit's attempt runs any more; what it held is free.

    Parameters
    ----------
    outcome
        ``succeeded``, ``failed`` (its own doing, counted against its restarts), ``lost`` (the node's), ``stopped`` (ordered).
    again
        Whether it goes back to waiting.
    not_before
        Seconds since the epoch before which it does not start again.
    well
        Whether it had run well for so long that its failures before count no more.
    hopeless
        Whether its next attempt will fail in the same way, unless somebody does something about it.
    """

    unit: str = ""
    attempt: int = 1
    outcome: str
    why: str = ""
    again: bool = False
    not_before: float = 0.0
    well: bool = False
    hopeless: bool = False


class JobEnded(_OfJob, frozen=True, kw_only=True):
    """A job came to its end: ``Succeeded``, ``Failed`` or ``Deleted``."""

    audit = True
    phase: str
    message: str = ""


class JobForgotten(_OfJob, frozen=True, kw_only=True):
    """An ended job left the lists; its story stays in the log."""


# -- decisions --------------------------------------------------------------------------------------


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """An action of a plan that the state had overtaken."""

    job: str
    unit: str = ""
    why: str = ""


class DecisionMade(Event, frozen=True, kw_only=True):
    """What was considered, on which inputs, and what came of it; the bindings and reasons follow as records of their jobs.

    Parameters
    ----------
    inputs
        Position of the log that the decision saw.
    now
        Time that it took as now.
    considered
        ``job`` or ``job#unit``, in order.
    bound, waiting
        How many were placed and were not.
    rejected
        Placements not carried out, because the state had moved on meanwhile.
    """

    inputs: int
    now: float
    policy: str
    term: int = 0
    considered: tuple[str, ...] = ()
    bound: int = 0
    waiting: int = 0
    rejected: tuple[Rejected, ...] = ()

    def subject(self) -> str:
        """Return ``decisions``."""
        return "decisions"


class MixLearned(Event, frozen=True, kw_only=True):
    """The mix of requests that scores are learned from, until the next of these."""

    mix: tuple[tuple[Request, int], ...] = ()

    def subject(self) -> str:
        """Return ``decisions``."""
        return "decisions"


EVENTS: dict[str, type[Event]] = {
    event.__name__: event
    for event in (
        LeaderChanged, TenantApplied, TenantDeleted, UserApplied, UserDeleted, TokenIssued, TokenRevoked, Refused,
        FleetApplied, FleetDeleted, NodeLost, NodeReady, NodeCordoned,
        JobSubmitted, JobChanged, JobStopRequested, UnitBound, JobWaiting, UnitStopped, RunReported, UnitReleased, JobEnded,
        JobForgotten, DecisionMade, MixLearned, JobScaled, *ep.ALL,
    )
}  # fmt: skip
"""Name in the log to type."""

UPCASTS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""(type, version) to the function that turns such a body into one of the next version."""

_ENCODER = msgspec.json.Encoder(order="deterministic")
_DECODERS = {name: msgspec.json.Decoder(event) for name, event in EVENTS.items()}


def record_of(event: Event, at: float, actor: str, trace: str = "") -> Record:
    """Return the record of an event, not yet with a position."""
    return Record(
        at=at,
        type=type(event).__name__,
        version=event.version,
        subject=event.subject(),
        tenant=event.tenant(),
        actor=actor,
        trace=trace,
        audit=event.audit,
        body=_ENCODER.encode(event),
    )


def event_of(record: Record) -> Event:
    """Return a record's event, lifted to the present version.

    Raises
    ------
    InvariantError
        The log holds a type or version that this code does not know: it was written by a newer one.
    """
    if record.type not in EVENTS:
        raise InvariantError(f"record {record.position} is of the unknown type {record.type}; a newer Plenum wrote it")
    wanted, version, body = EVENTS[record.type].version, record.version, record.body
    if version > wanted:
        raise InvariantError(f"record {record.position} is {record.type} version {version}; this Plenum knows {wanted}")
    while version < wanted:
        body = _ENCODER.encode(UPCASTS[record.type, version](msgspec.json.decode(body)))
        version += 1
    return _DECODERS[record.type].decode(body)
