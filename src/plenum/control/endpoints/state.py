"""What the log adds up to about endpoints, keys and usage: values of the state, and what each fact changes in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from plenum.control.endpoints import events as ep
from plenum.control.endpoints.revisions import child_name, started_as
from plenum.control.fact import Event
from plenum.model.endpoint import Endpoint
from plenum.ports.gateway import Key, Usage
from plenum.ports.store import TERM_GAP, Record

if TYPE_CHECKING:
    from plenum.control.state import State

CANARY, SERVING, REPLACED, RETIRED, ROLLED_BACK = "canary", "serving", "replaced", "retired", "rolled-back"
"""Phases of revisions; one that is ``replaced`` goes on until the next one's replicas have come up."""
ACTIVE = (CANARY, SERVING, REPLACED)

KEEP_REVISIONS = 8
"""Revisions that are over and still shown."""

KEEP_DAYS = 400
"""Days that usage is summed up for."""

MAX_SUMS_A_DAY = 5_000
"""Sums of one day; what comes beyond is summed up under the key ``*``, beyond twice as many under the model ``*`` too, and beyond three
times as many not at all (its rows are)."""


class Sized(msgspec.Struct, kw_only=True):
    """How many replicas a revision's pool is to have; ``lowered`` is the position at which that was last made fewer.

    ``served``: any was ready by then, of which nothing is left once the job of all of them has gone.
    """

    replicas: int = 0
    lowered: int = 0
    lowered_at: float = 0.0
    served: bool = False


class Revision(msgspec.Struct, kw_only=True):
    """A version of an endpoint.

    Parameters
    ----------
    generation
        Of the endpoint that it was started for.
    part, watched_at
        Of a canary: its part of the requests, and since when it gets it; 0: not yet.
    serving_at
        When it began to replace those before it; 0: it has not.
    room
        Pool of those before it to the replicas that are reckoned with until it has replaced them: as many have had places at once.
    weights_digest
        Of what its first replica that was ready serves, adapters too: all that follow serve the same, whatever references mean by then.
    """

    number: int
    spec: Endpoint
    generation: int
    phase: str
    started_at: float
    part: float = 0.0
    watched_at: float = 0.0
    serving_at: float = 0.0
    ended_at: float = 0.0
    why: str = ""
    pools: dict[str, Sized] = {}
    weights_digest: str = ""
    room: dict[str, int] = {}


class EndpointRecord(msgspec.Struct, kw_only=True):
    """An endpoint, from when it is applied until nothing of it is left.

    Parameters
    ----------
    generation
        Grows with every change that takes new engines.
    wanted
        Pool to the replicas that scaling has decided on.
    serving
        Number of the revision that has taken over last; 0: none yet.
    """

    id: str
    uid: int
    version: int
    generation: int
    spec: Endpoint
    manifest: dict[str, Any]
    created_at: float
    asked: int
    actor: str
    trace: str = ""
    stop: str = ""
    serving: int = 0
    last: int = 0
    wanted: dict[str, int] = {}
    scaled_at: float = 0.0
    message: str = ""
    revisions: dict[int, Revision] = {}

    def __post_init__(self) -> None:
        # In a snapshot they stand in the order of their numbers as text.
        self.revisions = dict(sorted(self.revisions.items()))

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.spec.tenant

    def listed(self) -> list[Revision]:
        """Return its revisions, oldest first; the order of the dictionary depends on where the state came from."""
        return [self.revisions[number] for number in sorted(self.revisions)]

    def active(self) -> list[Revision]:
        """Return the revisions that may have replicas which take requests, oldest first."""
        return [revision for revision in self.listed() if revision.phase in ACTIVE]

    def child(self, revision: int, pool: str) -> str:
        """Return the id of the job that holds a revision's replicas of a pool."""
        return f"{self.tenant}/{child_name(self.spec.name, revision, pool)}"

    @property
    def failed(self) -> Revision | None:
        """The revision that was rolled back last, if the endpoint is still asked for as it was."""
        last = self.revisions.get(self.last)
        back = last is not None and last.phase == ROLLED_BACK and last.generation == self.generation
        return last if back else None


