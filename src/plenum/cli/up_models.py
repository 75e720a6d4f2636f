"""How to ask the first model that a cloud of this machine serves: told once it is ready."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from plenum.cli.asking import curl
from plenum.cli.news import commands_to_try

if TYPE_CHECKING:
    from plenum.bootstrap.gateway import Address
    from plenum.bootstrap.server import Running
    from plenum.control.endpoints.state import EndpointRecord

LOOK_S = 0.3


async def tell_how_to_ask(server: Running, context: str) -> None:
    """Wait until an endpoint takes requests and the gateway answers; print one command that streams an answer.

    Parameters
    ----------
    context
        Name of this user's context for the cloud, which the key is kept with; empty: there is none, and nothing is told.
    """
    from plenum.control.endpoints.status import DEGRADED, SERVING, status_of

    if server.gateway is None or not context:
        return
    state = server.service.state
    while True:
        address = server.gateway.address
        for found in state.endpoints.values() if address is not None else ():
            if status_of(state, found).phase in (SERVING, DEGRADED):
                assert address is not None
                key = await _key(server, context, found.tenant)
                click.echo("\n" + how_to_ask(found, address, key, server.config.gateway_port or address.port) + "\n")
                return
        await asyncio.sleep(LOOK_S)


def how_to_ask(found: EndpointRecord, address: Address, key: str, wanted_port: int) -> str:
    """Return how to ask an endpoint's model, what to do with it next, and where the gateway is if not at the port that was wanted."""
    model, name = found.spec.model_name, found.id.removeprefix("default/")
    # It keeps the port that it moved to, as those who ask know it by that, and so this is told at later starts too.
    moved = (
        f"Port {wanted_port} was taken, so the gateway has moved to port {address.port} and stays there; "
        "--gateway-port names another.\n\n"
    )
    tries = [
        ("get endpoints", "what is served"),
        (f"bench {name} --rps 0.5 --duration 20s", "what users would see"),
        ("key create --note mine", "a key of your own"),
    ]
    return (
        (moved if address.port != wanted_port else "")
        + f"{click.style(model, bold=True)} is ready. Ask it:\n\n{curl(address.url, key, model, ca=address.ca)}\n\n"
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
