"""Manifests straight into a control plane of this process, as ``plenum up`` does with those it is given."""

from __future__ import annotations

import msgspec

from plenum.adapters.manifests.resources import FleetResource, Resource, TenantResource, UserResource, read_manifests
from plenum.control import commands
from plenum.control.commands import Command
from plenum.control.events import Grant
from plenum.control.hardware import node_facts
from plenum.control.service import Service


async def apply_files(service: Service, paths: tuple[str, ...], actor: str) -> list[str]:
    """Apply every manifest of some files; returns the subjects of those that were new or changed.

    Raises
    ------
    PlenumError
        A manifest is wrong (then nothing is applied), or the control plane refuses one (then those before it are applied).
    """
    wanted = [command_of(resource) for path in paths for resource in read_manifests(path)]
    changed = []
    for command in wanted:
        outcome = await service.execute(command.by(actor))
        if outcome.events:
            changed.append(command.subject)
    return changed


def command_of(resource: Resource) -> Command:
    """Return the command that applies a resource."""
    if isinstance(resource, FleetResource):
        text = msgspec.json.encode(resource.manifest).decode()
        return commands.apply_fleet(resource.name, text, node_facts(resource.fleet))
    if isinstance(resource, TenantResource):
        return commands.apply_tenant(resource.name, resource.quota, resource.max_jobs, resource.labels)
    if isinstance(resource, UserResource):
        return commands.apply_user(resource.name, [Grant(role, tenant) for role, tenant in resource.grants])
    return commands.apply_job(resource.workload, resource.process, resource.manifest)
