"""One function decides: :meth:`Policies.allows`. The policies are text beside this file, in the Cedar language."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import cedarpy

from plenum.api.identity import Principal
from plenum.control.events import Grant

REMEMBERED = 16_384
"""Decisions kept: a decision depends on grants, action and target alone, and takes Cedar some 100 µs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What an action is on.

    Parameters
    ----------
    kind
        ``Tenant``, ``Account``, ``Agent``, ``Gateway``, ``Cluster`` or ``Visible``.
    name
        Of the tenant, account, agent or gateway.
    tenants
        Of an account: the tenants that are concerned.
    """

    kind: str
    name: str = ""
    tenants: frozenset[str] = frozenset()


CLUSTER = Target(kind="Cluster")
VISIBLE = Target(kind="Visible")


def tenant(name: str) -> Target:
    """Return a tenant as a target, with its jobs, events and logs."""
    return Target(kind="Tenant", name=name)


def account(name: str, tenants: frozenset[str]) -> Target:
    """Return a user, and its tokens, as a target."""
    return Target(kind="Account", name=name, tenants=tenants)


class Policies:
    """The policies, read once and checked against their schema.

    Raises
    ------
    ValueError
        The policies or their schema cannot be read, or do not fit each other.
    """

    def __init__(self, text: str = "", schema: str = "") -> None:
        here = files("plenum.api")
        text = text or (here / "policies.cedar").read_text("utf-8")
        schema = schema or (here / "policies.cedarschema").read_text("utf-8")
        self._schema = cedarpy.Schema.from_str(schema)
        if faults := cedarpy.validate_policies(text, self._schema).errors:
            raise ValueError(f"the policies do not fit their schema: {faults[0]}")
        self._policies = cedarpy.PolicySet.from_str(text)
        self._decided = lru_cache(REMEMBERED)(self._decide)

    def allows(self, principal: Principal, action: str, target: Target) -> bool:
        """Return whether somebody may do something."""
        # The name counts only where the target is the principal itself, so all who have the same grants share their decisions.
        own = target.name == principal.name
        return self._decided(principal.kind, principal.grants, principal.bound_to, own, action, target)

    def _decide(
        self, kind: str, grants: tuple[Grant, ...], bound_to: str, own: bool, action: str, target: Target
    ) -> bool:
        name = target.name if own else ""
        held = {role: [g.tenant for g in grants if g.role == role] for role in ("admin", "member", "viewer")}
        attributes: dict[str, dict[str, object]] = {
            "User": {"name": name, "operator": any(g.role == "operator" for g in grants), **held},
            "Join": {"agent": bound_to},
            "Agent": {"name": name},
            "Gateway": {"name": name},
        }
        of_target: dict[str, dict[str, object]] = {
            "Tenant": {"name": target.name},
            "Agent": {"name": target.name},
            "Gateway": {"name": target.name},
            "Account": {"name": target.name, "tenants": sorted(target.tenants)},
        }
        principal = {"type": f"Plenum::{kind.capitalize()}", "id": "principal"}
        resource = {"type": f"Plenum::{target.kind}", "id": "target"}
        entities = [
            {"uid": principal, "attrs": attributes[kind.capitalize()], "parents": []},
            {"uid": resource, "attrs": of_target.get(target.kind, {}), "parents": []},
        ]
        request = {
            "principal": principal,
            "action": {"type": "Plenum::Action", "id": action},
            "resource": resource,
            "context": {},
        }
        answer = cedarpy.is_authorized(request, self._policies, json.dumps(entities), self._schema)
        # An action that does not apply to such a target is no error of ours: it is not permitted.
        return answer.allowed and not answer.diagnostics.errors
