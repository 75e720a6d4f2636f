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
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from plenum.adapters.clock import SystemClock
from plenum.adapters.discover import discover
from plenum.adapters.manifests.dump import dump_fleet
from plenum.bootstrap.config import host_name, instance_of, is_loopback, private_folder, write_private
from plenum.bootstrap.local import local_driver
from plenum.control.agent import Agent
from plenum.control.protocol import SyncRequest, SyncResponse
from plenum.model.errors import FieldError, FileError, PlenumError, Where

WAIT_S = 0.5
"""How long the control plane may hold an answer back; ends of runs are told at most so much later."""

TIMEOUT_S = 10.0
MAX_PAUSE_S = 5.0
"""Longest pause between two tries while the control plane is away; well below the lease."""

MAX_ANSWER_BYTES = 64 * 2**20

log = logging.getLogger("plenum.agent")


class UnreachableError(PlenumError):
    """No control plane answers, or none that leads."""

    code = "control.unreachable"


class UntrustedError(UnreachableError):
    """What answers is not certified by the authority that this agent trusts."""

    code = "control.untrusted"


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
        for url in self.servers:
            parts = urlsplit(url)
            if parts.scheme not in ("https", "http") or not parts.hostname:
                raise FieldError("--server", f"{url!r} is not an address such as https://control.example:7070")
            if parts.scheme == "http" and not is_loopback(parts.hostname):
                raise FieldError(
                    "--server", f"{url} is plain HTTP; an agent's orders travel over HTTPS only (loopback aside)"
                )
        if not self.servers:
            raise FieldError("--server", "give the address of a control plane")


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


class Link:
    """The way to the control plane: finds the replica that leads and stays with it."""

    def __init__(self, config: AgentConfig, agent: str) -> None:
        self._config = config
        self._agent = agent
        self._token_file = config.data / "token"
        self._token = _read(self._token_file)
        self._servers: Sequence[str] = config.servers
        self._at = 0
        self._leader = ""
        self._client = httpx.AsyncClient(
            verify=_trust(config.ca), timeout=TIMEOUT_S, follow_redirects=False, headers={"User-Agent": "plenum-agent"}
        )

    async def __aenter__(self) -> Link:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    @property
    def server(self) -> str:
        """The replica that is asked next."""
        return self._leader or self._servers[self._at % len(self._servers)]

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
            answer = await self._ask("/v1alpha1/agents", msgspec.json.encode(body), token)
        except NotJoinedError:
            if not (self._token and self._config.join_token):
                raise
            answer = await self._ask("/v1alpha1/agents", msgspec.json.encode(body), self._config.join_token)
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
        answer = await self._ask(path, msgspec.json.encode(request), self._token)
        try:
            return msgspec.json.decode(answer, type=SyncResponse)
        except msgspec.MsgspecError as error:
            raise UnreachableError(
                f"{self.server} gave an answer that this agent does not understand: {error}"
            ) from None

    async def _ask(self, path: str, body: bytes, token: str) -> bytes:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            answer = await self._client.post(self.server + path, content=body, headers=headers)
        except httpx.HTTPError as error:
            server = self._next()
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                known = (
                    f"the authority in {self._config.ca}" if self._config.ca else "an authority that this system knows"
                )
                raise UntrustedError(
                    f"{server} is not certified by {known}; name its authority with --ca FILE"
                ) from None
            raise UnreachableError(f"{server} does not answer ({type(error).__name__}); trying again") from None
        if answer.is_success:
            if len(answer.content) > MAX_ANSWER_BYTES:
                raise UnreachableError(
                    f"{self.server} gave an answer of {len(answer.content):,} bytes, more than an agent takes"
                )
            return answer.content
        problem = _problem(answer)
        if problem.get("code") == "control.not-leader" and problem.get("leader") in self._known():
            self._leader = problem["leader"]
            raise UnreachableError(f"{answer.url.host} does not lead; asking {self._leader}")
        if 400 <= answer.status_code < 500 and answer.status_code not in (408, 429):
            raise NotJoinedError(f"{self.server} refuses this agent: {problem.get('detail', answer.status_code)}")
        server = self._next()
        raise UnreachableError(f"{server} answered {answer.status_code}: {problem.get('detail', '')}")

    def _known(self) -> tuple[str, ...]:
        """Replicas that an answer may send this agent to: only those that it was told of at its start get its token."""
        return tuple(url.rstrip("/") for url in self._servers)

    def _next(self) -> str:
        """Turn to the next replica; returns the one turned away from."""
        before = self.server
        self._leader = ""
        self._at += 1
        return before


def _trust(ca: Path | None) -> Any:
    import ssl

    if ca is None:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise FileError(f"is not a file of certificates in PEM: {error}", Where(file=str(ca))) from None


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""


def _problem(answer: httpx.Response) -> dict[str, Any]:
    with suppress(ValueError):
        found = answer.json()
        if isinstance(found, dict):
            return found
    return {}
