"""A gateway as a process of its own, with a table from a file: for measuring and for tests.

    python -m benchmarks.gateway_process TABLE FOLDER [SETTINGS]

Prints its port. On SIGHUP it takes the oldest batch of usage out of its journal and prints it as JSON; SIGTERM drains it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from pathlib import Path

import msgspec
import uvloop

from plenum.adapters.engines.table import engine_for
from plenum.gateway.app import Gateway
from plenum.gateway.dispatch import Dispatcher
from plenum.gateway.journal import Journal
from plenum.gateway.server import serve
from plenum.gateway.settings import GatewaySettings
from plenum.ports.gateway import Table


async def main(table: Table, folder: Path, settings: GatewaySettings) -> None:
    """Serve until SIGTERM."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    journal = Journal(folder, settings.name)
    listening = socket.create_server(("127.0.0.1", 0), backlog=4_096)
    async with Dispatcher(settings.name, engine_for) as dispatcher:
        gateway = Gateway(dispatcher, journal, settings)
        dispatcher.update(table)
        gateway.use(table)
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGHUP, _upload, journal)
        async with serve(gateway, listening):
            print(listening.getsockname()[1], flush=True)
            await stop.wait()
    journal.close()


def _upload(journal: Journal) -> None:
    batch = journal.pending()
    print(msgspec.json.encode(batch).decode(), flush=True)
    if batch is not None:
        journal.acknowledged(batch.number)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    uvloop.run(
        main(
            msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Table),
            Path(sys.argv[2]),
            msgspec.json.decode(sys.argv[3], type=GatewaySettings) if len(sys.argv) > 3 else GatewaySettings(),
        )
    )
