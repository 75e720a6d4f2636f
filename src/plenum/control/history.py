"""Questions about the past, answered from the log: what was decided then, and does the code of now agree."""

from __future__ import annotations

import msgspec

from plenum.control import events as ev
from plenum.control.commands import AbsentError
from plenum.control.decider import Decider, Decision
from plenum.control.state import State, is_outdated
from plenum.model.units import counted
from plenum.ports.store import EventStore, Record, Snapshot

READ_AT_ONCE = 2_000


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about a job, and what the code of now makes of the same inputs.

    Parameters
    ----------
    at
        When it was made, in seconds since the epoch.
    decision, inputs
        Positions of the decision in the log, and of what it saw.
    then, again
        What it said, and what the same inputs give now, as sentences.
    agrees
        Whether the two are the same: the same replicas on the same devices, or the same reason to wait.
    places
        ``slot`` and ``node`` of each replica that was bound.
    """

    job: str
    at: float
    decision: int
    inputs: int
    policy: str
    then: str
    again: str
    agrees: bool
    places: tuple[tuple[str, str], ...] = ()


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The state in use against the same state built anew from the log."""

    position: int
    base: int
    digest: str
    rebuilt: str

    @property
    def same(self) -> bool:
        """Whether they are the same bytes."""
        return self.digest == self.rebuilt


def state_at(store: EventStore, position: int, *, from_zero: bool = False) -> State:
    """Return the state at a position of the log.

    Parameters
    ----------
    from_zero
        Pass over snapshots that can be made again; start where the records do.

    Raises
    ------
    AbsentError
        Compaction has removed the records that led to it.
    """
    base = store.base()
    if position < base:
        raise AbsentError(f"the log was compacted up to {base}; what led to position {position} is gone")
    state = started(store, base if from_zero else position)
    while state.position < position:
        records = store.read(state.position, min(READ_AT_ONCE, position - state.position))
        if not records:
            raise AbsentError(f"the log ends at {state.position}, before {position}")
        for record in records:
            state.apply(record)
    return state


def started(store: EventStore, at_most: int | None = None) -> State:
    """Return the state that reading the log on goes out from: the newest snapshot, or the newest at or below a position.

    One that earlier code made is passed over for the log's beginning, or for what compaction rests on: what is in use is then always what
    the code of now makes of the records that there are.
    """
    found, base = store.snapshot(at_most), store.base()
    if found is not None and found.position > base and is_outdated(found):
        found = store.snapshot(base) if base else None
    return State.from_snapshot(found)


def verify(store: EventStore, here: Snapshot) -> Verification:
    """Build the state at a snapshot's position from the records alone and compare."""
    rebuilt = state_at(store, here.position, from_zero=True).snapshot()
    return Verification(position=here.position, base=store.base(), digest=here.digest, rebuilt=rebuilt.digest)


def compact(store: EventStore, before: float, keys_before: float) -> int:
    """Remove what is older than a time and is not an audit fact; the state as it was then is kept, and replaying starts from it.

    Parameters
    ----------
    before
        Seconds since the epoch; records written earlier go.
    keys_before
        Command keys used earlier are forgotten: a command sent again after that is a new one.

    Returns
    -------
    int
        Records removed.

    Notes
    -----
    A crash in the middle leaves at worst no snapshot, so that the next start reads more of the log.
    """
    upto = last_before(store, before)
    if upto <= store.base():
        return 0
    then = state_at(store, upto).snapshot()
    store.drop_snapshots()
    store.save_snapshot(then)
    return store.compact(upto, keys_before=keys_before)


def last_before(store: EventStore, before: float) -> int:
    """Return the position of the last record written before a time; O(log n) reads. Clocks that jumped make it approximate."""
    low, high = store.base(), store.head()
    while low < high:
        middle = (low + high) // 2
        following = store.read(middle, 1)
        if following and following[0].at < before:
            low = following[0].position
        else:
            high = middle
    return low


