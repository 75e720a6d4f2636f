"""Sustained load through the API: TLS, connections kept open, every submit on the disk before it is acknowledged.

Server, clients, database and the simulated fleet share this machine's cores, so what clients use the server does not have; the notes say
how much each used.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import ssl
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil

from benchmarks import cloud
from benchmarks.crash import log_of
from benchmarks.findings import Finding, Target, p50, p99
from benchmarks.stores import Commit, Run, Writer, bare_postgres, bare_sqlite, postgres
from plenum.control import events as ev
from plenum.ports.nodes import RUNNING

TASKS = 10_000
NODES = 1_000
PROCESSES = 3
CONNECTIONS = 16
"""Of each client process; each waits for an answer before it asks again."""

COMMITS = ((1, 500), (100, 100))
"""Of bare inserts: records a commit, commits."""

PATIENCE_S = 300.0
GROWTH_LIMIT = 1.25

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def bench(tasks: int | None = None) -> Iterator[Finding]:
    """Yield submits a second, latencies, time to run and memory, on SQLite and on PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="plenum-load-") as folder:
        with bare_sqlite(Path(folder) / "bare.db") as bare:
            limits = _limits(bare)
        yield from findings("SQLite", bear(Path(folder) / "cloud", "", tasks or TASKS), limits)
    with postgres() as url, tempfile.TemporaryDirectory(prefix="plenum-load-") as folder:
        if not url:
            return
        with bare_postgres(url) as bare:
            limits = _limits(bare)
        yield from findings("PostgreSQL", bear(Path(folder) / "cloud", url, tasks or TASKS), limits)


@dataclass(frozen=True, slots=True)
class Wave:
    """Requests of all clients together, and what came of them.

    Parameters
    ----------
    seconds
        From the first request to the last answer.
    taken_ms
        (K,) time to each answer.
    failed
        Answers that were no success.
    server_share, client_share
        Cores' worth of time that the server and the clients used meanwhile.
    """

    seconds: float
    taken_ms: np.ndarray
    failed: int
    server_share: float
    client_share: float

    @property
    def per_s(self) -> float:
        """Answers a second."""
        return len(self.taken_ms) / self.seconds


@dataclass(slots=True, kw_only=True)
class Borne:
    """What a control plane did under load; memory in bytes of its process."""

    submits: Wave
    ran_s: float
    """From the first request until the last of the tasks ran."""
    to_run_s: np.ndarray
    """(K,) from each task's submission to its running, by the log."""
    records: int
    empty_bytes: int
    live_bytes: int
    ended_bytes: int
    again_bytes: int
    """With as many live tasks as before, after twice the history."""


def findings(store: str, borne: Borne, limits: dict[int, Run]) -> Iterator[Finding]:
    """Yield what was borne as figures, beside what bare inserts into the same database can do."""

    def of(what: str, value: float, unit: str, **more: Any) -> Finding:
        return Finding(bench="load", what=f"{store}: {what}", value=value, unit=unit, **more)

    wave = borne.submits
    shares = f"server {wave.server_share:.2f} cores, clients {wave.client_share:.2f} cores"
    for size, run in limits.items():
        yield of(
            f"submits acknowledged, {PROCESSES * CONNECTIONS} connections",
            wave.per_s,
            "/s",
            baseline=f"bare inserts, {size} a commit: {run.per_s:,.0f} records/s",
            ratio=wave.per_s / run.per_s,
            note=shares,
        )
    yield of("refused or failed", wave.failed, "", target=Target(words="none", met=not wave.failed))
    yield of("time to the acknowledgement, p50", p50(wave.taken_ms), "ms")
    yield of("time to the acknowledgement, p99", p99(wave.taken_ms), "ms")
    tasks = len(borne.to_run_s)
    yield of(f"from the first submit until all {tasks:,} tasks run", borne.ran_s, "s", note=f"{NODES:,} nodes")
    for share in (50, 99):
        yield of(f"from submit to running, p{share}", float(np.percentile(borne.to_run_s, share)), "s")
    most = max(limits)
    yield of(
        "records written until all run",
        borne.records / borne.ran_s,
        "/s",
        baseline=f"bare inserts, {most} a commit: {limits[most].per_s:,.0f} records/s",
        ratio=borne.records / borne.ran_s / limits[most].per_s,
    )
    yield of(f"memory with {NODES:,} nodes and no task", borne.empty_bytes / 2**20, "MiB")
    yield of(f"memory with {tasks:,} live tasks", borne.live_bytes / 2**20, "MiB")
    yield of("memory once those were deleted", borne.ended_bytes / 2**20, "MiB")
    growth = borne.again_bytes / borne.live_bytes
    yield of(
        f"memory with {tasks:,} other live tasks",
        borne.again_bytes / 2**20,
        "MiB",
        baseline=f"the first {tasks:,}: {borne.live_bytes / 2**20:,.0f} MiB",
        ratio=growth,
        target=Target(words=f"< {GROWTH_LIMIT:g}x", met=growth < GROWTH_LIMIT),
    )


def _limits(bare: Commit) -> dict[int, Run]:
    """Return what bare inserts can do, by records a commit."""
    found: dict[int, Run] = {}
    at = 0
    for size, commits in COMMITS:
        at = Writer("bare", bare).fill(found.setdefault(size, Run()), size, commits, at)
    return found


