"""What answers look like: msgspec structs, because lists of thousands are written with them; the OpenAPI document is made from them too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from plenum.ports.policy import Experiment, Hook

API_VERSION = "plenum.dev/v1alpha1"


class Shape(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """Part of an answer; what has its default is left out."""


class Metadata(Shape, kw_only=True):
    """What every resource has.

    Parameters
    ----------
    uid
        Another resource of the same name has another.
    resource_version
        Changes with every change; the ETag.
    generation
        Changes when what is asked for changes.
    trace_id
        W3C trace that the resource began in.
    """

    name: str
    resource_version: str
    tenant: str = ""
    labels: dict[str, str] = {}
    uid: str = ""
    generation: int = 0
    created_at: str = ""
    created_by: str = ""
    trace_id: str = ""


class ListMetadata(Shape, kw_only=True):
    """Of a list: the log position it shows, and the cursor to go on with; none: this was all."""

    resource_version: str
    continue_: str = msgspec.field(default="", name="continue")


class Waiting(Shape, kw_only=True):
    """Why a job waits, as of its last decision."""

    code: str
    constraint: str = ""
    sentence: str = ""
    since: str = ""
    decision: int = 0


class Replicas(Shape, kw_only=True, omit_defaults=False):
    """How many replicas are in which state."""

    wanted: int = 0
    bound: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0


class Run(Shape, kw_only=True):
    """One replica of the present attempt."""

    id: str
    slot: str
    node: str
    phase: str
    attempt: int = 1
    gpus: tuple[int, ...] = ()
    numa: tuple[int, ...] = ()
    exit_code: int | None = None
    cause: str = ""
    message: str = ""
    started_at: str = ""
    ended_at: str = ""


class JobStatus(Shape, kw_only=True):
    """What became of a job so far; ``inside``: domains that hold its gang, ``givenUp``: wishes it was placed without."""

    phase: str
    replicas: Replicas
    waiting: Waiting | None = None
    attempt: int = 0
    failures: int = 0
    inside: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()
    relative_cost: float | None = None
    runs: list[Run] = []
    started_at: str = ""
    ended_at: str = ""
    message: str = ""
    stopping: str = ""


class Job(Shape, kw_only=True):
    """A TrainingJob, Endpoint or Task; ``spec`` is as it was written."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: dict[str, Any]
    status: JobStatus


class TenantSpec(Shape, kw_only=True, omit_defaults=False):
    """What a tenant may hold, in base units, and what gateways do with its requests."""

    quota: dict[str, int] = {}
    max_jobs: int = 0
    experiments: tuple[Experiment, ...] | msgspec.UnsetType = msgspec.UNSET
    moderation: Hook | msgspec.UnsetType = msgspec.UNSET


class TenantStatus(Shape, kw_only=True, omit_defaults=False):
    """What it has and holds now."""

    jobs: int = 0
    held: dict[str, int] = {}


class Tenant(Shape, kw_only=True, omit_defaults=False):
    """A tenant."""

    api_version: str = API_VERSION
    kind: str = "Tenant"
    metadata: Metadata
    spec: TenantSpec
    status: TenantStatus


class Grant(Shape, kw_only=True, omit_defaults=False):
    """A role in a tenant; tenant ``*`` is every one."""

    role: str
    tenant: str


class UserSpec(Shape, kw_only=True, omit_defaults=False):
    """What somebody may do."""

    grants: tuple[Grant, ...] = ()


class User(Shape, kw_only=True, omit_defaults=False):
    """A user."""

    api_version: str = API_VERSION
    kind: str = "User"
    metadata: Metadata
    spec: UserSpec


class TokenSpec(Shape, kw_only=True):
    """Whose a token is, and until when it is valid; no ``expiresAt``: for ever."""

    user: str
    kind: str
    note: str = ""
    expires_at: str = ""


class TokenStatus(Shape, kw_only=True, omit_defaults=False):
    """``Valid`` or ``Expired``; a revoked one is gone."""

    phase: str


