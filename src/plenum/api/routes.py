"""Every route of the API in one table: its action, on what, who handles it, and what it takes and gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from starlette.responses import Response

from plenum.adapters.manifests.endpoint_types import AnyEndpointManifest
from plenum.adapters.manifests.fleet_types import FleetManifest
from plenum.adapters.manifests.people_types import TenantManifest, UserManifest
from plenum.adapters.manifests.workload_types import MANIFESTS
from plenum.api import admin, feed, gateways, hardware, jobs, keys, lists, logs, people, served_shapes, shapes
from plenum.api.call import Call
from plenum.api.jobs import AT, DRY_RUN, LABEL, PHASE, TENANT
from plenum.api.parameters import Parameter
from plenum.control.protocol import SyncRequest, SyncResponse
from plenum.model.workload import Kind
from plenum.ports.gateway import LoadReport, Peers, Table, UsageBatch

BASE = "/v1alpha1"


class Reach(Enum):
    """What a route's action is on; it is asked for before anything of the request's body is read."""

    SELF = "the caller's own account"
    TENANT = "the tenant in the path"
    EACH = "whatever the caller may see; each item is decided on its tenant"
    ACCOUNT = "a user or token; decided on its tenants, which the handler knows"
    CLUSTER = "what belongs to no tenant"
    AGENT = "the agent in the path"
    JOIN = "the agent that a join token lets in"
    GATEWAY = "the gateway in the path"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one address.

    Parameters
    ----------
    action
        In the words of ``policies.cedarschema``.
    takes
        Type of the body, if there is one: a manifest (JSON or YAML) or a struct (JSON).
    gives
        Type of the answer, or types; of a list, of its items; a media type where it is no JSON; None: an object.
    creates
        It may answer 201.
    large
        Its body may be large.
    """

    method: str
    path: str
    name: str
    action: str
    reach: Reach
    handler: Callable[[Call], Awaitable[Response]]
    about: str
    tag: str
    parameters: tuple[Parameter, ...] = ()
    takes: Any = None
    takes_optional: bool = False
    gives: Any = None
    is_list: bool = False
    creates: bool = False
    only_creates: bool = False
    large: bool = False
    headers: tuple[str, ...] = field(default=())


_RESOURCE_CHANGE = ("If-Match", "If-None-Match", "Idempotency-Key", "traceparent")
_CREATE = ("Idempotency-Key", "traceparent")


