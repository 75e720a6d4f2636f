"""Endpoints of models: made, changed, shown and removed at the addresses of endpoints, beside those with a command of their own."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.responses import Response

from plenum.adapters.engines.arguments import risky_argument
from plenum.adapters.manifests.endpoints import ServedResource
from plenum.api import served_views
from plenum.api.call import Call
from plenum.api.errors import ForbiddenError
from plenum.api.served_shapes import Endpoint
from plenum.control.commands import AbsentError, ChangedError, TakenError
from plenum.control.endpoints.commands import apply_endpoint, delete_endpoint
from plenum.control.endpoints.status import status_of
from plenum.control.records import Job
from plenum.model import endpoint as model


def found(call: Call) -> bool:
    """Return whether the path names the endpoint of a model."""
    return call.job_id in call.state.endpoints


def shown(call: Call, endpoint_id: str, *, with_runs: bool = True) -> Endpoint:
    """Return an endpoint as the caller may see it."""
    record, service = call.state.endpoints[endpoint_id], call.context.service
    loads = service.controller.loads
    return served_views.endpoint(
        record, call.state, loads, call.visible, with_runs=with_runs, deciding=not service.holding
    )


def show(call: Call) -> Response:
    """Answer with the endpoint that the path names."""
    # What becomes of its replicas, and what gateways see, changes without a change of it: its version is good for If-Match alone.
    version = call.state.endpoints[call.job_id].version
    return call.answer(shown(call, call.job_id), headers={"etag": f'"{version}"'})


async def apply(call: Call, manifest: ServedResource, *, only_new: bool = False) -> Response:
    """Make an endpoint, or change it."""
    state, endpoint = call.state, manifest.endpoint
    old = state.endpoints.get(endpoint.id)
    if old is None and endpoint.id in state.jobs and state.jobs[endpoint.id].phase not in ("Succeeded", "Failed"):
        raise TakenError(f"there is a job {endpoint.id} already; delete it first, or choose another name")
    _check_attached(call, endpoint.attached)
    _check_arguments(call, endpoint, old.spec if old else None)
    version = 0 if only_new else call.if_version(manifest.version, old.version if old else None)
    command = apply_endpoint(endpoint, manifest.manifest, if_version=version)
    if call.dry:
        return call.would(command, old.manifest if old else None, manifest.manifest)
    before = old.uid if old else 0
    try:
        outcome = await call.execute(command)
    except ChangedError:
        if not only_new:
            raise
        raise TakenError(
            f"there is an endpoint {endpoint.id} already; choose another name, or change it with PUT"
        ) from None
    record = call.state.endpoints.get(endpoint.id)
    if record is None:
        return call.done(f"{endpoint.id} was accepted and is gone again", outcome)
    is_new = record.uid != before
    path = quote(call.request.scope["path"])
    headers = {"location": f"{path}/{manifest.name}" if only_new else path}
    return call.answer(
        shown(call, endpoint.id),
        status=201 if is_new else 200,
        outcome=outcome,
        version=record.version,
        headers=headers if is_new else None,
    )


async def delete(call: Call) -> Response:
    """Let an endpoint go: streams finish, replicas stop."""
    old = call.state.endpoints.get(call.job_id)
    command = delete_endpoint(call.job_id, if_version=call.if_version(current=old.version if old else None))
    if call.dry:
        return call.would(command)
    outcome = await call.execute(command)
    if call.job_id not in call.state.endpoints:
        return call.done(f"{call.job_id} is deleted", outcome)
    version = call.state.endpoints[call.job_id].version
    return call.answer(shown(call, call.job_id), outcome=outcome, version=version)


def job_behind(call: Call) -> Job:
    """Return the job that holds an endpoint's replicas, of its newest revision: of the slot that is asked for, else one that waits.

    Raises
    ------
    AbsentError
        It has none now.
    """
    jobs = served_views.children(call.state, call.state.endpoints[call.job_id])
    if not jobs:
        raise AbsentError(f"{call.job_id} has no replicas now; the next request wakes one, if its maximum allows")
    pool = str(call.query.get("slot") or "").rpartition("-")[0]
    of_pool = [job for job in jobs if not pool or any(role.name == pool for role in job.workload.roles)] or jobs
    return next((job for job in of_pool if job.waiting is not None), of_pool[0])


def _check_attached(call: Call, urls: tuple[str, ...]) -> None:
    """Keep the gateway from being sent where it must not go: to this fleet's nodes, and to what the operator allows.

    Raises
    ------
    ForbiddenError
        One is elsewhere.
    """
    for url in urls:
        host = (urlsplit(url).hostname or "").lower()
        own = {fleet.address.lower() for fleet in call.state.fleets.values() if fleet.driver == "agent"}
        if host not in own and not any(_covers(allowed, host) for allowed in call.context.settings.attach):
            raise ForbiddenError(
                f"servers at {host[:80]} may not be attached here: an operator allows addresses with the setting attach of the API"
            )


def _check_arguments(call: Call, wanted: model.Endpoint, old: model.Endpoint | None) -> None:
    """Keep a tenant's engine from files, code, addresses and keys of the node that it runs on.

    What an operator gave it may stay, with the weights that it was given for: such as whose code may run is a matter of whose they are.

    Raises
    ------
    ForbiddenError
        An argument may name one.
    """
    if call.principal.operator:
        return
    if wanted.timing_model.startswith(("/", ".")) and (old is None or old.timing_model != wanted.timing_model):
        raise ForbiddenError(
            "spec.timing.model: a file is an operator's to name, who can apply this endpoint; give a name of the catalogue"
        )
    if old and _given_for(old) == _given_for(wanted):
        return
    if name := risky_argument(wanted.engine, wanted.arguments, call.context.settings.arguments):
        raise ForbiddenError(
            f"spec.arguments: {name[:80]} is not among the arguments of {wanted.engine} that name no file, code, address or key; an "
            "operator can apply this endpoint, or allow the argument with the setting arguments of the API"
        )


def _given_for(spec: model.Endpoint) -> tuple[object, ...]:
    return spec.engine, spec.arguments, spec.model, spec.adapters


def _covers(allowed: str, host: str) -> bool:
    """Return whether a host is the one that is allowed, or an address in the network that is."""
    if allowed.lower() == host:
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(allowed)
    except ValueError:
        return False


def matches(call: Call, key: str, phases: tuple[str, ...], has_labels: Any) -> bool:
    """Return whether an endpoint passes the filters of a list."""
    record = call.state.endpoints[key]
    return (not phases or status_of(call.state, record).phase in phases) and has_labels(served_views.labels_of(record))
