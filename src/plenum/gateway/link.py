"""A gateway's line to the control plane: its table comes down; loads and usage go up.

The table is kept on disk, so that a gateway that starts while the control plane is away serves what it served before. Loads are of the
moment and may be lost; usage stays in the journal until the control plane has it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import quote

import msgspec

from plenum.adapters.control_link import ControlLink, NotAllowedError, UnreachableError
from plenum.adapters.nodes.files import replace
from plenum.model.errors import PlenumError
from plenum.ports.gateway import LoadReport, Peer, Peers, Table, UsageBatch

TABLE_WAIT_S = 20.0
"""How long the control plane may hold the answer back for news."""

LOADS_EVERY_S = 1.0
CALLS_EVERY_S = 0.1
"""Least time between two reports, however many requests wait for a replica."""

USAGE_EVERY_S = 1.0
MAX_PAUSE_S = 5.0
REFUSED_S = 60.0
"""A gateway that has been refused for so long serves nobody any more: its token was revoked."""

FLUSH_BATCHES = 20
"""Batches of usage that are sent on the way out; the rest waits in the journal."""

T = TypeVar("T")
_LOG = logging.getLogger("plenum.gateway.link")


class Journal(Protocol):
    """Where usage waits; see :class:`plenum.gateway.journal.Upload`."""

    def pending(self) -> UsageBatch | None:
        """Return the oldest batch that is not acknowledged; None: there is none."""
        ...

    def acknowledged(self, number: int) -> None:
        """Forget a batch: the control plane has it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """Where the control plane is, and who this gateway is there.

    Parameters
    ----------
    token_file
        Holds the gateway's token; read again when it is refused, as it may have been replaced.
    folder
        Where the table is kept.
    url
        Where clients reach this gateway, for people who ask the control plane.
    """

    servers: tuple[str, ...]
    ca: Path | None
    name: str
    token_file: Path
    folder: Path
    url: str = ""


class Link:
    """Keeps a gateway and the control plane informed of each other.

    Parameters
    ----------
    take
        Given every new table.
    loads
        Gives what was seen since it was last asked.
    peers
        Given the gateways that are alive, with every answer to a report.
    calling
        Set when loads are to be told at once.
    """

    def __init__(
        self,
        config: LinkConfig,
        *,
        take: Callable[[Table], None],
        loads: Callable[[], LoadReport],
        peers: Callable[[tuple[Peer, ...]], None] = lambda alive: None,
        calling: asyncio.Event,
        journal: Journal,
    ) -> None:
        self._config = config
        self._take, self._loads, self._calling, self._journal = take, loads, calling, journal
        self._peers = peers
        self._control = ControlLink(config.servers, config.ca, "plenum-gateway")
        self._path = f"/v1alpha1/gateways/{quote(config.name, safe='')}"
        self._token = _read_token(config.token_file)
        self._version = -1
        self._refused_at = 0.0
        self.heard_at = time.monotonic()
        """When the control plane last answered (monotonic)."""

    def load_kept(self) -> bool:
        """Take the table that was kept on disk; returns whether there was one."""
        kept = kept_table(self._config.folder)
        if kept is None:
            return False
        self._version = kept.version
        self._take(kept)
        return True

    async def run(self) -> None:
        """Keep at it until cancelled."""
        async with self._control, asyncio.TaskGroup() as group:
            group.create_task(self._forever(self._next_table, 0.0))
            group.create_task(self._forever(self._tell_loads, LOADS_EVERY_S))
            group.create_task(self._forever(self._send_usage, USAGE_EVERY_S))

    async def flush(self) -> None:
        """Send what usage waits, on the way out; what cannot be sent stays in the journal."""
        async with ControlLink(self._config.servers, self._config.ca, "plenum-gateway") as self._control:
            with suppress(PlenumError, OSError):
                for _ in range(FLUSH_BATCHES):
                    if not await self._send_usage():
                        return

    async def _forever(self, work: Callable[[], Awaitable[bool]], every_s: float) -> None:
        """Do a piece of work again and again: at once while there is more, later and later while nobody answers."""
        pause_s = 0.0
        while True:
            try:
                more = await work()
                if pause_s:
                    _LOG.warning("%s answers again", self._control.server)
                pause_s = 0.0
                self.heard_at = time.monotonic()
            except (PlenumError, OSError) as error:  # such as too many open files: it passes, and clients are served
                more = False
                if not pause_s:
                    _LOG.warning("%s", error)
                pause_s = min(2 * pause_s + 0.1, MAX_PAUSE_S)
            if pause_s:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            elif not more:
                await self._rest(every_s, work == self._tell_loads)

    async def _rest(self, seconds: float, may_be_called: bool) -> None:
        if not may_be_called:
            await asyncio.sleep(seconds)
            return
        await asyncio.sleep(min(CALLS_EVERY_S, seconds))
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._calling.wait()

    async def _next_table(self) -> bool:
        config = self._config
        params = {"version": self._version, "wait": TABLE_WAIT_S, "url": config.url}
        status, body = await self._ask("GET", "/table", params=params, timeout_s=TABLE_WAIT_S + 10.0)
        if status == 200:
            table = _decoded(body, Table)
            self._take(table)
            self._version = table.version
            await asyncio.to_thread(keep_table, config.folder, table)
        return True

    async def _tell_loads(self) -> bool:
        self._calling.clear()
        report = msgspec.structs.replace(self._loads(), url=self._config.url)
        _, body = await self._ask("POST", "/loads", msgspec.json.encode(report))
        if alive := _decoded(body, Peers).gateways:
            self._peers(alive)
        return False

    async def _send_usage(self) -> bool:
        batch = self._journal.pending()
        if batch is None:
            return False
        await self._ask("POST", "/usage", msgspec.json.encode(batch))
        self._journal.acknowledged(batch.number)
        return True

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        params: dict[str, str | int | float] | None = None,
        timeout_s: float = 10.0,
    ) -> tuple[int, bytes]:
        try:
            answer = await self._control.ask(
                method, self._path + path, self._token, body, params=params, timeout_s=timeout_s
            )
        except NotAllowedError as error:
            if error.status in (401, 403):
                self._refused()
            raise
        self._refused_at = 0.0
        return answer

    def _refused(self) -> None:
        """Look whether there is another token; without one, end what was granted with it."""
        self._token = _read_token(self._config.token_file) or self._token
        now = time.monotonic()
        self._refused_at = self._refused_at or now
        if now - self._refused_at > REFUSED_S and self._version != -1:
            _LOG.error("the control plane refuses this gateway's token; it serves nobody until it has another one")
            self._version = -1
            self._take(Table(version=-1))


def kept_table(folder: Path) -> Table | None:
    """Return the table that was kept in a folder; None: none that can be read."""
    try:
        return msgspec.json.decode((folder / "table.json").read_bytes(), type=Table)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _LOG.warning("the table that was kept cannot be read: %s", error)
        return None


def keep_table(folder: Path, table: Table) -> None:
    """Keep a table for the next start, readable for this user alone; without room it is not kept."""
    try:
        replace(folder / "table.json", msgspec.json.encode(table), durably=False)
    except OSError as error:
        _LOG.warning("the table cannot be kept: %s", error.strerror or error)


def _decoded(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        what = kind.__name__.lower()
        raise UnreachableError(
            f"the control plane sent a {what} that this gateway does not understand: {error}"
        ) from None


def _read_token(path: Path) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="ascii") as file:
            return file.read(1_000).strip()
    except (OSError, ValueError):
        return ""
