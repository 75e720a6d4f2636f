"""Hand-offs between two real llama.cpp processes: what is exact about them, and what happens to caches that went wrong."""

import asyncio
import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from tests.engines import MODEL, chat, new_llamacpp, said, until
from yarl import URL

from plenum.adapters.engines.handoff import CACHES
from plenum.adapters.engines.llamacpp import LlamaCpp
from plenum.adapters.engines.llamacpp_handoff import First, Handoffs, Saved
from plenum.bootstrap.tls import own_certificate
from plenum.ports.engine import CHAT, COMPLETIONS, Handle, HandleError

USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass
class Pair:
    loop: asyncio.Runner
    prefill: LlamaCpp
    decode: LlamaCpp
    kept: Path
    fetched: Path

    def prefilled(self, body: bytes, path: str = CHAT) -> Handle:
        return self.loop.run(self.prefill.prefill(path, body))

    def decoded(self, body: bytes, handle: Handle, path: str = CHAT) -> tuple[int, str, dict[str, Any]]:
        return self.loop.run(said(self.decode.decode(path, body, handle)))

    def alone(self, body: bytes, path: str = CHAT) -> tuple[int, str, dict[str, Any]]:
        return self.loop.run(said(self.decode.open(path, _cold(body))))


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    one, two = new_llamacpp(folder / "one"), new_llamacpp(folder / "two")
    assert isinstance(one, LlamaCpp)
    assert isinstance(two, LlamaCpp)
    with asyncio.Runner() as runner:

        async def start(stack: AsyncExitStack) -> None:
            for engine in (one, two):
                stack.push_async_callback(engine.close)
                stack.push_async_callback(engine.stop, 0.0)
            await asyncio.gather(one.start(), two.start())

        stack = AsyncExitStack()
        try:
            runner.run(start(stack))
            yield Pair(runner, one, two, folder / "one" / "caches", folder / "two" / "caches")
        finally:
            runner.run(stack.aclose())


def _new(start: str, things: int = 4, **fields: Any) -> bytes:
    """A prompt that nobody has seen before."""
    return chat(f"{start}: " + ", ".join(f"thing {start} {k}" for k in range(things)), **USAGE, **fields)


def _cold(body: bytes) -> bytes:
    """The same, computed afresh: going on from a slot's cache gives slightly other numbers, and so maybe other words."""
    return msgspec.json.encode(msgspec.json.decode(body) | {"cache_prompt": False})


def test_decode_evaluates_one_prompt_token_and_says_what_the_whole_would_have(pair):
    body = _new("exact", 44, max_tokens=24)  # longer than one batch of the server
    handle = pair.prefilled(body)
    before = pair.loop.run(pair.decode.metrics())
    status, text, usage = pair.decoded(body, handle)
    after = pair.loop.run(pair.decode.metrics())
    whole = pair.alone(body)

    evaluated = (after.prompt_tokens - after.cached_tokens) - (before.prompt_tokens - before.cached_tokens)
    assert status == 200
    assert evaluated == 1
    assert after.cached_tokens - before.cached_tokens == handle.prompt_tokens > 256
    assert text == whole[1]
    assert usage["completion_tokens"] == whole[2]["completion_tokens"] == 24
    assert usage["prompt_tokens"] == whole[2]["prompt_tokens"] == handle.prompt_tokens
    assert usage["prompt_tokens_details"]["cached_tokens"] < handle.prompt_tokens


def test_a_prompt_that_begins_like_one_before_goes_to_its_slot(pair):
    pair.prefilled(_new("alike"))
    pair.prefilled(_new("other"))

    first = msgspec.json.decode(pair.prefilled(_new("alike", 6)).first, type=First)

    assert first.cached_tokens > 25  # more than the words that all prompts here begin with


@pytest.mark.parametrize("stream", [True, False])
def test_completions_are_split_too(pair, stream):
    body = {"model": MODEL, "prompt": "One, two, three, four, five,", "max_tokens": 8, "temperature": 0}
    raw = json.dumps(body | {"stream": stream}).encode()

    assert pair.decoded(raw, pair.prefilled(raw, COMPLETIONS), COMPLETIONS)[1] == pair.alone(raw, COMPLETIONS)[1]


def test_an_answer_of_one_token_needs_no_cache(pair):
    body = _new("single", max_tokens=1)
    handle = pair.prefilled(body)
    for kept in pair.kept.iterdir():
        kept.unlink()

    status, text, usage = pair.decoded(body, handle)

    assert (status, usage["completion_tokens"]) == (200, 1)
    assert text == pair.alone(body)[1] != ""


@pytest.fixture(scope="module")
def undamaged(pair) -> str:
    text = pair.loop.run(said(pair.prefill.open(CHAT, _cold(_new("harm", max_tokens=8)))))[1]
    assert text
    return text


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (Path.unlink, "404"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "damaged"),
        (_flip, "damaged"),
    ],
    ids=["missing", "truncated", "longer", "flipped"],
)
def test_a_damaged_cache_is_refused_and_the_prompt_computed_where_it_is_decoded(pair, undamaged, harm, why):
    body = _new("harm", max_tokens=8)
    handle = pair.prefilled(body)
    harm(pair.kept / msgspec.json.decode(handle.data, type=Saved).name)

    with pytest.raises(HandleError, match=why):
        pair.decoded(body, handle)

    assert pair.alone(body)[1] == undamaged
    assert list(pair.fetched.iterdir()) == []


