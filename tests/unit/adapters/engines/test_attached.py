"""Engines that run already are waited for, and not for ever."""

import asyncio
import subprocess
import sys

import pytest
from tests.engines import KEY, new_emulated
from tests.patience import PATIENCE_S

from plenum.adapters.engines import http
from plenum.adapters.engines.emulated import Emulated, Faults
from plenum.ports.engine import EngineError


def test_a_server_that_is_not_ready_yet_is_waited_for():
    async def attach() -> int:
        engine = new_emulated(faults=Faults())
        await engine.start()
        attached = Emulated(engine.url, key=KEY)
        try:
            await engine.fail(Faults(unhealthy=True))
            waiting = asyncio.ensure_future(attached.start())
            await asyncio.wait({waiting}, timeout=0.3)
            assert not waiting.done()
            await engine.fail(Faults())
            async with asyncio.timeout(PATIENCE_S):
                await waiting
            return attached.capabilities.slots
        finally:
            await attached.close()
            await engine.stop(0)
            await engine.close()

    assert asyncio.run(attach()) > 0


def test_a_server_that_never_comes_is_an_error(monkeypatch):
    monkeypatch.setattr(http, "ATTACH_TIMEOUT_S", 0.0)

    async def attach() -> None:
        attached = Emulated("http://127.0.0.1:9", key=KEY)
        try:
            await attached.start()
        finally:
            await attached.close()

    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9"):
        asyncio.run(attach())


def test_reaching_engines_needs_no_web_framework():
    script = (
        "import sys; import plenum.adapters.engines.table, plenum.bootstrap.engine; "
        "sys.exit(' '.join(name for name in ('aiohttp', 'zmq', 'numba', 'fastapi') if name in sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.stderr.strip() == ""