class Token(Shape, kw_only=True):
    """A token; ``secret`` only in the answer to its making."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: TokenSpec
    status: TokenStatus
    secret: str = ""


class FleetStatus(Shape, kw_only=True, omit_defaults=False):
    """How its nodes are."""

    driver: str
    agent: str
    address: str
    nodes: int = 0
    ready: int = 0


class Fleet(Shape, kw_only=True):
    """Hardware; ``spec`` is as it was written, and only where one fleet is asked for."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: dict[str, Any] | None = None
    status: FleetStatus


class NodeSpec(Shape, kw_only=True, omit_defaults=False):
    """What a node has, in base units."""

    fleet: str
    gpus: int = 0
    gpu_model: str = ""
    cpu_milli: int = 0
    memory_bytes: int = 0
    power_w: int = 0
    traits: tuple[str, ...] = ()


class NodeRun(Shape, kw_only=True, omit_defaults=False):
    """A replica on a node."""

    id: str
    job: str
    slot: str
    phase: str
    gpus: tuple[int, ...] = ()


class NodeStatus(Shape, kw_only=True, omit_defaults=False):
    """Whether a node is there and takes work, and what is on it."""

    phase: str
    cordoned: bool = False
    draining: bool = False
    why: str = ""
    since: str = ""
    runs: int = 0
    running: list[NodeRun] = []


class Node(Shape, kw_only=True, omit_defaults=False):
    """A node."""

    api_version: str = API_VERSION
    kind: str = "Node"
    metadata: Metadata
    spec: NodeSpec
    status: NodeStatus


class Event(Shape, kw_only=True):
    """A fact of the log; ``body`` depends on its type."""

    position: int
    at: str
    type: str
    body: msgspec.Raw
    subject: str = ""
    tenant: str = ""
    actor: str = ""
    trace_id: str = ""
    audit: bool = False


class Rejected(Shape, kw_only=True, omit_defaults=False):
    """A placement that was not carried out."""

    job: str
    unit: str = ""
    why: str = ""


class DecisionMade(Shape, kw_only=True):
    """A decision; to a tenant's people only what is about their own jobs."""

    position: int
    at: str
    inputs: int
    now: str
    policy: str
    considered: tuple[str, ...] = ()
    bound: int | None = None
    waiting: int | None = None
    rejected: tuple[Rejected, ...] = ()


class Changed(Shape, kw_only=True):
    """A fact that a command would write."""

    type: str
    body: msgspec.Raw
    subject: str = ""
    tenant: str = ""


class Difference(Shape, kw_only=True, omit_defaults=False):
    """A value of the manifest that differs; None: it is not there."""

    path: str
    from_: Any = msgspec.field(default=None, name="from")
    to: Any = None


class DryRun(Shape, kw_only=True, omit_defaults=False):
    """What a request would have done: nothing was written."""

    api_version: str = API_VERSION
    kind: str = "DryRun"
    changes: list[Changed] = []
    diff: list[Difference] = []


class Done(Shape, kw_only=True):
    """A request that was carried out, and left nothing to show."""

    api_version: str
    kind: str
    message: str
    position: int


class WhoAmI(Shape, kw_only=True, omit_defaults=False):
    """Who a token speaks for."""

    api_version: str = API_VERSION
    kind: str = "WhoAmI"
    name: str
    grants: tuple[Grant, ...] = ()
    operator: bool = False
    expires_at: str = ""


class Version(Shape, kw_only=True, omit_defaults=False):
    """What this server is."""

    api_version: str = API_VERSION
    kind: str = "Version"
    version: str
    leading: bool
    position: int


class Health(Shape, kw_only=True, omit_defaults=False):
    """Whether this server is well."""

    status: str
    leading: bool = False


class Joined(Shape, kw_only=True, omit_defaults=False):
    """An agent was let in; the token is shown this once. Empty: it came with its own."""

    api_version: str = API_VERSION
    kind: str = "Joined"
    agent: str
    fleet: str
    token: str
    position: int


def timestamp(seconds: float) -> str:
    """Return seconds since the epoch as RFC 3339 text in UTC; empty for 0: never, or not yet.

    Notes
    -----
    A time no calendar holds is shown as none.
    """
    if not seconds:
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return ""
