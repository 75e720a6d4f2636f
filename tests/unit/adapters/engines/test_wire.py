"""The client against servers that do what servers should not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.patience import PATIENCE_S

from plenum.adapters.authorities import OwnCertificate, showing
from plenum.adapters.engines import wire as wire_module
from plenum.adapters.engines.http import HttpEngine
from plenum.adapters.engines.wire import MAX_HEADER_BYTES, MAX_WAITING_BYTES, Wire, WireError
from plenum.bootstrap.tls import own_certificate
from plenum.model.errors import FieldError
from plenum.ports.engine import EngineError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(*scripts: Script, own: OwnCertificate | None = None) -> AsyncIterator[tuple[Wire, list[bytes]]]:
    """A server whose n-th connection goes by the n-th script; gives a client, and the heads of the requests."""
    heads: list[bytes] = []
    left = list(scripts)
    ends: list[asyncio.Event] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = asyncio.Event()
        ends.append(ended)
        script = left.pop(0)

        original = reader.readuntil

        async def noting(separator: bytes = b"\n") -> bytes:
            head = await original(separator)
            heads.append(head)
            return head

        reader.readuntil = noting  # pyright: ignore[reportAttributeAccessIssue]
        try:
            await script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            ended.set()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=showing(own))
    at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    wire = Wire(f"https://{at}", {"X-One": "1"}, own.sha256) if own else Wire(f"http://{at}", {"X-One": "1"})
    try:
        yield wire, heads
    finally:
        wire.close()
        server.close()
        await asyncio.gather(*(ended.wait() for ended in ends))
        await server.wait_closed()


def answering(*answers: bytes) -> Script:
    """Answer one request after the other, then close."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(next(line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")))
            await reader.readexactly(length)
            writer.write(answer)
            await writer.drain()

    return script


def whole(body: bytes, *more: bytes) -> bytes:
    return OK + b"".join(each + b"\r\n" for each in more) + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


async def got(wire: Wire, body: bytes = b"x", path: str = "/p", silence_s: float = 20.0) -> bytes:
    exchange = await wire.send("POST", path, body, silence_s=silence_s)
    try:
        return b"".join([chunk async for chunk in exchange.chunks()])
    finally:
        exchange.close()


def run(
    *scripts: Script, use: Callable[[Wire, list[bytes]], Awaitable[object]], own: OwnCertificate | None = None
) -> object:
    async def go() -> object:
        async with asyncio.timeout(PATIENCE_S), serving(*scripts, own=own) as (wire, heads):
            return await use(wire, heads)

    return asyncio.run(go())


def test_a_connection_is_used_again_and_headers_are_sent():
    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert [await got(wire), await got(wire, b"longer" * 20_000)] == [b"one", b"two"]
        assert heads[0].startswith(b"POST /p HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nX-One: 1\r\n" in heads[0]
        assert b"\r\nContent-Length: 120000\r\n" in heads[1]

    run(answering(whole(b"one"), whole(b"two")), use=use)


def test_a_kept_connection_that_was_closed_is_replaced_without_notice():
    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert await got(wire) == b"one"
        assert await got(wire) == b"two"

    run(answering(whole(b"one")), answering(whole(b"two")), use=use)


def test_what_the_server_says_it_closes_is_not_used_again():
    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert await got(wire) == b"one"
        assert await got(wire) == b"two"

    run(answering(whole(b"one", b"Connection: close"), whole(b"never")), answering(whole(b"two")), use=use)


def test_a_first_connection_that_is_closed_is_no_answer():
    async def use(wire: Wire, heads: list[bytes]) -> None:
        with pytest.raises(WireError, match="closed the connection"):
            await got(wire)
        assert len(heads) == 1  # the request was seen: it is not for us to send it twice

    run(answering(b""), use=use)


def test_chunks_come_as_they_are_sent_and_the_end_is_known():
    gate = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await gate.wait()
        writer.write(b"2\r\nde\r\n0\r\n\r\n")
        await writer.drain()

    async def use(wire: Wire, heads: list[bytes]) -> None:
        exchange = await wire.send("POST", "/p", b"")
        found = []
        async for chunk in exchange.chunks():
            found.append(chunk)
            gate.set()
        assert (exchange.status, exchange.content_type, found) == (200, "text/plain", [b"abc", b"de"])

    run(script, use=use)


def test_an_answer_without_length_ends_with_its_connection():
    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert await got(wire) == b"all of it"
        assert await got(wire) == b"two"

    run(answering(OK + b"\r\nall of it"), answering(whole(b"two")), use=use)


def test_what_is_said_on_the_way_is_no_answer():
    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert await got(wire) == b"one"

    run(answering(b"HTTP/1.1 100 Continue\r\n\r\n" + whole(b"one")), use=use)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"nonsense\r\n\r\n", "no HTTP"),
        (OK + b"Content-Length: 10\r\n\r\nabc", "closed the connection"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", "closed the connection"),
        (OK + b"X: " + b"y" * (MAX_HEADER_BYTES + 70_000), "headers are longer"),
    ],
)
def test_broken_answers_are_said(answer, why):
    async def use(wire: Wire, heads: list[bytes]) -> None:
        with pytest.raises(WireError, match=why):
            await got(wire)

    run(answering(answer), use=use)


def test_what_nobody_asked_for_ends_the_connection():
    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert await got(wire) == b"one"
        assert await got(wire) == b"two"

    run(answering(whole(b"one") + whole(b"more")), answering(whole(b"two")), use=use)


def test_leaving_early_closes_the_connection():
    closed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        try:
            await reader.read()
        finally:
            closed.set()

    async def use(wire: Wire, heads: list[bytes]) -> None:
        exchange = await wire.send("POST", "/p", b"")
        async for _ in exchange.chunks():
            break
        exchange.close()
        await closed.wait()

    run(script, use=use)