@pytest.mark.parametrize("name", ["../secret", "..", "/etc/passwd", "a/b", "x" * 100, "%2e%2e%2fsecret", ""])
def test_names_never_leave_the_folder(pair, name):
    (pair.kept.parent / "secret").write_text("secret")
    body = _new("names", max_tokens=4)
    handle = pair.prefilled(body)
    saved = msgspec.structs.replace(msgspec.json.decode(handle.data, type=Saved), name=name)

    with pytest.raises(HandleError, match="no name"):
        pair.decoded(body, msgspec.structs.replace(handle, data=msgspec.json.encode(saved)))

    async def fetched() -> int:
        url = URL(saved.url + CACHES + quote(name, safe=""), encoded=True)  # as it is: clients would tidy it up
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status

    assert pair.loop.run(fetched()) == 404


def test_another_models_cache_is_refused(pair):
    handle = msgspec.structs.replace(pair.prefilled(_new("model")), model="sha256:" + "0" * 64)

    with pytest.raises(HandleError, match="of the model"):
        pair.decoded(_new("model"), handle)


def test_a_replica_that_is_gone_is_a_handle_that_is_refused(pair):
    handle = pair.prefilled(_new("gone"))
    saved = msgspec.structs.replace(msgspec.json.decode(handle.data, type=Saved), url="http://127.0.0.1:9")

    with pytest.raises(HandleError, match="cannot be fetched"):
        pair.decoded(_new("gone"), msgspec.structs.replace(handle, data=msgspec.json.encode(saved)))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"name": 1}', b"\xff"])
def test_what_is_no_handle_is_refused(pair, data):
    handle = pair.prefilled(_new("nonsense"))

    with pytest.raises(HandleError):
        pair.decoded(_new("nonsense"), msgspec.structs.replace(handle, data=data))
    with pytest.raises(HandleError):
        pair.decoded(_new("nonsense"), msgspec.structs.replace(handle, first=data))


def test_a_stop_word_that_the_first_token_may_begin_is_not_split(pair):
    text = msgspec.json.decode(pair.prefilled(_new("stop")).first, type=First).text

    with pytest.raises(HandleError, match="stop words"):
        pair.prefilled(_new("stop", stop=[text + " and so on"]))


def test_a_prompt_that_no_slot_holds_is_an_answer_not_a_handle(pair):
    with pytest.raises(HandleError, match="prompt"):
        pair.prefilled(chat("word " * 3000, **USAGE))


def test_two_at_once_do_not_take_each_others_slot(pair):
    # Who counts goes on from the own last number, far surer than the slightly other numbers are that a batch shared with others gives.
    counts = [range(start, start + 12) for start in (1, 41, 71)]
    asked = [f"{', '.join(map(str, count))}," for count in counts]

    async def split(prompt: str) -> str:
        body = json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": 12, "temperature": 0} | USAGE).encode()
        handle = await pair.prefill.prefill(COMPLETIONS, body)
        return (await said(pair.decode.decode(COMPLETIONS, body, handle)))[1]

    async def together() -> list[str]:
        return await asyncio.gather(*(split(prompt) for prompt in asked))

    before = pair.loop.run(pair.decode.metrics())
    texts = pair.loop.run(together())
    after = pair.loop.run(pair.decode.metrics())

    evaluated = (after.prompt_tokens - after.cached_tokens) - (before.prompt_tokens - before.cached_tokens)
    assert evaluated == len(asked)
    assert texts == [f" {count.stop}, {count.stop + 1}, {count.stop + 2}," for count in counts]


def test_a_cache_is_fetched_over_tls_from_the_replica_that_its_handle_names_and_no_other(tmp_path):
    one, other = own_certificate(tmp_path / "1", "127.0.0.1"), own_certificate(tmp_path / "2", "127.0.0.1")
    folder = tmp_path / "caches"
    folder.mkdir()

    async def fetch(listener: socket.socket) -> None:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        engine = LlamaCpp("http://127.0.0.1:9")
        handoffs = Handoffs(engine, folder, "sha256:d", 1, url=url, key="", certificate=one)
        await handoffs.serve(listener)
        name = "a-name-of-enough-letters"
        (folder / name).write_bytes(b"cache")
        handoffs._keep(name, 5)
        sha256 = hashlib.sha256(b"cache").hexdigest()
        saved = Saved(name=name, url=url, sha256=sha256, tokens=(), certificate_sha256=one.sha256)
        for known in ("", other.sha256):
            with pytest.raises(HandleError, match="cannot be fetched"):
                await handoffs._fetch(msgspec.structs.replace(saved, certificate_sha256=known), 5)
        assert (await handoffs._fetch(saved, 5)).read_bytes() == b"cache"

        async def closed() -> bool:
            return asyncio.all_tasks() == {asyncio.current_task()}  # aiohttp has one for each connection

        await until(closed)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(fetch(listener))


def test_a_cache_stays_until_the_next_however_large_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr("plenum.adapters.engines.llamacpp_handoff.MAX_KEPT_BYTES", 10)

    async def keep() -> None:
        handoffs = Handoffs(LlamaCpp("http://127.0.0.1:9"), tmp_path, "sha256:d", 1, url="", key="")
        for name in ("one", "two"):
            (tmp_path / name).touch()
            handoffs._keep(name, 11)
            assert [path.name for path in tmp_path.iterdir()] == [name]

    asyncio.run(keep())
