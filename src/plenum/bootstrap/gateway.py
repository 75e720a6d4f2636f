"""A gateway as one process: ``python -m plenum.bootstrap.gateway``, ``plenum gateway``, or a child of ``plenum up``."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import logging.handlers
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from plenum.adapters.control_link import check_servers
from plenum.bootstrap.config import (
    host_name,
    instance_of,
    is_loopback,
    journal_instance_of,
    private_folder,
    write_private,
)
from plenum.bootstrap.gateway_settings import calibration_in, read_gateway_settings
from plenum.model.errors import FieldError, FileError, PlenumError, Where
from plenum.ports.gateway import Peer, Table

DEFAULT_PORT = 8080
DEFAULT_NAME = "local"
LOG_BYTES = 4 * 2**20
ALONE_IDLE_S = 60.0
"""One that is a child of a control plane ends when that has been gone for so long and nobody asks for anything …"""
ALONE_BUSY_S = 900.0
"""… or for so long."""

log = logging.getLogger("plenum.gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """A gateway.

    Parameters
    ----------
    data
        Folder of its token (``token``), journal, table and log.
    servers, ca
        URLs of the control plane's replicas, and the file of the authority that signed their certificates.
    name
        As the control plane knows it; its token is for this name alone.
    port
        0: any free one.
    elsewhere
        Whether it may take another port where that one is taken.
    wanted
        Port that it was asked to have in the first place, where ``port`` may be one that it moved to; None: nobody notes it.
    public
        URL that clients reach it by, where that is not what it listens on, such as that of a proxy.
    known_as
        Host name or address that clients know this host by, where that is not ``host``.
    certificate, key
        Files for TLS. Without them it speaks plain HTTP on loopback, and elsewhere has a certificate from the authority in ``authority``,
        made as needed; None: in ``tls`` of its folder.
    plain
        Whether it may speak plain HTTP beyond this host, where something before it speaks TLS.
    settings
        TOML file of :class:`plenum.gateway.settings.GatewaySettings`; None: the defaults.
    child
        Whether it was started by a control plane, for which it logs into a file, and which it does not outlive for long.
    """

    data: Path
    servers: tuple[str, ...]
    ca: Path | None = None
    name: str = DEFAULT_NAME
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    elsewhere: bool = False
    wanted: int | None = None
    public: str = ""
    known_as: str = ""
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    plain: bool = False
    settings: Path | None = None
    child: bool = False

    def __post_init__(self) -> None:
        check_servers(self.servers)
        if not 0 <= self.port <= 65_535:
            raise FieldError("--port", f"must be from 0 (any free one) to 65535, not {self.port}")
        if (self.certificate is None) != (self.key is None):
            raise FieldError("--certificate", "give both a certificate and its key, or neither")

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""
        return self.certificate is not None or not (self.plain or is_loopback(self.host))


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a gateway that runs is, and who signed its certificate, where that is no one that all trust; in ``address.json``."""

    pid: int
    port: int
    url: str
    servers: tuple[str, ...]
    host: str = ""
    tls: bool = False
    ca: str = ""
    wanted: int | None = None


def main(argv: list[str]) -> None:
    """Run a gateway; the only argument is its configuration in JSON."""
    config = msgspec.json.decode(argv[0], type=GatewayConfig, dec_hook=lambda kind, value: kind(value))
    if config.child:
        handler = logging.handlers.RotatingFileHandler(config.data / "log", maxBytes=LOG_BYTES, backupCount=2)
        logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(message)s")
        logging.getLogger("httpx").setLevel(logging.WARNING)
    from plenum.bootstrap.loop import run

    try:
        run(run_gateway(config))
    except PlenumError as error:
        log.error("%s", error)
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


