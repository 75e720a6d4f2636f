"""The process of an engine ends with all that it started, and what outlives it holds nobody up."""

import asyncio
import os
import sys
import time

import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.engines import server as servers
from plenum.adapters.engines.llamacpp_handoff import Handoffs
from plenum.adapters.engines.server import Command, Server
from plenum.ports.engine import EngineError, Health

CHILD = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)"


def _server(then: str) -> Server:
    words = (sys.executable, "-c", f"{CHILD}; {then}")
    return Server(lambda: Command(words=words, env=dict(os.environ), ready_s=30.0))


def _gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def _until_gone(pid: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not _gone(pid):
            await asyncio.sleep(0.01)


def test_an_engine_ends_with_its_own_children():
    async def go():
        server = _server("import time; time.sleep(60)")

        async def health():
            return Health(ready=bool(server.tail))

        async def idle():
            return True

        await server.start(health)
        child = int(server.tail)
        async with asyncio.timeout(PATIENCE_S):
            await server.stop(0.0, idle)
        await _until_gone(child)

    asyncio.run(go())


def test_an_engine_that_ends_at_once_and_leaves_a_child_is_told_of(monkeypatch):
    monkeypatch.setattr(servers, "LINGER_S", 0.1)

    async def go():
        server = _server("sys.exit(3)")

        async def health():
            return Health(ready=False)

        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(EngineError, match="ended with 3"):
                await server.start(health)
        await _until_gone(int(server.tail))

    asyncio.run(go())


class _Slow:
    """An engine whose list of slots takes as long as one likes."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()

    async def ask_json(self, method, path, body=None, *, timeout_s=0.0):
        await self.go.wait()
        return [{"id": 0, "is_processing": False}]


def test_a_slot_comes_back_from_whoever_is_cancelled_while_another_asks_for_one(tmp_path):
    async def go():
        engine = _Slow()
        handoffs = Handoffs(engine, tmp_path, "d", 2, url="", key="")  # type: ignore[arg-type]
        leave = asyncio.Event()

        async def hold():
            async with handoffs._slot():
                await leave.wait()

        one = asyncio.create_task(hold())
        await asyncio.sleep(0)
        while len(handoffs._free) == 2:
            await asyncio.sleep(0)
        engine.go.clear()
        other = asyncio.create_task(hold())
        for _ in range(5):
            await asyncio.sleep(0)
        leave.set()
        for _ in range(5):
            await asyncio.sleep(0)
        one.cancel()
        await asyncio.gather(one, return_exceptions=True)
        engine.go.set()
        await other
        assert handoffs._free == {0, 1}

    asyncio.run(go())


def test_what_nobody_knows_of_any_more_does_not_stay(tmp_path):
    async def go():
        handoffs = Handoffs(_Slow(), tmp_path, "d", 1, url="", key="")  # type: ignore[arg-type]
        for name in ("left", "new"):
            (tmp_path / name).write_bytes(b"x")
        long_ago = time.time() - 5_000
        os.utime(tmp_path / "left", (long_ago, long_ago))
        handoffs._keep("kept", 1)
        assert [path.name for path in tmp_path.iterdir()] == ["new"]

    asyncio.run(go())
