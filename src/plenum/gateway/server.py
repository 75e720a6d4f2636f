"""The gateway on a port: uvicorn with httptools and uvloop, and connections that slow and greedy clients cannot hold up.

Why this server: of a streamed answer it takes as much processor time a chunk as granian (22 and 24 µs with the same small application) and
less a request (0.06 and 0.09 ms); and its protocol is a class in Python, where what follows can be put right.
"""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn

from plenum.gateway.app import Gateway
from plenum.gateway.connections import Bounds, Places, Server, room_for

BACKLOG = 2_048


@asynccontextmanager
async def serve(
    gateway: Gateway, listening: socket.socket, *, certificate: Path | None = None, key: Path | None = None
) -> AsyncIterator[None]:
    """Serve on a socket that listens, while the context is open; leaving it lets open streams end, up to ``drain_s``.

    Parameters
    ----------
    certificate, key
        Files for TLS; None: plain HTTP.

    Raises
    ------
    RuntimeError
        The server did not come up.
    """
    settings = gateway.settings
    config = uvicorn.Config(
        gateway,
        loop="none",
        lifespan="off",
        ws="none",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=int(settings.idle_s),
        timeout_graceful_shutdown=int(settings.drain_s),
        backlog=BACKLOG,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    bounds = Bounds(
        connections=room_for(settings.connections),
        connections_per_client=settings.connections_per_client,
        headers_bytes=settings.headers_bytes,
        headers_s=settings.headers_s,
        stall_s=settings.stall_s,
    )
    measures = gateway.measures
    server = Server(
        config, Places(bounds, changed=measures.connections.inc, dropped=lambda why: measures.dropped.labels(why).inc())
    )
    serving = asyncio.create_task(server.serve([listening]))
    keeping = asyncio.create_task(gateway.keep_journal())
    try:
        while not server.started:
            if serving.done():
                raise RuntimeError("the gateway's server did not start") from serving.exception()
            await asyncio.sleep(0.01)
        # Modules and compiled loops live as long as the process; to walk them in each full collection takes tens of milliseconds.
        gc.collect()
        gc.freeze()
        yield
    finally:
        gateway.close()
        server.should_exit = True
        await serving
        keeping.cancel()
        with suppress(asyncio.CancelledError):
            await keeping
        await gateway.inference.end()
