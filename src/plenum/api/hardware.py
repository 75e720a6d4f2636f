"""Fleets, nodes, and the agents that serve them."""

from __future__ import annotations

import asyncio
import ipaddress
import re

import msgspec
from starlette.responses import Response

from plenum.adapters.manifests.document import load_documents, plain
from plenum.adapters.manifests.resources import FleetResource, parse_manifest, parse_manifests
from plenum.api import lists, shapes, views
from plenum.api.authorise import Target
from plenum.api.call import JSON, Call, decoded, media_type
from plenum.api.errors import MediaTypeError
from plenum.api.identity import new_secret
from plenum.api.parameters import NAME, Parameter
from plenum.control import commands
from plenum.control.commands import AbsentError, TakenError, check_name
from plenum.control.events import NodeFacts
from plenum.control.hardware import node_facts
from plenum.control.protocol import SyncRequest
from plenum.control.records import FleetRecord
from plenum.model.errors import FieldError

WAIT_S = 30.0
"""Longest that an agent's request is held for news."""

WHY_CHARACTERS = 200
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")

NODE_PHASES = ("Unknown", "Ready", "Lost")
FLEET = Parameter(name="fleet", about="Only of this fleet.", pattern=NAME)
NODE_PHASE = Parameter(name="phase", about="Only in one of these phases.", choices=NODE_PHASES, many=True)
CORDONED = Parameter(
    name="cordoned", about="Only those that take (false) or do not take (true) new work.", kind="boolean"
)

# -- fleets -----------------------------------------------------------------------------------------


async def list_fleets(call: Call) -> Response:
    """List fleets, without their specs."""
    state = call.state
    return lists.page(call, "Fleet", state.fleets, lambda name: views.fleet(state.fleets[name], state))


async def get_fleet(call: Call) -> Response:
    """Show a fleet as it was written."""
    found = call.state.fleets.get(call.path["fleet"])
    if found is None:
        raise AbsentError(f"there is no fleet {call.path['fleet']}")
    written = await asyncio.to_thread(_written, found.manifest)
    # How many nodes are ready changes without a change of the fleet: its version is good for If-Match alone.
    return call.answer(_fleet(call, found, written), headers={"etag": f'"{found.version}"'})


def _written(manifest: str) -> dict:
    return plain(load_documents(manifest)[0].value)


def _fleet(call: Call, found: FleetRecord, written: dict) -> shapes.Fleet:
    labels = written.get("metadata", {}).get("labels") or {}
    return views.fleet(found, call.state, written.get("spec") or {}, labels)


async def put_fleet(call: Call) -> Response:
    """Describe hardware, or describe it anew; it is imitated inside the control plane unless an agent serves it."""
    name = call.path["fleet"]
    value = await call.value()
    if isinstance(value, dict):
        value.setdefault("apiVersion", shapes.API_VERSION)
        value.setdefault("kind", "Fleet")
        if isinstance(metadata := value.setdefault("metadata", {}), dict):
            metadata.setdefault("name", name)
    # Thousands of nodes take a while to build; the loop goes on meanwhile.
    manifest, text, facts = await asyncio.to_thread(_hardware, value)
    if manifest.name != name:
        raise FieldError("metadata.name", f"is {manifest.name[:60]!r}, and the address says {name!r}")
    old = call.state.fleets.get(name)
    command = commands.apply_fleet(
        name,
        text,
        facts,
        driver=old.driver if old else "simulated",
        agent=old.agent if old else "",
        address=old.address if old else "127.0.0.1",
        if_version=call.if_version(manifest.version, old.version if old else None),
    )
    if call.dry:
        before = await asyncio.to_thread(_written, old.manifest) if old else None
        return call.would(command, before, manifest.manifest)
    outcome = await call.execute(command)
    found = call.state.fleets.get(name)
    if found is None:
        return call.done(f"fleet {name} was accepted and is gone again", outcome)
    return call.answer(
        _fleet(call, found, manifest.manifest),
        status=201 if old is None else 200,
        outcome=outcome,
        version=found.version,
    )


def _hardware(value: object) -> tuple[FleetResource, str, tuple[NodeFacts, ...]]:
    """Return a fleet, the text it is kept as, and its nodes.

    The text is read back here, since whatever is in the log must be readable ever after.
    """
    manifest = parse_manifest(value)
    if not isinstance(manifest, FleetResource):
        raise FieldError("kind", f"must be Fleet here, not {manifest.kind}")
    # JSON is YAML, too.
    text = msgspec.json.format(msgspec.json.encode(manifest.manifest), indent=1).decode()
    (again,) = parse_manifests(text)
    assert isinstance(again, FleetResource)
    return manifest, text, node_facts(again.fleet)


async def delete_fleet(call: Call) -> Response:
    """Take hardware out on which nothing runs."""
    name = call.path["fleet"]
    old = call.state.fleets.get(name)
    command = commands.delete_fleet(name, if_version=call.if_version(current=old.version if old else None))
    if call.dry:
        return call.would(command)
    return call.done(f"fleet {name} is deleted", await call.execute(command))


# -- nodes ------------------------------------------------------------------------------------------


async def list_nodes(call: Call) -> Response:
    """List nodes, with the number of replicas on each."""
    state, query = call.state, call.query
    keys = (
        name
        for name, node in state.nodes.items()
        if query["fleet"] in (None, node.fleet)
        and (not query["phase"] or node.phase in query["phase"])
        and query["cordoned"] in (None, node.cordoned)
    )
    return lists.page(call, "Node", keys, lambda name: views.node(state.nodes[name], state, with_runs=False))


