"""From the state and what gateways saw to what is shown of an endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from plenum.api import shapes, views
from plenum.api.redact import Tenants, text_for
from plenum.api.served_shapes import (
    Endpoint,
    EndpointPool,
    EndpointRevision,
    EndpointRun,
    EndpointStatus,
    InferenceKey,
    KeySpec,
    KeyStatus,
    Latency,
)
from plenum.api.shapes import timestamp
from plenum.control import records as st
from plenum.control.endpoints import state as es
from plenum.control.endpoints.loads import Loads
from plenum.control.endpoints.replicas import READY, first_of, job_of, replicas_of
from plenum.control.endpoints.status import PENDING, PoolStatus, status_of
from plenum.control.state import State
from plenum.model.endpoint import Pool
from plenum.ports.gateway import Replica
from plenum.ports.nodes import EXITED, RUNNING

COMPILING = (
    "the scheduler is compiling its loops before it places anything: about a minute, once; later starts take seconds"
)


def endpoint(
    found: es.EndpointRecord,
    state: State,
    loads: Loads,
    visible: Tenants,
    *,
    with_runs: bool = True,
    deciding: bool = True,
) -> Endpoint:
    """Return an endpoint as its tenant's people see it.

    Parameters
    ----------
    deciding
        Whether places are given already; else that is what one without any waits for.
    """
    status, replicas = status_of(state, found), _replicas(state, found)
    if not deciding and status.phase == PENDING and not status.failed:
        status = msgspec.structs.replace(status, message=COMPILING)
    waiting = next((job.waiting for job in children(state, found) if job.waiting is not None), None)
    return Endpoint(
        api_version=shapes.API_VERSION,
        kind="Endpoint",
        metadata=shapes.Metadata(
            name=found.spec.name,
            tenant=found.tenant,
            labels=labels_of(found),
            uid=str(found.uid),
            generation=found.generation,
            resource_version=str(found.version),
            created_at=timestamp(found.created_at),
            created_by=found.actor,
            trace_id=found.trace,
        ),
        spec=found.manifest.get("spec") or {},
        status=EndpointStatus(
            phase=status.phase,
            replicas=shapes.Replicas(
                wanted=sum(pool.wanted for pool in status.pools),
                bound=sum(pool.ready + pool.starting for pool in status.pools),
                running=sum(pool.ready for pool in status.pools),
            ),
            served_as=found.spec.model_name,
            message=text_for(status.message, visible, state),
            waiting=views.waiting_of(waiting, visible, state),
            revision=status.revision,
            canary=status.canary,
            failed=status.failed,
            pools=[_pool(pool, found, loads) for pool in status.pools],
            revisions=_revisions(found, status.parts, replicas, loads),
            runs=list(_runs(state, found, replicas, visible)) if with_runs else [],
            stopping=found.stop,
            limits=[text_for(limit, visible, state) for limit in status.limits],
        ),
    )


def labels_of(found: es.EndpointRecord) -> dict[str, str]:
    """Return an endpoint's labels."""
    return found.manifest.get("metadata", {}).get("labels") or {}


def children(state: State, found: es.EndpointRecord) -> list[st.Job]:
    """Return the live jobs that hold an endpoint's replicas, the newest revision's first."""
    revisions = sorted(found.revisions.values(), key=lambda revision: -revision.number)
    jobs = [job_of(state, found, revision, pool) for revision in revisions for pool in revision.pools]
    return [job for job in jobs if job is not None]


def _replicas(state: State, found: es.EndpointRecord) -> list[Replica]:
    return [
        replica
        for revision in found.revisions.values()
        for pool in revision.spec.pools
        for replica in replicas_of(state, found, revision, pool)
    ]


def _pool(pool: PoolStatus, found: es.EndpointRecord, loads: Loads) -> EndpointPool:
    seen = loads.now(found.id, pool.name)
    limits = next((p for p in found.spec.pools if p.name == pool.name), Pool())
    return EndpointPool(
        name=pool.name,
        min=limits.min_replicas,
        max=limits.max_replicas,
        wanted=pool.wanted,
        ready=pool.ready,
        starting=pool.starting,
        draining=pool.draining,
        waiting=seen.waiting,
        running=seen.running,
        requests_per_s=round(seen.rate_rps, 3),
        cache_used=round(seen.cache_used, 4),
    )


