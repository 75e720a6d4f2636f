"""A gateway as a process of its own before trivial engines, for tests that talk to it as clients do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
from tests.patience import PATIENCE_S

from plenum.gateway.settings import GatewaySettings
from plenum.model.endpoint import Endpoint
from plenum.ports.gateway import Key, Replica, Served, Table, Usage, UsageBatch

CHAT = "/v1/chat/completions"

KEYS = {
    "sk-acme": Key(id="acme", hash="", tenant="acme"),
    "sk-other": Key(id="other", hash="", tenant="other"),
    "sk-old": Key(id="old", hash="", tenant="acme", expires_at=1.0),
    "sk-few": Key(id="few", hash="", tenant="acme", requests_per_minute=2, tokens_per_minute=10_000),
    "sk-one": Key(id="one", hash="", tenant="acme", max_parallel=1),
    "sk-bound": Key(id="bound", hash="", tenant="acme", models=("elsewhere",)),
}


def until(holds: Callable[[], Any], what: str) -> Any:
    """Return what a question answers once that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.01)
    raise AssertionError(f"waited {PATIENCE_S:g} s for {what}")


class Lab:
    """Engine, gateway and the folder of its journal."""

    def __init__(self, folder: Path, settings: GatewaySettings) -> None:
        self.folder, self._settings = folder, settings
        self._engine = spawn(["benchmarks.trivial_engine"], folder / "engine.log")
        self.engine = int(line(self._engine))
        self.start()

    def start(self) -> None:
        """Start the gateway, again if there was one."""
        (self.folder / "table.json").write_bytes(msgspec.json.encode(table_of(self.engine)))
        settings = msgspec.json.encode(self._settings).decode()
        arguments = [
            "benchmarks.gateway_process",
            str(self.folder / "table.json"),
            str(self.folder / "journal"),
            settings,
        ]
        self.gateway = spawn(arguments, self.folder / "gateway.log")
        self.port = int(line(self.gateway))

    def client(self, secret: str = "sk-acme") -> httpx.Client:
        """Return a client with a key."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"authorization": f"Bearer {secret}"}, timeout=PATIENCE_S
        )

    def ask(
        self, prompt: str, secret: str = "sk-acme", *, headers: dict[str, str] | None = None, **more
    ) -> httpx.Response:
        """Send a chat."""
        with self.client(secret) as client:
            return client.post(CHAT, json=chat(prompt, **more), headers=headers)

    def connect(self) -> socket.socket:
        """Return a raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE_S)

    def engine_state(self) -> dict[str, Any]:
        """Return what the engine has seen."""
        return httpx.get(f"http://127.0.0.1:{self.engine}/state", timeout=PATIENCE_S).json()

    def usage(self) -> list[Usage]:
        """Take all that is billed so far out of the journal."""
        rows: list[Usage] = []
        while True:
            self.gateway.send_signal(signal.SIGHUP)
            batch = msgspec.json.decode(line(self.gateway), type=UsageBatch | None)
            if batch is None:
                return rows
            rows += batch.rows

    def billed(self, count: int) -> list[Usage]:
        """Return bills once there are so many: of a stream that broke off, its client is told before the prompt is counted."""
        rows: list[Usage] = []
        deadline_s = time.monotonic() + PATIENCE_S
        while len(rows) < count and time.monotonic() < deadline_s:
            rows += self.usage()
        return rows

    def log(self) -> str:
        """Return what the gateway wrote."""
        return (self.folder / "gateway.log").read_text()

    def kill(self) -> None:
        """Kill the gateway as nothing can prepare for."""
        end(self.gateway)

    def stop_engine(self) -> None:
        """Kill the engine."""
        self._engine.kill()
        self._engine.wait()

    def close(self) -> None:
        """End both."""
        end(self.gateway)
        end(self._engine)


@contextlib.contextmanager
def lab(folder: Path, **settings) -> Iterator[Lab]:
    """Run a lab."""
    laboratory = Lab(folder, GatewaySettings(**settings))
    try:
        yield laboratory
    finally:
        laboratory.close()


def chat(prompt: str, **more) -> dict[str, Any]:
    """Return a chat's body."""
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], **more}


def raw_chat(prompt: str, secret: str = "sk-acme", **more) -> bytes:
    """Return a chat as bytes on a connection."""
    body = json.dumps(chat(prompt, **more)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def table_of(engine: int) -> Table:
    replica = Replica(
        run="r1", url=f"http://127.0.0.1:{engine}", engine="vllm", revision=1, pool="serve", phase="ready"
    )
    served = tuple(
        Served(spec=spec, uid=number, revisions={1: 1.0}, specs={1: spec}, replicas=(replica,))
        for number, spec in enumerate(
            (
                Endpoint(name="m", tenant="acme", model="/w", engine="vllm", slots=256),
                Endpoint(name="secret", tenant="other", model="/w", engine="vllm", slots=256),
            )
        )
    )
    keys = tuple(
        msgspec.structs.replace(key, hash=hashlib.sha256(secret.encode()).hexdigest()) for secret, key in KEYS.items()
    )
    return Table(version=1, served=served, keys=keys, salts={"acme": "salt-a", "other": "salt-o"})


def spawn(arguments: list[str], log: Path) -> subprocess.Popen[str]:
    with log.open("a") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=file, text=True, env=dict(os.environ)
        )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process ended"
    return line
