"""Control planes in processes of their own, to be killed and started again, and clients that keep on submitting meanwhile."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

PATIENCE_S = 120.0
"""Longest wait for anything that should happen at once; only what is broken takes so long."""

COMPILE_S = 300.0
"""Longest wait for the first decision, for which code may have to be compiled."""

ANSWER_S = 10.0
TASKS = "/v1alpha1/tenants/default/tasks"
UNFINISHED = "phase=Pending&phase=Starting&phase=Running&phase=Stopping"

_LEDGER_SCRIPT = """
echo "begin $PLENUM_JOB $PLENUM_RUN $$ $(date +%s.%N)" >>"$1"
sleep "$2"
echo "end $PLENUM_JOB $PLENUM_RUN $$ $(date +%s.%N)" >>"$1"
"""


def free_port() -> int:
    """Return a port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(happens: Callable[[], Any], what: str, patience_s: float = PATIENCE_S, pause_s: float = 0.02) -> Any:
    """Wait for something, and return what is true of it.

    Raises
    ------
    RuntimeError
        It did not come about in time.
    """
    give_up = time.monotonic() + patience_s
    while not (found := happens()):
        if time.monotonic() > give_up:
            raise RuntimeError(f"after {patience_s:.0f} s {what} has not come about")
        time.sleep(pause_s)
    return found


