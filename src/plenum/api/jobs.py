"""Training jobs, endpoints and tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import quote

from starlette.responses import Response

from plenum.adapters.manifests.endpoints import ServedResource, is_served, parse_served
from plenum.adapters.manifests.workloads import JobManifest, parse_job
from plenum.api import endpoints, lists, views
from plenum.api.call import LONG_BYTES, Call
from plenum.api.errors import ParameterError
from plenum.api.parameters import NAME, Parameter
from plenum.api.redact import Tenants, reason_for, why_for
from plenum.control import commands
from plenum.control import records as st
from plenum.control.commands import AbsentError, ChangedError, TakenError
from plenum.control.endpoints.status import DEGRADED, IDLE, SERVING, UPDATING
from plenum.model.errors import FieldError
from plenum.model.workload import Kind

Handler = Callable[[Call], Awaitable[Response]]

PHASES = (
    *(st.PENDING, st.STARTING_JOB, st.RUNNING_JOB, st.STOPPING, st.SUCCEEDED, st.FAILED),
    *(SERVING, UPDATING, DEGRADED, IDLE),
)

KINDS: dict[str, Kind] = {"trainingjobs": Kind.TRAINING_JOB, "endpoints": Kind.ENDPOINT, "tasks": Kind.TASK}
"""Last part of the address to kind."""

TENANT = Parameter(name="tenant", about="Only of this tenant.", pattern=NAME)
PHASE = Parameter(name="phase", about="Only in one of these phases.", choices=PHASES, many=True)
LABEL = Parameter(
    name="label",
    about="Only with this label: name=value, or name for any value; all of several.",
    many=True,
    example="team=vision",
)
DRY_RUN = Parameter(
    name="dryRun", about="Answer what would be written, and write nothing.", kind="boolean", default=False
)
AT = Parameter(name="at", about="The decision at this time, in seconds since the epoch; else the last.", kind="number")


def list_of(kind: Kind) -> Handler:
    """Return what lists the jobs of a kind."""

    async def listed(call: Call) -> Response:
        state, visible = call.state, call.wanted_tenants()
        with_runs = any(path[:2] == ("status", "runs") for path in lists.fields_of(call.query["fields"]))
        keys = _matching(call, kind, visible)
        seen = call.visible

        def show(key: str) -> object:
            if kind is Kind.ENDPOINT and key in state.endpoints:
                return endpoints.shown(call, key, with_runs=with_runs)
            return views.job(state.jobs[key], state, seen, with_runs=with_runs)

        # What gateways see of models changes without the log.
        dated = kind is not Kind.ENDPOINT or not state.endpoints
        return lists.page(call, kind.value, keys, show, dated=dated)

    return listed


def _matching(call: Call, kind: Kind, tenants: Tenants) -> Iterator[str]:
    phases, labels = call.query["phase"], [label.partition("=") for label in call.query["label"]]
    if kind is Kind.ENDPOINT:
        for key, record in call.state.endpoints.items():
            visible = tenants is None or record.tenant in tenants
            if visible and endpoints.matches(call, key, phases, lambda has: not labels or _has_labels(has, labels)):
                yield key
    for key, job in call.state.jobs.items():
        if job.owner or job.workload.kind is not kind or (tenants is not None and job.workload.tenant not in tenants):
            continue
        if phases and job.phase not in phases:
            continue
        if labels and not _has_labels(views.labels_of(job), labels):
            continue
        yield key


def _has_labels(has: dict[str, str], wanted: list[tuple[str, str, str]]) -> bool:
    return all(name in has and (not sign or has[name] == value) for name, sign, value in wanted)


def job_of(call: Call, kind: Kind | None) -> st.Job:
    """Return the job that a path names; of the endpoint of a model, the one that holds its replicas.

    Raises
    ------
    AbsentError
        There is none of that kind.
    """
    if kind is Kind.ENDPOINT and endpoints.found(call):
        return endpoints.job_behind(call)
    job = call.state.jobs.get(call.job_id)
    if job is None or (kind is not None and job.workload.kind is not kind):
        raise _absent(call, kind)
    return job


def _absent(call: Call, kind: Kind | None) -> AbsentError:
    return AbsentError(f"there is no {kind.value if kind else 'job'} {call.job_id}")


def get(kind: Kind) -> Handler:
    """Return what shows one job."""

    async def got(call: Call) -> Response:
        if kind is Kind.ENDPOINT and endpoints.found(call):
            return endpoints.show(call)
        job = job_of(call, kind)
        return call.answer(views.job(job, call.state, call.visible), version=job.version)

    return got


def put(kind: Kind) -> Handler:
    """Return what makes a job or changes it."""

    async def applied(call: Call) -> Response:
        manifest = await _manifest(call, kind, call.path["name"])
        if isinstance(manifest, ServedResource):
            return await endpoints.apply(call, manifest)
        return await _apply(call, manifest)

    return applied


def create(kind: Kind) -> Handler:
    """Return what makes a job that must not exist yet."""

    async def created(call: Call) -> Response:
        manifest = await _manifest(call, kind, "")
        call.path["name"] = manifest.name
        if call.if_version() not in (None, 0):
            raise ParameterError("If-Match", "goes with a change, and this makes something new; use PUT to change it")
        if isinstance(manifest, ServedResource):
            return await endpoints.apply(call, manifest, only_new=True)
        try:
            return await _apply(call, manifest, only_new=True)
        except ChangedError:
            raise TakenError(
                f"there is a job {call.job_id} already; choose another name, or change it with PUT"
            ) from None

    return created


async def _manifest(call: Call, kind: Kind, name: str) -> JobManifest | ServedResource:
    """Return the manifest in the body, which must agree with the address."""
    value = await call.value()
    whose = call.path["tenant"]
    if isinstance(value, dict):
        value.setdefault("apiVersion", "plenum.dev/v1alpha1")
        value.setdefault("kind", kind.value)
        if isinstance(metadata := value.setdefault("metadata", {}), dict) and name:
            metadata.setdefault("name", name)
    # A large manifest takes long enough to check to hold everybody else up.
    large = len(await call.body()) >= LONG_BYTES
    parse = parse_served if is_served(value) else parse_job
    manifest = await asyncio.to_thread(parse, value, tenant=whose) if large else parse(value, tenant=whose)
    if manifest.kind != kind.value:
        raise FieldError("kind", f"is {manifest.kind}, and this is the address of a {kind.value}")
    if name and manifest.name != name:
        raise FieldError("metadata.name", f"is {manifest.name!r}, and the address says {name!r}")
    if manifest.tenant != whose:
        raise FieldError("metadata.tenant", f"is {manifest.tenant!r}, and the address says {whose!r}")
    return manifest


async def _apply(call: Call, manifest: JobManifest, *, only_new: bool = False) -> Response:
    state, job_id = call.state, manifest.workload.id
    if job_id in state.endpoints:
        raise TakenError(f"{job_id} is the endpoint of a model; delete it first, or choose another name")
    old = state.jobs.get(job_id)
    version = 0 if only_new else call.if_version(manifest.version, old.version if old else None)
    command = commands.apply_job(manifest.workload, manifest.process, manifest.manifest, if_version=version)
    if call.dry:
        return call.would(command, old.manifest if old else None, manifest.manifest)
    before = old.uid if old else 0
    outcome = await call.execute(command)
    job = call.state.jobs.get(job_id)
    if job is None:
        return call.done(f"{job_id} was accepted and is gone again", outcome)
    is_new = job.uid != before
    path = quote(call.request.scope["path"])
    headers = {"location": f"{path}/{manifest.name}" if only_new else path}
    return call.answer(
        views.job(job, call.state, call.visible),
        status=201 if is_new else 200,
        outcome=outcome,
        version=job.version,
        headers=headers if is_new else None,
    )


def delete(kind: Kind) -> Handler:
    """Return what stops and removes a job."""

    async def deleted(call: Call) -> Response:
        if kind is Kind.ENDPOINT and endpoints.found(call):
            return await endpoints.delete(call)
        # Asked again with the same key, it may be gone: then the command says what came of it.
        if "idempotency-key" not in call.request.headers or call.job_id in call.state.jobs:
            job_of(call, kind)
        old = call.state.jobs.get(call.job_id)
        command = commands.delete_job(call.job_id, if_version=call.if_version(current=old.version if old else None))
        if call.dry:
            return call.would(command)
        try:
            outcome = await call.execute(command)
        except AbsentError:
            raise _absent(call, kind) from None
        job = call.state.jobs.get(call.job_id)
        if job is None:
            return call.done(f"{call.job_id} is deleted", outcome)
        return call.answer(views.job(job, call.state, call.visible), outcome=outcome, version=job.version)

    return deleted


def explain(kind: Kind) -> Handler:
    """Return what says why a job waits, tried on the present state."""

    async def explained(call: Call) -> Response:
        job = job_of(call, kind)
        async with call.context.turn(call.principal, "explain"):
            reason = await call.context.service.explain(job.id)
        return call.answer(reason_for(reason, call.visible, call.state))

    return explained


def why(kind: Kind) -> Handler:
    """Return what replays a decision about a job."""

    async def answered(call: Call) -> Response:
        job = job_of(call, kind)
        async with call.context.turn(call.principal, "why"):
            answer = await call.context.service.why(job.id, call.query["at"])
        return call.answer(why_for(answer, call.visible, call.state))

    return answered
