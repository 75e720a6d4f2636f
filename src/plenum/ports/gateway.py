"""What the control plane and a gateway say to each other: a table down; loads, usage and calls for replicas up.

The gateway keeps serving from the last table it got (also over a restart of its own) while the control plane is away; usage waits in
its journal until the control plane has acknowledged it.
"""

from __future__ import annotations

import msgspec

from plenum.model.endpoint import Endpoint
from plenum.ports.policy import Policy

MAX_USAGE_ROWS = 2_000
"""Rows of one batch of usage; the rest follow in the next."""


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """One engine that may be sent requests.

    Parameters
    ----------
    run
        Unique for ever; of an attached server, its URL.
    revision, pool
        Which version of the endpoint it runs, and which pool of it it is in.
    phase
        ``starting``, ``ready`` or ``draining`` (nothing new; what streams, finishes).
    site
        Where its node stands, where that is known; a prefill crosses from one site to another only if it is worth it.
    weights_digest
        Of the model that it loaded, where known.
    certificate_sha256
        Of the certificate that its node made for it, in hexadecimal: no other may be shown at ``url``. Empty: what ``url`` says goes, and
        of https the system's authorities are trusted.
    since
        Seconds since the epoch from which it has been in this phase.
    """

    run: str
    url: str
    engine: str
    revision: int
    pool: str
    phase: str
    node: str = ""
    site: str = ""
    weights_digest: str = ""
    certificate_sha256: str = ""
    since: float = 0.0


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as a gateway serves it.

    Parameters
    ----------
    revisions
        Revision to the part of requests that goes to it; more than one while a canary is watched.
    specs
        Revision to its endpoint.
    woken
        Whether replicas are on their way where there are none.
    """

    spec: Endpoint
    uid: int
    revisions: dict[int, float] = {}
    specs: dict[int, Endpoint] = {}
    replicas: tuple[Replica, ...] = ()
    woken: bool = False


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """Who may ask for what; only the hash (SHA-256, hexadecimal) of its secret is known.

    Parameters
    ----------
    models
        What its holder may name as ``model``; empty: all that the tenant has.
    requests_per_minute, tokens_per_minute, max_parallel
        Limits, over all gateways together: each gives an equal share; 0: none.
    tier
        ``interactive`` or ``batch``: the class that its requests have unless they say a lower one.
    expires_at
        Seconds since the epoch; 0: never.
    """

    id: str
    hash: str
    tenant: str
    models: tuple[str, ...] = ()
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_parallel: int = 0
    tier: str = "interactive"
    expires_at: float = 0.0


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All that a gateway needs to know.

    Parameters
    ----------
    version
        Changes whenever anything in it does.
    engine_secret
        From which the key of each engine is derived (:func:`engine_key`); never logged.
    salts
        Tenant to what keeps its prefixes apart from other tenants' in shared caches.
    uplinks_bps
        Site to the bit/s at which it reaches others, of the sites that say so.
    policies
        Tenant to what it has gateways do; those that want nothing are left out.
    """

    version: int
    served: tuple[Served, ...] = ()
    keys: tuple[Key, ...] = ()
    engine_secret: str = ""
    salts: dict[str, str] = {}
    policies: dict[str, Policy] = {}
    uplinks_bps: dict[str, int] = {}


class PoolLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What a gateway saw of one pool of one revision of an endpoint since its report before.

    Parameters
    ----------
    arrived, finished, failed, refused
        Requests; ``failed`` by the engine's doing.
    waiting, running
        Now; ``waiting`` are those that no replica has yet.
    ttft_s, tpot_s
        Of requests that ended, a sample of at most some hundreds.
    """

    endpoint: str
    revision: int
    pool: str
    arrived: int = 0
    finished: int = 0
    failed: int = 0
    refused: int = 0
    waiting: int = 0
    running: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cache_used: float = 0.0
    ttft_s: tuple[float, ...] = ()
    tpot_s: tuple[float, ...] = ()


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """From a gateway, every second or two, and at once when a request finds no replica.

    Parameters
    ----------
    seconds
        Since the report before.
    url
        Where clients reach it.
    table
        Version of the table that it goes by.
    draining
        Run to the requests that are open there, of the replicas that the table calls draining; those with none may be left out.
    """

    gateway: str
    seconds: float
    table: int
    pools: tuple[PoolLoad, ...] = ()
    draining: dict[str, int] = {}
    url: str = ""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A gateway that is alive; ``name`` is the one that it reports under."""

    name: str
    url: str = ""


class Peers(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What the control plane answers to a report: all gateways that are alive, who reported among them."""

    api_version: str = ""
    kind: str = "Peers"
    gateways: tuple[Peer, ...] = ()


class Usage(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What one request is billed.

    Parameters
    ----------
    request
        Its id, unique for ever.
    outcome
        ``done``, ``cancelled`` (by the client), ``broken`` (by the engine) or ``interrupted`` (the gateway died).
    estimated
        Whether the prompt's tokens are reckoned from its length, as the engine did not come to say them.
    """

    request: str
    at: float
    tenant: str
    key: str
    endpoint: str
    model: str
    revision: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    outcome: str = "done"
    estimated: bool = False


class UsageBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one gateway's journal; ``number`` counts up from 1, and a batch that came twice counts once.

    ``waiting`` is how many batches are left to send after it.
    """

    gateway: str
    number: int
    rows: tuple[Usage, ...]
    waiting: int = 0


def engine_key(secret: str, run: str) -> str:
    """Return the bearer token that an engine asks for: HMAC-SHA256 of its run by the secret, in hexadecimal."""
    import hashlib
    import hmac

    return hmac.new(secret.encode(), run.encode(), hashlib.sha256).hexdigest()
