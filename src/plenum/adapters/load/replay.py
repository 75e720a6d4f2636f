"""Sends requests when they are due, however long those before them take, and notes when each token came back."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakSet

import aiohttp
import msgspec

from plenum.adapters.authorities import trusting
from plenum.adapters.load.measured import Measured, Sample, measured_of
from plenum.adapters.load.prompts import WORDS, Gauge, gauge, prompt_of
from plenum.model.errors import PlenumError
from plenum.model.units import show_duration
from plenum.serving.workload import Requests

MAX_REQUESTS = 100_000
MAX_OPEN = 4_096
MAX_LINE_BYTES = 1 << 20
MAX_ANSWER_BYTES = 64 << 20
ERROR_BYTES = 64 << 10
MAX_SENTENCE = 300
WANTS_KEY = "give --key or $PLENUM_KEY a key (`plenum key create` makes one for a gateway of Plenum)"
CLOSE_S = 2.0

CHAT, COMPLETIONS = "chat", "completions"


class BenchError(PlenumError):
    """The endpoint could not be measured at all."""

    code = "bench.unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is measured.

    Parameters
    ----------
    url
        Without ``/v1``.
    api
        ``chat`` or ``completions``.
    timeout_s
        For one request, from when it was due.
    ca
        File of authorities that are trusted beside the system's; empty: none.
    """

    url: str
    model: str
    key: str = ""
    api: str = CHAT
    timeout_s: float = 600.0
    ca: str = ""


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Error(msgspec.Struct):
    message: str = ""
    code: str | int | None = None
    type: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_read_chunk = msgspec.json.Decoder(_Chunk).decode


async def replay(
    target: Target,
    requests: Requests,
    *,
    seed: int = 0,
    max_open: int = 1_024,
    told: Callable[[int], None] = lambda over: None,
) -> tuple[Measured, Gauge]:
    """Send every request when it is due and return what was measured, and how words became tokens.

    Parameters
    ----------
    max_open
        Requests in flight at most; what has to wait for that here counts as waiting all the same.
    told
        Called with how many are over.

    Raises
    ------
    BenchError
        Nobody answers there, or the first short request is refused.
    GaugeError
        Prompts cannot be made to measure.
    """
    if not 0 < len(requests) <= MAX_REQUESTS:
        raise BenchError(f"a run has 1 to {MAX_REQUESTS:,} requests, not {len(requests):,}; use --limit or --duration")
    opened = WeakSet[socket.socket]()
    connector = aiohttp.TCPConnector(
        limit=min(max_open, MAX_OPEN),
        ssl=trusting(target.ca, beside_system=True),
        socket_factory=partial(_opened, opened),
    )
    # A server may close a connection that it kept, so each request of a measurement has one of its own.
    headers = {"Connection": "close"} | ({"Authorization": f"Bearer {target.key}"} if target.key else {})
    try:
        async with aiohttp.ClientSession(
            connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=None), trust_env=False
        ) as session:
            run = _Run(session, target, requests, seed, asyncio.Semaphore(min(max_open, MAX_OPEN)))
            await run.prepare()
            return measured_of(await run.all(told), run.said), run.gauge
    finally:
        await _closed(opened)