def _revisions(
    found: es.EndpointRecord, parts: dict[int, float], replicas: Iterable[Replica], loads: Loads
) -> list[EndpointRevision]:
    shown: list[EndpointRevision] = []
    ready = {replica.revision for replica in replicas if replica.phase == READY}
    for revision in sorted(found.revisions.values(), key=lambda revision: -revision.number):
        tallies = [loads.tally(found.id, revision.number, pool) for pool in revision.pools]
        latency = Latency(
            ttft_ms_p50=_quantile([t for tally in tallies for t in tally.ttft_s], 0.5),
            ttft_ms_p99=_quantile([t for tally in tallies for t in tally.ttft_s], 0.99),
            tpot_ms_p50=_quantile([t for tally in tallies for t in tally.tpot_s], 0.5),
            tpot_ms_p99=_quantile([t for tally in tallies for t in tally.tpot_s], 0.99),
        )
        shown.append(
            EndpointRevision(
                number=revision.number,
                phase=_phase(revision, revision.number in ready),
                part=round(parts.get(revision.number, 0.0), 4) if revision.number in ready else 0.0,
                started_at=timestamp(revision.started_at),
                ended_at=timestamp(revision.ended_at),
                why=revision.why,
                finished=sum(tally.finished for tally in tallies),
                failed=sum(tally.failed for tally in tallies),
                latency=None if latency == Latency() else latency,
            )
        )
    return shown


def _phase(revision: es.Revision, is_ready: bool) -> str:
    """Return a revision's phase: that which is to serve does so only once one of its replicas is ready."""
    if revision.phase != es.SERVING or is_ready:
        return revision.phase
    return "starting" if any(pool.replicas for pool in revision.pools.values()) else "idle"


def _quantile(values: list[float], quantile: float) -> float | None:
    """Return a quantile of some seconds, in milliseconds."""
    if not values:
        return None
    values = sorted(values)
    return round(1000 * values[min(int(len(values) * quantile), len(values) - 1)], 2)


def _runs(
    state: State, found: es.EndpointRecord, replicas: Iterable[Replica], visible: Tenants
) -> Iterable[EndpointRun]:
    told = {replica.run: replica for replica in replicas}
    for revision in found.revisions.values():
        for pool in revision.pools:
            job = job_of(state, found, revision, pool)
            for unit in () if job is None else job.units.values():
                if unit.runs:
                    first = first_of(unit)
                    yield EndpointRun(
                        **msgspec.structs.asdict(_whole(unit, visible, state)),
                        nodes=tuple(run.node for run in unit.runs.values()) if len(unit.runs) > 1 else (),
                        revision=revision.number,
                        pool=pool,
                        replica=told[first.id].phase if first.id in told else "",
                        url=first.url,
                    )
    for url in found.spec.attached:
        if url in told:
            replica = told[url]
            yield EndpointRun(
                id=url, slot="", node="", phase="running", revision=replica.revision, pool=replica.pool, replica=replica.phase, url=url
            )  # fmt: skip


def _whole(unit: st.Unit, visible: Tenants, state: State) -> shapes.Run:
    """Return the run of a replica's first node, with what there is to say of the one that keeps it from being whole."""
    first, runs = first_of(unit), list(unit.runs.values())
    other = next(
        (run for run in runs if run.phase == EXITED), next((run for run in runs if run.phase != RUNNING), first)
    )
    if other is first:
        return views.run_of(first, unit, visible, state)
    shown = views.run_of(other, unit, visible, state)
    message = f"{other.node}: {shown.message or shown.phase}"
    return msgspec.structs.replace(shown, id=first.id, slot=first.slot, node=first.node, message=message)


def key(found: es.InferenceKey, now: float, secret: str = "", **more: Any) -> InferenceKey:
    """Return what may be known of a key: never its hash, and its secret only once; ``more`` of its status, where it is new."""
    of = found.key
    return InferenceKey(
        api_version=shapes.API_VERSION,
        kind="Key",
        metadata=shapes.Metadata(
            name=of.id,
            tenant=of.tenant,
            resource_version=str(found.version),
            created_at=timestamp(found.created_at),
            created_by=found.actor,
        ),
        spec=KeySpec(
            models=of.models,
            requests_per_minute=of.requests_per_minute,
            tokens_per_minute=of.tokens_per_minute,
            max_parallel=of.max_parallel,
            tier=of.tier,
            note=found.note,
            expires_at=timestamp(of.expires_at),
        ),
        status=KeyStatus(phase="Expired" if of.expires_at and now >= of.expires_at else "Valid", **more),
        secret=secret,
    )
