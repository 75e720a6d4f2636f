"""In which turn manifests are applied, where some need others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import msgspec

from plenum.adapters.manifests.endpoints import ServedResource
from plenum.adapters.manifests.resources import Resource, TenantResource

ORDER = ("Tenant", "User", "Fleet", "TrainingJob", "Endpoint", "Task")
"""What others need goes first."""


def in_turn(resources: Iterable[Resource]) -> list[Resource]:
    """Return resources in the order in which they are applied.

    A tenant's experiments name its endpoints, which need their tenant. Where both are given, the tenant goes first without its experiments,
    only to be there (see ``only_new``), and once more as it is written after everything else.
    """
    ordered = sorted(resources, key=lambda resource: ORDER.index(resource.kind))
    serving = {resource.tenant for resource in ordered if isinstance(resource, ServedResource)}
    first, last = list[Resource](), list[Resource]()
    for resource in ordered:
        if isinstance(resource, TenantResource) and resource.policy.experiments and resource.name in serving:
            first.append(_without_experiments(resource))
            last.append(resource)
        else:
            first.append(resource)
    return first + last


def _without_experiments(tenant: TenantResource) -> TenantResource:
    spec = {name: value for name, value in tenant.manifest["spec"].items() if name != "experiments"}
    policy = msgspec.structs.replace(tenant.policy, experiments=())
    return replace(tenant, policy=policy, manifest={**tenant.manifest, "spec": spec}, version="", only_new=True)
