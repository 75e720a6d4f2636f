"""``plenum schema``: print the JSON Schema of a manifest kind."""

from __future__ import annotations

import click

from plenum.cli.console import write_json

KINDS = ("Fleet", "TrainingJob", "Endpoint", "Task", "Tenant", "User")


@click.command()
@click.argument("kind", type=click.Choice(KINDS, case_sensitive=False))
def command(kind: str) -> None:
    """Print the JSON Schema of a manifest kind, for editors and checks.

    \b
    plenum schema Fleet > fleet.schema.json
    """
    from plenum.adapters.manifests.endpoint_types import AnyEndpointManifest
    from plenum.adapters.manifests.fleet_types import FleetManifest
    from plenum.adapters.manifests.people_types import TenantManifest, UserManifest
    from plenum.adapters.manifests.workload_types import MANIFESTS

    manifest = {"Fleet": FleetManifest, **MANIFESTS, "Tenant": TenantManifest, "User": UserManifest}
    found = AnyEndpointManifest if kind == "Endpoint" else manifest[kind]
    write_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **found.model_json_schema()})
