"""Manifests straight into a control plane of this process, as ``plenum up`` does with those it is given."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import takewhile

import msgspec

from plenum.adapters.manifests.endpoints import ServedResource
from plenum.adapters.manifests.resources import FleetResource, Resource, TenantResource, UserResource, read_manifests
from plenum.adapters.manifests.turns import in_turn
from plenum.control import commands
from plenum.control.commands import Command
from plenum.control.endpoints.commands import apply_endpoint
from plenum.control.events import Grant
from plenum.control.hardware import node_facts
from plenum.control.service import Service

READY_S = 10.0
"""Longest that nodes are waited for before jobs are applied; those that need them would wait for no good reason."""


async def apply_files(service: Service, paths: tuple[str, ...], actor: str) -> list[str]:
    """Apply every manifest of some files; returns the subjects of those that were new or changed.

    Raises
    ------
    PlenumError
        A manifest is wrong (then nothing is applied), or the control plane refuses one (then those before it are applied).
    """
    resources = in_turn(resource for path in paths for resource in read_manifests(path))
    hardware = list(takewhile(lambda resource: not resource.tenant, resources))
    changed = await _applied(service, hardware, actor)
    await nodes_ready(service)
    return changed + await _applied(service, resources[len(hardware) :], actor)


async def _applied(service: Service, resources: list[Resource], actor: str) -> list[str]:
    wanted = [(resource, command_of(resource)) for resource in resources]
    changed = []
    for resource, command in wanted:
        if isinstance(resource, TenantResource) and resource.only_new and resource.name in service.state.tenants:
            continue
        outcome = await service.execute(command.by(actor))
        if outcome.events:
            changed.append(f"{resource.kind} {resource.name}")
    return changed


async def nodes_ready(service: Service) -> None:
    """Wait until every node that this process serves has reported, for a while."""
    own = {*service.embedded, *(f.agent for f in service.state.fleets.values() if f.driver == "simulated")}

    def missing() -> bool:
        return any(node.phase == "Unknown" for agent in own for node in service.state.nodes_of(agent))

    if not missing():
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(READY_S):
            async for _ in service.watch(service.state.position):
                if not missing():
                    return


def command_of(resource: Resource) -> Command:
    """Return the command that applies a resource."""
    if isinstance(resource, FleetResource):
        text = msgspec.json.encode(resource.manifest).decode()
        return commands.apply_fleet(resource.name, text, node_facts(resource.fleet))
    if isinstance(resource, TenantResource):
        return commands.apply_tenant(resource.name, resource.quota, resource.max_jobs, resource.labels, resource.policy)
    if isinstance(resource, UserResource):
        return commands.apply_user(resource.name, [Grant(role, tenant) for role, tenant in resource.grants])
    if isinstance(resource, ServedResource):
        return apply_endpoint(resource.endpoint, resource.manifest)
    return commands.apply_job(resource.workload, resource.process, resource.manifest)