class InferenceKey(msgspec.Struct, kw_only=True):
    """A key to ask models with."""

    key: Key
    version: int
    created_at: float
    actor: str
    note: str = ""


class Used(msgspec.Struct, kw_only=True):
    """What requests of one tenant with one key to one model of one endpoint took on one day.

    Parameters
    ----------
    key
        Empty of days from when keys were not told apart.
    estimated
        How many had their prompts' tokens reckoned by the gateway.
    """

    tenant: str
    endpoint: str
    model: str
    key: str = ""
    estimated: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    requests: dict[str, int] = {}
    """By outcome."""


class Metered(msgspec.Struct, kw_only=True):
    """How far a gateway's journal is in the log; ``restored``: how often the log had been restored from a backup by then.

    ``waiting`` is how many batches it had left to send.
    """

    number: int
    at: float
    restored: int = 0
    waiting: int = 0


# -- handlers ---------------------------------------------------------------------------------------


def _applied(state: State, event: ep.EndpointApplied, record: Record) -> None:
    old = state.endpoints.get(event.endpoint)
    if old is None:
        state.endpoints[event.endpoint] = EndpointRecord(
            id=event.endpoint,
            uid=state.uid_at(record.position),
            version=record.position,
            generation=1,
            spec=event.spec,
            manifest=event.manifest,
            created_at=record.at,
            asked=record.position,
            actor=record.actor,
            trace=record.trace,
        )
        return
    # Asked for again as it was when it was rolled back: somebody wants to see whether it goes well this time.
    old.generation += started_as(old.spec) != started_as(event.spec) or old.failed is not None
    old.spec, old.manifest, old.asked = event.spec, event.manifest, record.position


def _stop(state: State, event: ep.EndpointStopRequested, record: Record) -> None:
    found = state.endpoints[event.endpoint]
    found.stop, found.asked = event.why, record.position
    for revision in found.active():
        _end(revision, RETIRED, record)


def _deleted(state: State, event: ep.EndpointDeleted, record: Record) -> None:
    del state.endpoints[event.endpoint]


def _scaled(state: State, event: ep.EndpointScaled, record: Record) -> None:
    found = state.endpoints[event.endpoint]
    found.wanted[event.pool], found.scaled_at, found.message = event.after, record.at, event.sentence


def _started(state: State, event: ep.RevisionStarted, record: Record) -> None:
    found = state.endpoints[event.endpoint]
    number = found.last = event.revision
    found.revisions[number] = Revision(
        number=number,
        spec=found.spec,
        generation=found.generation,
        phase=CANARY,
        started_at=record.at,
        why=event.why,
        pools={pool.name: Sized() for pool in found.spec.pools},
        room=event.room,
    )
    known = {pool.name: found.wanted.get(pool.name, pool.min_replicas) for pool in found.spec.pools}
    found.wanted = known if not event.canary else {**known, **found.wanted}
    if not event.canary:
        _take_over(found, number, record)
        found.message = ""  # what was said of those before is over
    over = [r.number for r in found.listed() if r.phase not in ACTIVE]
    for old in over[: max(len(over) - KEEP_REVISIONS, 0)]:
        if not any(found.child(old, pool) in state.live for pool in found.revisions[old].pools):
            del found.revisions[old]


def _take_over(found: EndpointRecord, number: int, record: Record) -> None:
    for revision in found.revisions.values():
        if revision.phase == SERVING:
            revision.phase = REPLACED
    newest = found.revisions[number]
    newest.phase, newest.serving_at, found.serving = SERVING, record.at, number
    pools = {pool.name: pool.min_replicas for pool in found.spec.pools}
    found.wanted = {name: found.wanted.get(name, least) for name, least in pools.items()}


def _reckoned(state: State, event: ep.RoomReckoned, record: Record) -> None:
    state.endpoints[event.endpoint].revisions[event.revision].room = event.room


def _sized(state: State, event: ep.RevisionSized, record: Record) -> None:
    found = state.endpoints[event.endpoint]
    pool, job = found.revisions[event.revision].pools[event.pool], found.child(event.revision, event.pool)
    if event.replicas < pool.replicas:
        pool.lowered, pool.lowered_at = record.position, record.at
        pool.served = pool.served or (job in state.jobs and state.jobs[job].started_at > 0)
    pool.replicas = event.replicas


