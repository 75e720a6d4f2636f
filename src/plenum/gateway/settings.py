"""What a gateway bears: one limit for each thing that a client can send too much, too long or too slowly of."""

from __future__ import annotations

import msgspec


class ModerationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How prompts are moderated.

    Parameters
    ----------
    url
        Asked with ``{"input": …, "tenant": …}``, answers as OpenAI's ``/v1/moderations`` does.
    timeout_s
        For one prompt.
    fail_open
        Whether prompts pass while the hook fails or takes too long; else they are refused then.
    tenants
        Whose prompts; empty: everybody's.
    parallel
        Prompts with the hook at once; the others wait for it, and their wait counts towards ``timeout_s``.
    """

    url: str
    timeout_s: float = 1.0
    fail_open: bool = False
    tenants: tuple[str, ...] = ()
    parallel: int = 64


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of one gateway.

    Parameters
    ----------
    name
        As the control plane knows it.
    body_bytes, body_s
        Largest request, and longest that one may take to arrive.
    bodies_bytes, tenant_bodies_bytes
        What the bodies of all requests that are open may come to in memory, read as well as raw, and those of one tenant.
    headers_bytes, headers_s
        The same of its head.
    idle_s
        How long a connection is kept for the next request.
    stall_s
        How long a client may leave unread what it is sent before its connection ends.
    request_s
        Longest that a request may take, where it asks for nothing shorter.
    connections, connections_per_client
        Open at once, in all and of one address; loopback counts only towards all, for a proxy counts its own clients.
    in_flight
        Requests open at once.
    answer_bytes
        Largest answer that is not streamed.
    output_tokens
        What is set aside for an answer that names no limit, until it is known.
    choices
        Largest ``n``.
    failures_per_minute
        Keys that one address may get wrong.
    metrics_hash
        SHA-256, in hexadecimal, of the token that reads ``/metrics`` from elsewhere; empty: loopback alone reads it.
    calibration
        File that ``plenum plan calibrate`` wrote, by which replicas' times are predicted until they are measured; empty: what ships. A
        control plane that keeps a gateway with it scales by it too.
    moderation
        Who says which prompts may pass, whatever tenants have of their own; None: nobody.
    """

    name: str = "gateway"
    body_bytes: int = 8 * 2**20
    body_s: float = 30.0
    bodies_bytes: int = 2 * 2**30
    tenant_bodies_bytes: int = 2**30
    headers_bytes: int = 32 * 2**10
    headers_s: float = 10.0
    idle_s: float = 75.0
    stall_s: float = 30.0
    request_s: float = 600.0
    drain_s: float = 60.0
    connections: int = 8_192
    connections_per_client: int = 256
    in_flight: int = 4_096
    answer_bytes: int = 64 * 2**20
    output_tokens: int = 512
    choices: int = 8
    failures_per_minute: int = 60
    metrics_hash: str = ""
    calibration: str = ""
    moderation: ModerationSettings | None = None
