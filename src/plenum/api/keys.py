"""Keys for the gateway, and what was used with them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from plenum.adapters.manifests.fields import nearest
from plenum.api import lists, served_views, shapes
from plenum.api.call import Call
from plenum.api.errors import ParameterError, SecretGoneError
from plenum.api.identity import hash_of
from plenum.api.parameters import NAME, Parameter
from plenum.api.people import LONGEST_S, NOTE_CHARACTERS
from plenum.api.served_shapes import UsageSum
from plenum.control.commands import AbsentError, names_served
from plenum.control.endpoints.commands import issue_key, revoke_key
from plenum.control.endpoints.state import Used
from plenum.control.state import State
from plenum.model.errors import FieldError
from plenum.ports.gateway import Key

PREFIX = "plk"
"""First part of every key, so that scanners for leaked secrets can know them."""

SECRET_BYTES = 24
KNOWN_S, KNOWN_LOOK_S = 2.0, 0.01
"""How long a new key is kept back until gateways know it, and how often they are looked at."""

MAX_MODELS = 200
MAX_RATE = 10**9
DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"

TENANT = Parameter(name="tenant", about="Only of this tenant.", pattern=NAME)
BY = Parameter(
    name="by",
    about="What is told apart; everything else is summed up.",
    choices=("tenant", "endpoint", "model", "key", "day"),
    many=True,
)
ENDPOINT = Parameter(name="endpoint", about="Only of this endpoint.", pattern=NAME)
MODEL = Parameter(name="model", about="Only of what was asked for under this name.", example="smollm2")
SINCE = Parameter(name="since", about="First day (UTC).", pattern=DAY, example="2026-01-01")
UNTIL = Parameter(name="until", about="Last day (UTC).", pattern=DAY, example="2026-01-31")
USAGE = (BY, ENDPOINT, MODEL, SINCE, UNTIL)


class KeyRequest(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """What is asked for with a new key; see :class:`~plenum.ports.gateway.Key`.

    Parameters
    ----------
    expires_in_s
        Seconds that it is valid; 0: for ever.
    """

    models: tuple[str, ...] = ()
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_parallel: int = 0
    tier: str = "interactive"
    expires_in_s: float = 0.0
    note: str = ""


async def create(call: Call) -> Response:
    """Issue a key, and wait a little until gateways know it; its secret is in this answer and nowhere else."""
    asked: KeyRequest = await call.struct(KeyRequest)
    _check(asked)
    key, text = new_key(
        call.path["tenant"],
        models=tuple(dict.fromkeys(asked.models)),
        requests_per_minute=asked.requests_per_minute,
        tokens_per_minute=asked.tokens_per_minute,
        max_parallel=asked.max_parallel,
        tier=asked.tier,
        expires_at=call.now + asked.expires_in_s if asked.expires_in_s else 0.0,
    )
    command = issue_key(key, asked.note)
    if call.dry:
        return call.would(command)
    outcome = await call.execute(command)
    known = call.state.keys.get(key.id)
    if outcome.replayed or known is None:
        raise SecretGoneError(
            f"this request was carried out before (at position {outcome.position}), and a key is shown only once; "
            "revoke that one and ask for another, with another Idempotency-Key"
        )
    unserved, late = _unserved(call.state, key), await _without(call, outcome.position)
    shown = served_views.key(known, call.now, text, unknown_to=late, unserved=unserved)
    return call.answer(shown, status=201, outcome=outcome, headers={"cache-control": "no-store"})


def _unserved(state: State, key: Key) -> dict[str, str]:
    """Return a key's models that nothing of its tenant's serves, each with the closest that something does."""
    experiments = state.tenants[key.tenant].policy.experiments
    names = names_served(state, key.tenant) | {experiment.model for experiment in experiments}
    return {model: nearest(model, names) for model in key.models if model not in names}


async def _without(call: Call, version: int) -> tuple[str, ...]:
    """Wait until all gateways that are alive have a table; returns those that have it not after :data:`KNOWN_S`."""
    context, loop = call.context, asyncio.get_running_loop()
    end_s = loop.time() + KNOWN_S
    while True:
        behind = context.service.controller.loads.without(version)
        # A gateway that asks for the next table has this one, though its last report may be older.
        behind = {name for name in behind if not context.gateways.has(name.rpartition(".")[0], version)}
        if not behind or loop.time() >= end_s:
            return tuple(sorted(behind))
        await asyncio.sleep(KNOWN_LOOK_S)


def new_key(tenant: str, **limits: Any) -> tuple[Key, str]:
    """Make a key with a secret of 192 random bits; returns it and its text, which is shown once."""
    key_id = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(12))
    text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    return Key(id=key_id, hash=hash_of(text), tenant=tenant, **limits), text


def _check(asked: KeyRequest) -> None:
    if len(asked.note) > NOTE_CHARACTERS or not asked.note.isprintable():
        raise FieldError("note", f"must be at most {NOTE_CHARACTERS} printable characters")
    if not 0 <= asked.expires_in_s <= LONGEST_S:
        raise FieldError("expiresInS", f"must be from 0 to {LONGEST_S} seconds")
    if len(asked.models) > MAX_MODELS or any(not (0 < len(m) <= 200 and m.isprintable()) for m in asked.models):
        raise FieldError("models", f"must be at most {MAX_MODELS} names of at most 200 printable characters")
    for name in ("requests_per_minute", "tokens_per_minute", "max_parallel"):
        if not 0 <= getattr(asked, name) <= MAX_RATE:
            raise FieldError(name, f"must be from 0 (no limit) to {MAX_RATE:,}")


async def get(call: Call) -> Response:
    """Show a key, without its secret."""
    known = call.state.keys.get(call.path["key"])
    if known is None or known.key.tenant != call.path["tenant"]:
        raise AbsentError(f"tenant {call.path['tenant']} has no key {call.path['key']}")
    return call.answer(served_views.key(known, call.now))


async def list_of(call: Call) -> Response:
    """List keys, without their secrets."""
    state, tenants = call.state, call.wanted_tenants()
    keys = (name for name, known in state.keys.items() if tenants is None or known.key.tenant in tenants)
    # Whether one has expired changes with the time.
    return lists.page(call, "Key", keys, lambda name: served_views.key(state.keys[name], call.now), dated=False)


async def delete(call: Call) -> Response:
    """End a key at once."""
    key_id = call.path["key"]
    known = call.state.keys.get(key_id)
    if known is None or known.key.tenant != call.path["tenant"]:
        raise AbsentError(f"tenant {call.path['tenant']} has no key {key_id}")
    command = revoke_key(key_id)
    if call.dry:
        return call.would(command)
    return call.done(f"key {key_id} is revoked", await call.execute(command))


# -- usage ------------------------------------------------------------------------------------------


async def usage(call: Call) -> Response:
    """Sum up what requests took, of the days and by what the query says."""
    tenants, query = call.wanted_tenants(), call.query
    since, until = _day_of("since", query["since"]), _day_of("until", query["until"])
    sums: dict[tuple[str, ...], UsageSum] = {}
    for day, used in call.state.billed.items():
        if (since is None or day >= since) and (until is None or day <= until):
            for one in used.values():
                wanted = tenants is None or one.tenant in tenants
                endpoint, model = query["endpoint"], query["model"]
                if wanted and endpoint in (None, one.endpoint.rpartition("/")[2]) and model in (None, one.model):
                    _add(sums, one, day, query["by"])
    items = [sums[key] for key in sorted(sums)]
    return call.answer({"apiVersion": shapes.API_VERSION, "kind": "UsageList", "metadata": {}, "items": items})


def _day_of(name: str, text: str | None) -> int | None:
    """Return a day as days since the epoch."""
    if text is None:
        return None
    try:
        return (date.fromisoformat(text) - date(1970, 1, 1)).days
    except ValueError:
        raise ParameterError(name, f"{text} is no day") from None


def _add(sums: dict[tuple[str, ...], UsageSum], used: Used, day: int, by: Iterable[str]) -> None:
    on = datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()
    known = {
        "tenant": used.tenant,
        "endpoint": used.endpoint.rpartition("/")[2],
        "model": used.model,
        "key": used.key,
        "day": on,
    }
    tenant, endpoint, model, key, on = apart = tuple(value if name in by else "" for name, value in known.items())
    total = sums.setdefault(apart, UsageSum(tenant=tenant, endpoint=endpoint, model=model, key=key, day=on))
    total.prompt_tokens += used.prompt_tokens
    total.cached_tokens += used.cached_tokens
    total.output_tokens += used.output_tokens
    total.estimated += used.estimated
    for outcome, count in used.requests.items():
        total.requests[outcome] = total.requests.get(outcome, 0) + count
