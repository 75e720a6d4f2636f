"""One request through the gateway, whoever asks: read, let in, sent, metered, billed. What HTTP, batches and responses share.

async with inference.ask(key, path, raw) as answering:
    async for data in answering.chunks(): ...
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import Any

from plenum.gateway.answers import EVENTS, JSON, Headers, error_event, word
from plenum.gateway.directory import Directory
from plenum.gateway.engine_faults import MAX_SAID_CHARACTERS, broken, of_engine, unusable
from plenum.gateway.estimates import Estimates
from plenum.gateway.journal import Journal, Slot
from plenum.gateway.judging import MAX_ANSWER_BYTES, Judging
from plenum.gateway.limits import Grant, Limits
from plenum.gateway.measures import Measures
from plenum.gateway.meter import Counted, Meter, plain, usage_of
from plenum.gateway.moderation import Moderation
from plenum.gateway.read import Reading, Wishes, read_ask
from plenum.gateway.request import Ask, Dispatch, Dispatched, RefusedError
from plenum.gateway.settings import GatewaySettings
from plenum.gateway.variants import Chosen, Variants, note, note_failed
from plenum.ports.engine import CHAT, EngineError
from plenum.ports.gateway import Key, Table, Usage

NO_WISHES = Wishes()


class Inference:
    """What a gateway does with requests for tokens.

    Parameters
    ----------
    dispatch
        Gets them to engines.
    journal
        Keeps what they are billed.
    """

    def __init__(self, dispatch: Dispatch, journal: Journal, settings: GatewaySettings, measures: Measures) -> None:
        self.dispatch, self.journal, self.settings, self.measures = dispatch, journal, settings, measures
        self.directory = Directory(Table(version=0))
        self.estimates, self.limits = Estimates(), Limits()
        self.closing = False
        self.variants, self.judging = Variants(), Judging(self._judge)
        self.moderation = Moderation(settings.moderation)

    def use(self, table: Table) -> None:
        """Go by another table from the next request on."""
        self.directory = Directory(table)
        if table.version >= 0:  # else it only takes back what was granted, which is no word on experiments
            self.variants.use(table.policies, self.directory.has, table.salts)
        self.moderation.use({name: each.moderation for name, each in table.policies.items() if each.moderation})

    async def end(self) -> None:
        """Close what it has open to others than engines."""
        await self.judging.close()
        await self.moderation.close()

    def ask(self, key: Key, path: str, raw: bytes, *, id: str = "", wishes: Wishes = NO_WISHES) -> Answering:
        """Give a request's answer while the context is open; leaving it early cancels it.

        Parameters
        ----------
        path
            One of those of :mod:`plenum.ports.engine`.
        raw
            Its body, as its sender wrote it.
        id
            Unique for ever; empty: a new one.

        Raises
        ------
        RefusedError
            On entering: it is not served, for a reason that its sender can be told.
        """
        return Answering(self, key, path, raw, id or new_id(), wishes)

    async def _judge(self, key: Key, raw: bytes) -> bytes:
        async with self.ask(key, CHAT, raw, wishes=_JUDGES) as answering:
            return await answering.read()


_JUDGES = Wishes(judges=True)


def new_id() -> str:
    """Return an id that no other request ever has, and that tells nothing of how many there are."""
    return "req-" + os.urandom(16).hex()


class Answering:
    """An answer on its way.

    Attributes
    ----------
    id
        Of the request, as its sender is told; bills have what stands before the dot.
    status, content_type, headers
        For whoever asked.
    usage
        What it is billed, once it has ended.
    spoiled
        Set by whoever asked, if what came cannot be used: it counts as broken.
    """

    def __init__(self, inference: Inference, key: Key, path: str, raw: bytes, id: str, wishes: Wishes) -> None:
        self._inference, self._key, self._path, self._raw = inference, key, path, raw
        self.id, self._wishes = id, wishes
        self._started_s = time.monotonic()
        self._ttft_s = 0.0
        self._reading: Reading | None = None
        self._grant: Grant | None = None
        self._slot: Slot | None = None
        self._context: AbstractAsyncContextManager[Dispatched] | None = None
        self._dispatched: Dispatched | None = None
        self._whole: bytes | None = None
        self._meter: Meter | None = None
        self._counted: Counted | None = None
        self._prompt_tokens = 0
        self._outcome = ""
        self._chosen: Chosen | None = None
        self._kept: bytearray | None = None
        self.status, self.content_type = 200, JSON
        self.headers: Headers = []
        self.usage: Usage | None = None
        self.spoiled = False

    async def __aenter__(self) -> Answering:
        """Have it begin.

        Raises
        ------
        RefusedError
            It does not.
        """
        try:
            await self._open()
        except BaseException as error:
            await self._close(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(error)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the answer as it comes; what was yielded before the next is asked for counts as sent."""
        dispatched, slot = self._dispatched, self._slot
        assert dispatched is not None
        assert slot is not None
        if self._whole is not None:
            self._first(dispatched)
            self._keep(self._whole)
            yield self._whole
            self._outcome = "done"
            return
        meter, prompt_tokens = self._meter, self._ask.prompt_tokens
        assert meter is not None
        try:
            async for chunk in dispatched.answer.chunks():
                data = meter.feed(chunk)
                if data:
                    if not self._ttft_s:
                        self._first(dispatched)
                    if self._kept is not None:
                        self._keep(data)
                    yield data
                    slot.count(prompt_tokens, 0, meter.tokens)
        except EngineError as error:
            self._outcome = "broken"
            yield error_event(broken(error))
            return
        if rest := meter.rest():
            yield rest
        if meter.failed:  # which the client has been told already
            self._outcome = "broken"
        elif meter.done or meter.usage is not None:
            self._outcome = "done"
        else:
            self._outcome = "broken"
            yield error_event(broken(None))

    async def read(self) -> bytes:
        """Return the whole answer."""
        return b"".join([data async for data in self.chunks()])

    @property
    def _ask(self) -> Ask:
        assert self._reading is not None
        return self._reading.ask

    async def _open(self) -> None:
        inference = self._inference
        self._reading = read_ask(
            self._raw,
            id=self.id,
            path=self._path,
            key=self._key,
            wishes=self._wishes,
            directory=inference.directory,
            estimates=inference.estimates,
            settings=inference.settings,
            now_s=self._started_s,
            rewrite=self._rewrite,
        )
        self._raw = b""
        ask = self._ask
        self._grant = inference.limits.take(self._key, ask.prompt_tokens + ask.output_tokens, self._started_s)
        if not self._wishes.judges:
            await inference.moderation.check(ask)  # of what limits let in: hooks are shared
        self._slot = inference.journal.claim()
        context = inference.dispatch.send(ask)
        dispatched = await context.__aenter__()
        self._context, self._dispatched = context, dispatched
        answer = dispatched.answer
        if answer.status >= 400:
            self._outcome = "broken" if answer.status >= 500 else "refused"
            said = b""
            with suppress(
                EngineError
            ):  # too long, as one that repeats the prompt, or broken off: it is a refusal all the same
                said = await self._read_whole(MAX_SAID_CHARACTERS * 100)
            raise of_engine(answer.status, said)
        self._slot.begin(self._row(ask, dispatched))
        if answer.content_type.startswith("text/event-stream"):
            self.content_type = EVENTS
            self._meter = Meter(wants_usage=self._reading.wants_usage)
        else:
            await self._take_whole()
        self.headers = self._grant.headers
        if self._chosen is not None:
            self.headers = [*self.headers, (b"x-plenum-variant", word(self._chosen.label))]
        if ask.verdict:
            self.headers = [*self.headers, (b"x-plenum-verdict", word(ask.verdict))]

    def _rewrite(self, body: dict[str, Any]) -> None:
        if self._wishes.judges:
            return
        self._chosen = self._inference.variants.apply(self._key, self._path, body, self._wishes.session, self.id)
        if self._chosen is not None:
            self.id = self._chosen.request
            self._kept = bytearray() if self._chosen.judge is not None else None

    def _keep(self, data: bytes) -> None:
        """Keep what is sent for the judge; nothing of what is too long for it."""
        if self._kept is not None:
            self._kept += data
            if len(self._kept) > MAX_ANSWER_BYTES:
                self._kept = None

    async def _take_whole(self) -> None:
        assert self._slot is not None
        try:
            whole = await self._read_whole(self._inference.settings.answer_bytes)
        except EngineError as error:
            self._outcome = "broken"
            raise broken(error) from error
        try:
            self._counted = usage_of(whole)
        except EngineError as error:
            self._outcome = "broken"
            raise unusable() from error
        self._whole = plain(whole)
        self._slot.count(*self._counts())

    async def _read_whole(self, most_bytes: int) -> bytes:
        assert self._dispatched is not None
        parts: list[bytes] = []
        size = 0
        async for chunk in self._dispatched.answer.chunks():
            parts.append(chunk)
            size += len(chunk)
            if size > most_bytes:
                raise EngineError(f"the engine's answer has more than {most_bytes:,} bytes")
        return b"".join(parts)

    def _row(self, ask: Ask, dispatched: Dispatched) -> Usage:
        return Usage(
            request=ask.id,
            at=time.time(),
            tenant=ask.key.tenant,
            key=ask.key.id,
            endpoint=dispatched.endpoint,
            model=dispatched.model,
            revision=dispatched.revision,
            # Its first bytes have come, so the prompt was computed; how long it was, the engine says at the end.
            prompt_tokens=ask.prompt_tokens if ask.stream else 0,
            cached_tokens=0,
            output_tokens=0,
            estimated=ask.stream and self._reckoned,
        )

    def _first(self, dispatched: Dispatched) -> None:
        dispatched.first_byte()
        self._ttft_s = time.monotonic() - self._started_s

    @property
    def _said(self) -> Counted | None:
        """What the engine said that it took."""
        return self._counted or (self._meter.usage if self._meter else None)

    @property
    def _reckoned(self) -> bool:
        """Whether the prompt's length is reckoned here: neither was it given as tokens, nor has the engine counted it."""
        given = self._reading is not None and not self._reading.size_bytes
        return not (given or self._prompt_tokens or self._said is not None)

    def _counts(self) -> tuple[int, int, int]:
        """Return prompt, cached and output tokens: what the engine said, else what was seen."""
        if self.spoiled and self._meter is None:
            return 0, 0, 0
        said = self._said
        if said is not None:
            return said.prompt_tokens, said.cached_tokens, said.completion_tokens or 0
        if self._meter is not None:
            return self._prompt_tokens or self._ask.prompt_tokens, 0, max(0, self._meter.tokens)
        return (self._ask.prompt_tokens, 0, 0) if self._whole is not None else (0, 0, 0)

    async def _close(self, error: BaseException | None) -> None:
        """Bill it and let go of the engine; once."""
        dispatched, self._dispatched = self._dispatched, None
        context, self._context = self._context, None
        try:
            if dispatched is not None:
                outcome = "broken" if self.spoiled else self._outcome or self._ended_by(error)
                try:
                    if self._is_cut_short(outcome):
                        leaving, context = context, None
                        if leaving is not None:
                            await leaving.__aexit__(None, None, None)  # the engine stops first
                        self._prompt_tokens = await dispatched.prompt_tokens()
                finally:
                    self._bill(dispatched, outcome)
            elif self._slot is not None:
                self._slot.drop()
            unserved = isinstance(error, RefusedError) and error.status >= 500
            if self._chosen is not None and self.usage is None and unserved:
                note_failed(self._chosen)  # nothing is billed, and its arm did not do
        finally:
            # Whatever becomes of the bill: a place that is not given back is lost to everybody.
            if self._grant is not None:
                usage = self.usage
                self._inference.limits.settle(self._grant, usage.prompt_tokens + usage.output_tokens if usage else 0)
                self._grant = None
            if context is not None:
                await context.__aexit__(None, None, None)

    def _is_cut_short(self, outcome: str) -> bool:
        """Whether the engine was to say at the end how long the prompt is, and did not come to it."""
        return outcome in ("cancelled", "broken") and self._meter is not None and self._meter.usage is None

    def _ended_by(self, error: BaseException | None) -> str:
        if isinstance(error, asyncio.CancelledError) and self._inference.closing:
            return "interrupted"
        return "broken" if isinstance(error, EngineError) else "cancelled"

    def _bill(self, dispatched: Dispatched, outcome: str) -> None:
        slot, inference = self._slot, self._inference
        assert slot is not None
        prompt_tokens, cached_tokens, output_tokens = self._counts()
        if not slot.begun:
            slot.drop()
            dispatched.ended(
                prompt_tokens=0, cached_tokens=0, output_tokens=0, outcome="done" if outcome == "refused" else outcome
            )
            return
        estimated = bool(prompt_tokens) and self._reckoned
        self.usage = slot.finish(prompt_tokens, cached_tokens, output_tokens, outcome, estimated=estimated)
        dispatched.ended(
            prompt_tokens=prompt_tokens, cached_tokens=cached_tokens, output_tokens=output_tokens, outcome=outcome
        )
        if outcome == "done" and self._reading is not None:
            inference.estimates.learn(self._ask.served.spec.id, self._reading.size_bytes, prompt_tokens)
        figures = {
            "prompt_tokens": prompt_tokens,
            "cached_tokens": cached_tokens,
            "output_tokens": output_tokens,
            "ttft_s": self._ttft_s,
            "total_s": time.monotonic() - self._started_s,
        }
        inference.measures.answered(dispatched.endpoint, outcome, **figures)
        if self._chosen is not None:
            if outcome == "done":
                note(self._chosen, **figures)
            else:
                note_failed(self._chosen)
            if self._kept and outcome == "done" and not inference.closing:
                inference.judging.offer(self._chosen, bytes(self._kept))