def _jobs(plural: str, kind: Kind) -> tuple[Route, ...]:
    collection = f"{BASE}/tenants/{{tenant}}/{plural}"
    one = f"{collection}/{{name}}"
    noun, tag = kind.value, "jobs"
    takes, gives = MANIFESTS[noun], shapes.Job
    if kind is Kind.ENDPOINT:
        takes, gives = AnyEndpointManifest, (shapes.Job, served_shapes.Endpoint)
    filters = (PHASE, LABEL, *lists.PAGING)
    return (
        Route(
            method="PUT", path=one, name=f"put{noun}", action="jobs:write", reach=Reach.TENANT, handler=jobs.put(kind), tag=tag,
            about=f"Make a {noun}, or change it.", parameters=(DRY_RUN,), takes=takes, gives=gives, creates=True,
            headers=_RESOURCE_CHANGE,
        ),
        Route(
            method="POST", path=collection, name=f"create{noun}", action="jobs:write", reach=Reach.TENANT, handler=jobs.create(kind),
            tag=tag, about=f"Make a {noun} that must not exist yet.", parameters=(DRY_RUN,), takes=takes, gives=gives,
            creates=True, headers=_CREATE,
        ),
        Route(
            method="GET", path=one, name=f"get{noun}", action="jobs:read", reach=Reach.TENANT, handler=jobs.get(kind), tag=tag,
            about=f"Show a {noun}.", gives=gives, headers=("If-None-Match",),
        ),
        Route(
            method="DELETE", path=one, name=f"delete{noun}", action="jobs:write", reach=Reach.TENANT, handler=jobs.delete(kind), tag=tag,
            about=f"Stop a {noun} and remove it.", parameters=(DRY_RUN,), headers=_RESOURCE_CHANGE,
        ),
        Route(
            method="GET", path=collection, name=f"list{noun}sOfTenant", action="jobs:read", reach=Reach.TENANT, handler=jobs.list_of(kind),
            tag=tag, about=f"List a tenant's {noun}s.", parameters=filters, gives=gives, is_list=True,
        ),
        Route(
            method="GET", path=f"{BASE}/{plural}", name=f"list{noun}s", action="jobs:read", reach=Reach.EACH, handler=jobs.list_of(kind),
            tag=tag, about=f"List the {noun}s of every tenant that one may see.", parameters=(TENANT, *filters), gives=gives,
            is_list=True,
        ),
        Route(
            method="GET", path=f"{one}/explain", name=f"explain{noun}", action="jobs:read", reach=Reach.TENANT, handler=jobs.explain(kind),
            tag=tag, about="Say why it waits, and what would let it start, tried on the present state.",
        ),
        Route(
            method="GET", path=f"{one}/why", name=f"why{noun}", action="jobs:read", reach=Reach.TENANT, handler=jobs.why(kind), tag=tag,
            about="Replay the decision that was made about it, with the code of now.", parameters=(AT,),
        ),
        Route(
            method="GET", path=f"{one}/logs", name=f"logs{noun}", action="logs:read", reach=Reach.TENANT, handler=logs.read(kind), tag=tag,
            about="Read what a replica wrote; X-Plenum-Offset tells of which byte on, X-Plenum-End whether more can follow.",
            parameters=logs.PARAMETERS, gives="text/plain",
        ),
    )  # fmt: skip


_JOBS = tuple(_jobs(plural, kind) for plural, kind in jobs.KINDS.items())

