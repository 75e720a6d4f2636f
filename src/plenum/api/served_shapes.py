"""What answers about served models look like: endpoints, keys, gateways, usage."""

from __future__ import annotations

from typing import Any

import msgspec

from plenum.api.shapes import Metadata, Replicas, Run, Shape, Waiting


class EndpointPool(Shape, kw_only=True, omit_defaults=False):
    """How a pool is: its replicas over all revisions, and what gateways saw of it in the last half minute."""

    name: str
    min: int
    max: int
    wanted: int = 0
    ready: int = 0
    starting: int = 0
    draining: int = 0
    waiting: int = 0
    running: int = 0
    requests_per_s: float = 0.0
    cache_used: float = 0.0


class Latency(Shape, kw_only=True):
    """Of the requests that gateways told of, in milliseconds; nothing where there were none."""

    ttft_ms_p50: float | None = None
    ttft_ms_p99: float | None = None
    tpot_ms_p50: float | None = None
    tpot_ms_p99: float | None = None


class EndpointRevision(Shape, kw_only=True):
    """A version of an endpoint; ``part`` of the requests goes to it now. ``why`` says why it was rolled back.

    ``phase`` is starting, canary, serving, idle, replaced (it goes on until the next one is up), retired or rolled-back.
    """

    number: int
    phase: str
    part: float = 0.0
    started_at: str = ""
    ended_at: str = ""
    why: str = ""
    finished: int = 0
    failed: int = 0
    latency: Latency | None = None


class EndpointRun(Run, kw_only=True):
    """One replica: the run of it, where it answers, and whether it takes requests (``replica``: starting, ready or draining).

    ``nodes`` are all that it is spread over, where these are several; the first is the ``node`` that answers.
    """

    revision: int = 0
    pool: str = ""
    replica: str = ""
    url: str = ""
    nodes: tuple[str, ...] = ()


class EndpointStatus(Shape, kw_only=True):
    """What became of an endpoint so far.

    Parameters
    ----------
    phase
        Pending, Starting, Failed, Ready, Updating, Degraded, Idle or Stopping.
    revision, canary, failed
        Which serves, which is on trial, which was rolled back; 0: none.
    limits
        What keeps it from more replicas, or a change of it from coming into use, a sentence each.
    """

    phase: str
    replicas: Replicas
    served_as: str = ""
    message: str = ""
    waiting: Waiting | None = None
    revision: int = 0
    canary: int = 0
    failed: int = 0
    pools: list[EndpointPool] = msgspec.field(default_factory=list)
    revisions: list[EndpointRevision] = msgspec.field(default_factory=list)
    runs: list[EndpointRun] = msgspec.field(default_factory=list)
    stopping: str = ""
    limits: list[str] = msgspec.field(default_factory=list)


class Endpoint(Shape, kw_only=True):
    """A model that is served; ``spec`` is as it was written."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: dict[str, Any]
    status: EndpointStatus


class KeySpec(Shape, kw_only=True):
    """What a key's holder may ask for; no ``models``: all of the tenant's. A limit of 0 is none."""

    models: tuple[str, ...] = ()
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_parallel: int = 0
    tier: str = "interactive"
    note: str = ""
    expires_at: str = ""


class KeyStatus(Shape, kw_only=True, omit_defaults=False):
    """``Valid`` or ``Expired``; a revoked one is gone.

    Of a new one, the gateways that were not seen to know it yet, and of its models those that nothing serves yet, each with the name that
    may be meant.
    """

    phase: str
    unknown_to: tuple[str, ...] = ()
    unserved: dict[str, str] = msgspec.field(default_factory=dict)


class InferenceKey(Shape, kw_only=True):
    """A key for the gateway; ``secret`` only in the answer to its making."""

    api_version: str
    kind: str
    metadata: Metadata
    spec: KeySpec
    status: KeyStatus
    secret: str = ""


class Gateway(Shape, kw_only=True, omit_defaults=False):
    """A gateway that was heard of lately, and where clients reach it."""

    name: str
    url: str
    seen_at: str
    table: int


class UsageSum(Shape, kw_only=True, omit_defaults=False):
    """What requests took, summed up; ``requests`` by outcome. A field that was summed over is empty.

    Of the requests of ``estimated`` the prompts' tokens are reckoned from their length, as the engine did not come to say them. What
    judges of experiments took has the key ``judge``.
    """

    tenant: str = ""
    endpoint: str = ""
    model: str = ""
    key: str = ""
    day: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    requests: dict[str, int] = msgspec.field(default_factory=dict)
    estimated: int = 0
