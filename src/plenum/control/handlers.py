"""What each fact changes in the state; the table of all, with those about jobs and endpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from plenum.control import job_handlers
from plenum.control.endpoints import state as es
from plenum.control.events import (
    DecisionMade,
    Event,
    FleetApplied,
    FleetDeleted,
    JobChanged,
    JobScaled,
    JobSubmitted,
    LeaderChanged,
    MixLearned,
    NodeCordoned,
    NodeLost,
    NodeReady,
    TenantApplied,
    TenantDeleted,
    TokenIssued,
    TokenRevoked,
    UnitReleased,
    UserApplied,
    UserDeleted,
)
from plenum.control.records import (
    FleetRecord,
    Node,
    Tenant,
    Token,
    User,
)
from plenum.ports.nodes import EXITED
from plenum.ports.store import Record

if TYPE_CHECKING:
    from plenum.control.state import State


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
            if unit.stop and len(unit.runs) > 1:
                state.unorder(job, unit, record.position)
        state.settle(job, record)


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


def _decision(state: State, event: DecisionMade, record: Record) -> None:
    state.decided = record.position


def _mix(state: State, event: MixLearned, record: Record) -> None:
    state.mix = event.mix


SERVED = (TenantApplied, TenantDeleted, FleetApplied, FleetDeleted)
"""Events beside those of endpoints and their jobs after which gateways may have to be told something else."""


OPENING = (JobSubmitted, JobChanged, JobScaled, UnitReleased, NodeReady, NodeCordoned, FleetApplied, TenantApplied)
"""Events after which something that waits may be able to start."""


HANDLERS: dict[type[Event], Callable[[State, Any, Record], None]] = {
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
    DecisionMade: _decision,
    MixLearned: _mix,
    **job_handlers.HANDLERS,
    **es.HANDLERS,
}
"""What each event changes; an event that is not here is kept for people (``Refused``)."""
