"""A control plane's own gateway: begun with the first endpoint, found again after a restart, begun anew when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from plenum.bootstrap.config import ServerConfig, is_loopback, private_folder, write_private
from plenum.bootstrap.gateway import (
    Address,
    GatewayConfig,
    config_text,
    found_address,
    is_taken,
    last_address,
)
from plenum.control import commands
from plenum.control.service import Service
from plenum.model.errors import PlenumError

LOOK_S = 0.25
START_S = 20.0
"""A gateway that has not taken its folder by then is started again."""

MAX_PAUSE_S = 10.0
STOP_S = 5.0
"""How long its end is waited for; with streams open it goes on by itself until they have ended."""

log = logging.getLogger("plenum.server")


class Keeper:
    """Keeps one gateway running.

    Parameters
    ----------
    config
        Of the gateway; its folder is made, and its token put into it.
    """

    def __init__(self, service: Service, config: GatewayConfig) -> None:
        self._service = service
        self._config = config
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> GatewayConfig:
        """How the gateway is started, were it now."""
        return self._config

    @property
    def address(self) -> Address | None:
        """Where the gateway is; None: it does not run (yet)."""
        return found_address(self._config.data)

    async def run(self) -> None:
        """Look after it until cancelled."""
        pause_s = 0.0
        while True:
            try:
                if not self._wanted() or await self._is_well():
                    pause_s = 0.0
                else:
                    await self._start()
                    if not await self._came_up():
                        pause_s = min(2 * pause_s + LOOK_S, MAX_PAUSE_S)
                        log.warning("the gateway did not start; see %s", self._config.data / "errors")
            except (PlenumError, OSError) as error:  # not leading, the store is away, or no room on the disk: it passes
                log.warning("the gateway is not started: %s", error)
                pause_s = min(2 * pause_s + LOOK_S, MAX_PAUSE_S)
            await asyncio.sleep(pause_s or LOOK_S)

    async def stop(self) -> None:
        """Tell it to end, and wait for that a little."""
        address = self.address
        if address is not None:
            with suppress(ProcessLookupError):
                os.kill(address.pid, signal.SIGTERM)
        for _ in range(int(STOP_S / 0.05)):
            if not is_taken(self._config.data):
                break
            await asyncio.sleep(0.05)
        self._reap()

    def _wanted(self) -> bool:
        """Whether there is anything to serve; one that runs is kept in any case."""
        state = self._service.state
        return bool(self._service.leading and (state.endpoints or state.keys))

    async def _is_well(self) -> bool:
        self._reap()
        if not is_taken(self._config.data):
            return False
        address, wanted = self.address, self._config
        if address is not None and (
            (address.servers, address.host, address.tls) != (wanted.servers, wanted.host, wanted.tls)
            or address.wanted not in (None, wanted.wanted)
        ):
            # It was left by a control plane that was reached elsewhere, or that wanted it to listen elsewhere.
            await self.stop()
            return False
        return True

    async def _start(self) -> None:
        await asyncio.to_thread(private_folder, self._config.data)
        await self._ensure_token()
        errors = self._config.data / "errors"
        with open(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stderr:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "plenum.bootstrap.gateway", config_text(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C is for us; it is told to end in its turn
            )

    async def _came_up(self) -> bool:
        for _ in range(int(START_S / 0.05)):
            if (address := self.address) is not None:
                # Those who ask know it by this port, should it have to be started again.
                self._config = replace(self._config, port=address.port)
                return True
            if self._child is not None and self._child.poll() is not None:
                return False
            await asyncio.sleep(0.05)
        if self._child is not None:
            self._child.kill()
        return False

    async def _ensure_token(self) -> None:
        """Put a token into the gateway's folder, unless the one there is good."""
        from plenum.api.identity import new_secret, principal_of

        file, name = self._config.data / "token", self._config.name
        with suppress(OSError, PlenumError):
            known = principal_of(self._service.state, file.read_text().strip(), self._service.clock.now())
            if (known.kind, known.name) == ("gateway", name):
                return
        secret = new_secret()
        issue = commands.issue_token(
            secret.id, name, secret.hash, kind="gateway", note="of the gateway on this machine"
        )
        await self._service.execute(issue.by("control"))
        await asyncio.to_thread(write_private, file, secret.text.encode())

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None


def keeper_of(config: ServerConfig, service: Service, address: str, ca: Path | None) -> Keeper | None:
    """Return what looks after a control plane's own gateway; None: it is to have none.

    Parameters
    ----------
    address, ca
        Where the control plane answers, and who signed its certificate.
    """
    if config.gateway_port is None:
        return None
    folder = gateway_folder(config.data)
    before = last_address(folder)
    if before is not None and before.wanted != config.gateway_port:
        before = None  # it was told to listen on another port since
    beyond = not is_loopback(config.gateway_host)
    wanted = GatewayConfig(
        host=config.gateway_host,
        known_as=config.public if beyond else "",
        certificate=config.certificate if beyond and not config.gateway_plain else None,
        key=config.key if beyond and not config.gateway_plain else None,
        authority=config.data / "tls",
        plain=config.gateway_plain,
        data=folder,
        servers=(address,),
        ca=ca,
        port=before.port if before is not None else config.gateway_port,
        elsewhere=True,
        wanted=config.gateway_port,
        settings=config.gateway_settings,
        child=True,
    )
    return Keeper(service, wanted)


def gateway_folder(data: Path) -> Path:
    """Return the folder of a control plane's own gateway."""
    return data / "gateway"
