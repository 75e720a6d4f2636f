"""The line to the control plane, against a small one that can be away, refuse, and forget."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from tests.patience import PATIENCE_S

from plenum.gateway import link as links
from plenum.gateway.link import Link, LinkConfig, keep_table, kept_table
from plenum.ports.gateway import Key, LoadReport, Peer, Table, Usage, UsageBatch


class Control:
    """Answers as the control plane does; ``token`` is the one that it takes."""

    def __init__(self) -> None:
        self.table = Table(version=1)
        self.token = "good"
        self.loads: list[LoadReport] = []
        self.usage: list[int] = []
        self.fails = 0
        self._moved = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/v1alpha1/gateways/edge/table", self._table)
        app.router.add_post("/v1alpha1/gateways/edge/loads", self._loads)
        app.router.add_post("/v1alpha1/gateways/edge/usage", self._usage)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def change(self, table: Table) -> None:
        async with self._moved:
            self.table = table
            self._moved.notify_all()

    def _check(self, request: web.Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized(text='{"code": "auth.invalid", "detail": "no"}')
        if self.fails:
            self.fails -= 1
            raise web.HTTPServiceUnavailable(text='{"code": "control.busy", "detail": "later"}')

    async def _table(self, request: web.Request) -> web.Response:
        self._check(request)
        with suppress(TimeoutError):
            async with asyncio.timeout(float(request.query["wait"])), self._moved:
                await self._moved.wait_for(lambda: self.table.version != int(request.query["version"]))
                return web.Response(body=msgspec.json.encode(self.table))
        return web.Response(status=304)

    async def _loads(self, request: web.Request) -> web.Response:
        self._check(request)
        self.loads.append(msgspec.json.decode(await request.read(), type=LoadReport))
        alive = [{"name": report.gateway, "url": report.url} for report in self.loads[-1:]]
        return web.json_response({"gateways": [*alive, {"name": "other.1"}]})

    async def _usage(self, request: web.Request) -> web.Response:
        self._check(request)
        self.usage.append(msgspec.json.decode(await request.read(), type=UsageBatch).number)
        return web.json_response({})


class Journal:
    """Batches that wait, the oldest first."""

    def __init__(self, numbers: int) -> None:
        row = Usage(
            request="r", at=1.0, tenant="t", key="k", endpoint="t/e", model="e", revision=1, prompt_tokens=1, cached_tokens=0,
            output_tokens=1,
        )  # fmt: skip
        self.waiting = [UsageBatch(gateway="edge.1", number=n, rows=(row,)) for n in range(1, numbers + 1)]

    def pending(self) -> UsageBatch | None:
        return self.waiting[0] if self.waiting else None

    def acknowledged(self, number: int) -> None:
        assert self.waiting.pop(0).number == number


class Wired:
    """A link, what it was given, and what it is linked to."""

    def __init__(self, folder: Path, control: Control, batches: int = 0) -> None:
        self.control, self.journal, self.calling = control, Journal(batches), asyncio.Event()
        self.tables: list[Table] = []
        self.peers: list[Peer] = []
        (folder / "token").write_text("good\n")
        config = LinkConfig(
            servers=(f"http://127.0.0.1:{control.port}",),
            ca=None,
            name="edge",
            token_file=folder / "token",
            folder=folder,
            url="http://edge",
        )
        report = LoadReport(gateway="edge.1", seconds=1.0, table=1)
        self.link = Link(
            config,
            take=self.tables.append,
            loads=lambda: report,
            peers=self.peers.extend,
            calling=self.calling,
            journal=self.journal,
        )


@asynccontextmanager
async def wired(folder: Path, batches: int = 0) -> AsyncIterator[Wired]:
    control = Control()
    await control.start()
    both = Wired(folder, control, batches)
    running = asyncio.create_task(both.link.run())
    try:
        yield both
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await control.stop()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MAX_PAUSE_S", 0.2)


def test_tables_come_as_they_change_and_are_kept_for_this_user_alone(tmp_path: Path):
    async def story() -> None:
        async with wired(tmp_path) as both:
            await until(lambda: both.tables)
            await both.control.change(Table(version=7, keys=(Key(id="k", hash="h", tenant="t"),)))
            await until(lambda: both.tables[-1].version == 7)
            await until(lambda: (kept := kept_table(tmp_path)) is not None and kept.version == 7)

    asyncio.run(story())
    assert stat.S_IMODE((tmp_path / "table.json").stat().st_mode) == 0o600


def test_reports_say_where_it_is_and_are_answered_with_who_else_there_is(tmp_path: Path):
    async def story() -> None:
        async with wired(tmp_path) as both:
            await until(lambda: both.peers)
            assert both.peers[:2] == [Peer(name="edge.1", url="http://edge"), Peer(name="other.1")]

    asyncio.run(story())


def test_a_start_without_a_control_plane_goes_by_the_table_that_was_kept(tmp_path: Path):
    keep_table(tmp_path, Table(version=5, engine_secret="s"))

    async def story() -> None:
        both = Wired(tmp_path, Control())
        assert both.link.load_kept()
        assert both.tables == [Table(version=5, engine_secret="s")]

    asyncio.run(story())


def test_a_kept_table_that_is_damaged_is_no_table(tmp_path: Path):
    (tmp_path / "table.json").write_bytes(b'{"version": "x"}')
    assert kept_table(tmp_path) is None


def test_usage_is_sent_in_order_and_each_batch_until_it_is_acknowledged(tmp_path: Path):
    async def story() -> None:
        async with wired(tmp_path, batches=3) as both:
            both.control.fails = 4
            await until(lambda: not both.journal.waiting)
            assert both.control.usage == [1, 2, 3]

    asyncio.run(story())


def test_it_goes_on_where_it_was_when_the_control_plane_comes_back(tmp_path: Path):
    async def story() -> None:
        async with wired(tmp_path) as both:
            await until(lambda: both.tables)
            await both.control.stop()
            both.journal.waiting = Journal(1).waiting
            await both.control.start()
            await both.control.change(Table(version=2))
            await until(lambda: both.tables[-1].version == 2 and both.control.usage == [1])

    asyncio.run(story())


def test_a_request_that_finds_no_replica_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(links, "LOADS_EVERY_S", 3_600.0)

    async def story() -> None:
        async with wired(tmp_path) as both:
            await until(lambda: len(both.control.loads) == 1)
            both.calling.set()
            await until(lambda: len(both.control.loads) == 2)

    asyncio.run(story())


def test_another_token_is_taken_up_and_without_one_nobody_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(links, "REFUSED_S", 0.3)

    async def story() -> None:
        async with wired(tmp_path) as both:
            await until(lambda: both.tables)
            both.control.token = "better"
            await both.control.change(Table(version=2))
            await until(lambda: both.tables[-1] == Table(version=-1))
            (tmp_path / "token").write_text("better")
            await until(lambda: both.tables[-1].version == 2)

    asyncio.run(story())


def test_what_waits_is_sent_on_the_way_out(tmp_path: Path):
    async def story() -> None:
        control = Control()
        await control.start()
        both = Wired(tmp_path, control, batches=2)
        await both.link.flush()
        await control.stop()
        assert control.usage == [1, 2]

    asyncio.run(story())
