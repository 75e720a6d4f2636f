"""A node agent as one process: this host's cores and GPUs under a control plane somewhere else.

It joins once with a join token and from then on speaks with a token of its own. It needs the control plane only to be told something
new: runs go on without it, and without the agent too, for as long as the lease lasts.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

import msgspec

from plenum.adapters.clock import SystemClock
from plenum.adapters.control_link import (
    ControlLink,
    NotAllowedError,
    UnreachableError,
    UntrustedError,
    check_servers,
)
from plenum.adapters.discover import discover
from plenum.adapters.manifests.dump import dump_fleet
from plenum.bootstrap.config import host_name, instance_of, private_folder, write_private
from plenum.bootstrap.local import local_driver
from plenum.control.agent import Agent
from plenum.control.protocol import SyncRequest, SyncResponse
from plenum.model.errors import PlenumError

WAIT_S = 0.5
"""How long the control plane may hold an answer back; ends of runs are told at most so much later."""

MAX_PAUSE_S = 5.0
"""Longest pause between two tries while the control plane is away; well below the lease."""

log = logging.getLogger("plenum.agent")


class NotJoinedError(PlenumError):
    """The control plane does not let this agent in, or not any more."""

    code = "agent.not-joined"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """An agent.

    Parameters
    ----------
    servers
        URLs of the control plane's replicas; any one will do, the others are asked when it is away or does not lead.
    ca
        File of the authority that signed their certificates; None: the system's.
    join_token
        Needed the first time.
    name
        Of this node in the fleet.
    address
        Where other nodes reach this one; empty: the address that it reaches the control plane from.
    cpu_milli, memory_bytes
        What jobs may have of this host; 0: all of it.
    checkpoints
        Folder that all agents of a gang see; None: one in ``data``.
    """

    servers: tuple[str, ...]
    data: Path
    ca: Path | None = None
    join_token: str = field(default="", repr=False)
    name: str = ""
    address: str = ""
    cpu_milli: int = 0
    memory_bytes: int = 0
    checkpoints: Path | None = None

    def __post_init__(self) -> None:
        check_servers(self.servers)


async def run_agent(config: AgentConfig, on_joined: Callable[[str], None] = lambda server: None) -> None:
    """Join, and serve this host until told to stop (SIGINT, SIGTERM); runs go on, for as long as their lease lasts.

    Raises
    ------
    PlenumError
        It may not join, or not go on, or its data folder is in use; what it runs ends with its lease.
    """
    private_folder(config.data)
    name = config.name or host_name()
    clock = SystemClock(asleep=True)
    driver = local_driver(config.data / "node", name, checkpoints=config.checkpoints)
    agent = Agent(name, driver, clock, instance=instance_of(config.data))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Link(config, agent.name) as link:
            serving = asyncio.create_task(_serve(config, link, agent, clock, on_joined))
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if serving.done():
                serving.result()
            serving.cancel()
            await asyncio.gather(serving, stopping, return_exceptions=True)
    finally:
        driver.close()


async def _serve(
    config: AgentConfig, link: Link, agent: Agent, clock: SystemClock, on_joined: Callable[[str], None]
) -> None:
    pause_s = 0.0
    joined = False
    while True:
        try:
            if not joined:
                await link.join(manifest_of(config))
                joined = True
                on_joined(link.server)
            request = await asyncio.to_thread(agent.request, WAIT_S)
            sent_at = clock.monotonic()
            response = await link.sync(request)
            await asyncio.to_thread(agent.take, request, sent_at, response)
            if pause_s:
                log.warning("%s answers again", link.server)
            pause_s = 0.0
        except NotJoinedError:
            raise
        except PlenumError as error:
            if not joined and (isinstance(error, UntrustedError) or not isinstance(error, UnreachableError)):
                raise  # a mistake in how it was started, most likely; one that runs already may see it mended, as a full disk
            if not pause_s:
                log.warning("%s", error.sentence)
            pause_s = min(2 * pause_s + 0.1, MAX_PAUSE_S)
        try:
            await asyncio.to_thread(agent.tick)
        except PlenumError as error:  # what it runs sees to its end itself, as the lease is over
            log.warning("%s", error.sentence)
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.0) if pause_s else 0.02)


def address_towards(server: str) -> str:
    """Return this host's address on the way to a server; loopback where that cannot be told."""
    parts = urlsplit(server)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)
        with socket.socket(found[0][0], socket.SOCK_DGRAM) as probe:
            probe.connect(found[0][4])  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def manifest_of(config: AgentConfig) -> str:
    """Return this host as a Fleet manifest of one node, with no more than it may give."""
    fleet = discover(name=config.name or host_name())
    for resource, most in (("cpu_milli", config.cpu_milli), ("memory_bytes", config.memory_bytes)):
        if most:
            column = fleet.resources.index(resource)
            capacity = fleet.budget_capacity.copy()
            mine = fleet.budget_resource == column
            capacity[mine] = [min(int(amount), most) for amount in capacity[mine]]
            fleet = fleet.replaced(budget_capacity=capacity)
    return dump_fleet(fleet)


class Link(ControlLink):
    """The agent's way to the control plane, with a token of its own once it has joined."""

    def __init__(self, config: AgentConfig, agent: str) -> None:
        super().__init__(config.servers, config.ca, "plenum-agent")
        self._config = config
        self._agent = agent
        self._token_file = config.data / "token"
        self._token = _read(self._token_file)

    async def join(self, manifest: str) -> None:
        """Make this agent known, with the join token or, when it was before, with its own.

        Raises
        ------
        UnreachableError
            Nobody answers; try again.
        UntrustedError
            Whoever answers is not to be trusted.
        NotJoinedError
            The control plane refuses.
        """
        body = {
            "agent": self._agent,
            "address": self._config.address or address_towards(self.server),
            "manifest": manifest,
        }
        token = self._token or self._config.join_token
        if not token:
            raise NotJoinedError(
                "this host has not joined yet; give a join token (plenum token create --join makes one)"
            )
        try:
            answer = await self._post("/v1alpha1/agents", msgspec.json.encode(body), token)
        except NotJoinedError:
            if not (self._token and self._config.join_token):
                raise
            answer = await self._post("/v1alpha1/agents", msgspec.json.encode(body), self._config.join_token)
        fresh = msgspec.json.decode(answer).get("token")
        if fresh:  # with its own token it gets no other
            self._token = fresh
            write_private(self._token_file, fresh.encode())

    async def sync(self, request: SyncRequest) -> SyncResponse:
        """Exchange news.

        Raises
        ------
        UnreachableError, NotJoinedError
            As :meth:`join`.
        """
        path = f"/v1alpha1/agents/{quote(self._agent, safe='')}/sync"
        answer = await self._post(path, msgspec.json.encode(request), self._token)
        try:
            return msgspec.json.decode(answer, type=SyncResponse)
        except msgspec.MsgspecError as error:
            raise UnreachableError(
                f"{self.server} gave an answer that this agent does not understand: {error}"
            ) from None

    async def _post(self, path: str, body: bytes, token: str) -> bytes:
        try:
            return (await self.ask("POST", path, token, body))[1]
        except NotAllowedError as error:
            raise NotJoinedError(error.sentence.replace(" refuses: ", " refuses this agent: ", 1)) from None


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""
