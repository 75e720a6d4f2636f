"""What the state is made of: tenants, people, hardware, and jobs with their units and runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from plenum.control.events import (
    Grant,
    NodeFacts,
    slot_of,
)
from plenum.model.process import Process
from plenum.model.workload import Workload
from plenum.ports.policy import NOTHING, Policy

BOUND = "bound"
"""Phase of a run that its node has not reported yet; then come the phases of :mod:`plenum.ports.nodes`."""


PENDING, STARTING_JOB, RUNNING_JOB, STOPPING = "Pending", "Starting", "Running", "Stopping"


SUCCEEDED, FAILED, DELETED = "Succeeded", "Failed", "Deleted"


ENDED = (SUCCEEDED, FAILED, DELETED)
"""Phases of jobs."""


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
    """One replica of one attempt, or one ``part`` of it where it is spread over several nodes."""

    id: str
    role: str
    rank: int
    node: str
    part: int = 0
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
    certificate_sha256: str = ""
    started_at: float = 0.0
    ready_at: float = 0.0
    """Of one that says when it is ready: since when it has been."""
    reported_at: float = 0.0
    ended_at: float = 0.0

    @property
    def slot(self) -> str:
        """``role-rank``: which replica, over all attempts; with ``.part`` on all its nodes but the first."""
        return slot_of(self.role, self.rank, self.part)


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
    drains
        Whether a replica was whole when it was told to end, and nothing had gone wrong: its first node ends before the others.
    """

    key: str
    phase: str = "waiting"
    attempt: int = 0
    generation: int = 0
    failures: int = 0
    not_before: float = 0.0
    stop: str = ""
    drains: bool = False
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