async def get_node(call: Call) -> Response:
    """Show a node and what is on it."""
    found = call.state.nodes.get(call.path["node"])
    if found is None:
        raise AbsentError(f"there is no node {call.path['node']}")
    return call.answer(views.node(found, call.state), headers={"etag": f'"{found.version}"'})


class Cordon(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Why a node is to take no new work; ``drain``: and to lose what it has."""

    why: str = ""
    drain: bool = False


async def cordon(call: Call) -> Response:
    """Keep new work off a node; with ``drain``, move what is there elsewhere."""
    asked = await call.struct(Cordon) if await call.body() else Cordon()
    if len(asked.why) > WHY_CHARACTERS or not asked.why.isprintable():
        raise FieldError("why", f"must be at most {WHY_CHARACTERS} printable characters")
    return await _cordon(call, True, asked)


async def uncordon(call: Call) -> Response:
    """Let work on a node again."""
    return await _cordon(call, False, Cordon())


async def _cordon(call: Call, on: bool, asked: Cordon) -> Response:
    name = call.path["node"]
    old = call.state.nodes.get(name)
    version = call.if_version(current=old.version if old else None)
    command = commands.cordon(name, on, drain=asked.drain, why=asked.why, if_version=version)
    if call.dry:
        return call.would(command)
    outcome = await call.execute(command)
    found = call.state.nodes.get(name)
    if found is None:
        return call.done(f"node {name} is gone", outcome)
    return call.answer(views.node(found, call.state), outcome=outcome, version=found.version)


# -- agents -----------------------------------------------------------------------------------------


class JoinRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a node agent says when it joins.

    Parameters
    ----------
    agent
        Its name.
    address
        Where other nodes reach its processes: an IP address or a host name.
    manifest
        Its host as a ``Fleet`` manifest, in YAML.
    """

    agent: str
    address: str
    manifest: str


async def join(call: Call) -> Response:
    """Let an agent in: its host becomes a fleet, and it gets a token of its own; with that it may say anew what its host is."""
    asked: JoinRequest = await call.struct(JoinRequest)
    check_name(asked.agent, "agent")
    call.allow(Target(kind="Agent", name=asked.agent))
    _check_address(asked.address)
    manifest, text, facts = await asyncio.to_thread(_written_hardware, asked.manifest)
    apply = commands.apply_fleet(manifest.name, text, facts, driver="agent", agent=asked.agent, address=asked.address)
    service, actor, trace = call.context.service, call.principal.actor, call.trace
    headers = {"cache-control": "no-store"}
    # One after another: of two that join under one name the second must see the first. Keys of idempotency do not matter here, as
    # joining again is safe.
    async with call.context.joining:
        _check_rejoin(call, asked.agent)
        outcome = await service.execute(apply.by(actor, trace=trace))
        if call.principal.kind == "agent":
            again = shapes.Joined(agent=asked.agent, fleet=manifest.name, token="", position=outcome.position)
            return call.answer(again, status=201, outcome=outcome, headers=headers)
        secret, note = new_secret(), f"joined with {call.principal.name}"
        issue = commands.issue_token(secret.id, asked.agent, secret.hash, kind="agent", note=note)
        outcome = await service.execute(issue.by(actor, trace=trace))
    joined = shapes.Joined(agent=asked.agent, fleet=manifest.name, token=secret.text, position=outcome.position)
    return call.answer(joined, status=201, outcome=outcome, headers=headers)


def _written_hardware(text: str) -> tuple[FleetResource, str, tuple[NodeFacts, ...]]:
    try:
        first, *others = load_documents(text)
        if others:
            raise FieldError("", "must be one Fleet manifest, not several")
        return _hardware(plain(first.value))
    except FieldError as error:
        raise error.located(prefix="manifest") from None


def _check_rejoin(call: Call, agent: str) -> None:
    """Keep whoever has a join token from passing for an agent that is there already, unless the token is for that agent alone."""
    if call.principal.bound_to == agent:
        return
    tokens = (token for token in call.state.tokens.values() if token.kind == "agent" and token.user == agent)
    if any(not token.expires_at or call.now < token.expires_at for token in tokens):
        raise TakenError(
            f"agent {agent} has joined already; use the token it got, or ask an operator to revoke that one or for a join token "
            f"for {agent} alone"
        )


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        if not _HOST.fullmatch(address.lower()):
            raise FieldError("address", f"must be an IP address or a host name, not {address[:60]!r}") from None


async def sync(call: Call) -> Response:
    """Take in what an agent reports, and answer what it is to run."""
    given = media_type(call.request)
    if given != JSON:
        raise MediaTypeError(f"send {JSON}, not {given[:60]}")
    request: SyncRequest = decoded(await call.body(), SyncRequest)
    if request.agent != call.path["agent"]:
        raise FieldError("agent", f"is {request.agent[:60]!r}, and the address says {call.path['agent']!r}")
    if not 0 <= request.wait_s <= WAIT_S:
        request = msgspec.structs.replace(request, wait_s=min(max(request.wait_s, 0.0), WAIT_S))
    call.request.scope["plenum.streaming"] = True
    response = await call.context.service.sync(request)
    return call.answer(response, headers={"cache-control": "no-store"})
