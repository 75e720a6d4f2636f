"""What gateways are told: endpoints, their replicas, how requests are parted between revisions, and keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import msgspec

from plenum.control.endpoints.replicas import ready_of, replicas_of
from plenum.control.endpoints.revisions import kept_up
from plenum.control.endpoints.state import ACTIVE, CANARY, REPLACED, EndpointRecord, Revision
from plenum.control.state import State
from plenum.ports.gateway import Replica, Served, Table
from plenum.ports.policy import NOTHING


def table_of(state: State, secret: str = "", salts: Mapping[str, str] | None = None) -> Table:
    """Return the table as of the state; it changes only where :attr:`~plenum.control.state.State.served_version` does.

    Parameters
    ----------
    secret
        From which keys of engines are derived; and salts, unless they are given.
    salts
        Tenant to what keeps its prefixes apart from others'.
    """
    tenants = sorted({found.tenant for found in state.endpoints.values()})
    return Table(
        version=state.served_version,
        served=tuple(served(state, state.endpoints[name]) for name in sorted(state.endpoints)),
        keys=tuple(state.keys[name].key for name in sorted(state.keys)),
        engine_secret=secret,
        salts={name: salt_of(secret, name) for name in tenants} if salts is None else dict(salts),
        uplinks_bps={n.facts.site: n.facts.site_bps for _, n in sorted(state.nodes.items()) if n.facts.site_bps},
        policies={name: tenant.policy for name, tenant in sorted(state.tenants.items()) if tenant.policy != NOTHING},
    )


def salt_of(secret: str, tenant: str) -> str:
    """Return a tenant's salt: HMAC-SHA256 of its name by the secret, the first 128 bits in hexadecimal."""
    return hmac.new(secret.encode(), f"salt {tenant}".encode(), hashlib.sha256).hexdigest()[:32]


def served(state: State, found: EndpointRecord) -> Served:
    """Return an endpoint as gateways serve it."""
    listed: dict[int, list[Replica]] = {}
    for revision in found.listed():
        there = [_placed(state, r) for pool in revision.spec.pools for r in replicas_of(state, found, revision, pool)]
        if there or revision.phase in ACTIVE:
            listed[revision.number] = there
    on_its_way = any(r.phase == "starting" for there in listed.values() for r in there)
    return Served(
        spec=found.spec,
        uid=found.uid,
        revisions=weights_of(state, found),
        specs={number: kept_up(found.revisions[number].spec, found.spec) for number in listed},
        replicas=tuple(r for there in listed.values() for r in there),
        woken=not found.stop and (on_its_way or any(wanted > 0 for wanted in found.wanted.values())),
    )


def _placed(state: State, replica: Replica) -> Replica:
    """Return a replica with the site of its node, so that gateways know which hand-offs cross from one to another."""
    node = state.nodes.get(replica.node)
    return msgspec.structs.replace(replica, site=node.facts.site) if node is not None and node.facts.site else replica


def weights_of(state: State, found: EndpointRecord) -> dict[int, float]:
    """Return the part of requests that each revision gets: a canary its own, the others by how many of their replicas are ready."""
    canaries = [r for r in found.active() if r.phase == CANARY and r.watched_at and ready_of(state, found, r)]
    part = sum(revision.part for revision in canaries)
    others = [revision for revision in found.active() if revision.phase != CANARY]
    ready = {revision.number: ready_of(state, found, revision) for revision in others}
    whole = sum(ready.values())
    weights = {revision.number: revision.part for revision in canaries}
    for revision in others:
        weight = ready[revision.number] / whole if whole else float(_is_last(revision))
        if weight > 0 and part < 1:
            weights[revision.number] = (1.0 - part) * weight
    return weights


def _is_last(revision: Revision) -> bool:
    return revision.phase != REPLACED
