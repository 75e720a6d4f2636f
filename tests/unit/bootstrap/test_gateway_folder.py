"""Who works in a gateway's folder, who only looks, and what is left in it for the next."""

import asyncio
import fcntl
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.calibrations import write_calibration
from plenum.adapters.clock import SystemClock
from plenum.bootstrap.config import ServerConfig
from plenum.bootstrap.gateway import Address, GatewayConfig, is_taken
from plenum.bootstrap.gateways import Keeper, gateway_folder, keeper_of
from plenum.bootstrap.server import service_of
from plenum.model.errors import FileError
from plenum.serving.calibration import shipped
from plenum.sim.store import MemoryStore


def test_who_looks_whether_a_gateway_works_somewhere_is_not_taken_for_one(tmp_path):
    assert not is_taken(tmp_path)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert not is_taken(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_taken(tmp_path)
    assert not is_taken(tmp_path)


@pytest.mark.parametrize(
    ("before", "asked", "port"),
    [
        ((9123, 8080), 8080, 9123),  # it moved, and is known by where it moved to
        ((9123, 0), 0, 9123),
        ((9123, 8080), 8090, 8090),
        ((9123, None), 8090, 8090),  # left by one that noted nothing
        (None, 8080, 8080),
    ],
)
def test_a_gateway_stays_at_its_port_until_another_is_asked_for(tmp_path, before, asked, port):
    if before is not None:
        folder = gateway_folder(tmp_path)
        folder.mkdir()
        left = Address(pid=1, port=before[0], url="http://127.0.0.1:9123", servers=(), wanted=before[1])
        (folder / "address.json").write_bytes(msgspec.json.encode(left))
    config = ServerConfig(data=tmp_path, gateway_port=asked)
    keeper = keeper_of(config, cast(Any, None), "https://127.0.0.1:7070", None)
    assert keeper is not None
    assert (keeper.config.port, keeper.config.wanted) == (port, asked)


def test_a_disk_without_room_does_not_end_the_looking_after(tmp_path, caplog):
    wanting: Any = SimpleNamespace(leading=True, state=SimpleNamespace(endpoints={"a": 1}, keys={}))

    class Full(Keeper):
        async def _start(self) -> None:
            raise OSError(28, "No space left on device")

    async def go() -> None:
        keeper = Full(wanting, GatewayConfig(data=tmp_path, servers=("https://127.0.0.1:1",)))
        keeping = asyncio.create_task(keeper.run())
        async with asyncio.timeout(PATIENCE_S):
            while caplog.text.count("No space left") < 2:
                await asyncio.sleep(0.01)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)

    asyncio.run(go())


def test_scaling_goes_by_the_calibration_that_the_gateway_s_settings_name(tmp_path):
    write_calibration(tmp_path / "mine.json", replace(shipped(), name="mine"))
    (tmp_path / "gateway.toml").write_text(f'calibration = "{tmp_path}/mine.json"')
    config = ServerConfig(data=tmp_path, gateway_settings=tmp_path / "gateway.toml")
    calibration = service_of(config, MemoryStore(SystemClock()), "").controller.loads.calibration
    assert calibration is not None
    assert calibration.name == "mine"
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(FileError, match="no calibration"):
        service_of(config, MemoryStore(SystemClock()), "")