def _canary(state: State, event: ep.CanaryStarted, record: Record) -> None:
    revision = state.endpoints[event.endpoint].revisions[event.revision]
    revision.part, revision.watched_at = event.part, record.at


def _promoted(state: State, event: ep.RevisionPromoted, record: Record) -> None:
    found = state.endpoints[event.endpoint]
    _take_over(found, event.revision, record)
    found.message = f"revision {event.revision} serves: {event.why}"


def _rolled_back(state: State, event: ep.RevisionRolledBack, record: Record) -> None:
    found = state.endpoints[event.endpoint]
    revision = found.revisions[event.revision]
    before = [r for r in found.listed() if r.phase == REPLACED]
    if revision.phase == SERVING and before:
        before[-1].phase, found.serving = SERVING, before[-1].number
    _end(revision, ROLLED_BACK, record)
    revision.why = found.message = event.sentence


def _retired(state: State, event: ep.RevisionRetired, record: Record) -> None:
    _end(state.endpoints[event.endpoint].revisions[event.revision], RETIRED, record)


def _end(revision: Revision, phase: str, record: Record) -> None:
    revision.phase, revision.ended_at = phase, record.at
    for pool in revision.pools.values():
        pool.replicas, pool.lowered, pool.lowered_at = 0, record.position, record.at


def _key(state: State, event: ep.KeyIssued, record: Record) -> None:
    state.keys[event.key.id] = InferenceKey(
        key=event.key, version=record.position, created_at=record.at, actor=record.actor, note=event.note
    )


def _key_revoked(state: State, event: ep.KeyRevoked, record: Record) -> None:
    del state.keys[event.id]


def _usage(state: State, event: ep.UsageRecorded, record: Record) -> None:
    for name in event.freed:
        state.forgotten_at = max(state.forgotten_at, state.metered.pop(name).at)
    state.metered[event.gateway] = Metered(
        number=event.number, at=record.at, restored=state.term // TERM_GAP, waiting=event.waiting
    )
    for row in event.rows:
        _add(state.billed, row)
    for day in sorted(state.billed)[: max(len(state.billed) - KEEP_DAYS, 0)]:
        del state.billed[day]


def _add(billed: dict[int, dict[str, Used]], row: Usage) -> None:
    sums = billed.setdefault(int(row.at // 86_400), {})
    for most, (key, model) in enumerate(((row.key, row.model), ("*", row.model), ("*", "*")), 1):
        name = f"{row.tenant} {row.endpoint} {key} {model}"
        if name in sums or len(sums) < most * MAX_SUMS_A_DAY:
            break
    else:
        return
    used = sums.setdefault(name, Used(tenant=row.tenant, endpoint=row.endpoint, model=model, key=key))
    used.prompt_tokens += row.prompt_tokens
    used.cached_tokens += row.cached_tokens
    used.output_tokens += row.output_tokens
    used.estimated += row.estimated
    used.requests[row.outcome] = used.requests.get(row.outcome, 0) + 1


HANDLERS: dict[type[Event], Callable[[State, Any, Record], None]] = {
    ep.EndpointApplied: _applied,
    ep.EndpointStopRequested: _stop,
    ep.EndpointDeleted: _deleted,
    ep.EndpointScaled: _scaled,
    ep.RevisionStarted: _started,
    ep.RoomReckoned: _reckoned,
    ep.RevisionSized: _sized,
    ep.CanaryStarted: _canary,
    ep.RevisionPromoted: _promoted,
    ep.RevisionRolledBack: _rolled_back,
    ep.RevisionRetired: _retired,
    ep.KeyIssued: _key,
    ep.KeyRevoked: _key_revoked,
    ep.UsageRecorded: _usage,
}
"""What each fact changes; every one that has an ``endpoint`` also moves that endpoint's version (see State.apply)."""

TOLD = frozenset(HANDLERS) - {ep.UsageRecorded}
"""Facts after which gateways may have to be told something else."""
