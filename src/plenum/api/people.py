"""Tenants, users and their tokens."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.responses import Response

from plenum.adapters.manifests.resources import TenantResource, UserResource, parse_manifest
from plenum.api import lists, shapes, views
from plenum.api.authorise import CLUSTER, account
from plenum.api.call import LONG_BYTES, Call
from plenum.api.errors import ForbiddenError, HiddenError, SecretGoneError
from plenum.api.identity import new_secret
from plenum.api.parameters import NAME, Parameter
from plenum.control import commands
from plenum.control.commands import AbsentError, check_name
from plenum.control.controller import Outcome
from plenum.control.events import Grant
from plenum.control.records import Tenant, Token, User
from plenum.model.errors import FieldError
from plenum.ports.policy import Policy

NOTE_CHARACTERS = 200
LONGEST_S = 10 * 366 * 86_400

OF_USER = Parameter(name="user", about="Only of this user.", pattern=NAME)

# -- tenants ----------------------------------------------------------------------------------------


async def list_tenants(call: Call) -> Response:
    """List the tenants that the caller may see."""
    state, visible = call.state, call.visible
    keys = (name for name in state.tenants if visible is None or name in visible)
    return lists.page(call, "Tenant", keys, lambda name: views.tenant(state.tenants[name], state))


async def get_tenant(call: Call) -> Response:
    """Show a tenant."""
    found = call.state.tenants.get(call.path["tenant"])
    if found is None:
        raise AbsentError(f"there is no tenant {call.path['tenant']}")
    # What it holds changes without a change of the tenant: its version is good for If-Match alone.
    return call.answer(views.tenant(found, call.state), headers={"etag": f'"{found.version}"'})


async def put_tenant(call: Call) -> Response:
    """Make a tenant or change it; an admin changes its experiments alone."""
    name = call.path["tenant"]
    manifest = await _manifest(call, "Tenant", name)
    assert isinstance(manifest, TenantResource)
    old = call.state.tenants.get(name)
    version = call.if_version(manifest.version, old.version if old else None)
    if not call.context.policies.allows(call.principal, "tenants:write", CLUSTER):
        _check_own(manifest, old)
        # What only operators change is taken over from now: it must not come back as it was.
        version = version if version is not None else old.version if old else 0
    values = manifest.quota, manifest.max_jobs, manifest.labels, manifest.policy
    command = commands.apply_tenant(name, *values, if_version=version)
    if call.dry:
        before = None if old is None else _tenant_values(old.quota, old.max_jobs, old.labels, old.policy)
        return call.would(command, before, _tenant_values(*values))
    outcome = await call.execute(command)
    found = call.state.tenants.get(name)
    if found is None:
        return call.done(f"tenant {name} was accepted and is gone again", outcome)
    return call.answer(
        views.tenant(found, call.state), status=201 if old is None else 200, outcome=outcome, version=found.version
    )


def _check_own(manifest: TenantResource, old: Tenant | None) -> None:
    """Raise unless a change is of a tenant's experiments alone, which are its admins' to set."""
    wanted = manifest.quota, manifest.max_jobs, manifest.labels, manifest.policy.moderation
    if old is None or wanted != (old.quota, old.max_jobs, old.labels, old.policy.moderation):
        raise ForbiddenError(
            "admins of a tenant change its spec.experiments, and operators the rest; start from "
            f"`plenum get tenant {manifest.name} -o yaml`, which shows the rest as it is"
        )


def _tenant_values(quota: dict[str, int], max_jobs: int, labels: dict[str, str], policy: Policy) -> dict[str, Any]:
    spec = {"quota": quota, "maxJobs": max_jobs, **msgspec.to_builtins(policy)}
    return {"metadata": {"labels": labels}, "spec": spec}


async def delete_tenant(call: Call) -> Response:
    """Remove a tenant without live jobs."""
    name = call.path["tenant"]
    old = call.state.tenants.get(name)
    command = commands.delete_tenant(name, if_version=call.if_version(current=old.version if old else None))
    if call.dry:
        return call.would(command)
    return call.done(f"tenant {name} is deleted", await call.execute(command))


async def _manifest(call: Call, kind: str, name: str) -> Any:
    """Return the manifest in the body, which must agree with the address."""
    value = await call.value()
    if isinstance(value, dict):
        value.setdefault("apiVersion", shapes.API_VERSION)
        value.setdefault("kind", kind)
        if isinstance(metadata := value.setdefault("metadata", {}), dict):
            metadata.setdefault("name", name)
    large = len(await call.body()) >= LONG_BYTES
    manifest = await asyncio.to_thread(parse_manifest, value) if large else parse_manifest(value)
    if manifest.kind != kind:
        raise FieldError("kind", f"is {manifest.kind}, and this is the address of a {kind}")
    if manifest.name != name:
        raise FieldError("metadata.name", f"is {manifest.name[:60]!r}, and the address says {name!r}")
    return manifest


# -- users ------------------------------------------------------------------------------------------


def tenants_of(user: User | None) -> frozenset[str]:
    """Return the tenants in which somebody has a role (``*`` for an operator)."""
    return frozenset(grant.tenant for grant in user.grants) if user else frozenset()


def _may(call: Call, action: str, user: User) -> bool:
    return call.context.policies.allows(call.principal, action, account(user.name, tenants_of(user)))


def _administered(call: Call) -> frozenset[str] | None:
    """Return the tenants whose grants the caller may see and give; None: all."""
    if call.principal.operator:
        return None
    return frozenset(grant.tenant for grant in call.principal.grants if grant.role == "admin")


def _grants_seen(call: Call, user: User) -> frozenset[str] | None:
    return None if user.name == call.principal.name else _administered(call)


async def list_users(call: Call) -> Response:
    """List users: all to operators, those with roles in their tenants to admins, themselves to everybody."""
    state = call.state
    keys = (name for name, user in state.users.items() if _seen(call, user))
    return lists.page(
        call, "User", keys, lambda name: views.user(state.users[name], _grants_seen(call, state.users[name]))
    )


def _seen(call: Call, user: User) -> bool:
    """Return whether the caller may know of a user: they look after it, are it, or administer a tenant that it has a role in."""
    administered = _administered(call)
    return administered is None or _may(call, "users:read", user) or not administered.isdisjoint(tenants_of(user))


def _user(call: Call) -> User:
    found = call.state.users.get(call.path["user"])
    if found is None or not _seen(call, found):
        raise HiddenError(f"there is no user {call.path['user']}, or it is not yours to see")
    return found


async def get_user(call: Call) -> Response:
    """Show a user."""
    found = _user(call)
    return call.answer(views.user(found, _grants_seen(call, found)), version=found.version)


async def put_user(call: Call) -> Response:
    """Make a user or change its grants; an admin changes those in their tenants, and leaves the others as they are."""
    name = call.path["user"]
    check_name(name)
    manifest = await _manifest(call, "User", name)
    assert isinstance(manifest, UserResource)
    old = call.state.users.get(name)
    wanted = {Grant(role, whose) for role, whose in manifest.grants}
    administered = _administered(call)
    has = set(old.grants) if old else set()
    if administered is not None:
        wanted |= {grant for grant in has if grant.tenant not in administered}
    changed = wanted ^ has
    if old is None or changed or not _seen(call, old):
        call.allow(account(name, frozenset(grant.tenant for grant in changed)), "users:grant")
    else:
        call.allow(account(name, tenants_of(old)), "users:read")
    version = call.if_version(manifest.version, old.version if old else None)
    if version is None and administered is not None:
        # What an admin may not see is taken over from now: a grant that is withdrawn meanwhile must not come back.
        version = old.version if old else 0
    command = commands.apply_user(name, sorted(wanted), if_version=version)
    if call.dry:
        return call.would(command, None if old is None else _user_values(has), _user_values(wanted))
    outcome = await call.execute(command)
    found = call.state.users.get(name)
    if found is None:
        return call.done(f"user {name} was accepted and is gone again", outcome)
    shown = views.user(found, _grants_seen(call, found))
    return call.answer(shown, status=201 if old is None else 200, outcome=outcome, version=found.version)


def _user_values(grants: set[Grant]) -> dict[str, Any]:
    return {"spec": {"grants": [{"role": grant.role, "tenant": grant.tenant} for grant in sorted(grants)]}}


async def delete_user(call: Call) -> Response:
    """Remove a user and its tokens."""
    name = call.path["user"]
    old = call.state.users.get(name)
    call.allow(account(name, tenants_of(old)))
    version = call.if_version(current=old.version if old else None)
    if version is None and old is not None and not call.principal.operator:
        version = old.version  # what they may do was judged by it
    command = commands.delete_user(name, if_version=version)
    if call.dry:
        return call.would(command)
    return call.done(f"user {name} is deleted", await call.execute(command))


# -- tokens -----------------------------------------------------------------------------------------


class TokenRequest(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What is asked for with a new token.

    Parameters
    ----------
    user
        Whose; of a join token the only agent that it lets in, or nothing for any; of a gateway's its name.
    expires_in_s
        Seconds that it is valid; 0: for ever.
    """

    user: str = ""
    expires_in_s: float = 0.0
    note: str = ""
    kind: str = "user"


