"""From the state to what is shown of it."""

from __future__ import annotations

from typing import Any

import msgspec

from plenum.api import shapes
from plenum.api.redact import Tenants, body_for, text_for
from plenum.api.shapes import API_VERSION, timestamp
from plenum.control import events as ev
from plenum.control import records as st
from plenum.control.state import State
from plenum.control.units import members
from plenum.ports.nodes import RUNNING
from plenum.ports.store import Record


def job(found: st.Job, state: State, visible: Tenants, *, with_runs: bool = True) -> shapes.Job:
    """Return a job as its tenant's people see it."""
    manifest = found.manifest
    return shapes.Job(
        api_version=API_VERSION,
        kind=found.workload.kind.value,
        metadata=shapes.Metadata(
            name=found.workload.name,
            tenant=found.workload.tenant,
            labels=labels_of(found),
            uid=str(found.uid),
            generation=found.generation,
            resource_version=str(found.version),
            created_at=timestamp(found.submitted_at),
            created_by=found.actor,
            trace_id=found.trace,
        ),
        spec=manifest.get("spec") or {},
        status=_job_status(found, state, visible, with_runs),
    )


def labels_of(found: st.Job) -> dict[str, str]:
    """Return a job's labels."""
    return found.manifest.get("metadata", {}).get("labels") or {}


def _job_status(found: st.Job, state: State, visible: Tenants, with_runs: bool) -> shapes.JobStatus:
    waiting, units = found.waiting, found.units
    inside: tuple[str, ...] = ()
    given_up: tuple[str, ...] = ()
    cost: float | None = None
    if len(units) == 1:
        (unit,) = units.values()
        inside, given_up, cost = unit.inside, unit.given_up, unit.relative_cost
    return shapes.JobStatus(
        phase=found.phase,
        replicas=replicas_of(found),
        waiting=waiting_of(waiting, visible, state),
        attempt=max((unit.attempt for unit in units.values()), default=0),
        failures=sum(unit.failures for unit in units.values()),
        inside=inside,
        given_up=tuple(text_for(wish, visible, state) for wish in given_up),
        relative_cost=cost,
        runs=[run_of(run, unit, visible, state) for unit in units.values() for run in unit.runs.values()]
        if with_runs
        else [],
        started_at=timestamp(found.started_at),
        ended_at=timestamp(found.ended_at),
        message=text_for(found.message, visible, state),
        stopping=found.stop,
    )


def replicas_of(found: st.Job) -> shapes.Replicas:
    """Count a job's replicas by what has become of them; what is not bound waits."""
    wanted = sum(role.replicas for role in found.workload.roles)
    gang = found.workload.gang
    per_unit = wanted if gang else 1
    bound = running = succeeded = failed = 0
    for unit in found.units.values():
        if unit.phase == "bound":
            up = [run.phase == RUNNING for run in unit.runs.values()]
            bound += len(up) if gang else 1
            running += sum(up) if gang else all(up)
        elif unit.phase == "succeeded":
            succeeded += per_unit
        elif unit.phase == "failed":
            failed += per_unit
    return shapes.Replicas(wanted=wanted, bound=bound, running=running, succeeded=succeeded, failed=failed)


def waiting_of(waiting: st.Waiting | None, visible: Tenants, state: State) -> shapes.Waiting | None:
    """Return why a job waits, if it does."""
    if waiting is None:
        return None
    return shapes.Waiting(
        code=waiting.code,
        constraint=text_for(waiting.constraint, visible, state),
        sentence=text_for(waiting.sentence, visible, state),
        since=timestamp(waiting.since),
        decision=waiting.decision,
    )


def run_of(run: st.Run, unit: st.Unit, visible: Tenants, state: State) -> shapes.Run:
    """Return one replica of a job."""
    return shapes.Run(
        id=run.id,
        slot=run.slot,
        node=run.node,
        phase=run.phase,
        attempt=unit.attempt,
        gpus=members(run.gpu_mask),
        numa=members(run.numa_mask),
        exit_code=run.exit_code,
        cause=run.cause,
        message=text_for(run.message, visible, state),
        started_at=timestamp(run.started_at),
        ended_at=timestamp(run.ended_at),
    )


def tenant(found: st.Tenant, state: State) -> shapes.Tenant:
    """Return a tenant, with what it holds."""
    prefix = f"{found.name}/"
    return shapes.Tenant(
        metadata=shapes.Metadata(
            name=found.name,
            labels=found.labels,
            resource_version=str(found.version),
            created_at=timestamp(found.created_at),
        ),
        spec=shapes.TenantSpec(
            quota=found.quota,
            max_jobs=found.max_jobs,
            experiments=found.policy.experiments or msgspec.UNSET,
            moderation=found.policy.moderation or msgspec.UNSET,
        ),
        status=shapes.TenantStatus(
            jobs=sum(1 for job_id in state.live if job_id.startswith(prefix)),
            held={name: held for name, held in sorted(state.usage.get(found.name, {}).items()) if held},
        ),
    )


def user(found: st.User, visible: Tenants) -> shapes.User:
    """Return a user, with those grants that somebody may see."""
    grants = found.grants if visible is None else tuple(g for g in found.grants if g.tenant in visible)
    return shapes.User(
        metadata=shapes.Metadata(
            name=found.name, resource_version=str(found.version), created_at=timestamp(found.created_at)
        ),
        spec=shapes.UserSpec(grants=grants_of(grants)),
    )