def _opened(known: WeakSet[socket.socket], address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(*address[:3])
    known.add(made)
    return made


async def _closed(opened: WeakSet[socket.socket]) -> None:
    """Wait a little for connections that say goodbye to each other, as those with TLS do; sessions do not wait for them."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            while any(each.fileno() >= 0 for each in opened):
                await asyncio.sleep(0.01)


class _Run:
    def __init__(
        self, session: aiohttp.ClientSession, target: Target, requests: Requests, seed: int, places: asyncio.Semaphore
    ) -> None:
        self.session, self.target, self.requests, self.seed, self.places = session, target, requests, seed, places
        self.gauge = Gauge()
        self.to_the_end = True
        self.begun = 0.0
        self.probes = 0
        self.said: dict[str, str] = {}

    async def prepare(self) -> None:
        """Learn how words become tokens, and whether the engine can be told not to stop early."""
        first = await self._probe(" ".join(WORDS))
        if first.reason not in ("", "client.unreachable", "client.timeout"):
            self.to_the_end = False  # no field of OpenAI's, so a server may refuse it; answers then end when they end
            first = await self._probe(" ".join(WORDS))
        if first.reason:
            why = f"{self.said.get(first.reason) or 'no reason was given'} ({first.reason})"
            raise BenchError(f"a first short request to {self.target.model} at {self.target.url} failed: {why}")
        self.gauge = replace(await gauge(self._counted(first), self._count), requests=self.probes)

    async def all(self, told: Callable[[int], None]) -> list[Sample]:
        """Send all of them; each in a task of its own, made when it is due."""
        requests = self.requests
        self.begun = time.perf_counter() - float(requests.arrival_s[0])
        samples: list[Sample] = []
        over: list[asyncio.Event] = []
        done = 0

        async def one(index: int, prompt: str) -> None:
            nonlocal done
            before = int(requests.after[index])
            if before >= 0:
                await over[before].wait()
                samples[index].due_s = max(samples[index].due_s, self._now() + float(requests.pause_s[index]))
                await self._until(samples[index].due_s)
            try:
                await self._send(samples[index], prompt)
            finally:
                over[index].set()
                done += 1
                told(done)

        async with asyncio.TaskGroup() as tasks:
            for index in range(len(requests)):
                samples.append(
                    Sample(
                        due_s=float(requests.arrival_s[index]),
                        asked_prompt_tokens=int(requests.prompt_tokens[index]),
                        asked_output_tokens=int(requests.output_tokens[index]),
                    )
                )
                over.append(asyncio.Event())
                prompt = prompt_of(
                    requests, index, self.gauge, self.seed
                )  # before it is due, for a long one takes a while
                await self._until(samples[index].due_s)
                tasks.create_task(one(index, prompt))
        return samples

    async def _send(self, sample: Sample, prompt: str) -> None:
        try:
            async with asyncio.timeout(max(0.0, sample.due_s + self.target.timeout_s - self._now())), self.places:
                sample.sent_s = self._now()
                async with self.session.post(self._url(), data=self._body(sample, prompt), headers=_JSON) as answer:
                    if answer.status != 200:
                        code, sentence = _refusal(answer.status, await answer.content.read(ERROR_BYTES))
                        wants_key = answer.status == 401 and not self.target.key
                        self._fail(sample, code, f"{sentence.rstrip('. ')}; {WANTS_KEY}" if wants_key else sentence)
                        return
                    await self._read(sample, answer)
        except TimeoutError:
            self._fail(sample, "client.timeout", f"no answer within {show_duration(self.target.timeout_s)}")
        except (aiohttp.ClientError, OSError):
            if sample.first_s == sample.first_s:
                self._fail(sample, "client.broken", "the connection broke in the middle")
            else:
                self._fail(sample, "client.unreachable", "nobody answers there")

    async def _read(self, sample: Sample, answer: aiohttp.ClientResponse) -> None:
        gaps: list[float] = []
        rest, size_bytes = b"", 0
        async for piece in answer.content.iter_any():
            now = self._now()
            size_bytes += len(piece)
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            if size_bytes > MAX_ANSWER_BYTES or len(rest) > MAX_LINE_BYTES:
                self._fail(sample, "client.too-long", "the answer had no end")
                return
            for line in lines:
                if line.startswith(b"data:") and (data := line[5:].strip()) != b"[DONE]":
                    self._note(sample, data, now, gaps)
        sample.gaps_s = gaps
        if not sample.reason and sample.first_s != sample.first_s:
            self._fail(sample, "client.empty", "the answer had no text")

    def _note(self, sample: Sample, data: bytes, now: float, gaps: list[float]) -> None:
        try:
            chunk = _read_chunk(data)
        except msgspec.DecodeError:
            self._fail(sample, "client.no-json", "the answer is not one of OpenAI's API")
            return
        if chunk.error:
            self._fail(sample, _named(chunk.error) or "engine.error", chunk.error.message)
        if chunk.usage:
            sample.prompt_tokens, sample.output_tokens = chunk.usage.prompt_tokens, chunk.usage.completion_tokens
            if chunk.usage.prompt_tokens_details:
                sample.cached_tokens = chunk.usage.prompt_tokens_details.cached_tokens or 0
        if any(_text(choice) for choice in chunk.choices):
            if sample.first_s != sample.first_s:
                sample.first_s = now
            else:
                gaps.append(now - sample.last_s)
            sample.last_s = now

    def _fail(self, sample: Sample, reason: str, sentence: str) -> None:
        """Note why a request was not served, and of each reason the first sentence about it."""
        sample.reason = reason
        plain = "".join(c if c.isprintable() else " " for c in sentence[:MAX_SENTENCE])
        self.said.setdefault(reason, plain.rstrip(". "))

    async def _probe(self, text: str) -> Sample:
        self.begun = time.perf_counter()
        self.probes += 1
        sample = Sample(due_s=0.0, asked_prompt_tokens=0, asked_output_tokens=2)
        await self._send(sample, text)
        return sample

    async def _count(self, text: str) -> int:
        return self._counted(await self._probe(text))

    def _counted(self, sample: Sample) -> int:
        if sample.reason or not sample.prompt_tokens:
            raise BenchError(f"{self.target.model} tells no usage: {sample.reason or 'prompt_tokens is missing'}")
        return sample.prompt_tokens

    def _url(self) -> str:
        return self.target.url + ("/v1/chat/completions" if self.target.api == CHAT else "/v1/completions")

    def _body(self, sample: Sample, prompt: str) -> bytes:
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.target.api == CHAT else {"prompt": prompt}
        body = {
            "model": self.target.model,
            **asked,
            "max_tokens": sample.asked_output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
        }
        return msgspec.json.encode(body | {"ignore_eos": True} if self.to_the_end else body)

    def _now(self) -> float:
        return time.perf_counter() - self.begun

    async def _until(self, at_s: float) -> None:
        if (wait_s := at_s - self._now()) > 0:
            await asyncio.sleep(wait_s)


_JSON = {"Content-Type": "application/json"}


def _text(choice: _Choice) -> str | None:
    return choice.text or (choice.delta and (choice.delta.content or choice.delta.reasoning_content)) or None


def _refusal(status: int, body: bytes) -> tuple[str, str]:
    """Return the code and the sentence of a refusal."""
    try:
        chunk = _read_chunk(body)
    except msgspec.DecodeError:
        chunk = _Chunk()
    error = chunk.error or _Error(message=f"it answered with HTTP {status}, and not as OpenAI's API does")
    return _named(error) or f"http.{status}", error.message


def _named(error: _Error) -> str:
    return str(error.code or error.type or "")[:80]
