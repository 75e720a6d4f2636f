"""Room for connections: as many as the system lets the process have files for, with enough left for engines."""

import asyncio
import json
import resource
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import uvicorn

from plenum.bootstrap.loop import run
from plenum.bootstrap.tls import credentials
from plenum.gateway.connections import SPARE_FILES, Bounds, Places, Server

PROGRAM = """
import json, resource, sys
from plenum.gateway.connections import room_for
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
print(json.dumps([room_for(int(sys.argv[3])), *resource.getrlimit(resource.RLIMIT_NOFILE)]))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "room", "then"),
    [
        (300, 2_000, 500, 500, 1_000 + SPARE_FILES),
        (300, 1_000, 5_000, (1_000 - SPARE_FILES) // 2, 1_000),
        (1_500, 2_000, 10, 10, 1_500),
        (100, 100, 10, 1, 100),
    ],
)
def test_connections_leave_files_for_engines(soft, hard, asked, room, then):
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < hard:
        pytest.skip("this machine has fewer files")
    words = [sys.executable, "-c", PROGRAM, *map(str, (soft, hard, asked))]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert json.loads(said) == [room, then, hard]


async def _answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_who_begins_no_tls_handshake_counts_like_everybody(tmp_path: Path):
    files = credentials(tmp_path, ["localhost"])
    bounds = Bounds(connections=2, connections_per_client=9, headers_bytes=9_999, headers_s=600.0, stall_s=600.0)
    count = 0

    def changed(more: int) -> None:
        nonlocal count
        count += more

    async def until(wanted: int) -> None:
        while count != wanted:
            await asyncio.sleep(0.01)

    async def go() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        config = uvicorn.Config(
            _answer, lifespan="off", log_config=None, ws="none", ssl_certfile=files.certificate, ssl_keyfile=files.key
        )
        dropped: list[str] = []
        server = Server(config, Places(bounds, changed=changed, dropped=dropped.append))
        serving = asyncio.create_task(server.serve([listening]))
        place = listening.getsockname()
        async with asyncio.timeout(60.0):
            silent = [await asyncio.open_connection(*place) for _ in range(2)]
            await until(2)
            reader, refused = await asyncio.open_connection(*place)
            assert (await reader.read(), dropped) == (b"", ["too-many"])
            for _, writer in (*silent[:1], (reader, refused)):
                writer.close()
            await until(1)
            tls = ssl.create_default_context(cafile=files.ca)
            reader, writer = await asyncio.open_connection(*place, ssl=tls, server_hostname="localhost")
            writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 204")
            writer.close()
            await until(1)
            server.should_exit = True
            await serving
            assert await silent[1][0].read() == b"", "nobody is waited for at the end"
            await until(0)
            silent[1][1].close()

    run(go())
