"""Works off batches in what the gateway has to spare: a few lines at once, in the lowest class, again and again until their day is over."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import closing

from plenum.gateway import responses
from plenum.gateway.answers import error_body
from plenum.gateway.batch_lines import (
    CANCELLED,
    CANCELLING,
    COMPLETED,
    EXPIRED,
    FAILED,
    FINALIZING,
    RUNNING,
    VALIDATING,
    Line,
    Open,
)
from plenum.gateway.batches import Batches
from plenum.gateway.engine_faults import unusable
from plenum.gateway.inference import Inference
from plenum.gateway.meter import UNREADABLE
from plenum.gateway.read import Wishes
from plenum.gateway.request import RefusedError
from plenum.ports.engine import CHAT
from plenum.ports.gateway import Key

PARALLEL = 8
"""Lines of all batches together that are under way: replicas are shared with those who wait for an answer."""

MAX_ATTEMPTS = 4
"""Of a line whose engine broke off; refusals that say when to come back do not count."""

MAX_PAUSE_S = 60.0
LOOK_S = 5.0

_WISHES = Wishes(tier="batch")
_LOG = logging.getLogger("plenum.gateway.batches")


class Runner:
    """Works off the batches of one gateway.

    Parameters
    ----------
    inference
        What answers their lines, and bills them.
    """

    def __init__(self, batches: Batches, inference: Inference, *, parallel: int = PARALLEL) -> None:
        self._batches, self._inference = batches, inference
        self._places, self._parallel = asyncio.Semaphore(parallel), parallel
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look for new batches, and at changed ones, now."""
        self._woken.set()

    async def run(self) -> None:
        """Work until cancelled; what is under way then, the next start does again."""
        working: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                working = {id: task for id, task in working.items() if not task.done()}
                for id, holder in list(self._batches.open.items()):
                    if id not in working and self._inference.directory.table.version:
                        working[id] = tasks.create_task(self._work(holder))
                self._woken.clear()
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._woken.wait()
                except TimeoutError:
                    continue

    async def _work(self, holder: Open) -> None:
        """Bring one batch to its end; a fault of ours leaves it for a later try."""
        try:
            if await self._ready(holder):
                await self._lines(holder)
                if not self._inference.closing:
                    await self._finish(holder)
        except Exception:
            _LOG.exception("%s cannot go on for now", holder.batch.id)
            await asyncio.sleep(LOOK_S)
        finally:
            holder.close()

    async def _ready(self, holder: Open) -> bool:
        """Read the input; returns whether there are lines to do."""
        batch = holder.batch
        if batch.status == FINALIZING:
            return True
        wrong = await asyncio.to_thread(holder.validate)
        if batch.status == VALIDATING:
            batch.errors, batch.total = wrong, holder.count
            if wrong:
                self._batches.mark(batch, FAILED)
                self._batches.open.pop(batch.id, None)
                return False
            self._batches.mark(batch, RUNNING)
        return True

    async def _lines(self, holder: Open) -> None:
        batch = holder.batch
        if batch.status != RUNNING:
            return
        begun = asyncio.Semaphore(self._parallel)
        with closing(holder.lines()) as lines:
            async with asyncio.TaskGroup() as tasks:
                for number, line in lines:
                    await begun.acquire()
                    if self._stopped(holder):
                        break
                    task = tasks.create_task(self._line(holder, number, line))
                    task.add_done_callback(lambda _: begun.release())  # one cancelled early runs no line of its own

    async def _finish(self, holder: Open) -> None:
        batch = holder.batch
        ends_as = COMPLETED
        if len(holder.done) < holder.count and batch.status != FINALIZING:
            ends_as = CANCELLED if batch.status == CANCELLING else EXPIRED
            if ends_as == EXPIRED:
                await asyncio.to_thread(holder.expire)
        await asyncio.to_thread(self._batches.finalize, holder, ends_as)

    def _stopped(self, holder: Open) -> bool:
        batch = holder.batch
        return batch.status == CANCELLING or self._batches.now() >= batch.expires_at or self._inference.closing

    async def _line(self, holder: Open, number: int, line: Line) -> None:
        attempt = broken = 0
        while not self._stopped(holder):
            async with (
                self._places
            ):  # not while it pauses: a key that may little would keep everybody's batches waiting
                if self._stopped(holder):
                    return
                pause_s = await self._attempt(holder, number, line, attempt, last=broken + 1 >= MAX_ATTEMPTS)
            if pause_s is None:
                return
            attempt += 1
            broken += pause_s < 0
            # Spread, so that lines refused together do not come back together.
            await asyncio.sleep(min(abs(pause_s), MAX_PAUSE_S) * random.uniform(0.5, 1.5))

    async def _attempt(self, holder: Open, number: int, line: Line, attempt: int, *, last: bool) -> float | None:
        """Ask once; returns None when the line is done, after how many seconds to ask again, or that below 0 if something broke."""
        batch = holder.batch
        key = self._key(batch.key)
        if key is None:
            holder.give_up(number, line, "key.gone", "the key that the batch was made with is no longer valid")
            return None
        if not self._batches.files.has_room():
            return MAX_PAUSE_S
        id, path, raw, shape = f"{batch.id}-{number}-{attempt}", batch.endpoint, bytes(line.body), None
        try:
            if path == responses.PATH:
                path, (raw, shape) = CHAT, responses.as_chat(raw, id)
            async with self._inference.ask(key, path, raw, id=id, wishes=_WISHES) as answering:
                body = await answering.read()
                if shape is not None:
                    body = responses.response_of(shape, answering, body)
                # Within the context: the result is there before the bill is final.
                try:
                    holder.record(number, line, answering.status, body, answering.id)
                except UNREADABLE as error:
                    answering.spoiled = True
                    raise unusable() from error
            return None
        except RefusedError as error:
            comes_back = error.status in (429, 503) and error.retry_after_s > 0
            if comes_back:
                return error.retry_after_s
            if error.status < 500 or last:
                holder.record(number, line, error.status, error_body(error), id)
                return None
            return -max(1.0, error.retry_after_s)

    def _key(self, id: str) -> Key | None:
        now = self._batches.now()
        keys = self._inference.directory.table.keys
        return next((key for key in keys if key.id == id and not 0 < key.expires_at <= now), None)
