"""The kinds ``Tenant`` and ``User`` as people write them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from plenum.adapters.manifests.fields import Budgets, Labels, Name, Strict
from plenum.adapters.manifests.policy_types import PolicySpec

MAX_GRANTS = 1000


class TenantMetadata(Strict):
    """Name and labels; a tenant is in no tenant."""

    name: Name
    labels: Labels = Field(default_factory=dict)


class TenantSpec(PolicySpec):
    """``quota`` is the most of each resource that the tenant may hold at once, ``maxJobs`` its live jobs (0: no limit); the rest is for
    gateways."""

    quota: Budgets = Field(default_factory=dict)
    max_jobs: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class TenantManifest(Strict):
    """A group of people that share a quota and see one another's jobs."""

    api_version: Literal["plenum.dev/v1alpha1"]
    kind: Literal["Tenant"]
    metadata: TenantMetadata
    spec: TenantSpec = Field(default_factory=TenantSpec)


class GrantSpec(Strict):
    """A role in one tenant; ``operator`` goes with tenant ``*``, every tenant."""

    role: Literal["operator", "admin", "member", "viewer"]
    tenant: Name

    @model_validator(mode="after")
    def _goes_together(self) -> GrantSpec:
        if (self.role == "operator") != (self.tenant == "*"):
            sentence = "operator goes with tenant '*', every other role with one tenant"
            raise PydanticCustomError("wrong", "{sentence}", {"sentence": sentence})
        return self


class UserMetadata(Strict):
    """The name that tokens are issued to."""

    name: Name


class UserSpec(Strict):
    """What somebody may do."""

    grants: Annotated[list[GrantSpec], Field(max_length=MAX_GRANTS)] = Field(default_factory=list)


class UserManifest(Strict):
    """Somebody, and what they may do."""

    api_version: Literal["plenum.dev/v1alpha1"]
    kind: Literal["User"]
    metadata: UserMetadata
    spec: UserSpec = Field(default_factory=UserSpec)
