"""Manifests of any kind, one after another, to typed resources."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

from plenum.adapters.manifests.document import Document, Written, document_of, load_documents, plain, read_text
from plenum.adapters.manifests.endpoints import ServedResource, is_served, served_of
from plenum.adapters.manifests.fields import check_head, validated, written
from plenum.adapters.manifests.fleet import fleet_of
from plenum.adapters.manifests.people_types import TenantManifest, UserManifest
from plenum.adapters.manifests.policy_types import policy_of
from plenum.adapters.manifests.workload_types import MANIFESTS
from plenum.adapters.manifests.workloads import JobManifest, job_of
from plenum.model.fleet import Fleet
from plenum.ports.policy import NOTHING, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetResource(Written):
    """Hardware."""

    fleet: Fleet


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantResource(Written):
    """A tenant.

    Parameters
    ----------
    quota
        Resource to amount in base units (``gpu_milli``, ``cpu_milli``, ``memory_bytes``).
    only_new
        Whether it is to be made if it is not there, and left as it is if it is.
    """

    quota: dict[str, int]
    max_jobs: int
    labels: dict[str, str]
    policy: Policy = NOTHING
    only_new: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UserResource(Written):
    """A user; ``grants`` are pairs of role and tenant."""

    grants: tuple[tuple[str, str], ...]


Resource = JobManifest | ServedResource | FleetResource | TenantResource | UserResource


def read_manifests(path: pathlib.Path | str, *, tenant: str = "default") -> tuple[Resource, ...]:
    """Read every manifest of a file, of whatever kind, in their order.

    Parameters
    ----------
    tenant
        Whose a job is that names no tenant.

    Notes
    -----
    A relative ``workingDir`` is meant from the file's folder; it becomes an absolute one, as nodes need it.

    Raises
    ------
    FileError
        The file cannot be read or is not YAML.
    FieldError
        Something in it cannot be meant; names file, line and field.
    """
    folder = pathlib.Path(path).absolute().parent
    return parse_manifests(read_text(path), str(path), tenant=tenant, folder=folder)


def parse_manifests(
    text: str, file: str = "", *, tenant: str = "default", folder: pathlib.Path | None = None
) -> tuple[Resource, ...]:
    """Read manifests from text; ``file`` is used in errors, ``folder`` is where a relative ``workingDir`` is meant from (None: nowhere).

    See :func:`read_manifests`.
    """
    seen: dict[tuple[str, str, str], int] = {}
    resources = []
    for document in load_documents(text, file):
        if folder is not None:
            _settle(document, folder)
        resource = resource_of(document, tenant=tenant)
        # Jobs of all three kinds share their names, and endpoints with them.
        family = "job" if isinstance(resource, (JobManifest, ServedResource)) else resource.kind
        key = (family, resource.tenant, resource.name)
        if key in seen:
            whose = f"{resource.tenant}/" if resource.tenant else ""
            sentence = f"{whose}{resource.name} is given twice, first on line {seen[key]}; give it once"
            raise document.wrong(("metadata", "name"), sentence)
        seen[key] = document.line_of(("metadata", "name"))
        resources.append(resource)
    return tuple(resources)


def _settle(document: Document, folder: pathlib.Path) -> None:
    """Make a job's ``workingDir`` absolute."""
    spec = document.value.get("spec")
    run = spec.get("run") if isinstance(spec, dict) else None
    if (
        isinstance(run, dict)
        and document.kind in MANIFESTS
        and run.get("workingDir")
        and isinstance(run["workingDir"], str)
    ):
        run["workingDir"] = os.path.normpath(folder / run["workingDir"])


def parse_manifest(value: object, *, tenant: str = "default") -> Resource:
    """Take a manifest of any kind from plain values, as parsed from JSON; as strict as YAML, without lines.

    Raises
    ------
    FileError
        Not a manifest at all, or beyond a limit of size.
    FieldError
        Something in it cannot be meant; names the field and what would be right.
    """
    return resource_of(document_of(value), tenant=tenant)


def resource_of(document: Document, *, tenant: str = "default") -> Resource:
    """Take a resource from a document. See :func:`parse_manifests`."""
    check_head(document, KINDS)
    if is_served(document.value):
        return served_of(document, tenant=tenant)
    if document.kind in MANIFESTS:
        return job_of(document, tenant=tenant)
    document, version = written(document)
    return _READERS[document.kind](document, version)


def _fleet(document: Document, version: str) -> FleetResource:
    return FleetResource(fleet=fleet_of(document), manifest=plain(document.value), version=version, document=document)


def _tenant(document: Document, version: str) -> TenantResource:
    manifest = validated(TenantManifest, document)
    return TenantResource(
        quota=dict(manifest.spec.quota),
        max_jobs=manifest.spec.max_jobs,
        labels=dict(manifest.metadata.labels),
        policy=policy_of(manifest.spec),
        manifest=plain(document.value),
        version=version,
        document=document,
    )


def _user(document: Document, version: str) -> UserResource:
    manifest = validated(UserManifest, document)
    return UserResource(
        grants=tuple((grant.role, grant.tenant) for grant in manifest.spec.grants),
        manifest=plain(document.value),
        version=version,
        document=document,
    )


_READERS: dict[str, Callable[[Document, str], Resource]] = {"Fleet": _fleet, "Tenant": _tenant, "User": _user}
KINDS = ("Fleet", *MANIFESTS, "Tenant", "User")
"""Every kind that a manifest may be of."""
