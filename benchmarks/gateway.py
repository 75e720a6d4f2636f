"""What the gateway adds to a request: the same chats straight to an engine that computes nothing, and through the gateway.

Engine, gateway and client are processes of their own and share this machine's cores. Processor time is the kernel's count for the gateway's
process; latencies are open-loop, from when a request was due.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import uvloop

from benchmarks import gateway_client
from benchmarks.findings import Finding, below, p99
from plenum.model.endpoint import Endpoint
from plenum.ports.gateway import Key, Replica, Served, Table

KEY = "sk-bench"
REQUESTS = 2_000
PARALLEL = 32
CHUNKS = 200
STREAMS = 200
PAUSE_S = 0.004
PER_S, SECONDS, ROUNDS = 200.0, 15.0, 5
IDLE = 2_000
AIM = 10.0
"""Times LiteLLM's throughput."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A process between client and engine."""

    name: str
    port: int
    process: psutil.Process

    def processor_s(self) -> float:
        """Return the processor time that it and its children have used."""
        total = 0.0
        for process in (self.process, *self.process.children(recursive=True)):
            times = process.cpu_times()
            total += times.user + times.system
        return total

    def resident_bytes(self) -> int:
        """Return its memory."""
        return sum(process.memory_info().rss for process in (self.process, *self.process.children(recursive=True)))


def bench(litellm: str = "") -> Iterator[Finding]:
    """Yield processor time a request and a chunk, added latency, memory of idle streams; LiteLLM's beside them.

    Parameters
    ----------
    litellm
        The Python of an environment that has ``litellm[proxy]``; empty: it is left out.
    """
    with tempfile.TemporaryDirectory(prefix="plenum-gateway-") as folder, engine() as backend:
        with gateway(Path(folder), backend) as proxy:
            yield from _costs(proxy)
            yield from _latency(proxy, backend)
            ours = _per_request(proxy)
        # A process of its own: what latencies under load taught the last one has no part in it.
        with gateway(Path(folder) / "idle", backend) as proxy:
            yield from _idle(proxy)
        if litellm:
            with _litellm(litellm, Path(folder), backend) as proxy:
                yield from _beside(proxy, ours)


def _of(what: str, value: float, unit: str, **more: Any) -> Finding:
    return Finding(bench="gateway", what=what, value=value, unit=unit, **more)


def _costs(proxy: Proxy) -> Iterator[Finding]:
    _processor_ms(proxy, "chunks=1", 200, stream=True)
    request_ms, per_s = _per_request(proxy)
    yield _of(
        "processor time a request, not streamed",
        request_ms,
        "ms",
        target=below(1, "ms", request_ms),
        note=f"{per_s:,.0f} requests/s with {PARALLEL} at a time",
    )
    short_ms = _processor_ms(proxy, "chunks=1", REQUESTS, stream=True)
    yield _of("processor time a request, streamed, one token", short_ms, "ms", target=below(1, "ms", short_ms))
    # With a pause between them, or several would come in one piece and be passed on as one.
    long_ms = _processor_ms(proxy, f"chunks={CHUNKS} delay={PAUSE_S}", STREAMS, stream=True)
    chunk_us = 1e3 * (long_ms - short_ms) / (CHUNKS - 1)
    yield _of(
        "processor time a streamed chunk",
        chunk_us,
        "µs",
        target=below(50, "µs", chunk_us),
        note=f"{CHUNKS} in a stream",
    )


