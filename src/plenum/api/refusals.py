"""The audit of refusals: every one is counted, equal ones share a record, and nobody can flood the log with them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, replace

from plenum.api.rates import Rates
from plenum.api.settings import Rate
from plenum.control import commands
from plenum.control.service import Service
from plenum.model.errors import PlenumError

WAITING = 1_000
"""Different refusals remembered until the next writing; any more are counted under their source alone."""

SUM_S = 60.0
"""How often the sums of sources that are refused all the time are written."""

_LOG = logging.getLogger("plenum.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Somebody did not get what they asked for.

    Parameters
    ----------
    actor
        Who, as the log names them; ``anonymous`` where that was not proven.
    source
        Address that the request came from.
    route
        Template of the address asked for; equal refusals have equal ones.
    path
        The address itself.
    tenant
        Whose people may see the record; empty: the operator alone.
    """

    actor: str
    source: str
    verb: str
    route: str
    path: str
    code: str
    sentence: str
    tenant: str = ""
    times: int = 1


class Refusals:
    """Collects refusals and writes them together.

    Parameters
    ----------
    window_s
        Longest that a refusal waits to be written.
    most
        Records in one writing; the rest are summed up by source.
    rate
        Records of one source; beyond it they are summed up too, and written once in a long while.
    """

    def __init__(self, service: Service, window_s: float, most: int, rate: Rate) -> None:
        self._service = service
        self._window_s = window_s
        self._most = most
        self._waiting: dict[tuple[str, ...], Refusal] = {}
        self._rates = Rates(rate, service.clock.monotonic)
        self._sums: dict[str, Refusal] = {}
        self._sums_at = 0.0
        self._writer: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def note(self, refusal: Refusal) -> None:
        """Take a refusal; it is in the log soon."""
        self._keep(refusal)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.get_running_loop().create_task(self._write_soon())

    def _keep(self, refusal: Refusal) -> None:
        key = (refusal.actor, refusal.source, refusal.verb, refusal.route, refusal.code, refusal.tenant)
        if key not in self._waiting and self._rates.take(refusal.source):
            source = refusal.source if refusal.source in self._sums or len(self._sums) < WAITING else "many"
            times = refusal.times + (self._sums[source].times if source in self._sums else 0)
            self._sums[source] = replace(_summed(refusal), source=source, times=times)
            return
        if key not in self._waiting and len(self._waiting) >= WAITING:
            refusal = _summed(refusal)
            key = ("", refusal.source)
            if key not in self._waiting and len(self._waiting) >= 2 * WAITING:
                key = ("", "")
        known = self._waiting.get(key)
        self._waiting[key] = refusal if known is None else replace(known, times=known.times + refusal.times)

    async def flush(self, *, sums: bool = False) -> None:
        """Write what waits; a replica that does not lead cannot, and keeps it until it does or ends."""
        async with self._writing:
            if not self._service.leading:
                return
            now = self._service.clock.monotonic()
            if self._sums and (sums or now >= self._sums_at):
                self._sums_at = now + SUM_S
                self._waiting |= {("", source): refusal for source, refusal in self._sums.items()}
                self._sums = {}
            await self._write_all()

    async def _write_all(self) -> None:
        waiting, self._waiting = list(self._waiting.values()), {}
        if len(waiting) > self._most:
            by_source: dict[str, Refusal] = {}
            for refusal in waiting[self._most - 1 :]:
                source = refusal.source if len(by_source) < self._most else "many"
                known = by_source.get(source)
                times = refusal.times + (known.times if known else 0)
                by_source[source] = replace(_summed(refusal), source=source, times=times)
            waiting = [*waiting[: self._most - 1], *by_source.values()]
        await asyncio.gather(*(self._write(refusal) for refusal in waiting))

    async def close(self) -> None:
        """Write what waits and end."""
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
            self._writer = None
        await self.flush(sums=True)
        for refusal in self._waiting.values():
            _LOG.warning("a refusal that is not in the log: %r", refusal)

    async def _write_soon(self) -> None:
        while self._waiting or self._sums:
            await asyncio.sleep(self._window_s)
            await self.flush()

    async def _write(self, refusal: Refusal) -> None:
        command = commands.refused(
            refusal.verb,
            _storable(refusal.path),
            refusal.code,
            _storable(refusal.sentence),
            tenant=refusal.tenant,
            source=refusal.source,
            times=refusal.times,
        )
        try:
            await self._service.execute(command.by(refusal.actor))
        except PlenumError as error:
            _LOG.warning("a refusal could not be written and is kept for later: %s", error.sentence)
            self._keep(refusal)


def _summed(refusal: Refusal) -> Refusal:
    """Return a refusal that stands for many of one source."""
    return replace(
        refusal, actor="anonymous", verb="*", route="*", path="*", code="many", sentence="further refusals", tenant=""
    )


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