def bear(folder: Path, url: str, tasks: int) -> Borne:
    """Put a control plane under load, twice, with the tasks deleted in between.

    Parameters
    ----------
    url
        Of its store; empty: SQLite in ``folder``.

    Raises
    ------
    RuntimeError
        The tasks did not come to run, or the server ended by itself.
    """
    server = cloud.Server(folder, "server", "--name", "control", *(["--store", url] if url else []))
    with cloud.stopping(server), _clients() as clients:
        server.start()
        server.await_lead()
        token = cloud.until(server.token, "the operator's token")
        cloud.furnish(server, token, NODES)
        with server.link(token) as link:
            _await_phase(link, server, 0)
            process = psutil.Process(server.process.pid)
            empty = process.memory_info().rss
            before = _position(link)
            began = time.time()
            submits = _wave(clients, server, token, "POST", "a", tasks)
            _await_phase(link, server, tasks)
            ran_s, records = time.time() - began, _position(link) - before
            live = process.memory_info().rss
            _wave(clients, server, token, "DELETE", "a", tasks)
            _await_phase(link, server, 0)
            ended = process.memory_info().rss
            _wave(clients, server, token, "POST", "b", tasks)
            _await_phase(link, server, tasks)
            again = process.memory_info().rss
    return Borne(
        submits=submits,
        ran_s=ran_s,
        to_run_s=_to_run_s(url or f"sqlite:///{folder}/plenum.db", "default/a"),
        records=records,
        empty_bytes=empty,
        live_bytes=live,
        ended_bytes=ended,
        again_bytes=again,
    )


@contextmanager
def _clients() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(abs, range(PROCESSES)))  # so that none starts when the clock runs
        yield pool


def _position(link: cloud.Link) -> int:
    return link.must("GET", "/v1alpha1/version")["position"]


def _await_phase(link: cloud.Link, server: cloud.Server, running: int) -> None:
    """Wait until so many runs are there."""

    def metric() -> bool:
        use = link.must("GET", "/v1alpha1/utilisation")
        return use["nodes"].get("Ready") == NODES and use["jobs"].get("Running", 0) == running and not use["waiting"]

    cloud.until(metric, f"{running:,} running tasks at {server.url}", PATIENCE_S, pause_s=0.1)


def _wave(clients: ProcessPoolExecutor, server: cloud.Server, token: str, method: str, name: str, tasks: int) -> Wave:
    """Let all clients ask at once, about every so manieth task each."""
    used = psutil.Process(server.process.pid).cpu_times()
    began = time.perf_counter()
    asked = [
        clients.submit(ask, server.url, str(server.ca), token, method, name, range(i, tasks, PROCESSES))
        for i in range(PROCESSES)
    ]
    parts = [part.result() for part in asked]
    seconds = time.perf_counter() - began
    now = psutil.Process(server.process.pid).cpu_times()
    return Wave(
        seconds=seconds,
        taken_ms=np.concatenate([taken for taken, _, _ in parts]),
        failed=sum(failed for _, failed, _ in parts),
        server_share=(now.user + now.system - used.user - used.system) / seconds,
        client_share=sum(cpu_s for _, _, cpu_s in parts) / seconds,
    )


def ask(url: str, ca: str, token: str, method: str, name: str, numbers: range) -> tuple[np.ndarray, int, float]:
    """Be one client: make or delete tasks over some connections; returns milliseconds each, failures, and seconds of CPU."""
    cpu_s = time.process_time()
    taken_ms, failed = asyncio.run(_ask(url, ca, token, method, name, numbers))
    return np.array(taken_ms), failed, time.process_time() - cpu_s


async def _ask(url: str, ca: str, token: str, method: str, name: str, numbers: range) -> tuple[list[float], int]:
    parts, trust = urlsplit(url), ssl.create_default_context(cafile=ca)
    left, taken_ms, failed = iter(numbers), [], 0

    async def connection() -> None:
        nonlocal failed
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=trust)
        for n in left:
            request = _request(parts.netloc, token, method, f"{name}{n}", n)
            asked = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            await reader.readexactly(int(length[1]) if length else 0)
            taken_ms.append(1e3 * (time.perf_counter() - asked))
            failed += head[9:10] != b"2"
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return taken_ms, failed


def _request(host: str, token: str, method: str, name: str, n: int) -> bytes:
    path, body = f"{cloud.TASKS}/{name}", b""
    if method == "POST":
        gpu = 1 if n % 2 else 0.5
        path = cloud.TASKS
        text = f'{{"metadata":{{"name":"{name}"}},"spec":{{"resources":{{"gpu":{gpu},"cpu":1}},"run":{{"simulate":{{"duration":0}}}}}}}}'
        body = text.encode()
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: {method}-{name}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def _to_run_s(url: str, prefix: str) -> np.ndarray:
    """Read from the log how long it took from each submission to running."""
    submitted: dict[str, float] = {}
    running: dict[str, float] = {}
    for record in log_of(url):
        if record.type == ev.JobSubmitted.__name__:
            submitted[record.subject] = record.at
        elif record.type == ev.RunReported.__name__ and b'"running"' in record.body:
            event = ev.event_of(record)
            if isinstance(event, ev.RunReported) and event.phase == RUNNING:
                running.setdefault(record.subject, record.at)
    mine = [subject for subject in running if subject.startswith(f"job/{prefix}")]
    return np.array([running[subject] - submitted[subject] for subject in mine])