def test_being_cancelled_while_waiting_closes_the_connection():
    closed, asked = asyncio.Event(), asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        try:
            await reader.read()
        finally:
            closed.set()

    async def use(wire: Wire, heads: list[bytes]) -> None:
        task = asyncio.ensure_future(got(wire))
        await asked.wait()
        task.cancel()
        await closed.wait()

    run(script, use=use)


def test_closing_breaks_off_what_is_open():
    asked = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()

    async def use(wire: Wire, heads: list[bytes]) -> None:
        task = asyncio.ensure_future(got(wire))
        await asked.wait()
        wire.close()
        with pytest.raises(WireError, match="given up"):
            await task

    run(script, use=use)


def test_silence_has_an_end():
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()

    async def use(wire: Wire, heads: list[bytes]) -> None:
        with pytest.raises(WireError, match="nothing came"):
            await got(wire, silence_s=0.05)

    run(script, use=use)


def test_silence_on_a_kept_connection_is_not_tried_again():
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(1)
        writer.write(whole(b"one"))
        await reader.readuntil(b"\r\n\r\n")
        await reader.read()

    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert await got(wire) == b"one"
        with pytest.raises(WireError, match="nothing came"):
            await got(wire, silence_s=0.05)
        while len(heads) < 2:  # it is on its way, however short the patience was
            await asyncio.sleep(0)
        assert len(heads) == 2

    run(script, use=use)


def test_a_request_that_brings_its_server_down_is_sent_twice_at_most():
    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert await asyncio.gather(got(wire), got(wire), got(wire)) == [b"one"] * 3
        with pytest.raises(WireError, match="closed the connection"):
            await got(wire, b"poison")
        assert len(heads) == 3 + 2

    run(*(answering(whole(b"one"), b"") for _ in range(3)), answering(b""), use=use)


def test_what_nobody_takes_stays_with_the_server():
    size = 64 * MAX_WAITING_BYTES

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % size)
        for _ in range(64):
            writer.write(bytes(MAX_WAITING_BYTES))
            await writer.drain()

    async def use(wire: Wire, heads: list[bytes]) -> None:
        exchange = await wire.send("POST", "/p", b"")
        most, total = 0, 0
        async for chunk in exchange.chunks():
            most, total = max(most, len(chunk)), total + len(chunk)
            await asyncio.sleep(0)
        exchange.close()
        assert total == size
        assert most < 2 * MAX_WAITING_BYTES

    run(script, use=use)


def test_many_at_once_have_a_connection_each():
    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert await asyncio.gather(*(got(wire, str(k).encode()) for k in range(20))) == [b"same"] * 20

    run(*(answering(whole(b"same")) for _ in range(20)), use=use)


def test_nobody_there_and_nobody_answering(monkeypatch):
    async def refused() -> None:
        with pytest.raises(WireError):
            await got(Wire("http://127.0.0.1:9", {}))

    asyncio.run(refused())

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    async def silent() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
        monkeypatch.setattr(wire_module, "CONNECT_TIMEOUT_S", 0.01)
        with pytest.raises(WireError, match="no connection within"):
            await got(Wire("http://127.0.0.1:9", {}))

    asyncio.run(silent())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "host:80",
        "http://",
        "http://user:secret@host",
        "http://host:99999",
        "http://host/a\r\nX: y",
        "",
    ],
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(FieldError, match="no address"):
        HttpEngine(url)


def test_a_certificate_that_was_told_is_trusted_and_its_connection_kept(tmp_path: Path):
    async def use(wire: Wire, heads: list[bytes]) -> None:
        assert [await got(wire), await got(wire, b"longer" * 20_000)] == [b"one", b"two"]
        assert len(wire.connections) == 1

    run(answering(whole(b"one"), whole(b"two")), use=use, own=own_certificate(tmp_path, "192.0.2.7"))


def test_who_shows_another_certificate_is_told_nothing(tmp_path: Path):
    shown, told = own_certificate(tmp_path / "shown", "127.0.0.1"), own_certificate(tmp_path / "told", "127.0.0.1")
    heard = asyncio.Queue[bytes]()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.put_nowait(await reader.read())
        except ConnectionError:
            heard.put_nowait(b"")

    async def use(wire: Wire, heads: list[bytes]) -> None:
        url = f"https://127.0.0.1:{wire._port}"
        for known, why in (("", "certificate verify failed"), (told.sha256, "another certificate")):
            deceived = Wire(url, {"Authorization": "Bearer secret"}, known)
            with pytest.raises(WireError, match=why):
                await got(deceived)
            assert not [each for each in deceived.connections if each.usable]
        assert await heard.get() == b""

    run(listen, listen, use=use, own=shown)
    with pytest.raises(FieldError, match="must begin with https"):
        Wire("http://127.0.0.1:9", {}, told.sha256)


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X\n": "a"}, {"X": "a\x00"}])
def test_headers_cannot_hold_other_headers(headers):
    async def use(wire: Wire, heads: list[bytes]) -> None:
        with pytest.raises(FieldError, match="header"):
            await wire.send("POST", "/p", b"", headers)

    run(use=use)


def test_long_answers_to_short_questions_are_cut_off(monkeypatch):
    monkeypatch.setattr("plenum.adapters.engines.http.MAX_ANSWER_BYTES", 1000)

    async def use(wire: Wire, heads: list[bytes]) -> None:
        engine = HttpEngine(f"http://127.0.0.1:{wire._port}")
        with pytest.raises(EngineError, match="more than 1,000 bytes"):
            await engine.ask("GET", "/metrics")
        await engine.close()

    run(answering(whole(bytes(2000))), use=use)
