"""How to ask the first model that a cloud of this machine serves: told once it is ready."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from plenum.cli.asking import curl
from plenum.cli.news import CHAT_MODEL, commands_to_try

if TYPE_CHECKING:
    from plenum.bootstrap.gateway import Address
    from plenum.bootstrap.server import Running
    from plenum.control.endpoints.state import EndpointRecord
    from plenum.control.state import State

LOOK_S = 0.3
PATIENCE_S = 30.0
"""For the model that people know, where another one is ready before it."""


async def tell_how_to_ask(server: Running, context: str) -> None:
    """Wait until an endpoint takes requests and the gateway answers; print one command that streams an answer.

    Parameters
    ----------
    context
        Name of this user's context for the cloud, which the key is kept with; empty: there is none, and nothing is told.
    """
    if server.gateway is None or not context:
        return
    loop, state = asyncio.get_running_loop(), server.service.state
    until = loop.time() + PATIENCE_S
    while True:
        address, found = server.gateway.address, to_ask(state, patient=loop.time() < until)
        if address is not None and found is not None:
            key = await _key(server, context, found.tenant)
            click.echo("\n" + how_to_ask(found, address, key, server.config.gateway_port or address.port) + "\n")
            return
        await asyncio.sleep(LOOK_S)


def to_ask(state: State, *, patient: bool) -> EndpointRecord | None:
    """Return the endpoint to show first of those that take requests; None: there is none yet.

    Parameters
    ----------
    patient
        Whether the model that people know is waited for if it is on its way.
    """
    from plenum.control.endpoints.status import DEGRADED, PENDING, SERVING, STARTING_UP, status_of

    for found in sorted(state.endpoints.values(), key=_rank):
        phase = status_of(state, found).phase
        if phase in (SERVING, DEGRADED):
            return found
        if patient and _is_known(found) and phase in (PENDING, STARTING_UP):
            return None
    return None


def _rank(found: EndpointRecord) -> tuple[bool, bool, int]:
    return not _is_known(found), _embeds(found), found.uid


def _is_known(found: EndpointRecord) -> bool:
    return found.spec.model == CHAT_MODEL and not _embeds(found)


def _embeds(found: EndpointRecord) -> bool:
    return "--embeddings" in found.spec.arguments


def how_to_ask(found: EndpointRecord, address: Address, key: str, wanted_port: int) -> str:
    """Return how to ask an endpoint's model, what to do with it next, and where the gateway is if not at the port that was wanted."""
    model, name = found.spec.model_name, found.id.removeprefix("default/")
    # It keeps the port that it moved to, as those who ask know it by that, and so this is told at later starts too.
    moved = (
        f"Port {wanted_port} was taken, so the gateway has moved to port {address.port} and stays there; "
        "--gateway-port names another.\n\n"
    )
    embeds = _embeds(found)
    bench = [] if embeds else [(f"bench {name} --rps 0.5 --duration 20s", "what users would see")]
    tries = [
        ("get endpoints", "what is served"),
        *bench,
        ("key create --note mine", "a key of your own"),
    ]
    return (
        (moved if address.port != wanted_port else "")
        + f"{click.style(model, bold=True)} is ready. Ask it:\n\n{curl(address.url, key, model, embeddings=embeds, ca=address.ca)}\n\n"
        + commands_to_try("And then:", tries)
    )


async def _key(server: Running, context: str, tenant: str) -> str:
    """Return this user's key for a tenant's models, made if there is none."""
    from plenum.adapters.contexts import save_key, saved_key
    from plenum.api.keys import new_key
    from plenum.bootstrap.server import OPERATOR
    from plenum.control.endpoints.commands import issue_key

    saved = await asyncio.to_thread(saved_key, context, tenant)
    if saved and saved.split("_")[1] in server.service.state.keys:
        return saved
    key, text = new_key(tenant)
    await server.service.execute(issue_key(key, "made by plenum up").by(f"user/{OPERATOR}"))
    await asyncio.to_thread(save_key, context, tenant, text)
    return text