ROUTES: tuple[Route, ...] = (
    *(routes[i] for i in range(len(_JOBS[0])) for routes in _JOBS),
    Route(
        method="POST", path=f"{BASE}/agents/{{agent}}/sync", name="syncAgent", action="agents:sync", reach=Reach.AGENT,
        handler=hardware.sync, tag="agents", about="Tell what runs, and be told what is to run.", takes=SyncRequest, gives=SyncResponse,
        large=True,
    ),
    Route(
        method="POST", path=f"{BASE}/agents", name="joinAgent", action="agents:join", reach=Reach.JOIN, handler=hardware.join,
        tag="agents", about="Let an agent in, with a join token.", takes=hardware.JoinRequest, gives=shapes.Joined, creates=True,
        only_creates=True, large=True,
    ),
    Route(
        method="GET", path=f"{BASE}/events", name="listEvents", action="events:read", reach=Reach.EACH, handler=feed.events, tag="log",
        about="List facts of the log, or stream them as server-sent events (watch=true or Accept: text/event-stream), from "
        "Last-Event-ID or after on.",
        parameters=feed.LISTING, gives=shapes.Event, is_list=True, headers=("Last-Event-ID",),
    ),
    Route(
        method="GET", path=f"{BASE}/events/{{position}}", name="getEvent", action="events:read", reach=Reach.EACH, handler=feed.event,
        tag="log", about="Show a fact.", gives=shapes.Event,
    ),
    Route(
        method="GET", path=f"{BASE}/decisions", name="listDecisions", action="decisions:read", reach=Reach.EACH, handler=feed.decisions,
        tag="log", about="List decisions; to a tenant's people those about their jobs.", parameters=feed.DECISIONS,
        gives=shapes.DecisionMade, is_list=True,
    ),
    Route(
        method="GET", path=f"{BASE}/decisions/{{position}}", name="getDecision", action="decisions:read", reach=Reach.EACH,
        handler=feed.decision, tag="log", about="Show a decision.", gives=shapes.DecisionMade,
    ),
    Route(
        method="GET", path=f"{BASE}/tenants", name="listTenants", action="tenants:read", reach=Reach.EACH, handler=people.list_tenants,
        tag="people", about="List the tenants that one may see.", parameters=lists.PAGING, gives=shapes.Tenant, is_list=True,
    ),
    Route(
        method="GET", path=f"{BASE}/tenants/{{tenant}}", name="getTenant", action="tenants:read", reach=Reach.TENANT,
        handler=people.get_tenant, tag="people", about="Show a tenant.", gives=shapes.Tenant,
    ),
    Route(
        method="PUT", path=f"{BASE}/tenants/{{tenant}}", name="putTenant", action="experiments:write", reach=Reach.TENANT,
        handler=people.put_tenant, tag="people", about="Make a tenant, or change it; an admin changes its experiments alone.",
        parameters=(DRY_RUN,), takes=TenantManifest, gives=shapes.Tenant, creates=True, headers=_RESOURCE_CHANGE,
    ),
    Route(
        method="DELETE", path=f"{BASE}/tenants/{{tenant}}", name="deleteTenant", action="tenants:write", reach=Reach.CLUSTER,
        handler=people.delete_tenant, tag="people", about="Remove a tenant without live jobs.", parameters=(DRY_RUN,),
        headers=_RESOURCE_CHANGE,
    ),
    Route(
        method="GET", path=f"{BASE}/users", name="listUsers", action="users:read", reach=Reach.ACCOUNT, handler=people.list_users,
        tag="people", about="List the users that one may see.", parameters=lists.PAGING, gives=shapes.User, is_list=True,
    ),
    Route(
        method="GET", path=f"{BASE}/users/{{user}}", name="getUser", action="users:read", reach=Reach.ACCOUNT, handler=people.get_user,
        tag="people", about="Show a user.", gives=shapes.User, headers=("If-None-Match",),
    ),
    Route(
        method="PUT", path=f"{BASE}/users/{{user}}", name="putUser", action="users:write", reach=Reach.ACCOUNT, handler=people.put_user,
        tag="people", about="Make a user, or change its grants; an admin changes those in their tenants and leaves the others.",
        parameters=(DRY_RUN,), takes=UserManifest, gives=shapes.User, creates=True, headers=_RESOURCE_CHANGE,
    ),
    Route(
        method="DELETE", path=f"{BASE}/users/{{user}}", name="deleteUser", action="users:write", reach=Reach.ACCOUNT,
        handler=people.delete_user, tag="people", about="Remove a user and its tokens.", parameters=(DRY_RUN,), headers=_RESOURCE_CHANGE,
    ),
    Route(
        method="GET", path=f"{BASE}/tokens", name="listTokens", action="tokens:read", reach=Reach.ACCOUNT, handler=people.list_tokens,
        tag="people", about="List the tokens that one may see, without their secrets.", parameters=(people.OF_USER, *lists.PAGING),
        gives=shapes.Token, is_list=True,
    ),
    Route(
        method="POST", path=f"{BASE}/tokens", name="createToken", action="tokens:write", reach=Reach.ACCOUNT,
        handler=people.create_token, tag="people", about="Issue a token; its secret is in this answer and nowhere else.",
        parameters=(DRY_RUN,), takes=people.TokenRequest, gives=shapes.Token, creates=True, headers=_CREATE,
    ),
    Route(
        method="DELETE", path=f"{BASE}/tokens/{{token}}", name="deleteToken", action="tokens:write", reach=Reach.ACCOUNT,
        handler=people.delete_token, tag="people", about="Revoke a token.", parameters=(DRY_RUN,), headers=_CREATE,
    ),
    Route(
        method="GET", path=f"{BASE}/fleets", name="listFleets", action="fleets:read", reach=Reach.CLUSTER, handler=hardware.list_fleets,
        tag="hardware", about="List fleets, without their specs.", parameters=lists.PAGING, gives=shapes.Fleet, is_list=True,
    ),
    Route(
        method="GET", path=f"{BASE}/fleets/{{fleet}}", name="getFleet", action="fleets:read", reach=Reach.CLUSTER,
        handler=hardware.get_fleet, tag="hardware", about="Show a fleet.", gives=shapes.Fleet,
    ),
    Route(
        method="PUT", path=f"{BASE}/fleets/{{fleet}}", name="putFleet", action="fleets:write", reach=Reach.CLUSTER,
        handler=hardware.put_fleet, tag="hardware", about="Describe hardware, or describe it anew.", parameters=(DRY_RUN,),
        takes=FleetManifest, gives=shapes.Fleet, creates=True, large=True, headers=_RESOURCE_CHANGE,
    ),
    Route(
        method="DELETE", path=f"{BASE}/fleets/{{fleet}}", name="deleteFleet", action="fleets:write", reach=Reach.CLUSTER,
        handler=hardware.delete_fleet, tag="hardware", about="Take hardware out on which nothing runs.", parameters=(DRY_RUN,),
        headers=_RESOURCE_CHANGE,
    ),
    Route(
        method="GET", path=f"{BASE}/nodes", name="listNodes", action="nodes:read", reach=Reach.CLUSTER, handler=hardware.list_nodes,
        tag="hardware", about="List nodes.", parameters=(hardware.FLEET, hardware.NODE_PHASE, hardware.CORDONED, *lists.PAGING),
        gives=shapes.Node, is_list=True,
    ),
    Route(
        method="GET", path=f"{BASE}/nodes/{{node}}", name="getNode", action="nodes:read", reach=Reach.CLUSTER, handler=hardware.get_node,
        tag="hardware", about="Show a node and what is on it.", gives=shapes.Node,
    ),
    Route(
        method="POST", path=f"{BASE}/nodes/{{node}}/cordon", name="cordonNode", action="nodes:write", reach=Reach.CLUSTER,
        handler=hardware.cordon, tag="hardware", about="Keep new work off a node; with drain, move what is there elsewhere.",
        parameters=(DRY_RUN,), takes=hardware.Cordon, takes_optional=True, gives=shapes.Node, headers=_RESOURCE_CHANGE,
    ),
    Route(
        method="POST", path=f"{BASE}/nodes/{{node}}/uncordon", name="uncordonNode", action="nodes:write", reach=Reach.CLUSTER,
        handler=hardware.uncordon, tag="hardware", about="Let work on a node again.", parameters=(DRY_RUN,), gives=shapes.Node,
        headers=_RESOURCE_CHANGE,
    ),
    Route(
        method="GET", path=f"{BASE}/gateways/{{gateway}}/table", name="getTable", action="gateways:speak", reach=Reach.GATEWAY,
        handler=gateways.table, tag="serving", about="Tell a gateway what it serves, once that is another than it has.",
        parameters=(gateways.VERSION, gateways.WAIT, gateways.URL), gives=Table,
    ),
    Route(
        method="POST", path=f"{BASE}/gateways/{{gateway}}/loads", name="tellLoads", action="gateways:speak", reach=Reach.GATEWAY,
        handler=gateways.loads, tag="serving", about="Tell what a gateway saw, and be told which gateways there are.",
        takes=LoadReport, gives=Peers, large=True,
    ),
    Route(
        method="POST", path=f"{BASE}/gateways/{{gateway}}/usage", name="tellUsage", action="gateways:speak", reach=Reach.GATEWAY,
        handler=gateways.usage, tag="serving", about="Write down what a gateway's requests took; a batch that came before counts once.",
        takes=UsageBatch, gives=shapes.Done, large=True,
    ),
    Route(
        method="GET", path=f"{BASE}/gateways", name="listGateways", action="self:read", reach=Reach.SELF, handler=gateways.list_of,
        tag="serving", about="List the gateways that were heard of lately, and where clients reach them.",
    ),
    Route(
        method="POST", path=f"{BASE}/tenants/{{tenant}}/keys", name="createKey", action="keys:write", reach=Reach.TENANT,
        handler=keys.create, tag="serving", about="Issue a key for the gateway; its secret is in this answer and nowhere else.",
        parameters=(DRY_RUN,), takes=keys.KeyRequest, gives=served_shapes.InferenceKey, creates=True, headers=_CREATE,
    ),
    Route(
        method="GET", path=f"{BASE}/tenants/{{tenant}}/keys", name="listKeysOfTenant", action="keys:read", reach=Reach.TENANT,
        handler=keys.list_of, tag="serving", about="List a tenant's keys, without their secrets.", parameters=lists.PAGING,
        gives=served_shapes.InferenceKey, is_list=True,
    ),
    Route(
        method="GET", path=f"{BASE}/keys", name="listKeys", action="keys:read", reach=Reach.EACH, handler=keys.list_of, tag="serving",
        about="List the keys that one may see, without their secrets.", parameters=(keys.TENANT, *lists.PAGING),
        gives=served_shapes.InferenceKey, is_list=True,
    ),
    Route(
        method="GET", path=f"{BASE}/tenants/{{tenant}}/keys/{{key}}", name="getKey", action="keys:read", reach=Reach.TENANT,
        handler=keys.get, tag="serving", about="Show a key, without its secret.", gives=served_shapes.InferenceKey,
    ),
    Route(
        method="DELETE", path=f"{BASE}/tenants/{{tenant}}/keys/{{key}}", name="deleteKey", action="keys:write", reach=Reach.TENANT,
        handler=keys.delete, tag="serving", about="Revoke a key.", parameters=(DRY_RUN,), headers=_CREATE,
    ),
    Route(
        method="GET", path=f"{BASE}/tenants/{{tenant}}/usage", name="getUsageOfTenant", action="usage:read", reach=Reach.TENANT,
        handler=keys.usage, tag="serving", about="Sum up what a tenant's requests to models took.", parameters=keys.USAGE,
    ),
    Route(
        method="GET", path=f"{BASE}/usage", name="getUsage", action="usage:read", reach=Reach.EACH, handler=keys.usage, tag="serving",
        about="Sum up what requests to models took, of the tenants that one may see.", parameters=(keys.TENANT, *keys.USAGE),
    ),
    Route(
        method="GET", path=f"{BASE}/utilisation", name="getUtilisation", action="usage:read", reach=Reach.EACH, handler=admin.utilisation,
        tag="server", about="Show what is in use; to a tenant's people only their own part of it.",
    ),
    Route(
        method="GET", path=f"{BASE}/whoami", name="whoAmI", action="self:read", reach=Reach.SELF, handler=people.whoami, tag="server",
        about="Show who the token speaks for.", gives=shapes.WhoAmI,
    ),
    Route(
        method="GET", path=f"{BASE}/version", name="getVersion", action="self:read", reach=Reach.SELF, handler=admin.version, tag="server",
        about="Say which Plenum this is.", gives=shapes.Version,
    ),
    Route(
        method="POST", path=f"{BASE}/admin/backup", name="backup", action="log:backup", reach=Reach.CLUSTER, handler=admin.backup,
        tag="server", about="Send a consistent copy of the log.", gives="application/octet-stream",
    ),
    Route(
        method="POST", path=f"{BASE}/admin/verify", name="verify", action="log:verify", reach=Reach.CLUSTER, handler=admin.verify,
        tag="server", about="Build the state anew from the log and compare it with the one in use.",
    ),
    Route(
        method="GET", path="/metrics", name="metrics", action="metrics:read", reach=Reach.CLUSTER, handler=admin.metrics, tag="server",
        about="Show the metrics, for Prometheus.", gives="text/plain",
    ),
)  # fmt: skip
"""Matched in this order, so what is called most stands first. Beside these, open to everybody: /healthz, /readyz, /openapi.json."""