def grants_of(grants: tuple[ev.Grant, ...]) -> tuple[shapes.Grant, ...]:
    """Return grants as they are shown."""
    return tuple(shapes.Grant(role=grant.role, tenant=grant.tenant) for grant in grants)


def token(found: st.Token, now: float, secret: str = "") -> shapes.Token:
    """Return what may be known of a token: never its hash, and its secret only once."""
    return shapes.Token(
        api_version=API_VERSION,
        kind="Token",
        metadata=shapes.Metadata(
            name=found.id, resource_version=str(found.version), created_at=timestamp(found.created_at)
        ),
        spec=shapes.TokenSpec(
            user=found.user, kind=found.kind, note=found.note, expires_at=timestamp(found.expires_at)
        ),
        status=shapes.TokenStatus(phase="Expired" if found.expires_at and now >= found.expires_at else "Valid"),
        secret=secret,
    )


def fleet(
    found: st.FleetRecord, state: State, spec: dict[str, Any] | None = None, labels: dict[str, str] | None = None
) -> shapes.Fleet:
    """Return a fleet; its manifest's ``spec`` only if it is given."""
    return shapes.Fleet(
        api_version=API_VERSION,
        kind="Fleet",
        metadata=shapes.Metadata(
            name=found.name,
            labels=labels or {},
            resource_version=str(found.version),
            created_at=timestamp(found.created_at),
        ),
        spec=spec,
        status=shapes.FleetStatus(
            driver=found.driver,
            agent=found.agent,
            address=found.address,
            nodes=len(found.nodes),
            ready=sum(1 for name in found.nodes if state.nodes[name].phase == "Ready"),
        ),
    )


def node(found: st.Node, state: State, *, with_runs: bool = True) -> shapes.Node:
    """Return a node, and what is on it."""
    facts = found.facts
    held = state.by_node.get(found.name, {})
    return shapes.Node(
        metadata=shapes.Metadata(name=found.name, resource_version=str(found.version)),
        spec=shapes.NodeSpec(
            fleet=found.fleet,
            gpus=facts.gpus,
            gpu_model=facts.gpu_model,
            cpu_milli=facts.cpu_milli,
            memory_bytes=facts.memory_bytes,
            power_w=facts.power_w,
            traits=facts.traits,
        ),
        status=shapes.NodeStatus(
            phase=found.phase,
            cordoned=found.cordoned,
            draining=found.draining,
            why=found.why,
            since=timestamp(found.since),
            runs=len(held),
            running=[_node_run(run_id, *there) for run_id, there in held.items()] if with_runs else [],
        ),
    )


def _node_run(run_id: str, owner: st.Job, unit: st.Unit) -> shapes.NodeRun:
    run = unit.runs[run_id]
    return shapes.NodeRun(id=run_id, job=owner.id, slot=run.slot, phase=run.phase, gpus=members(run.gpu_mask))


def event(record: Record, state: State, visible: Tenants) -> shapes.Event:
    """Return a fact as somebody may see it."""
    return shapes.Event(
        position=record.position,
        at=timestamp(record.at),
        type=record.type,
        body=msgspec.Raw(body_for(record, visible, state)),
        subject=record.subject,
        tenant=record.tenant,
        actor=record.actor,
        trace_id=record.trace,
        audit=record.audit,
    )


def decision(record: Record, state: State, visible: Tenants) -> shapes.DecisionMade | None:
    """Return a decision as somebody may see it; None: none of their jobs were in it."""
    made = ev.event_of(record)
    assert isinstance(made, ev.DecisionMade)
    considered, rejected = made.considered, made.rejected
    if visible is not None:
        considered = tuple(job_id for job_id in considered if job_id.partition("/")[0] in visible)
        rejected = tuple(r for r in rejected if r.job.partition("/")[0] in visible)
        if not considered and not rejected:
            return None
    return shapes.DecisionMade(
        position=record.position,
        at=timestamp(record.at),
        inputs=made.inputs,
        now=timestamp(made.now),
        policy=made.policy,
        considered=considered,
        bound=made.bound if visible is None else None,
        waiting=made.waiting if visible is None else None,
        rejected=tuple(shapes.Rejected(job=r.job, unit=r.unit, why=text_for(r.why, visible, state)) for r in rejected),
    )


def changes(events: tuple[ev.Event, ...]) -> list[shapes.Changed]:
    """Return the facts that a command would write."""
    shown = []
    for found in events:
        body = msgspec.to_builtins(found)
        body.pop("hash", None)
        shown.append(
            shapes.Changed(
                type=type(found).__name__,
                body=msgspec.Raw(msgspec.json.encode(body)),
                subject=found.subject(),
                tenant=found.tenant(),
            )
        )
    return shown


def differences(old: Any, new: Any, path: str = "", limit: int = 500) -> list[shapes.Difference]:
    """Return where two manifests differ, by dotted path, at most ``limit`` places."""
    found: list[shapes.Difference] = []
    waiting = [(path, old, new)]
    while waiting and len(found) < limit:
        at, before, after = waiting.pop()
        if isinstance(before, dict) and isinstance(after, dict):
            keys = sorted({*before, *after}, reverse=True)
            waiting += [(f"{at}.{key}" if at else key, before.get(key), after.get(key)) for key in keys]
        elif before != after:
            found.append(shapes.Difference(path=at, from_=before, to=after))
    return found