async def list_tokens(call: Call) -> Response:
    """List tokens: all to operators, those of their people to admins, their own to everybody; never what is secret in them."""
    state, user = call.state, call.query["user"]
    keys = (key for key, token in state.tokens.items() if user in (None, token.user) and _may_token(call, token))
    # Whether one has expired changes with the time.
    return lists.page(call, "Token", keys, lambda key: views.token(state.tokens[key], call.now), dated=False)


def _may_token(call: Call, token: Token) -> bool:
    user = call.state.users.get(token.user) if token.kind == "user" else None
    if user is None:
        return call.principal.operator
    return _may(call, "tokens:read", user)


async def create_token(call: Call) -> Response:
    """Issue a token; its secret is in this answer and nowhere else."""
    asked: TokenRequest = await call.struct(TokenRequest)
    if len(asked.note) > NOTE_CHARACTERS or not (asked.note.isprintable()):
        raise FieldError("note", f"must be at most {NOTE_CHARACTERS} printable characters")
    if not 0 <= asked.expires_in_s <= LONGEST_S:
        raise FieldError("expiresInS", f"must be from 0 to {LONGEST_S} seconds")
    if asked.kind not in ("user", "join", "gateway"):
        raise FieldError(
            "kind", f"must be user, join or gateway, not {asked.kind[:60]!r}; agents get theirs when they join"
        )
    if asked.user or asked.kind != "join":
        check_name(asked.user, "user")
    if asked.kind in ("join", "gateway"):
        call.allow(CLUSTER, "agents:admit")
    else:
        call.allow(account(asked.user, tenants_of(call.state.users.get(asked.user))))
    secret = new_secret()
    command = commands.issue_token(
        secret.id, asked.user, secret.hash, kind=asked.kind, expires_at=_ends(call, asked), note=asked.note
    )
    if call.dry:
        return call.would(command)
    return issued(call, await call.execute(command), secret.id, secret.text)