async def run_gateway(config: GatewayConfig, on_ready: Callable[[Address], None] = lambda address: None) -> None:
    """Serve until told to stop (SIGINT, SIGTERM); open streams then end in good order.

    Raises
    ------
    PlenumError
        It has no token, another gateway uses its folder, the port is taken, …
    """
    from plenum.adapters.engines.table import engine_for
    from plenum.gateway.app import Gateway
    from plenum.gateway.batch_runner import Runner
    from plenum.gateway.batches import Batches
    from plenum.gateway.dispatch import Dispatcher
    from plenum.gateway.files import Files
    from plenum.gateway.foresight import foresee
    from plenum.gateway.journal import Journal
    from plenum.gateway.kept_figures import KeptFigures
    from plenum.gateway.link import Link, LinkConfig
    from plenum.gateway.offline import offline_routes
    from plenum.gateway.peers import Peers
    from plenum.gateway.responses import RESPONSES
    from plenum.gateway.server import serve

    private_folder(config.data)
    settings = read_gateway_settings(config.settings)
    calibration = calibration_in(settings)
    name = f"{config.name}.{instance_of(config.data)[:8]}"
    async with AsyncExitStack() as stack:
        stack.enter_context(_alone(config.data))
        files = tls_files(config)
        listening = _listen(config)
        stack.callback(listening.close)
        address = _address(config, listening, files)
        peers = Peers(name)
        kept = Files(config.data / "files", peers=peers)
        batches = Batches(config.data / "batches", kept)
        counted = f"{config.name}.{journal_instance_of(config.data)[:8]}"
        journal = Journal(config.data / "journal", counted, settle=batches.settle)
        stack.callback(journal.close)
        dispatcher = await stack.enter_async_context(
            Dispatcher(name, engine_for, foresee=partial(foresee, calibration=calibration))
        )
        gateway = Gateway(dispatcher, journal, msgspec.structs.replace(settings, name=name))
        runner = Runner(batches, gateway.inference)
        gateway.measures.registry.register(dispatcher.incidents)
        gateway.add((*RESPONSES, *offline_routes(kept, batches, runner)))
        known = False

        def take(table: Table) -> None:
            nonlocal known
            known = bool(table.served)
            dispatcher.update(table)
            gateway.use(table)

        def share(alive: tuple[Peer, ...]) -> None:
            peers.take(alive)
            gateway.inference.limits.gateways = peers.count

        link = Link(
            LinkConfig(
                servers=config.servers,
                ca=config.ca,
                name=config.name,
                token_file=config.data / "token",
                folder=config.data,
                url=address.url,
            ),
            take=take,
            loads=dispatcher.loads,
            peers=share,
            calling=dispatcher.calling,
            journal=journal,
        )
        stack.push_async_callback(link.flush)
        figures = KeptFigures(config.data / "experiments.json", gateway.inference.variants)
        link.load_kept()
        linking = asyncio.create_task(link.run())
        stack.push_async_callback(_ended, linking)
        stack.push_async_callback(_ended, asyncio.create_task(runner.run()))
        stack.callback(figures.keep)
        stack.push_async_callback(_ended, asyncio.create_task(figures.run()))
        certificate, key = (files.certificate, files.key) if files else (None, None)
        async with serve(gateway, listening, certificate=certificate, key=key):
            write_private(config.data / "address.json", msgspec.json.encode(address))
            log.info("serving at %s", address.url)
            on_ready(address)

            def left_alone() -> bool:
                alone_s = time.monotonic() - link.heard_at
                busy = known or gateway.in_flight
                return config.child and alone_s > (ALONE_BUSY_S if busy else ALONE_IDLE_S)

            await _until_told(linking, left_alone)
        log.info("ended")


def tls_files(config: GatewayConfig) -> Any:
    """Return the :class:`~plenum.bootstrap.tls.Credentials` that a gateway shows its clients, made as needed; None: it speaks plain HTTP.

    Raises
    ------
    FileError
        They cannot be read, or are of two different keys.
    """
    from plenum.bootstrap.tls import Credentials, credentials

    if not config.tls:
        return None
    if config.certificate is not None and config.key is not None:
        found = Credentials(certificate=config.certificate, key=config.key, ca=config.certificate)
    else:
        names = {config.host, config.known_as, urlsplit(config.public).hostname or "", host_name()}
        found = credentials(config.data / "tls", names - {"", "0.0.0.0", "::"}, config.authority)
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(found.certificate, found.key)
    except OSError as error:
        why = f"cannot be used for TLS with the key in {found.key}: {error.strerror or error}"
        raise FileError(why, Where(file=str(found.certificate))) from None
    return found


def found_address(folder: Path) -> Address | None:
    """Return where the gateway of a folder is; None: none runs there."""
    return last_address(folder) if is_taken(folder) else None


def last_address(folder: Path) -> Address | None:
    """Return where the gateway of a folder is, or was when it ran last; None: nobody knows."""
    try:
        return msgspec.json.decode((folder / "address.json").read_bytes(), type=Address)
    except (OSError, ValueError):
        return None


def is_taken(folder: Path) -> bool:
    """Return whether a gateway works in a folder."""
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at once, and none takes another for a gateway
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other gateways out of a folder for as long as this one works."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not any(_take(fd, after_s) for after_s in (0.0, 0.05, 0.2)):  # who only looks holds it for an instant
            raise FileError("another gateway works in this folder", Where(file=str(folder)))
        (folder / "address.json").unlink(missing_ok=True)
        yield
    finally:
        os.close(fd)


def _take(fd: int, after_s: float) -> bool:
    time.sleep(after_s)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _listen(config: GatewayConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    why: str | None = ""
    for port in (config.port, 0) if config.elsewhere else (config.port,):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((config.host, port))
            listening.setblocking(False)
            return listening
        except OSError as error:
            listening.close()
            why = error.strerror
    raise FieldError("--port", f"cannot listen on {config.host}:{config.port}: {why}; choose another port")


def _address(config: GatewayConfig, listening: socket.socket, files: Any) -> Address:
    port = listening.getsockname()[1]
    own = config.host in ("0.0.0.0", "::") or is_loopback(config.host)
    host = config.known_as or ("127.0.0.1" if own else config.host)
    scheme = "https" if config.tls else "http"
    url = config.public or f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    ca = str(files.ca) if files and config.certificate is None else ""
    return Address(
        pid=os.getpid(), port=port, url=url, servers=config.servers, host=config.host, tls=config.tls, ca=ca,
        wanted=config.wanted,
    )  # fmt: skip


async def _until_told(linking: asyncio.Task[None], left_alone: Callable[[], bool]) -> None:
    """Wait for SIGINT or SIGTERM, for a fault of the link, or until the control plane has been gone for too long."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        while not (stop.is_set() or linking.done() or left_alone()):
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await stop.wait()
        if linking.done():
            linking.result()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def config_text(config: GatewayConfig) -> str:
    """Return a configuration as :func:`main` reads it."""
    return msgspec.json.encode(config, enc_hook=str).decode()


if __name__ == "__main__":
    main(sys.argv[1:])
