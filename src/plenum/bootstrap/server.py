"""A control plane as one process: store, controller, API, this host's node and the simulated fleets."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from plenum.bootstrap.config import ServerConfig, host_name, instance_of, is_loopback, private_folder, secret_of
from plenum.bootstrap.embedded import serve_agent, serve_simulated
from plenum.bootstrap.forecasts import foresee
from plenum.bootstrap.gateways import Keeper, keeper_of
from plenum.control import commands
from plenum.control.events import Grant
from plenum.control.service import Service
from plenum.model.errors import FieldError, FileError, PlenumError, Where
from plenum.ports.store import EventStore

if TYPE_CHECKING:
    from fastapi import FastAPI

    from plenum.adapters.nodes.local import LocalDriver
    from plenum.api.settings import ApiSettings
    from plenum.bootstrap.tls import Credentials
    from plenum.gateway.connections import Server

OPERATOR = "operator"
DEFAULT_TENANT = "default"

READY_S = 60.0
"""Longest that a start may take until it leads or follows."""

STOP_WORK_S = 30.0
"""Longest that this host's jobs get to end at a clean shutdown, whatever grace they ask for."""

log = logging.getLogger("plenum.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A control plane that answers.

    Parameters
    ----------
    operator_token
        Of a first start; empty: there was one before.
    ca
        The file that clients check its certificate with; None: it has none.
    warm
        Set once it makes decisions.
    gateway
        Looks after the gateway on this machine; None: there is to be none.
    """

    config: ServerConfig
    service: Service
    address: str
    port: int
    ca: Path | None
    warm: asyncio.Event
    operator_token: str = ""
    local_agent: str = ""
    gateway: Keeper | None = None


async def serve(
    config: ServerConfig,
    work: Callable[[Running], Awaitable[None]] | None = None,
    *,
    new_token: bool = False,
    stop_local_work: bool = True,
) -> None:
    """Run a control plane until it is told to stop (SIGINT, SIGTERM), or ``work`` returns.

    Parameters
    ----------
    work
        Called once it answers; None: it just serves.
    new_token
        Issue another operator token, for somebody who has lost the first.
    stop_local_work
        At the end, stop this host's jobs with their grace; they start again with the next start. False: they go on as long as
        their lease lasts.

    Raises
    ------
    PlenumError
        The store cannot be opened, the port is taken, …
    """
    async with running(config, new_token=new_token, stop_local_work=stop_local_work) as server:
        stop = asyncio.Event()
        with _signals(stop):
            tasks = [asyncio.create_task(stop.wait()), asyncio.create_task(server.service.broken())]
            if work is not None:
                tasks.append(asyncio.create_task(_awaited(work(server))))
            done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for task in done:
                task.result()


async def _awaited(work: Awaitable[None]) -> None:
    await work


@asynccontextmanager
async def running(config: ServerConfig, *, new_token: bool = False, stop_local_work: bool = True):
    """Start a control plane, yield a :class:`Running`, and stop it in good order."""
    from plenum.api.app import create_app

    private_folder(config.data)
    async with AsyncExitStack() as stack:
        listening = _listen(config)
        stack.callback(listening.close)
        port = listening.getsockname()[1]
        store = _opened(config)
        stack.callback(store.close)
        service = service_of(config, store, config.address(port))
        service.controller.engine_secret = secret_of(config.engine_secret or config.data / "engine.secret")
        service.hold_decisions(True)
        await service.start()
        stack.push_async_callback(service.stop)
        settings = read_settings(config)
        files = _tls(config)
        server = http_server(create_app(service, settings), settings, files)
        serving = asyncio.create_task(server.serve([listening]))
        stack.push_async_callback(_closed, service, server, serving)
        # Alone on its store it will lead, as soon as the lease of the one before has lapsed, which a crash leaves behind.
        may_follow = config.shared_store and not config.local_node
        await _until(lambda: server.started and (service.leading or (may_follow and service.following)), serving)
        token, agent = "", ""
        if service.leading:
            token = await _first_start(service, new_token)
        warm = _warmed(service)
        simulated = asyncio.create_task(serve_simulated(service))
        stack.push_async_callback(_cancelled, simulated)
        foreseeing = asyncio.create_task(foresee(service, on_error=lambda sentence: log.warning("%s", sentence)))
        stack.push_async_callback(_cancelled, foreseeing)
        if config.local_node:
            agent, driver = await _join_host(config, service)
            local = asyncio.create_task(serve_agent(service, agent, driver, instance=instance_of(config.data)))
            stack.push_async_callback(_leave_host, service, agent, local, stop_local_work)
        keeper = keeper_of(config, service, config.address(port), files.ca if files else None)
        if keeper is not None:
            keeping = asyncio.create_task(keeper.run())
            stack.push_async_callback(_leave_gateway, keeper, keeping, stop_local_work)
        yield Running(
            config=config,
            service=service,
            address=config.address(port),
            port=port,
            ca=files.ca if files else None,
            operator_token=token,
            local_agent=agent,
            warm=warm,
            gateway=keeper,
        )


def http_server(app: FastAPI, settings: ApiSettings, files: Credentials | None) -> Server:
    """Return what serves an API, over TLS where there are files for that; connections are bounded as a gateway's are."""
    import uvicorn

    from plenum.gateway.connections import Bounds, Places, Server, room_for

    metrics = app.state.context.metrics
    bounds = Bounds(
        # More files than it was started with are not asked for: the jobs of this host would have that limit from here.
        connections=room_for(settings.connections, files_each=1, raising=False),
        connections_per_client=settings.connections,
        headers_bytes=settings.headers_bytes,
        headers_s=settings.headers_s,
        stall_s=settings.send_timeout_s,
    )
    places = Places(
        bounds, changed=metrics.connections.inc, dropped=lambda why: metrics.connections_dropped.labels(why).inc()
    )
    config = uvicorn.Config(
        app,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="on",
        ssl_certfile=files.certificate if files else None,
        ssl_keyfile=files.key if files else None,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
        server_header=False,
        proxy_headers=False,  # nobody may say for a caller where it comes from
    )
    return Server(config, places)


def read_settings(config: ServerConfig) -> ApiSettings:
    """Return the API's settings: those of the file that is named, or the defaults.

    Raises
    ------
    FileError
        It cannot be read, or holds something that is no setting.
    """
    from plenum.api.settings import ApiSettings

    if config.api_settings is None:
        return ApiSettings()
    where = Where(file=str(config.api_settings))
    try:
        given = msgspec.toml.decode(config.api_settings.read_bytes())
        settings = msgspec.convert(given, ApiSettings)
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}", where) from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise FileError(f"is not a file of API settings: {error}", where) from None
    if unknown := _unknown(given, msgspec.to_builtins(settings)):
        raise FileError(f"there is no API setting {unknown}", where)
    return settings