def _ends(call: Call, asked: TokenRequest) -> float:
    """Return when a new token expires: never after the one that asks for it, or whoever found that one would have it for good."""
    wanted = call.now + asked.expires_in_s if asked.expires_in_s else 0.0
    limit = 0.0 if call.principal.operator else call.principal.expires_at
    return min(wanted or limit, limit or wanted)


def issued(call: Call, outcome: Outcome, token_id: str, text: str) -> Response:
    """Answer with a token just issued.

    Raises
    ------
    SecretGoneError
        The request repeats one that was carried out, whose secret only its answer held.
    """
    token = call.state.tokens.get(token_id)
    if outcome.replayed or token is None:
        raise SecretGoneError(
            f"this request was carried out before (at position {outcome.position}), and a token is shown only once; "
            "revoke that one and ask for another, with another Idempotency-Key"
        )
    shown = views.token(token, call.now, text)
    return call.answer(shown, status=201, outcome=outcome, headers={"cache-control": "no-store"})


async def delete_token(call: Call) -> Response:
    """Revoke a token."""
    token = call.state.tokens.get(call.path["token"])
    user = call.state.users.get(token.user) if token and token.kind == "user" else None
    if user is not None and _may(call, "tokens:write", user):
        call.allow(account(user.name, tenants_of(user)))
    elif call.context.policies.allows(call.principal, "agents:admit", CLUSTER):
        call.allow(CLUSTER, "agents:admit")
    else:
        raise HiddenError(f"there is no token {call.path['token']}, or it is not yours to see")
    command = commands.revoke_token(call.path["token"])
    if call.dry:
        return call.would(command)
    return call.done(f"token {call.path['token']} is revoked", await call.execute(command))


# -- oneself ----------------------------------------------------------------------------------------


async def whoami(call: Call) -> Response:
    """Show who the token speaks for."""
    principal = call.principal
    return call.answer(
        shapes.WhoAmI(
            name=principal.name,
            grants=views.grants_of(principal.grants),
            operator=principal.operator,
            expires_at=shapes.timestamp(principal.expires_at),
        )
    )