def why(store: EventStore, decider: Decider, job: str, at: float | None, position: int | None) -> Why:
    """Find the last decision about a job, at most at a time or a position, and make it again.

    Raises
    ------
    AbsentError
        There is none, or compaction has removed its inputs.
    """
    said = _last_said(store, job, at, position)
    event = ev.event_of(said)
    assert isinstance(event, (ev.UnitBound, ev.JobWaiting))
    made_at, made = _decision(store, event.decision, said.position)
    then = state_at(store, event.decision)
    again = decider.decide(then, made.now)
    unit = event.unit if isinstance(event, ev.UnitBound) else ""
    bound_again = _found(again, job, unit) if isinstance(event, ev.UnitBound) else _found_any(again, job)
    agrees = (
        bound_again is not None and bound_again.bindings == event.bindings
        if isinstance(event, ev.UnitBound)
        else bound_again is None
        and _reason(again, job) is not None
        and _reason(again, job) == (event.code, event.constraint)
    )
    return Why(
        job=job,
        at=said.at,
        decision=made_at,
        inputs=event.decision,
        policy=made.policy,
        then=_sentence(event, job),
        again=_sentence(bound_again, job) if bound_again else _reason_sentence(again, job),
        agrees=agrees,
        places=_places(event) if isinstance(event, ev.UnitBound) else (),
    )


def _places(event: ev.UnitBound) -> tuple[tuple[str, str], ...]:
    """Return each replica with its node, or all of its nodes."""
    nodes: dict[str, list[str]] = {}
    for b in event.bindings:
        nodes.setdefault(ev.slot_of(b.role, b.rank), []).append(b.node)
    return tuple((slot, ", ".join(names)) for slot, names in nodes.items())


def _last_said(store: EventStore, job: str, at: float | None, position: int | None) -> Record:
    found: Record | None = None
    after = 0
    while records := store.read(after, READ_AT_ONCE, subject=f"job/{job}"):
        for record in records:
            late = (at is not None and record.at > at) or (position is not None and record.position > position)
            if record.type in ("UnitBound", "JobWaiting") and not late:
                found = record
        after = records[-1].position
    if found is None:
        raise AbsentError(f"no decision about {job} is in the log up to then")
    return found


def _decision(store: EventStore, inputs: int, before: int) -> tuple[int, ev.DecisionMade]:
    after = inputs
    while after < before:
        for record in store.read(after, min(READ_AT_ONCE, before - after)):
            after = record.position
            if record.type == "DecisionMade":
                event = ev.event_of(record)
                if isinstance(event, ev.DecisionMade) and event.inputs == inputs:
                    return record.position, event
    raise AbsentError(f"the decision on the inputs at {inputs} is not in the log any more")


def _found(decision: Decision | None, job: str, unit: str) -> ev.UnitBound | None:
    return next((b for b in (decision.bound if decision else ()) if (b.job, b.unit) == (job, unit)), None)


def _found_any(decision: Decision | None, job: str) -> ev.UnitBound | None:
    waits = _reason(decision, job) is not None
    return None if waits else next((b for b in (decision.bound if decision else ()) if b.job == job), None)


def _reason(decision: Decision | None, job: str) -> tuple[str, str] | None:
    return next(((r.code, r.constraint) for r in (decision.reasons if decision else ()) if r.workload == job), None)


def _reason_sentence(decision: Decision | None, job: str) -> str:
    for reason in decision.reasons if decision else ():
        if reason.workload == job:
            return reason.sentence
    return f"{job} would not be considered"


def _sentence(event: ev.UnitBound | ev.JobWaiting, job: str) -> str:
    if isinstance(event, ev.JobWaiting):
        return event.sentence
    nodes = list(dict.fromkeys(b.node for b in event.bindings))
    where = ", ".join(nodes) if len(nodes) <= 3 else f"{nodes[0]}, {nodes[1]} … {nodes[-1]} ({len(nodes)} nodes)"
    what = f"{job} {event.unit}".rstrip()
    places = 1 if event.unit else len(event.bindings)
    return f"{what} gets {counted(places, 'place')} on {where}"