def _latency(proxy: Proxy, backend: int) -> Iterator[Finding]:
    count = int(PER_S * SECONDS)

    def run(port: int) -> tuple[np.ndarray, np.ndarray, int]:
        data = _chat(port, "chunks=8 delay=0.005")
        return _run(lambda: gateway_client.open_loop(port, data, per_s=PER_S, count=count))

    # In turn, several times: what else a machine does for a while is in one of them, and the median leaves it out.
    rounds = [(run(backend), run(proxy.port)) for _ in range(ROUNDS)]
    if failed := sum(through[2] for _, through in rounds):
        raise RuntimeError(f"{failed} of {ROUNDS * count} requests through the gateway failed")
    for what, of in (("first", lambda run: run[0]), ("last", lambda run: run[1])):
        ends = [(p99(of(straight)), p99(of(through))) for straight, through in rounds]
        added = sorted(through - straight for straight, through in ends)
        middle = added[ROUNDS // 2]
        halves = [np.median(of(through)) - np.median(of(straight)) for straight, through in rounds]
        yield _of(
            f"time added to the {what} byte, p99, at {PER_S:.0f} requests/s",
            middle,
            "ms",
            baseline="straight, through: " + "; ".join(f"{one:.2f}, {other:.2f} ms" for one, other in ends),
            target=below(5, "ms", middle),
            note=f"median of {ROUNDS}, {added[0]:.2f} to {added[-1]:.2f} ms; p50 {np.median(halves):.2f} ms",
        )


def _idle(proxy: Proxy) -> Iterator[Finding]:
    async def hold() -> tuple[int, int]:
        data = _chat(proxy.port, "chunks=2 delay=60")
        client, begun = await gateway_client.idle_streams(proxy.port, data, count=IDLE)
        resident = proxy.resident_bytes()
        client.close()
        return begun, resident

    before = proxy.resident_bytes()
    begun, resident = _run(hold)
    yield _of(
        f"memory with {begun:,} idle streams",
        resident / 1e6,
        "MB",
        target=below(300, "MB", resident / 1e6),
        note=f"{before / 1e6:,.0f} MB before, so {(resident - before) / max(begun, 1) / 1e3:.0f} kB a stream",
    )


def _beside(proxy: Proxy, ours: tuple[float, float]) -> Iterator[Finding]:
    theirs_ms, theirs_per_s = _per_request(proxy, REQUESTS // 5)
    for what, our, their, unit in (
        ("requests a second, not streamed", ours[1], theirs_per_s, "/s"),
        ("processor time a request, not streamed", ours[0], theirs_ms, "ms"),
    ):
        yield Finding(
            bench="gateway",
            what=what,
            value=our,
            unit=unit,
            baseline=f"{proxy.name}: {their:,.2f} {unit}",
            ratio=our / their,
        )


def _per_request(proxy: Proxy, count: int = REQUESTS) -> tuple[float, float]:
    """Return milliseconds of processor time a request, and requests a second."""
    before_s = proxy.processor_s()
    data = _chat(proxy.port, "hello", stream=False)
    seconds, failed = _run(lambda: gateway_client.closed_loop(proxy.port, data, parallel=PARALLEL, count=count))
    if failed:
        raise RuntimeError(f"{failed} of {count} requests through {proxy.name} failed")
    return 1e3 * (proxy.processor_s() - before_s) / count, count / seconds


def _processor_ms(proxy: Proxy, prompt: str, count: int, *, stream: bool) -> float:
    before_s = proxy.processor_s()
    data = _chat(proxy.port, prompt, stream=stream)
    _, failed = _run(lambda: gateway_client.closed_loop(proxy.port, data, parallel=PARALLEL, count=count))
    if failed:
        raise RuntimeError(f"{failed} of {count} requests failed")
    return 1e3 * (proxy.processor_s() - before_s) / count


def _chat(port: int, prompt: str, *, stream: bool = True) -> bytes:
    return gateway_client.request(port, KEY, prompt, stream=stream)


def _run(work: Callable[[], Any]) -> Any:
    return uvloop.run(work())


@contextmanager
def engine() -> Iterator[int]:
    """Run the trivial engine; yields its port."""
    with _process([sys.executable, "-m", "benchmarks.trivial_engine"]) as process:
        yield int(_line(process))


@contextmanager
def gateway(folder: Path, *backends: int) -> Iterator[Proxy]:
    """Run a gateway before engines at these ports."""
    folder.mkdir(exist_ok=True)
    table = folder / "table.json"
    table.write_bytes(msgspec.json.encode(table_of(*backends)))
    arguments = [sys.executable, "-m", "benchmarks.gateway_process", str(table), str(folder / "journal")]
    with _process(arguments) as process:
        yield Proxy("the gateway", int(_line(process)), psutil.Process(process.pid))


def table_of(*backends: int) -> Table:
    """Return a table of one model with replicas at these ports, for one key."""
    replicas = tuple(
        Replica(run=f"r{port}", url=f"http://127.0.0.1:{port}", engine="vllm", revision=1, pool="serve", phase="ready")
        for port in backends
    )
    spec = Endpoint(name="m", model="/nowhere", engine="vllm", slots=4_000)
    served = Served(spec=spec, uid=1, revisions={1: 1.0}, specs={1: spec}, replicas=replicas)
    key = Key(id="bench", hash=hashlib.sha256(KEY.encode()).hexdigest(), tenant="default")
    return Table(version=1, served=(served,), keys=(key,))


@contextmanager
def _litellm(python: str, folder: Path, backend: int) -> Iterator[Proxy]:
    """Run LiteLLM's proxy before the same engine, one worker, its defaults."""
    port = _free_port()
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n- model_name: m\n  litellm_params:\n    model: openai/m\n"
        f"    api_base: http://127.0.0.1:{backend}/v1\n    api_key: none\n"
        f"general_settings:\n  master_key: {KEY}\nlitellm_settings:\n  telemetry: false\n"
    )
    command = [
        str(Path(python).parent / "litellm"),
        "--config",
        str(config),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    with _process([*command, "--num_workers", "1"]) as process:
        _await_port(port)
        yield Proxy("LiteLLM", port, psutil.Process(process.pid))


@contextmanager
def _process(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{process.args} did not start")
    return line


def _free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def _await_port(port: int) -> None:
    """Wait until the proxy answers, for two minutes at most."""

    async def ask() -> None:
        async with asyncio.timeout(120):
            while True:
                try:
                    _, failed = await gateway_client.closed_loop(
                        port, _chat(port, "hello", stream=False), parallel=1, count=1
                    )
                except OSError:
                    failed = 1
                if not failed:
                    return
                await asyncio.sleep(0.5)

    _run(ask)