def _unknown(given: Any, read: Any, path: str = "") -> str:
    """Return the path of something given that is not among what was read; empty: there is nothing such."""
    steps: list[tuple[str, Any, Any]] = []
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            at = f"{path}.{key}" if path else key
            if key not in read:
                return at
            steps.append((at, value, read[key]))
    elif isinstance(given, list) and isinstance(read, list):
        steps = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(given, read, strict=True))]
    return next((found for at, value, known in steps if (found := _unknown(value, known, at))), "")


def _listen(config: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        what = f"cannot listen on {config.host}:{config.port}: {error.strerror}"
        raise FieldError("--port", f"{what}; is another control plane running? Choose another port") from None
    listening.listen(512)
    listening.setblocking(False)
    return listening


def _opened(config: ServerConfig) -> EventStore:
    from plenum.adapters.stores.opening import open_store

    return open_store(config.store_url)


def service_of(config: ServerConfig, store: EventStore, address: str) -> Service:
    """Return a control plane over a store; it scales by the calibration that its gateway's settings name."""
    from plenum.adapters.clock import SystemClock
    from plenum.adapters.manifests.fleet import parse_fleet
    from plenum.bootstrap.gateway_settings import calibration_in, read_gateway_settings
    from plenum.control.controller import Controller

    controller = Controller(
        store,
        SystemClock(),
        parse_fleet,
        holder=config.name or f"{host_name()}-{secrets.token_hex(4)}",
        address=address,
        lease_s=config.lease_s,
        calibration=calibration_in(read_gateway_settings(config.gateway_settings)),
    )
    return Service(controller, parse_fleet, on_error=lambda sentence: log.warning("%s", sentence))


async def _leave_gateway(keeper: Keeper, keeping: asyncio.Task[None], stop: bool) -> None:
    await _cancelled(keeping)
    if stop:
        await keeper.stop()


def _tls(config: ServerConfig) -> Any:
    from plenum.bootstrap.tls import Credentials, credentials

    if not config.tls:
        return None
    if config.certificate is not None and config.key is not None:
        return Credentials(certificate=config.certificate, key=config.key, ca=config.certificate)
    names = {n for n in (config.public, config.host, host_name()) if n and n not in ("0.0.0.0", "::")}
    return credentials(config.data / "tls", names)


async def _until(ready: Callable[[], bool], serving: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + READY_S
    while not ready():
        if serving.done():
            serving.result()
            raise PlenumError("the API stopped while it was starting; the messages above say why")
        if loop.time() > deadline:
            raise PlenumError(
                f"the control plane could not take or find a leader within {READY_S:.0f} s; is the store reachable?"
            )
        await asyncio.sleep(0.02)


async def _first_start(service: Service, new_token: bool) -> str:
    """Make the default tenant and the operator where there are none; returns a token if one was issued."""
    from plenum.api.identity import new_secret

    state = service.state
    if DEFAULT_TENANT not in state.tenants and not state.tenants:
        await service.execute(commands.apply_tenant(DEFAULT_TENANT, {}).by("control"))
    if OPERATOR not in state.users:
        await service.execute(commands.apply_user(OPERATOR, [Grant("operator", "*")]).by("control"))
        new_token = True
    if not new_token:
        return ""
    token = new_secret()
    issue = commands.issue_token(token.id, OPERATOR, token.hash, note="printed by the first start")
    await service.execute(issue.by("control"))
    return token.text


async def _join_host(config: ServerConfig, service: Service) -> tuple[str, LocalDriver]:
    from plenum.adapters.discover import discover
    from plenum.adapters.manifests.dump import dump_fleet
    from plenum.bootstrap.local import local_driver
    from plenum.control.hardware import node_facts

    name = host_name()
    fleet = discover(name=name)
    agent = f"local/{name}"
    address = config.public or ("127.0.0.1" if is_loopback(config.host) else config.host)
    facts = node_facts(fleet)
    join = commands.apply_fleet(f"host-{name}", dump_fleet(fleet), facts, driver="agent", agent=agent, address=address)
    await service.execute(join.by("control"))
    return agent, local_driver(config.data / "node", facts[0].name)


async def _leave_host(service: Service, agent: str, local: asyncio.Task[None], stop_work: bool) -> None:
    if stop_work and service.leading:
        try:
            await service.stop_work(agent, STOP_WORK_S)
        except PlenumError as error:
            log.warning("this host's jobs were not stopped: %s", error.sentence)
    await _cancelled(local)


def _warmed(service: Service) -> asyncio.Event:
    """Let decisions begin once they are quick, and say so; until then the API answers as ever."""
    loop, warm = asyncio.get_running_loop(), asyncio.Event()

    def begin() -> None:
        service.hold_decisions(False)
        warm.set()

    def work() -> None:
        from plenum.bootstrap.warm import warm_up

        try:
            warm_up()
        except Exception:
            log.exception("the first decision could not be made in advance")
        with suppress(RuntimeError):  # stopped meanwhile
            loop.call_soon_threadsafe(begin)

    # Not one of the loop's own threads, whose end it would wait for: compiling takes half a minute.
    threading.Thread(target=work, name="warm-up", daemon=True).start()
    return warm


async def _closed(service: Service, server: Any, serving: asyncio.Task[None]) -> None:
    await service.end_watches()  # which would keep their connections open
    server.should_exit = True
    await asyncio.gather(serving, return_exceptions=True)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@contextmanager
def _signals(stop: asyncio.Event):
    """Set an event on the first SIGINT or SIGTERM; the second ends the process as it would without us."""
    loop = asyncio.get_running_loop()

    def asked(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
