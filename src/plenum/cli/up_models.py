"""How to ask the first model that a cloud of this machine serves: told once it is ready."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from plenum.cli.asking import curl

if TYPE_CHECKING:
    from plenum.bootstrap.server import Running

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
                text = curl(address.url, key, found.spec.model_name)
                click.echo(f"\n{click.style(found.spec.model_name, bold=True)} is ready. Ask it:\n\n{text}\n")
                return
        await asyncio.sleep(LOOK_S)


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
