"""Clients that mean no good: refused, dropped and written down, and nobody else notices."""

from __future__ import annotations

import json
import socket
import time

import pytest
from tests.api.gateway_lab import CHAT, Lab, chat, lab, raw_chat, until
from tests.patience import PATIENCE_S


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    """No decision of the control plane's is made here, so nothing needs compiling for one."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    settings = {
        "headers_s": 1.0,
        "body_s": 1.0,
        "stall_s": 0.5,
        "idle_s": 1.0,
        "body_bytes": 2**20,
        "failures_per_minute": 40,
    }
    with lab(tmp_path_factory.mktemp("hostile"), **settings) as laboratory:
        yield laboratory


def answer_to(gateway: Lab, data: bytes) -> bytes:
    """Return all that comes back for bytes on a connection of their own."""
    with gateway.connect() as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    got = b""
    try:
        while data := connection.recv(65_536):
            got += data
    except ConnectionResetError:
        pass
    return got


def dropped(gateway: Lab, why: str) -> float:
    with gateway.client() as client:
        for line in client.get("/metrics").text.splitlines():
            if line.startswith(f'plenum_gateway_connections_dropped_total{{why="{why}"}}'):
                return float(line.rsplit(" ", 1)[1])
    return 0.0


def drip(gateway: Lab, begin: bytes, more: bytes, pause_s: float) -> bool:
    """Send a little now and then, for ever; returns whether the connection was ended."""
    deadline = time.monotonic() + PATIENCE_S
    with gateway.connect() as connection:
        try:
            connection.sendall(begin)
            while time.monotonic() < deadline:
                connection.sendall(more)
                time.sleep(pause_s)  # the client is slow on purpose
        except OSError:
            return True
    return False


def head(length: int, more: str = "") -> bytes:
    return f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-acme\r\ncontent-length: {length}\r\n{more}\r\n".encode()


def test_a_prompt_of_10_mb_is_refused_before_it_is_read(gateway):
    requests = gateway.engine_state()["requests"]
    with gateway.connect() as connection:
        connection.sendall(head(10_000_000))
        # Not a byte of it was sent, and it is answered.
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"request.too_large" in answer
    with gateway.client() as client:
        answer = client.post(CHAT, content=json.dumps(chat("x" * 10_000_000)))
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request.too_large")
    assert gateway.engine_state()["requests"] == requests


def test_so_is_one_that_does_not_say_how_long_it_is(gateway):
    def pieces():
        for _ in range(100):
            yield b"x" * 100_000

    with gateway.client() as client:
        assert client.post(CHAT, content=pieces()).status_code == 413


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header\x00: 1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 64, b"400"),
        (
            b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
        (b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n", b"400"),
        (b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", b"400"),
        (b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n", b"4"),
    ],
)
def test_bytes_that_are_no_http(gateway, data, code):
    assert answer_to(gateway, data).startswith(b"HTTP/1.1 " + code)


def test_a_head_without_end_is_dropped(gateway):
    before = dropped(gateway, "long-head")
    assert drip(gateway, b"GET /healthz HTTP/1.1\r\nhost: x\r\n", b"x: " + b"y" * 4_000 + b"\r\n", 0.0)
    assert dropped(gateway, "long-head") == before + 1
    assert answer_to(gateway, b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 60_000 + b"\r\n\r\n") == b""


def test_slow_heads_bodies_and_silence_are_not_waited_for(gateway):
    """Each says a little now and then, for ever; none keeps its connection."""
    before = dropped(gateway, "slow-head")
    assert drip(gateway, b"GET /healthz HTTP/1.1\r\n", b"x: y\r\n", 0.02)
    assert drip(gateway, b"", b"\r\n", 0.02)
    with gateway.connect() as silent:
        assert read_all(silent) == b""
    assert dropped(gateway, "slow-head") >= before + 3
    with gateway.connect() as connection:
        connection.sendall(head(1_000) + b'{"model"')
        assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_who_does_not_read_is_dropped_and_the_engine_freed(gateway):
    left, before = gateway.engine_state()["left"], dropped(gateway, "stalled")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.connect(("127.0.0.1", gateway.port))
        connection.sendall(raw_chat("chunks=1000000", stream=True))
        until(lambda: dropped(gateway, "stalled") == before + 1, "the drop")
        until(lambda: gateway.engine_state()["left"] > left, "the engine to be left")


def test_pipelining_is_refused(gateway):
    before = dropped(gateway, "pipelined")
    answer_to(gateway, raw_chat("delay=600 chunks=2", stream=True) * 2)
    assert dropped(gateway, "pipelined") == before + 1
    until(lambda: gateway.engine_state()["open"] == 0, "nothing left open")


def test_what_a_client_writes_reaches_no_header_and_no_line_of_the_log(gateway):
    secret = "PROMPT-TEXT-" + "7" * 12
    evil = "m\r\nset-cookie: stolen=1\r\n\r\n<html>"
    for body in (
        chat(secret, model=evil),
        chat(secret, **{"evil\r\nx: 1": 1}),
        chat(secret, temperature=secret),
        {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x/" + secret}]}],
        },
    ):
        with gateway.client() as client:
            answer = client.post(CHAT, json=body)
        assert answer.status_code == 400
        assert "set-cookie" not in answer.headers
        answer.json()
    log = gateway.log()
    assert secret not in log
    assert "stolen" not in log
    assert "sk-acme" not in log
    assert "refused 400" in log
    assert "salt-a" not in log


def test_forged_keys_are_written_down_and_guessing_is_slowed(gateway):
    with gateway.client("sk-forged-very-secret") as client:
        assert client.get("/v1/models").status_code == 401
        # Some are given back as time passes, fewer than are asked for.
        slowed = until(lambda: answer if (answer := client.get("/v1/models")).status_code != 401 else None, "a limit")
        assert (slowed.status_code, slowed.json()["error"]["code"]) == (429, "limit.failures")
    assert "key.unknown" in gateway.log()
    assert "forged-very" not in gateway.log()


def test_after_all_that_it_serves_as_before(gateway):
    until(lambda: gateway.ask("chunks=2", stream=True).status_code == 200, "the address to be let in again")
    state = gateway.engine_state()
    assert state["open"] == 0
    assert "Traceback" not in gateway.log()