class Program:
    """``plenum`` with some arguments, as a process; what it says goes to a file.

    Parameters
    ----------
    folder
        Its data; also home of what it keeps for its user.
    """

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.said = folder / "said.txt"
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, **environment: str) -> None:
        """Start the process."""
        env = os.environ | {"XDG_CONFIG_HOME": str(self.folder / "config"), "PLENUM_HOME": str(self.folder)}
        env |= environment
        with open(self.said, "ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "plenum", *self._arguments, "--data", str(self.folder)],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        assert self._process is not None, "it has not been started"
        return self._process

    def kill(self) -> float:
        """End it with SIGKILL, as a power cut would; returns when (seconds since the epoch)."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self._arguments[0]} ended by itself with {self.process.returncode}; see {self.said}")
        at = time.time()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return at

    def stop(self) -> None:
        """Ask it to end, and wait; by force if it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def token(self) -> str:
        """Return the operator token that its first start printed; empty: it has not yet."""
        found = re.search(r"plm_\S+", self.said.read_text())
        return found[0] if found else ""


class Server(Program):
    """``plenum up`` or ``plenum server`` on a loopback port of its own."""

    def __init__(self, folder: Path, verb: str, *arguments: str, tls: bool = True) -> None:
        self.port = free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.ca = folder / "tls" / "ca.pem"
        super().__init__(folder, verb, "--port", str(self.port), *([] if tls else ["--no-tls"]), *arguments)

    def link(self, token: str = "") -> Link:
        """Return a connection to it."""
        return Link(self.url, self.ca, token)

    def health(self) -> dict[str, Any] | None:
        """Return what it says of itself; None: it does not answer."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended by itself with {self.process.returncode}; see {self.said}")
        with suppress(OSError, ValueError, http.client.HTTPException):
            with self.link() as link:
                status, answer = link.ask("GET", "/readyz")
            return answer if status == 200 else None
        return None

    def await_answer(self) -> None:
        """Wait until it leads, or follows another that does."""
        until(self.health, f"an answer of {self.url}")

    @property
    def leads(self) -> bool:
        """Whether it says that it leads."""
        return bool((self.health() or {}).get("leading"))

    def await_lead(self) -> None:
        """Wait until it leads."""
        until(lambda: self.leads, f"leadership of {self.url}", pause_s=0.05)


class Link:
    """A connection to a control plane, kept open from request to request."""

    def __init__(self, url: str, ca: Path | None = None, token: str = "") -> None:
        parts = urlsplit(url)
        self.url = url
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            trust = ssl.create_default_context(cafile=str(ca))
            self._connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=trust)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return the status and the JSON of an answer.

        Raises
        ------
        OSError, http.client.HTTPException, ValueError
            There was none, or only a part of one.
        """
        sent = json.dumps(body).encode() if not isinstance(body, bytes | None) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self._connection.request(method, path, sent, self._headers | {"Content-Type": "application/json"} | named)
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        except BaseException:
            self._connection.close()
            raise

    def must(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """Return the JSON of an answer that is no refusal."""
        status, answer = self.ask(method, path, body, **headers)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def close(self) -> None:
        """Close it; the next request opens it again."""
        self._connection.close()


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A submit that was answered with success: by whom, when asked first and when answered (seconds since the epoch)."""

    url: str
    asked_at: float
    answered_at: float


@dataclass(slots=True)
class Submits:
    """What clients were told; one object for all of them, each writes keys of its own."""

    acknowledged: dict[str, Acknowledged] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    """Answers that no client should get: neither success nor "try again"."""
    retries: int = 0


class Submitter(threading.Thread):
    """A client that submits one task after another, each again under the same key until it is acknowledged.

    Parameters
    ----------
    servers
        To ask in turn until one answers.
    task
        Makes the n-th task's spec.
    pause_s
        Between an answer and the next submit.
    """

    def __init__(
        self,
        name: str,
        servers: list[Server],
        token: str,
        task: Callable[[int], dict[str, Any]],
        submits: Submits,
        pause_s: float,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._links = [server.link(token) for server in servers]
        self._at = 0
        self._task = task
        self._submits = submits
        self._pause_s = pause_s
        self._over = threading.Event()

    def run(self) -> None:
        """Submit until told to stop; what was begun then is still brought to its end."""
        n = 0
        while not self._over.wait(self._pause_s):
            n += 1
            self._submit(f"{self.name}-{n}", self._task(n))
        for link in self._links:
            link.close()

    def finish(self) -> None:
        """Let it stop, and wait for it.

        Raises
        ------
        RuntimeError
            What it had begun was not acknowledged in time.
        """
        self._over.set()
        self.join(PATIENCE_S)
        if self.is_alive():
            raise RuntimeError(f"client {self.name} still waits for an answer")

    def _submit(self, name: str, spec: dict[str, Any]) -> None:
        body = json.dumps({"metadata": {"name": name}, "spec": spec}).encode()
        asked_at = time.time()
        while True:
            link = self._links[self._at]
            try:
                status, answer = link.ask("POST", TASKS, body, Idempotency_Key=name)
            except (OSError, ValueError, http.client.HTTPException):
                status, answer = 503, None
            if status in (200, 201):
                self._submits.acknowledged[name] = Acknowledged(link.url, asked_at, time.time())
                return
            if status != 503:
                self._submits.refused.append(f"{name}: {status} {answer}")
                return
            self._submits.retries += 1
            self._at = (self._at + 1) % len(self._links)
            time.sleep(0.05)


def furnish(server: Server, token: str, nodes: int) -> None:
    """Give a cloud its imitated fleet, and wait until a first task has run there: from then on decisions are quick."""
    with server.link(token) as link:
        link.must("PUT", "/v1alpha1/fleets/imitated", imitated_fleet(nodes))
        link.must("PUT", f"{TASKS}/first", {"spec": imitated_task(0.1)})
        ended = lambda: link.must("GET", f"{TASKS}/first")["status"]["phase"] == "Succeeded"  # noqa: E731
        until(ended, "the end of the first task", COMPILE_S)


def imitated_fleet(nodes: int) -> dict[str, Any]:
    """Return the manifest of a fleet that is simulated: nodes of eight GPUs."""
    group = {
        "name": "gpu",
        "template": "dgx-h100",
        "nodes": nodes,
        "place": {"nodesPerRack": 4},
        "fabric": {"nodesPerLeaf": 16, "leavesPerSpine": 4},
    }
    return {
        "apiVersion": "plenum.dev/v1alpha1",
        "kind": "Fleet",
        "metadata": {"name": "imitated"},
        "spec": {"site": "bench", "groups": [group]},
    }


def imitated_task(duration_s: float, start_s: float = 0.0) -> dict[str, Any]:
    """Return the spec of a task that imitated nodes imitate."""
    return {"resources": {"gpu": 1}, "run": {"simulate": {"duration": duration_s, "start": start_s}}}


def real_task(ledger: Path, duration_s: float) -> dict[str, Any]:
    """Return the spec of a task that runs on a real node and writes its begin and its end into a ledger, a line each."""
    command = ["/bin/sh", "-c", _LEDGER_SCRIPT, "sh", str(ledger), f"{duration_s:.3f}"]
    return {"resources": {"cpu": 0.02}, "run": {"command": command, "restarts": 0}}


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger holds of one run: whoever wrote it and when (seconds since the epoch)."""

    job: str
    run: str
    begun: tuple[tuple[int, float], ...]
    ended: tuple[tuple[int, float], ...]

    def outlived(self, at: float) -> bool:
        """Whether one and the same process had begun before a time and ended after it."""
        return any(p == q and begun < at < ended for p, begun in self.begun for q, ended in self.ended)


def read_ledger(path: Path) -> list[Entry]:
    """Return what the runs wrote, in the order in which they began first."""
    runs: dict[str, tuple[str, dict[str, list[tuple[int, float]]]]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        what, job, run, pid, at = line.split()
        runs.setdefault(run, (job, {"begin": [], "end": []}))[1][what].append((int(pid), float(at)))
    return [Entry(job, run, tuple(said["begin"]), tuple(said["end"])) for run, (job, said) in runs.items()]


def processes_of(folder: Path) -> list[int]:
    """Return the processes that work below a data folder: runs and their supervisors."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            said = [*process.cmdline(), process.environ().get("HOME", "")]
            if any(f"{folder}/" in part for part in said) and process.pid != os.getpid():
                found.append(process.pid)
    return found


@contextmanager
def stopping(*programs: Program) -> Iterator[None]:
    """Stop programs at the end, whatever happens."""
    try:
        yield
    finally:
        for program in programs:
            with suppress(AssertionError):
                program.stop()
