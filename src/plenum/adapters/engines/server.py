"""The process of an engine: started, watched until it is ready, and ended, with the end of what it wrote kept for errors."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from plenum.adapters.engines.leash import PARENT
from plenum.ports.engine import EngineError, Health

POLL_S = 0.05
KEPT_LINES = 20
LINGER_S = 2.0
"""How long what it wrote last is waited for once it has ended; a process that it left behind may hold its output open for ever."""

KILL_AFTER_S = 2.0
"""From SIGTERM to SIGKILL, once nothing is open any more."""

MAX_LINE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What starts an engine.

    Parameters
    ----------
    words
        Program and arguments: never secrets, everybody on the machine sees them.
    env
        The whole environment.
    told
        Written to its standard input.
    ready_s
        Longest that it may take to be ready.
    """

    words: Sequence[str]
    env: Mapping[str, str] = field(repr=False)
    told: bytes = field(default=b"", repr=False)
    ready_s: float = 120.0


def url_of(host: str, port: int, *, tls: bool = False) -> str:
    """Return the URL of what listens somewhere."""
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"


class Server:
    """One process of an engine.

    Parameters
    ----------
    command
        Asked for when it is started, so that a port can be chosen then.
    """

    def __init__(self, command: Callable[[], Command]) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        self._pump: asyncio.Task[None] | None = None

    async def start(self, health: Callable[[], Awaitable[Health]]) -> None:
        """Start it and wait until ``health`` says that it is ready.

        Raises
        ------
        EngineError
            It ended, or was not ready in time.
        """
        command = self._command()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command.words,
                env={**command.env, PARENT: str(os.getpid())},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                # A signal to all processes of a run is for its host, which lets open requests finish first.
                start_new_session=True,
                limit=MAX_LINE_BYTES,
            )
        except OSError as error:
            raise EngineError(f"cannot start {command.words[0]}: {error.strerror or error}") from error
        self._pump = asyncio.create_task(self._copy_output(self._process))
        await self._tell(self._process, command.told)
        try:
            await self._wait_ready(self._process, health, command.ready_s)
        except BaseException:
            await self.kill()
            raise

    async def exited(self) -> int:
        """Wait for its end; returns the exit code, negative where a signal ended it."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self, grace_s: float, idle: Callable[[], Awaitable[bool]]) -> None:
        """Wait up to ``grace_s`` until it is idle, then end it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        until = time.monotonic() + grace_s
        while time.monotonic() < until and process.returncode is None:
            try:
                if await idle():
                    break
            except EngineError:
                break
            await asyncio.sleep(POLL_S)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), KILL_AFTER_S)
        await self.kill()

    async def kill(self) -> None:
        """End it at once, with all that it started."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # of its own session, so these are its own
        await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._read_out()

    @property
    def tail(self) -> str:
        """The last lines that it wrote."""
        return "\n".join(self._tail)

    async def _wait_ready(
        self, process: asyncio.subprocess.Process, health: Callable[[], Awaitable[Health]], ready_s: float
    ) -> None:
        until = time.monotonic() + ready_s
        while True:
            if process.returncode is not None:
                await self._read_out()
                raise EngineError(f"the engine ended with {process.returncode} before it was ready:\n{self.tail}")
            said = await health()
            if said.ready:
                return
            if time.monotonic() > until:
                raise EngineError(f"the engine was not ready within {ready_s:g} s ({said.sentence}):\n{self.tail}")
            await asyncio.sleep(POLL_S)

    async def _read_out(self) -> None:
        if self._pump is not None:
            await asyncio.wait([self._pump], timeout=LINGER_S)
            self._pump.cancel()

    async def _tell(self, process: asyncio.subprocess.Process, told: bytes) -> None:
        assert process.stdin is not None
        if told:
            process.stdin.write(told)
            with suppress(ConnectionError):  # it has ended: its exit code and output will say why
                await process.stdin.drain()

    async def _copy_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while chunk := await process.stdout.read(MAX_LINE_BYTES):
            text = chunk.decode("utf-8", "replace")
            self._tail.extend(line[:500] for line in text.splitlines()[-KEPT_LINES:])
            sys.stderr.write(text)
            sys.stderr.flush()
